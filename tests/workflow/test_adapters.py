"""Adapters as a user makes them: one target for all recipes, typos found, games accounted for."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import EVALUATIONS, REPOSITORY, SHIFT, TINY, Project
from tests.workflow.test_documented_commands import ADAPTERS, COMMAND

pytestmark = pytest.mark.workflow

EVALUATION, STEPS, _ = EVALUATIONS
MEMBER = "results/probes/mafia_member_mms_l2"
RECIPES = {"mafia_sft", "mafia_dpo", "forecast_sft", "forecast_grpo", "support_grpo"}


@pytest.fixture(scope="module")
def trained(adapters_run: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = adapters_run.copy(tmp_path_factory.mktemp("adapters") / "project")
    (project.folder / ".venv").symlink_to(REPOSITORY / ".venv")
    return project


def test_all_recipes_are_made_and_need_not_be_made_again(trained: Project, adapters_run: Project) -> None:
    said = adapters_run.folder.with_name("said.txt").read_text()
    assert said.count("\nAdapter ") == len(RECIPES), said
    made = {folder.name for folder in (trained.folder / "results/adapters").iterdir() if folder.is_dir()}
    merged = json.loads((trained.folder / "results/adapters/forecast_grpo/manifest.json").read_bytes())

    assert made == RECIPES
    assert not trained.planned("adapters")
    assert [one["adapter"] for one in merged["base"]["merged"]] == ["forecast_sft"]
    steps = trained.folder / "results/adapters/support_grpo/checkpoints"
    assert sorted(folder.name for folder in steps.iterdir()) == ["step-1", "step-2"]


def backwards(value: object) -> object:
    """The same with the keys of every mapping in reverse order."""
    if isinstance(value, dict):
        return {key: backwards(below) for key, below in reversed(value.items())}
    return [backwards(below) for below in value] if isinstance(value, list) else value


def test_the_order_of_keys_in_the_config_makes_nothing_anew(adapters_run: Project, tmp_path: Path) -> None:
    project = adapters_run.copy(tmp_path / "project")
    config = yaml.safe_load((project.folder / "config/config.yaml").read_text())
    project.write("config/config.yaml", yaml.safe_dump(backwards(config), sort_keys=False))
    project.write("none.yaml", "{}\n")
    assert not project.planned("adapters", *EVALUATIONS, MEMBER, config=("none.yaml",))


def test_a_changed_recipe_trains_itself_and_what_is_made_from_it(trained: Project, tmp_path: Path) -> None:
    # Where progress is told of trains nothing anew.
    trained.write(
        "own.yaml", "recipes: {mafia_sft: {learning_rate: 0.001}, forecast_sft: {report_to: tensorboard}}\n"
    )

    assert trained.planned("adapters", config=("tests/config/tiny.yaml", "own.yaml")) == {
        "train_sft": 1,
        "train_dpo": 1,
        "adapters": 1,
    }


def test_a_game_names_the_adapters_that_saw_it_and_none_is_tested_on_its_own(trained: Project) -> None:
    import pyarrow.parquet as pq

    games = pq.read_table(trained.folder / "results/adapters/mafia_sft/games.parquet").to_pylist()
    game = next(one["game"] for one in games if one["split"] == "train")
    code, said = trained.audit("impact", f"game:{game}")

    assert code == 0, said
    assert "adapters/mafia_sft" in said
    assert "adapters/mafia_dpo" in said
    # And the probe on the same corpus, as it is and with the adapter on the model.
    assert MEMBER in said
    assert SHIFT in said
    code, said = trained.audit("leakage")
    assert code == 0, said
    assert "no game is on both sides" in said


def test_probes_and_adapters_part_a_corpus_alike(trained: Project) -> None:
    import pyarrow.parquet as pq

    processed = trained.folder / "data/processed"
    tables = [*(processed / "dialogues/mafia_member").glob("*/samples.parquet")]
    of_probes = {row["content"]: row["split"] for table in tables for row in pq.read_table(table).to_pylist()}
    games = pq.read_table(processed / "sft/mafia_sft/games.parquet").to_pylist()
    of_adapters = {row["content"]: row["split"] for row in games}
    both = of_probes.keys() & of_adapters.keys()

    assert {of_probes[content] for content in both} == {"train", "validation", "test"}
    assert {content: of_probes[content] for content in both} == {
        content: of_adapters[content] for content in both
    }


def test_checkpoints_are_compared_with_each_other_and_with_the_base(adapters_run: Project) -> None:
    metrics = json.loads((adapters_run.folder / STEPS / "metrics.json").read_bytes())
    report = (adapters_run.folder / STEPS / "REPORT.md").read_text()
    base, *steps = metrics["systems"]
    pairs = [(base, steps[0]), (base, steps[1]), tuple(steps)]

    assert [base, *steps] == ["base", "support_grpo@1", "support_grpo@2"]
    for one in metrics["quantities"].values():
        assert [(row["from"], row["to"]) for row in one["differences"]] == pairs
        for first, second in pairs:
            assert f"| {one['title']} | {first} | {second} | " in report


@pytest.mark.slow
def test_a_probe_that_is_tested_on_games_of_the_adapter_below_it_is_found(
    trained: Project, tmp_path: Path
) -> None:
    project = trained.copy(tmp_path / "project")
    config = yaml.safe_load((project.folder / "config/config.yaml").read_text())
    # The adapter of other splits, by its folder: the recipe would be trained anew.
    config["model"] = {"base": "tiny", "adapter": "results/adapters/mafia_sft"}
    config["splits"] |= {"train": 0.3, "validation": 0.2, "test": 0.5}
    # Which compare with the model as it is.
    config["probe_shifts"] = {}
    project.write("config/config.yaml", yaml.safe_dump(config, sort_keys=False))
    project.run(MEMBER, config=("config/config.yaml",))
    code, said = project.audit("leakage", MEMBER)

    assert code == 1, said
    assert f"{MEMBER}  " in said
    assert "trained in  results/adapters/mafia_sft" in said
    assert re.search(r"\(test\) is \S+ \(train\)", " ".join(said.split()))


def test_the_commands_of_the_readme_run_as_printed(trained: Project) -> None:
    commands = COMMAND.findall(ADAPTERS)
    assert len(commands) >= 4
    for command in commands:
        done = trained.command("bash", "-c", f"source .venv/bin/activate && {command}")
        assert done.returncode == 0, f"$ {command}\n{done.stdout}"
    manifest = json.loads((trained.folder / EVALUATION / "manifest.json").read_bytes())
    assert manifest["systems"] == ["base", "mafia_sft"]
    code, said = trained.audit("leakage", EVALUATION)
    assert code == 0, said


def test_all_adapters_can_be_evaluated_and_a_grid_has_its_points_and_its_table(
    adapters_run: Project, trained: Project
) -> None:
    # One is there.
    assert adapters_run.planned("adapter_evaluations")["evaluate_adapter"] == len(RECIPES) - 1
    trained.write("grid.yaml", "recipes: {forecast_grpo: {grid: {learning_rate: [1.0e-5, 1.0e-4]}}}\n")

    assert trained.planned("results/evaluation/grids/forecast_grpo", config=(TINY, "grid.yaml")) == {
        "train_grpo": 2,
        "compare_grid": 1,
    }
