"""What datasets for fine-tuning say of themselves: what was left out, and what they are made of."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from probeline.files import write_parquet
from probeline.schema import DATASET_GAMES, make_table

PREFIX = "excluded."


class Shown(NamedTuple):
    """A game, case or dialogue that examples are made of: its key, the digest of its content, its split."""

    game: str
    content: str
    split: str


def by_reason(counts: Mapping[str, int]) -> dict[str, int]:
    """Reason → how many were left out for it, from counts named `excluded.<reason>`."""
    return {
        name.removeprefix(PREFIX): count
        for name, count in sorted(counts.items())
        if name.startswith(PREFIX) and count
    }


def write_games(output: Path, shown: Iterable[Shown]) -> None:
    """Write games.parquet of a dataset: each unit that is shown, once; lineage and leak checks read it."""
    rows = [unit._asdict() for unit in sorted(set(shown))]
    write_parquet(output / "games.parquet", make_table(rows, DATASET_GAMES))
