"""The body of the rule train_probe."""

from collections.abc import Mapping
from typing import Any

from probeline.compute.body import BodyFiles


def train_probe(spec: Mapping[str, Any], files: BodyFiles) -> None:
    """Fit a probe on the training games and test it on games it never saw.

    Args:
        spec: as `probe_spec` of the rules gives it.
        files: inputs `activations`, `dialogues`, those of the role-masked twin, and `quality`, a report.
    """
    # Imported here: the job has set the number of threads by now.
    from probeline.probes.train import train_probe

    train_probe(
        activations=files.folders("activations"),
        dialogues=files.folders("dialogues"),
        quality=files.inputs["quality"][0],
        output=files.output,
        spec=dict(spec),
        role_masked_activations=files.folders("role_masked_activations"),
        role_masked_dialogues=files.folders("role_masked_dialogues"),
    )
