"""The body of the rule compare_adapters."""

from collections.abc import Mapping
from typing import Any

from probeline.compute.body import BodyFiles


def compare_adapters(spec: Mapping[str, Any], files: BodyFiles) -> None:
    """Compare adapters and checkpoints with each other, on held-out data.

    Args:
        spec: as `comparison_spec` of the rules gives it.
        files: inputs `model`, `adapters`, `datasets` and `folders`.
    """
    # Imported here: the job has set the number of threads by now.
    from probeline.evaluation.adapters import evaluate_systems

    evaluate_systems(spec, files)
