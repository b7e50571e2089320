"""Models with adapters on them, one base after the other in memory."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probeline.models.generate import Generator


@dataclass(frozen=True)
class System:
    """What answers.

    Attributes:
        name: as who asks for it calls it.
        model: folder of the model, or of one that was tuned as a whole.
        adapter: folder of the adapter on it; None for none.
        merged: folders of the adapters that are merged into the model before.
    """

    name: str
    model: Path
    adapter: Path | None = None
    merged: tuple[Path, ...] = ()


def in_memory(systems: Sequence[System], dtype: str, threads: int) -> Iterator[tuple[System, "Generator"]]:
    """Each system, ready to be asked until the next one is; what shares a base shares its load."""
    # Imported here: who asks has set the number of threads by now.
    from probeline.models.generate import Generator

    bases = list(dict.fromkeys((system.model, system.merged) for system in systems))
    for model, merged in bases:
        # One base at a time, whatever who asks still holds of the one before.
        with closing(Generator(model, dtype, threads, merged=merged)) as generator:
            for system in systems:
                if (system.model, system.merged) == (model, merged):
                    generator.load_adapter(system.adapter)
                    yield system, generator
