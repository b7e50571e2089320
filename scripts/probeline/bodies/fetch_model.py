"""The body of the rule fetch_model."""

from collections.abc import Mapping
from typing import Any

from probeline.compute.body import BodyFiles


def fetch_model(spec: Mapping[str, Any], files: BodyFiles) -> None:
    """Fetch a model at its pinned version.

    Args:
        spec: as `model_spec` of the rules gives it.
        files: the folder to make; inputs are read by their paths in `spec`.
    """
    # Imported here: the job has set the number of threads by now.
    from probeline.models.fetch import fetch_model

    fetch_model(spec["source"], files.output)
