"""The body of the rule evaluate_probe_shift."""

from collections.abc import Mapping
from typing import Any

from probeline.compute.body import BodyFiles


def evaluate_probe_shift(spec: Mapping[str, Any], files: BodyFiles) -> None:
    """Score a probe on what the model computes with an adapter on it, beside what it computes without.

    Args:
        spec: as `shift_spec` of the rules gives it.
        files: inputs `probe`, `activations`, `adapted`, `dialogues` and, where it is known what the adapter
            was trained on, `games`.
    """
    # Imported here: the job has set the number of threads by now.
    from probeline.probes.shift import evaluate_probe_shift

    evaluate_probe_shift(
        probe=files.folder("probe"),
        activations=files.folders("activations"),
        adapted=files.folders("adapted"),
        dialogues=files.folders("dialogues"),
        trained_on=files.folders("games") if files.inputs.get("games") else None,
        output=files.output,
        spec=dict(spec),
    )
