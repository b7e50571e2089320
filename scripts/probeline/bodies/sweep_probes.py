"""The body of the rule sweep_probes."""

from collections.abc import Mapping
from typing import Any

from probeline.compute.body import BodyFiles


def sweep_probes(spec: Mapping[str, Any], files: BodyFiles) -> None:
    """Cross-validate every method on every layer, so that a layer can be chosen without the test games.

    Args:
        spec: as `sweep_spec` of the rules gives it.
        files: inputs `activations` and `dialogues`.
    """
    # Imported here: the job has set the number of threads by now.
    from probeline.probes.sweep import sweep_probes

    sweep_probes(
        activations=files.folders("activations"),
        dialogues=files.folders("dialogues"),
        output=files.output,
        spec=dict(spec),
        # Layers side by side: no bit depends on how many.
        workers=files.workers,
    )
