"""Grids: tiny models trained at two points, and the table that sets them beside each other."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from probeline.adapters.recipes import grids, recipe_points
from probeline.config import check_target, load_config
from probeline.errors import ProbelineError
from probeline.evaluation.grids import compare_grid, report, sorted_points
from probeline.evaluation.summary import grid_summary
from tests.unit import test_adapters
from tests.unit.test_adapters import RECIPES, run

place = test_adapters.place
GRID = {"answers": RECIPES["answers"] | {"grid": {"learning_rate": [1.0e-4, 5.0e-2], "max_steps": [2]}}}


def test_the_points_of_a_grid_are_trained_and_set_beside_each_other(place: Path, tmp_path: Path) -> None:
    points = grids(GRID)["answers"]
    assert set(points) == set(recipe_points(GRID))
    adapters = [
        run(place, "answers", f"made/{name}", recipe=values | {"checkpoints": []})
        for name, values in points.items()
    ]

    compare_grid("answers", points, adapters, tmp_path / "grid")

    table = json.loads((tmp_path / "grid/grid.json").read_bytes())
    losses = [row["figures"]["loss"]["after"]["value"] for row in table["points"]]
    trained = [
        json.loads((one / "training_summary.json").read_bytes())["held_out"]["loss"] for one in adapters
    ]
    assert losses == sorted(one["after"]["value"] for one in trained)
    assert [row["settings"]["learning_rate"] for row in table["points"]] == [5.0e-2, 1.0e-4]
    assert {row["point"]: row["settings"] for row in table["points"]} == points
    best = trained[1]["after"]
    assert (
        f"{best['value']:.3f} [{best['low']:.3f}, {best['high']:.3f}]"
        in (tmp_path / "grid/REPORT.md").read_text()
    )
    games = pq.read_table(tmp_path / "grid/games.parquet").to_pylist()
    assert {one["split"] for one in games} == {"validation"}
    assert len(games) == trained[0]["games"]
    said = grid_summary(tmp_path / "grid").splitlines()
    assert said[0] == "answers: grid of 2, held-out loss"
    assert "learning_rate 0.05" in said[1]


def point(name: str, before: float, after: float | None) -> dict[str, Any]:
    change = None if after is None else after - before
    values = {"before": before, "after": after, "difference": change}
    figure = {when: {"value": value, "low": None, "high": None} for when, value in values.items()}
    common = {"point": name, "settings": {"temperature": name}, "steps": 1, "verdict": "undecided"}
    return common | {"figures": {"reward": figure | {"examples": 3, "games": 2}}}


def test_points_measured_in_other_ways_are_sorted_by_what_the_training_changed() -> None:
    alike = sorted_points(
        [point("a", 0.2, 0.3), point("b", 0.2, 0.5), point("c", 0.2, None)], "reward", "higher"
    )
    assert [row["point"] for row in alike["points"]] == ["b", "a", "c"]
    assert "same way" not in report({"recipe": "x", **alike})

    apart = sorted_points([point("a", 0.2, 0.5), point("b", 0.6, 0.7)], "reward", "higher")
    assert [row["point"] for row in apart["points"]] == ["a", "b"]
    assert apart["sorted_by"] == "difference"
    assert "not all measured on the same examples in the same way" in report({"recipe": "x", **apart})


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("results/evaluation/grids/answres", "Did you mean answers"),
        ("results/adapters/answers", "ask for results/evaluation/grids/answers"),
    ],
)
def test_a_grid_is_asked_for_by_its_table(target: str, said: str) -> None:
    config = load_config() | {"recipes": GRID}
    with pytest.raises(ProbelineError, match=said):
        check_target(target, config)
    check_target("results/evaluation/grids/answers", config)
