"""What is compared: the base, adapters and their checkpoints."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probeline.errors import ProbelineError
from probeline.models.systems import System


def systems_of(
    declared: Sequence[Mapping[str, Any]],
    model: Path,
    adapters: Mapping[str, Path],
    folders: Sequence[Path] = (),
) -> list[System]:
    """The systems that a rule names.

    Args:
        declared: of each `name`, `recipe` (None for the base and for a folder), `step` (None for the finished
            adapter), `merged` (recipes), `whole` (whether the recipe tunes the whole model) and `folder` (its
            place in `folders`, else None).
        model: folder of the base.
        adapters: recipe → folder of what it has made.
        folders: of adapters that were made elsewhere.

    Raises:
        ProbelineError: a checkpoint is not there; says which are.
    """
    systems = []
    for one in declared:
        if one["folder"] is not None:
            systems.append(System(one["name"], model, folders[one["folder"]]))
            continue
        if one["recipe"] is None:
            systems.append(System(one["name"], model))
            continue
        folder = adapters[one["recipe"]]
        if one["step"] is not None:
            folder = _checkpoint(folder, one["recipe"], one["step"])
        merged = tuple(adapters[recipe] for recipe in one["merged"])
        whole = System(one["name"], folder)
        systems.append(whole if one["whole"] else System(one["name"], model, folder, merged))
    return systems


def _checkpoint(folder: Path, recipe: str, step: int) -> Path:
    checkpoint = folder / "checkpoints" / f"step-{step}"
    if not checkpoint.is_dir():
        there = sorted(int(kept.name.partition("-")[2]) for kept in folder.glob("checkpoints/step-*"))
        shown = ", ".join(map(str, there)) or "none"
        raise ProbelineError(
            f"{recipe} has no checkpoint of step {step}; there are: {shown}. Add {step} to "
            f"recipes.{recipe}.checkpoints, or compare others."
        )
    return checkpoint
