"""A game taken out of a finished run: what is made anew is what would be without it."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from probeline.digests import shard_of
from tests.workflow.conftest import GAMES, PROBE, TINY, Project, artifacts, fresh_project

pytestmark = pytest.mark.workflow

OWN = (TINY, "own.yaml")
ONE_SHARD = Counter(
    ingest_werewolf=1, collect_corpus=1, build_dialogues=1, extract_activations=1, train_probe=1
)
GAME = "simulated_baseline/game10"
LOGS = "data/raw/games"


def quality_of(project: Project) -> dict[str, Any]:
    return json.loads((project.folder / "data/processed/werewolf/quality.json").read_text())


def without_counts(found: dict[str, bytes]) -> dict[str, Any]:
    """The artifacts without what may differ: the numbers of files and of retracted ones, and the digest
    of the file that holds them.
    """
    comparable: dict[str, Any] = {}
    for name, data in found.items():
        comparable[name] = data
        if name.endswith(("quality.json", "manifest.json")):
            value = comparable[name] = json.loads(data)
            for counts in (value, value.get("quality", {})):
                if isinstance(counts.get("files"), int):
                    del counts["files"], counts["retracted"]
            if name.endswith("manifest.json"):
                value["files"].pop("quality.json", None)
    return comparable


def test_a_retracted_game_is_gone_as_if_it_had_never_been(own_logs: Project, tmp_path: Path) -> None:
    status, said = own_logs.audit(
        "retract", f"game:{GAME}", "--reason", "consent withdrawn", "--configfile", *OWN
    )
    assert status == 0, said
    assert PROBE in said
    assert own_logs.planned(PROBE, config=OWN) == ONE_SHARD
    status, said = own_logs.audit("retract", "--check")
    assert status == 1
    assert PROBE in said

    own_logs.run(PROBE, config=OWN)
    assert own_logs.audit("retract", "--check")[0] == 0
    counts = quality_of(own_logs)
    assert (counts["files"], counts["games"], counts["retracted"]) == (GAMES, GAMES - 1, 1)
    assert (own_logs.folder / LOGS / GAME / "game_stats.json").exists()

    scratch = fresh_project(tmp_path / "scratch")
    scratch.write("own.yaml", (own_logs.folder / "own.yaml").read_text())
    shutil.copytree(own_logs.folder / LOGS, scratch.folder / LOGS)
    shutil.rmtree(scratch.folder / LOGS / GAME)
    scratch.run(PROBE, config=OWN)
    made, expected = artifacts(own_logs.folder), artifacts(scratch.folder)
    assert without_counts(made) == without_counts(expected)
    differing = {name for name in made if made[name] != expected[name]}
    assert {Path(name).name for name in differing} == {"quality.json", "manifest.json"}
    # Those of the shard, of the corpus, and of the probe, which repeats the counts.
    assert len(differing) == 5

    # The log itself may go: nothing is made anew for that.
    shutil.move(own_logs.folder / LOGS / GAME, own_logs.folder / "away")
    assert own_logs.planned(PROBE, config=OWN) == Counter()
    # A copy that comes later, under another name and in another shard, is kept out with the reason.
    copy = next(f"later/game{i}" for i in range(99) if shard_of(f"later/game{i}", 2) != shard_of(GAME, 2))
    shutil.copytree(own_logs.folder / "away", own_logs.folder / LOGS / copy)
    assert own_logs.planned(PROBE, config=OWN) == ONE_SHARD
    said = own_logs.run("data/processed/werewolf/quality.json", config=OWN)
    assert f"{copy} (a copy of {GAME} of werewolf: consent withdrawn)" in said
    counts = quality_of(own_logs)
    assert (counts["files"], counts["games"], counts["retracted"], counts["duplicates"]) == (
        GAMES + 1,
        GAMES - 1,
        2,
        0,
    )
    assert own_logs.audit("retract", "--check")[0] == 0


@pytest.mark.slow
def test_of_a_simulated_corpus_too_and_back_again(tmp_path: Path) -> None:
    project = fresh_project(tmp_path / "project")
    quality = "data/processed/werewolf/quality.json"
    project.run(quality)
    before = artifacts(project.folder)
    one_shard = Counter(simulate_logs=1, ingest_werewolf=1, collect_corpus=1)

    assert project.audit("retract", f"game:{GAME}", "--reason", "why", "--configfile", TINY)[0] == 0
    assert project.planned(quality) == one_shard
    project.run(quality)
    counts = quality_of(project)
    assert (counts["files"], counts["games"], counts["retracted"]) == (24, 23, 1)
    assert project.audit("retract", "--check")[0] == 0
    assert not list((project.folder / "data/simulated").rglob(Path(GAME).name))

    assert project.audit("retract", f"game:{GAME}", "--undo")[0] == 0
    assert project.planned(quality) == one_shard
    project.run(quality)
    assert artifacts(project.folder) == before
