"""The points of a recipe's grid beside each other: what each set, and its held-out figures in training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probeline.adapters.names import SUMMARY
from probeline.evaluation.estimates import HIGHER, LOWER
from probeline.files import (
    atomic_directory,
    open_parquet,
    read_json,
    write_bytes,
    write_json,
    write_manifest,
    write_parquet,
)

GRID, REPORT = "grid.json", "REPORT.md"
FIGURES = {"sft": ("loss", LOWER), "dpo": ("preference_accuracy", HIGHER), "grpo": ("reward", HIGHER)}
"""Method → the held-out figure that its points are sorted by, and which is the better one."""
WHEN = ("before", "after", "difference")
VALIDATION = "validation"
METHOD = (
    "Figures are of held-out validation games, with 95 % intervals from a bootstrap over games, of each "
    "point by itself. The best of several looks better than it is: measure it on the test split, with "
    "`results/evaluation/adapters/<point>`."
)
NOT_ALIKE = (
    "The points were not all measured on the same examples in the same way: they do not begin with the same "
    "figure. So they are sorted by the difference that the training made, and `after` cannot be compared."
)


def compare_grid(
    recipe: str, points: Mapping[str, Mapping[str, Any]], adapters: Sequence[Path], output: Path
) -> None:
    """Write a grid's comparison: grid.json, REPORT.md and the games that its points were measured on.

    Args:
        recipe: that has the grid.
        points: name → what the point sets.
        adapters: folders of the points, in the same order.
        output: the folder to make.

    Raises:
        ProbelineError: a point's summary cannot be read.
    """
    rows = [
        _row(name, settings, read_json(adapter / SUMMARY))
        for (name, settings), adapter in zip(points.items(), adapters, strict=True)
    ]
    method = read_json(adapters[0] / SUMMARY)["method"]
    table = {"recipe": recipe, "method": method, **sorted_points(rows, *FIGURES[method])}
    with atomic_directory(output) as draft:
        write_json(draft / GRID, table)
        write_bytes(draft / REPORT, report(table).encode())
        _write_games(adapters, draft)
        write_manifest(draft, "grid", _facts(table))


def _row(name: str, settings: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    told = summary["held_out"]
    figures = {key: figure for key, figure in told.items() if isinstance(figure, dict) and "before" in figure}
    return {
        "point": name,
        "settings": dict(settings),
        "steps": summary["steps"],
        "figures": figures,
        "verdict": told["verdict"],
    }


def sorted_points(rows: Sequence[Mapping[str, Any]], figure: str, better: str) -> dict[str, Any]:
    """The points of a grid, the best one first; those without a figure last.

    Args:
        rows: of the points: `point`, `settings`, `steps`, `figures` (of `held_out.compared`), `verdict`.
        figure: that they are sorted by.
        better: LOWER or HIGHER.

    Returns:
        `figure`, `better`, `alike` (whether all begin with the same figure), `sorted_by` (after or
        difference) and `points`.
    """
    starts = {row["figures"][figure]["before"]["value"] for row in rows}
    sorted_by = "after" if len(starts) == 1 else "difference"

    def place(row: Mapping[str, Any]) -> tuple[bool, float, str]:
        value = row["figures"][figure][sorted_by]["value"]
        worth = 0.0 if value is None else float(value)
        return value is None, worth if better == LOWER else -worth, row["point"]

    return {
        "figure": figure,
        "better": better,
        "alike": len(starts) == 1,
        "sorted_by": sorted_by,
        "points": sorted(rows, key=place),
    }


def report(table: Mapping[str, Any]) -> str:
    """REPORT.md of a grid.

    Args:
        table: of grid.json.
    """
    figure, points = table["figure"], table["points"]
    varied = list(points[0]["settings"])
    title = figure.replace("_", " ")
    heads = ["point", *varied, "steps", *(f"{title} {when}" for when in WHEN), "verdict", "examples (games)"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in points:
        told = row["figures"][figure]
        cells = [
            row["point"],
            *(str(row["settings"][key]) for key in varied),
            str(row["steps"]),
            *(_estimate(told[when], signed=when == "difference") for when in WHEN),
            row["verdict"],
            f"{told['examples']} ({told['games']})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    parts = [
        f"# Grid of {table['recipe']}",
        METHOD,
        *([] if table["alike"] else [NOT_ALIKE]),
        f"The best one first; of {title}, the {table['better']} the better.",
        "\n".join(lines),
    ]
    return "\n\n".join(parts) + "\n"


def _estimate(estimate: Mapping[str, Any], signed: bool) -> str:
    if estimate["value"] is None:
        return "-"
    sign = "+" if signed else ""
    value = f"{estimate['value']:{sign}.3f}"
    if estimate["low"] is None:
        return value
    return f"{value} [{estimate['low']:{sign}.3f}, {estimate['high']:{sign}.3f}]"


def _write_games(adapters: Sequence[Path], output: Path) -> None:
    """Write games.parquet: the validation games of all points; lineage reads it."""
    import pyarrow as pa

    found: dict[str, dict[str, Any]] = {}
    for adapter in adapters:
        with open_parquet(adapter / "games.parquet") as file:
            table = file.read()
        found |= {row["game"]: row for row in table.to_pylist() if row["split"] == VALIDATION}
    write_parquet(
        output / "games.parquet",
        pa.Table.from_pylist([found[game] for game in sorted(found)], schema=table.schema),
    )


def _facts(table: Mapping[str, Any]) -> dict[str, Any]:
    figure = table["figure"]
    told = [
        {
            "point": row["point"],
            "settings": row["settings"],
            **{when: row["figures"][figure][when] for when in WHEN},
            "verdict": row["verdict"],
        }
        for row in table["points"]
    ]
    return {key: table[key] for key in ("recipe", "method", "figure", "better", "sorted_by")} | {
        "points": told
    }
