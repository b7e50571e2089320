"""The body of the rule train_sft."""

from collections.abc import Mapping
from typing import Any

from probeline.compute.body import BodyFiles


def train_sft(spec: Mapping[str, Any], files: BodyFiles) -> None:
    """Train a recipe of the method sft.

    Args:
        spec: as `recipe_spec` of the rules gives it.
        files: inputs `dataset` and `model`, and of other recipes the adapters that are `merged` and the
            one to `start` from.
    """
    # Imported here: the job has set the number of threads by now.
    from probeline.activations.memory import keep_freed_memory
    from probeline.adapters.sft import train_sft

    keep_freed_memory()
    train_sft(spec, files)
