"""What datasets for fine-tuning say of themselves: what was left out, and what they are made of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probeline.files import write_parquet
from probeline.schema import DATASET_GAMES, make_table

PREFIX = "excluded."


def by_reason(counts: Mapping[str, int]) -> dict[str, int]:
    """Reason → how many were left out for it, from counts named `excluded.<reason>`."""
    return {
        name.removeprefix(PREFIX): count
        for name, count in sorted(counts.items())
        if name.startswith(PREFIX) and count
    }


def write_units(output: Path, units: Mapping[str, Mapping[str, Any]], split: Mapping[str, str]) -> None:
    """Write games.parquet: each unit that is shown, with its split; lineage and leak checks read it.

    Args:
        output: the dataset.
        units: key → row with the unit's content.
        split: key of each unit that is shown → its split.
    """
    rows = [
        {"game": key, "content": units[key]["content"], "split": part} for key, part in sorted(split.items())
    ]
    write_parquet(output / "games.parquet", make_table(rows, DATASET_GAMES))
