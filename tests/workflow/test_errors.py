"""What a user can get wrong, and the words that come back."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from probeline.logs.simulate_werewolf import simulate_games
from tests.workflow.conftest import GAMES, OWN_LOGS, PROBE, TINY, Project, fresh_project

pytestmark = pytest.mark.workflow

OWN = (TINY, "own.yaml")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return fresh_project(tmp_path_factory.mktemp("errors") / "project")


def test_a_missing_root(project: Project) -> None:
    project.write("missing.yaml", "corpora: {werewolf: {root: data/raw/nowhere}}")
    words = project.refused(PROBE, config=(TINY, "missing.yaml"))
    assert "No game data found" in words
    assert "data/raw/nowhere" in words
    assert "**/gameN/game_stats.json" in words
    assert "corpora.werewolf.root" in words


def test_a_typo_in_a_target(project: Project) -> None:
    assert "Did you mean collusion?" in project.refused("results/probes/colusion_mms_l2")


def test_a_group_of_no_experiment_is_found_before_anything_runs(own_logs: Project) -> None:
    groups = '{plain: ["*_baseline"], probed: [simulated_prob]}'
    transfer = f"{{concept: trust, method: mms, layers: [2], groups: {groups}}}"
    own_logs.write("transfers.yaml", f"transfers: {{mine: {transfer}}}")
    words = own_logs.refused("--dry-run", PROBE, config=(*OWN, "transfers.yaml"))
    assert "transfers.mine.groups.probed: no experiment of trust fits 'simulated_prob'." in words
    assert "Did you mean simulated_probe" in words
    assert "groups.plain" not in words


def test_one_class_only(own_logs: Project) -> None:
    concept = "{corpus: werewolf, events: [statement], label: turn > 1000, context: none, mask: action}"
    own_logs.write("concept.yaml", f"probes: {{never: {concept}}}\nactivations: {{shards: 1}}\n")
    words = own_logs.refused("results/probes/never_mms_l2", config=(*OWN, "concept.yaml"))
    assert "Not enough data for never: no positive sample in train" in words
    assert "The label is never true" in words
    assert re.search(r"split +games +positive +negative\n.*train +\d+ +0 +\d+\n", words)
    assert not (own_logs.folder / "results/probes/never_mms_l2").exists()


def test_a_broken_log_is_quarantined_and_the_run_goes_on(own_logs: Project) -> None:
    games = sorted((own_logs.folder / "data/raw/games").rglob("game_stats.json"))
    games[0].write_bytes(games[0].read_bytes()[:-100])
    games[1].write_bytes(b"\xff\xfe not text")
    own_logs.run(PROBE, config=OWN)
    processed = own_logs.folder / "data/processed/werewolf"
    quality = json.loads((processed / "quality.json").read_text())
    assert quality["quarantined"] == 2
    assert quality["files"] == GAMES == quality["games"] + quality["duplicates"] + quality["quarantined"]
    lines = [json.loads(line) for line in (processed / "quarantine.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert all(line["path"] and line["reason"] and line["sha256"] for line in lines)


def test_a_copy_of_a_game_is_kept_once(own_logs: Project) -> None:
    game = sorted((own_logs.folder / "data/raw/games").rglob("game_stats.json"))[0].parent
    shutil.copytree(game, own_logs.folder / "data/raw/games/copies/game1234")
    own_logs.run("data/processed/werewolf/quality.json", config=OWN)
    quality = json.loads((own_logs.folder / "data/processed/werewolf/quality.json").read_text())
    assert quality["duplicates"] == 1
    assert quality["files"] == GAMES + 1


def test_a_wrong_digest_of_the_model(project: Project, tmp_path: Path) -> None:
    (tmp_path / "wrong.whl").write_bytes(b"not the wheel")
    wrong = f"models: {{smollm2-135m: {{wheel: {tmp_path / 'wrong.whl'}}}}}\nmodel: smollm2-135m\n"
    project.write("wheel.yaml", wrong)
    words = project.refused(
        "data/models/smollm2-135m/manifest.json", config=("tests/config/tiny.yaml", "wheel.yaml")
    )
    assert "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70" in words
    assert not (project.folder / "data/models/smollm2-135m").exists()


def test_two_runs_in_one_folder(project: Project) -> None:
    holder = (
        "from pathlib import Path; from probeline.lineage.lock import hold_workflow_lock;"
        "hold_workflow_lock(Path('.snakemake/probeline.lock')); print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder],
        cwd=project.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert "Another snakemake run is working in this folder" in project.refused(PROBE)
        process.communicate("\n")


def test_what_failed_is_made_by_the_same_command_also_where_nothing_of_it_is_left(own_logs: Project) -> None:
    """Snakemake removes what a failed job was to make again, and asks for no intermediate that is missing."""
    own_logs.write("changed.yaml", "activations: {token_budget: 700}\n")
    config = (*OWN, "changed.yaml")
    weights = own_logs.folder / "data/models/tiny/model.safetensors"
    weights.rename(weights.with_suffix(".away"))
    own_logs.refused(PROBE, config=config)
    assert not [*(own_logs.folder / "results/activations").rglob("activations.safetensors")]
    weights.with_suffix(".away").rename(weights)
    assert own_logs.planned(PROBE, config=config) == {"extract_activations": 2, "train_probe": 1}


def test_a_log_in_a_folder_with_an_unusual_name(tmp_path: Path) -> None:
    project = fresh_project(tmp_path / "project")
    simulate_games(1, range(3), tmp_path / "games")
    game = next((tmp_path / "games").rglob("game_stats.json")).parent
    shutil.copytree(game, project.folder / "data/raw/experiment 1, ünï/game1")
    project.write("own.yaml", OWN_LOGS.replace("data/raw/games", "data/raw"))
    project.run("data/processed/werewolf/quality.json", config=OWN)
    quality = json.loads((project.folder / "data/processed/werewolf/quality.json").read_text())
    assert quality["games"] == 1
    shutil.copytree(game, project.folder / "data/raw/exp{1}/game1")
    words = project.refused("data/processed/werewolf/quality.json", config=OWN)
    assert "takes braces in a path for wildcards" in words
    assert "Rename the folder exp{1}/game1 of corpora.werewolf.root" in words


def test_check_says_what_is_wrong_with_the_logs(project: Project) -> None:
    project.write("missing.yaml", "corpora: {werewolf: {root: data/raw/nowhere}}")
    project.write("empty.yaml", "")
    project.write("broken.yaml", "corpora: {")
    probeline = (sys.executable, "-m", "probeline.cli", "check", "--configfile")
    done = project.command(*probeline, TINY, "missing.yaml")
    assert done.returncode == 1
    assert "No game data found in data/raw/nowhere" in done.stdout
    assert "broken.yaml is not valid YAML" in project.command(*probeline, "broken.yaml").stdout
    assert "empty.yaml holds no settings" in project.command(*probeline, "empty.yaml").stdout


def test_the_library_beside_the_snakefile_is_what_runs(own_logs: Project) -> None:
    """Also where the environment was made from another checkout."""
    own_logs.edit("scripts/probeline/probes/train.py", "def train_probe(", "1 / 0\n\n\ndef train_probe(")
    done = own_logs.snakemake(PROBE, config=OWN)
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stdout


def test_a_wrong_root_is_refused_also_where_results_exist(own_logs: Project) -> None:
    """Old results would otherwise pass for those of the mistyped root."""
    own_logs.write("wrong.yaml", "corpora: {werewolf: {root: data/processed}}")
    assert "No game data found" in own_logs.refused(PROBE, config=(*OWN, "wrong.yaml"))


def test_a_damaged_table_is_named_with_the_remedy(own_logs: Project) -> None:
    for file in own_logs.folder.glob("data/processed/dialogues/collusion/*/samples.parquet"):
        file.write_bytes(file.read_bytes()[:100])
    words = own_logs.refused("results/probes/collusion_lr_l3", config=OWN)
    last = words[words.index("Exiting because a job execution failed") :]
    assert "Not made: results/probes/collusion_lr_l3 (logs/train_probe/collusion_lr_l3.log): data/" in last
    assert "samples.parquet is damaged" in last
    assert "to have it made again" in words
    assert "defect of Probeline" not in words
