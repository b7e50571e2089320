"""The body of the rule evaluate_adapter."""

from collections.abc import Mapping
from typing import Any

from probeline.compute.body import BodyFiles


def evaluate_adapter(spec: Mapping[str, Any], files: BodyFiles) -> None:
    """Compare a recipe's adapter with what it was made from, on held-out data.

    Args:
        spec: as `evaluation_spec` of the rules gives it.
        files: inputs `model`, `adapters` and `datasets`.
    """
    # Imported here: the job has set the number of threads by now.
    from probeline.evaluation.adapters import evaluate_systems

    evaluate_systems(spec, files)
