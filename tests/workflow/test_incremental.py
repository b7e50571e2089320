"""Edit → jobs: what an edit affects is rerun, and nothing else."""

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.tiny import make_adapter
from tests.workflow.conftest import GAMES, PROBE, TINY, Project, artifacts, fresh_project

pytestmark = pytest.mark.workflow

OWN = (TINY, "own.yaml")
# From the reading of one shard to the probe.
ONE_SHARD = Counter(
    ingest_werewolf=1, collect_corpus=1, build_dialogues=1, extract_activations=1, train_probe=1
)
TRAINING = Counter(train_probe=1)
FROM_DIALOGUES = Counter(build_dialogues=2, extract_activations=2, train_probe=1)
QUALITY = "data/processed/werewolf/quality.json"


def first_game(project: Project) -> Path:
    return sorted((project.folder / "data/raw/games").rglob("game_stats.json"))[0]


def edit_stats(file: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    stats = json.loads(file.read_text())
    edit(stats)
    file.write_text(json.dumps(stats))


def change_a_statement(project: Project) -> None:
    """Other words in one statement of one game, in the statistics and in the log."""

    def reword(stats: dict[str, Any]) -> None:
        said = next(event for event in stats["history"] if event["type"] == "day_statement")
        said["data"]["statement"] += " That is all I have."

    edit_stats(first_game(project), reword)


def add_a_game(project: Project) -> None:
    """Another game, in a new folder."""
    game = first_game(project).parent
    shutil.copytree(game, game.parent / "game9999")
    edit_stats(game.parent / "game9999/game_stats.json", lambda stats: stats.update(game_id=9999))


def remove_a_game(project: Project) -> None:
    shutil.rmtree(first_game(project).parent)


def change_a_log(project: Project) -> None:
    log = sorted((project.folder / "data/raw/games").rglob("llm_log.txt"))[0]
    log.write_text(log.read_text().replace("Task:", "Your task:"))


EDITS = [change_a_statement, add_a_game, remove_a_game, change_a_log]


def test_nothing_edited_nothing_done(own_logs_run: Project) -> None:
    assert own_logs_run.planned(PROBE, config=OWN) == Counter()


def test_a_touched_log_reruns_nothing(own_logs: Project) -> None:
    os.utime(first_game(own_logs))
    assert own_logs.planned(PROBE, config=OWN) == Counter()


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_the_logs_reruns_one_shard_and_what_follows(
    own_logs: Project, edit: Callable[[Project], None]
) -> None:
    edit(own_logs)
    assert own_logs.planned(PROBE, config=OWN) == ONE_SHARD


def test_reformatting_a_log_does_not_make_another_game_of_it(own_logs: Project) -> None:
    """The shard is read again; the split of the game, from its canonical content, stays."""
    edit_stats(first_game(own_logs), lambda stats: None)
    own_logs.run(QUALITY, config=OWN)
    quality = json.loads((own_logs.folder / QUALITY).read_text())
    assert (quality["files"], quality["games"]) == (GAMES, GAMES)


def test_a_changed_template_rebuilds_the_dialogues(own_logs: Project) -> None:
    own_logs.edit("config/templates/werewolf.yaml", "Transcript", "The transcript")
    assert own_logs.planned(PROBE, config=OWN) == FROM_DIALOGUES


def test_another_method_trains_only(own_logs_run: Project) -> None:
    assert own_logs_run.planned("results/probes/collusion_lr_l2", config=OWN) == TRAINING


def test_another_setting_of_the_method_trains_only(own_logs: Project) -> None:
    own_logs.write("method.yaml", "evaluation: {bootstrap: 300}")
    assert own_logs.planned(PROBE, config=(*OWN, "method.yaml")) == TRAINING


def test_another_layer_of_those_extracted_trains_only(own_logs_run: Project) -> None:
    assert own_logs_run.planned("results/probes/collusion_mms_l1_3", config=OWN) == TRAINING


UNRELATED = """\
methods: {lr: {regularization: 50}}
corpora: {werewolf: {simulated_games: 70}}
targets: {probes: []}
probes:
  claims_seer:
    {corpus: werewolf, events: [statement], label: 'mentions(text, "seer")', context: none, mask: action}
models: {other: {hub: some/model, revision: 0123456789012345678901234567890123456789}}
"""


PLACE = "    context: public\n    mask: action\n"


def test_unrelated_keys_and_their_order_rerun_nothing(own_logs: Project) -> None:
    own_logs.write("unrelated.yaml", UNRELATED)
    own_logs.edit("config/config.yaml", PLACE, "    mask: action\n    context: public\n")
    assert own_logs.planned(PROBE, config=(*OWN, "unrelated.yaml")) == Counter()


def test_comments_and_new_mtimes_of_code_rerun_nothing(own_logs: Project) -> None:
    for script in ("train_probe.py", "probeline/probes/train.py", "probeline/files.py"):
        file = own_logs.folder / "scripts" / script
        file.write_text(file.read_text() + "\n# A thought.\n")
    assert own_logs.planned(PROBE, config=OWN) == Counter()


EVERY_RULE = FROM_DIALOGUES + Counter(fetch_model=1, ingest_werewolf=2, collect_corpus=1)


def test_a_library_function_reruns_the_rules_that_import_it(own_logs: Project) -> None:
    """Each edit affects more than those before it, which stay."""
    for modules, jobs in (
        (("logs/simulate_werewolf.py", "lineage/code.py", "cli.py"), Counter()),
        (("probes/train.py",), TRAINING),
        (("activations/engine.py",), Counter(extract_activations=2, train_probe=1)),
        (("datasets/contexts.py",), FROM_DIALOGUES),
        (("files.py",), EVERY_RULE),
    ):
        for module in modules:
            file = own_logs.folder / "scripts/probeline" / module
            file.write_text(file.read_text() + "\n\ndef another_thought() -> int:\n    return 1\n")
        assert own_logs.planned(PROBE, config=OWN) == jobs, modules


def computed(project: Project) -> int:
    """How many games went through the model in the extractions since the last call."""
    figures = list((project.folder / "benchmarks/extract_activations").rglob("*.json"))
    count = sum(json.loads(file.read_text())["games_computed"] for file in figures)
    for file in figures:
        file.unlink()
    return count


def test_an_incremental_run_equals_a_run_from_scratch(own_logs: Project, tmp_path: Path) -> None:
    assert computed(own_logs) == GAMES
    for edit in EDITS:
        before = {
            file: file.stat().st_mtime_ns
            for file in (own_logs.folder / "results/activations").rglob("activations.safetensors")
        }
        edit(own_logs)
        own_logs.run(PROBE, config=OWN)
        rewritten = [file for file, mtime in before.items() if file.stat().st_mtime_ns != mtime]
        assert len(rewritten) == 1, edit.__name__
        # The game that is added is a copy under another number; prompts in logs are not in this context.
        assert computed(own_logs) == (edit is change_a_statement), edit.__name__

    scratch = fresh_project(tmp_path / "scratch")
    scratch.write("own.yaml", (own_logs.folder / "own.yaml").read_text())
    shutil.copytree(own_logs.folder / "data/raw/games", scratch.folder / "data/raw/games")
    scratch.run(PROBE, config=OWN)
    made = artifacts(own_logs.folder)
    assert any(path.endswith("detector.pt") for path in made)
    assert artifacts(scratch.folder) == made


def test_what_changes_no_text_forwards_no_game(own_logs: Project) -> None:
    """Another label, other splits, and other code outside of the engine."""
    computed(own_logs)
    own_logs.write("label.yaml", 'probes: {collusion: {label: actor_role == "villager"}}')
    own_logs.write("splits.yaml", "splits: {train: 0.5, validation: 0.2, test: 0.3}")
    for edit in ("label.yaml", "splits.yaml"):
        assert own_logs.planned(PROBE, config=(*OWN, edit)) == FROM_DIALOGUES
    file = own_logs.folder / "scripts/probeline/files.py"
    file.write_text(file.read_text() + "\n\ndef another_thought() -> int:\n    return 1\n")
    edited = (*OWN, "label.yaml", "splits.yaml")
    assert own_logs.planned(PROBE, config=edited) == EVERY_RULE
    own_logs.run(PROBE, config=edited)
    assert computed(own_logs) == 0
    # Snakemake compares params as a set of values; one dict param per rule keeps their names.
    own_logs.write("splits.yaml", "splits: {train: 0.5, validation: 0.3, test: 0.2}")
    assert own_logs.planned(PROBE, config=edited) == FROM_DIALOGUES


@pytest.mark.slow
def test_fewer_extraction_jobs_forward_no_game_and_give_the_same_probe(own_logs: Project) -> None:
    computed(own_logs)
    scores = own_logs.folder / PROBE / "scores.parquet"
    before = scores.read_bytes()
    own_logs.write("edit.yaml", "activations: {shards: 1}")
    config = (*OWN, "edit.yaml")
    assert own_logs.planned(PROBE, config=config) == Counter(extract_activations=1, train_probe=1)
    own_logs.run(PROBE, config=config)
    assert computed(own_logs) == 0
    assert (own_logs.folder / "results/activations/collusion/shard-0-of-1").is_dir()
    assert scores.read_bytes() == before


FROM_ACTIVATIONS = Counter(extract_activations=2, train_probe=1)


def test_an_adapter_on_the_model_is_an_input(own_logs: Project) -> None:
    own_logs.write("adapter.yaml", "model: {base: tiny, adapter: data/adapter}")
    config = (*OWN, "adapter.yaml")
    assert "data/adapter is not a PEFT adapter" in own_logs.refused(PROBE, config=config)
    folders = own_logs.folder / "data/models/tiny", own_logs.folder / "data/adapter"
    make_adapter(*folders, seed=1)
    assert own_logs.planned(PROBE, config=config) == FROM_ACTIVATIONS
    computed(own_logs)
    own_logs.run(PROBE, config=config)
    assert computed(own_logs) == GAMES
    name = PROBE.rpartition("/")[2]
    score = (sys.executable, "-m", "probeline.cli", "score", "--probe", name)
    refused = own_logs.command(*score, "I trust you.")
    assert refused.returncode != 0
    assert "--adapter FOLDER" in refused.stdout
    scored = own_logs.command(*score, "--adapter", "data/adapter", "I trust you.")
    assert scored.returncode == 0, scored.stdout
    make_adapter(*folders, seed=2)
    assert own_logs.planned(PROBE, config=config) == FROM_ACTIVATIONS


def test_every_rule_with_a_script_carries_its_code_in_one_param_and_has_a_record(
    own_logs_run: Project,
) -> None:
    rules = "\n" + "".join(file.read_text() for file in (own_logs_run.folder / "rules").glob("*.smk"))
    blocks = [block for block in rules.split("\nrule ")[1:] if "script:" in block]
    scripts = {path.stem for path in (own_logs_run.folder / "scripts").glob("*.py")}
    specs = "".join(file.read_text() for file in (own_logs_run.folder / "rules/inputs").glob("*.smk"))
    assert {block.partition(":")[0] for block in blocks} == scripts
    for block in blocks:
        name = block.partition(":")[0]
        params = block.partition("params:")[2].partition("message:")[0].split()
        assert params[0].startswith("spec=")
        assert 'record="' in block or 'record=f"' in block
        assert f'code_of("{name}")' in block + specs
        assert f'benchmark:\n        "benchmarks/{name}/' in block
