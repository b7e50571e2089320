"""What is compared: the base, adapters and their checkpoints, one after the other in memory."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probeline.errors import ProbelineError
from probeline.models.generate import Generator


@dataclass(frozen=True)
class System:
    """A model that is evaluated.

    Attributes:
        name: base, a recipe, `<recipe>@<step>`, or the name of a folder with an adapter made elsewhere.
        model: folder of the model, or of one that was tuned as a whole.
        adapter: folder of the adapter on it; None for none.
        merged: folders of the adapters that are merged into the model before.
    """

    name: str
    model: Path
    adapter: Path | None = None
    merged: tuple[Path, ...] = ()


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


def in_memory(systems: Sequence[System], dtype: str, threads: int) -> Iterator[tuple[System, Generator]]:
    """Each system, ready to be asked; what shares a base shares its load."""
    bases = list(dict.fromkeys((system.model, system.merged) for system in systems))
    for model, merged in bases:
        # One base at a time, whatever who asks still holds of the one before.
        with closing(Generator(model, dtype, threads, merged=merged)) as generator:
            for system in systems:
                if (system.model, system.merged) == (model, merged):
                    generator.load_adapter(system.adapter)
                    yield system, generator
