"""An artifact made again in a clean checkout: the same bits, or the first difference by name."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from probeline.logs.simulate_werewolf import simulate_games
from tests.workflow.conftest import OWN_LOGS, PROBE, TINY, Project, fresh_project

pytestmark = pytest.mark.workflow

DIALOGUES = "data/processed/dialogues/collusion/shard-0-of-1"
MODEL = "data/models/tiny"
GAMES = 8
OWN_SETTINGS = f"shards: 1\n{OWN_LOGS}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A run inside a larger repository; git lacks its logs, and its settings are from a file that is gone."""
    project = fresh_project(tmp_path_factory.mktemp("reproduce") / "repository" / "project")
    Project(project.folder.parent).git("init", "--quiet")
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message", "sources")
    simulate_games(7, range(GAMES), project.folder / "data/raw/games")
    project.write("own.yaml", OWN_SETTINGS)
    project.run(PROBE, config=(TINY, "own.yaml"))
    (project.folder / "own.yaml").unlink()
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Iterator[Project]:
    Project(finished.folder.parent).copy(tmp_path / "repository")
    yield Project(tmp_path / "repository/project")
    shutil.rmtree(tmp_path / "repository")


def test_a_probe_comes_out_the_same_to_the_bit_and_nothing_is_left(finished: Project) -> None:
    before = finished.git("status", "--porcelain")
    # From the logs, on another number of cores than the run had.
    status, said = finished.audit("reproduce", "--json", "--cores", "1", "collusion_mms_l2")
    assert status == 0, said
    assert "train_probe" in said
    assert "Complete log" not in said
    result = json.loads(said[said.rindex('{\n  "target"') :])
    assert result["identical"]
    assert result["models"] == {"data/models/tiny": "made again"}
    assert [one["artifact"] for one in result["artifacts"]][-1] == PROBE
    # The model, the shard of the corpus, the corpus, dialogues, activations, the probe.
    assert len(result["artifacts"]) == 6
    assert finished.git("status", "--porcelain") == before
    assert finished.git("worktree", "list").count("\n") == 1
    assert not list((finished.folder / ".probeline/reproduce").iterdir())


@pytest.mark.slow
def test_what_git_holds_is_made_again_all_the_same(project: Project) -> None:
    project.git("add", "--force", "data/models")
    project.git("commit", "--quiet", "--message", "a model")
    shutil.rmtree(project.folder / MODEL)
    project.write("own.yaml", OWN_SETTINGS)
    project.run(MODEL, config=(TINY, "own.yaml"))
    status, said = project.audit("reproduce", MODEL)
    assert status == 0, said
    assert "Bit-identical: 1 artifact made again" in said


def test_what_differs_first_is_named(project: Project) -> None:
    project.edit("config/templates/werewolf.yaml", "Turn $turn", "Round $turn")
    status, said = project.audit("reproduce", "--dirty", DIALOGUES)
    assert status == 1, said
    first = said[said.index("First: ") :].splitlines()
    assert first[0] == f"First: {DIALOGUES} (build_dialogues)"
    assert "input config/templates/werewolf.yaml is another" in first[1]
    assert any("sequences.parquet: column messages, row 0" in line for line in first)


def test_other_code_than_the_recorded_is_refused_before_anything_runs(project: Project) -> None:
    source = project.folder / "scripts/probeline/probes/train.py"
    source.write_text(source.read_text() + "\n\ndef another_thought() -> int:\n    return 1\n")
    status, said = project.audit("reproduce", "--dirty", PROBE)
    assert status == 1
    assert "other code than that of the sources to run: scripts/probeline/probes/train.py" in said
    assert "Job stats" not in said


def test_a_raw_log_that_was_changed_is_named(project: Project) -> None:
    log = sorted((project.folder / "data/raw/games").rglob("game_stats.json"))[0]
    log.write_text(log.read_text() + " ")
    status, said = project.audit("reproduce", PROBE)
    assert status == 1
    assert f"{log.relative_to(project.folder).as_posix()} is not what it was" in said


def test_a_run_of_uncommitted_sources_is_not_taken_for_one_of_its_commit(project: Project) -> None:
    project.edit("rules/probes.smk", "Fit a", "Now fit a")
    shutil.rmtree(project.folder / DIALOGUES)
    project.write("own.yaml", OWN_SETTINGS)
    project.run(DIALOGUES, config=(TINY, "own.yaml"))
    status, said = project.audit("reproduce", DIALOGUES)
    assert status == 1
    assert "made with sources that were not committed: rules/probes.smk" in said


def test_a_changed_target_or_a_missing_record_is_named_before_anything_runs(project: Project) -> None:
    metrics = project.folder / PROBE / "metrics.json"
    made = metrics.read_bytes()
    metrics.write_bytes(made + b" ")
    status, said = project.audit("reproduce", PROBE)
    assert status == 1
    assert f"{PROBE}/metrics.json is not what its record says" in said
    metrics.write_bytes(made)
    (project.folder / f"{DIALOGUES}.lineage.json").unlink()
    status, said = project.audit("reproduce", PROBE)
    assert status == 1
    assert f"{DIALOGUES}.lineage.json: missing" in said
