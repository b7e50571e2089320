"""Adapters as a user makes them: one target for all recipes, typos found, games accounted for."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from probeline.config import load_config
from tests.workflow.conftest import REPOSITORY, TINY, Project, fresh_project
from tests.workflow.test_documented_commands import ADAPTERS, COMMAND

pytestmark = pytest.mark.workflow

EVALUATION = "results/evaluation/adapters/mafia_sft"
RECIPES = {"mafia_sft", "mafia_dpo", "forecast_sft", "forecast_grpo", "support_grpo"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = fresh_project(tmp_path_factory.mktemp("adapters") / "project")
    # What is printed in the README names no config; so this one is the default here.
    project.write("config/config.yaml", yaml.safe_dump(load_config([project.folder / TINY]), sort_keys=False))
    (project.folder / ".venv").symlink_to(REPOSITORY / ".venv")
    said = project.run("adapters")
    assert said.count("\nAdapter ") == len(RECIPES), said
    return project


def audit(project: Project, *words: str) -> tuple[int, str]:
    done = project.command(sys.executable, "-m", "probeline.cli", "audit", *words)
    return done.returncode, done.stdout


def test_all_recipes_are_made_and_need_not_be_made_again(trained: Project) -> None:
    made = {folder.name for folder in (trained.folder / "results/adapters").iterdir() if folder.is_dir()}
    merged = json.loads((trained.folder / "results/adapters/forecast_grpo/manifest.json").read_bytes())

    assert made == RECIPES
    assert not trained.planned("adapters")
    assert [one["adapter"] for one in merged["base"]["merged"]] == ["forecast_sft"]
    steps = trained.folder / "results/adapters/support_grpo/checkpoints"
    assert sorted(folder.name for folder in steps.iterdir()) == ["step-1", "step-2"]


def test_a_changed_recipe_trains_itself_and_what_is_made_from_it(trained: Project, tmp_path: Path) -> None:
    trained.write("own.yaml", "recipes: {mafia_sft: {learning_rate: 0.001}}\n")

    assert trained.planned("adapters", config=("tests/config/tiny.yaml", "own.yaml")) == {
        "train_sft": 1,
        "train_dpo": 1,
        "adapters": 1,
    }


def test_where_progress_is_told_of_trains_nothing_anew(trained: Project) -> None:
    trained.write("told.yaml", "recipes: {mafia_sft: {report_to: tensorboard}}\n")

    assert not trained.planned("adapters", config=("tests/config/tiny.yaml", "told.yaml"))


def test_a_typo_names_the_recipe_that_is_meant(trained: Project) -> None:
    assert "Did you mean mafia_sft" in trained.refused("results/adapters/mafia_stf")


def test_a_game_names_the_adapters_that_saw_it_and_none_is_tested_on_its_own(trained: Project) -> None:
    import pyarrow.parquet as pq

    games = pq.read_table(trained.folder / "results/adapters/mafia_sft/games.parquet").to_pylist()
    game = next(one["game"] for one in games if one["split"] == "train")
    code, said = audit(trained, "impact", f"game:{game}")

    assert code == 0, said
    assert "adapters/mafia_sft" in said
    assert "adapters/mafia_dpo" in said
    code, said = audit(trained, "leakage")
    assert code == 0, said


def test_the_commands_of_the_readme_run_as_printed(trained: Project) -> None:
    commands = COMMAND.findall(ADAPTERS)
    assert len(commands) >= 4
    for command in commands:
        done = trained.command("bash", "-c", f"source .venv/bin/activate && {command}")
        assert done.returncode == 0, f"$ {command}\n{done.stdout}"
    manifest = json.loads((trained.folder / EVALUATION / "manifest.json").read_bytes())
    assert manifest["systems"] == ["base", "mafia_sft"]
    code, said = audit(trained, "leakage", EVALUATION)
    assert code == 0, said


def test_all_adapters_can_be_evaluated_and_a_grid_has_its_points_and_its_table(trained: Project) -> None:
    assert trained.planned("adapter_evaluations")["evaluate_adapter"] in (len(RECIPES) - 1, len(RECIPES))
    trained.write("grid.yaml", "recipes: {forecast_grpo: {grid: {learning_rate: [1.0e-5, 1.0e-4]}}}\n")

    assert trained.planned("results/evaluation/grids/forecast_grpo", config=(TINY, "grid.yaml")) == {
        "train_grpo": 2,
        "compare_grid": 1,
    }
