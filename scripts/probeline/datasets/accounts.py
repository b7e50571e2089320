"""What datasets for fine-tuning say of themselves: what was left out, and what they are made of."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from probeline.files import write_parquet
from probeline.schema import DATASET_GAMES, make_table

_log = logging.getLogger(__name__)

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


def warn_if_empty(output: Path, rows: Mapping[str, Mapping[str, int]], corpus: Path) -> None:
    """Say aloud which files or splits have not a single row: training on them would fail, or do nothing.

    Args:
        output: the dataset.
        rows: file → split → number of its rows.
        corpus: that it was made of.
    """
    if not any(sum(splits.values()) for splits in rows.values()):
        _log.warning(
            "%s holds not a single row. %s/quality.json says what was read; the dataset's manifest and "
            "statistics, what was left out and why.",
            *(output.name, corpus),
        )
        return
    for file, splits in rows.items():
        empty = [split for split, count in splits.items() if not count]
        if len(empty) == len(splits):
            _log.warning("%s of %s holds not a single row.", file, output.name)
        elif empty:
            _log.warning("%s of %s holds no row of %s.", file, output.name, " and ".join(empty))
