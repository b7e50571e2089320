"""A corpus of Mafia files: one new log touches one shard, and a retracted one is gone from everything."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from probeline.digests import shard_of
from probeline.logs.listing import file_content
from probeline.logs.mafia import read_mafia
from probeline.logs.simulate_mafia import simulate_mafia, simulate_mafia_game
from tests.workflow.conftest import TINY, Project, fresh_project

pytestmark = pytest.mark.workflow

OWN = (TINY, "own.yaml")
OWN_LOGS = """\
corpora:
  mafia:
    root: data/raw/mafia
"""
LOGS = "data/raw/mafia"
SFT = "data/processed/sft/mafia_sft/manifest.json"
DIALOGUES = "data/processed/dialogues/mafia_member/shard-{}-of-2/manifest.json"
TARGETS = (SFT, *(DIALOGUES.format(shard) for shard in range(2)))
ONE_SHARD = Counter(ingest_mafia=1, collect_mafia=1, build_dialogues=1, build_sft=1)


def quality_of(project: Project) -> dict[str, Any]:
    return json.loads((project.folder / "data/processed/mafia/quality.json").read_text())


def log_with_a_good_vote() -> bytes:
    """A log that examples are made of."""
    logs = (orjson.dumps(simulate_mafia_game(7, index)) for index in range(100, 300))
    for log in logs:
        game = read_mafia(log)
        votes = [pair for pair in game.pairs if pair.phase == "vote" and not pair.faults]
        if game.outcome == "win" and votes:
            return log
    raise AssertionError("no simulated game was won with a legal vote")


def key_of(file: Path) -> str:
    return file_content(file)[:16]


def test_one_log_touches_one_shard_and_retracting_it_undoes_that(tmp_path: Path) -> None:
    project = fresh_project(tmp_path / "project")
    project.write("own.yaml", OWN_LOGS)
    logs = project.folder / LOGS
    simulate_mafia(7, range(30), logs)
    project.run(*TARGETS, config=OWN)
    assert quality_of(project)["files"] == 30

    (logs / "one more.json").write_bytes(log_with_a_good_vote())
    assert project.planned(*TARGETS, config=OWN) == ONE_SHARD
    project.run(*TARGETS, config=OWN)
    assert quality_of(project)["games"] == 31

    key = key_of(logs / "one more.json")
    status, said = project.audit("impact", f"{LOGS}/one more.json", "--configfile", *OWN)
    assert status == 0, said
    assert f"game  {key}" in said
    assert "data/processed/sft/mafia_sft" in said
    status, said = project.audit("retract", f"game:{key}", "--reason", "withdrawn", "--configfile", *OWN)
    assert status == 0, said
    assert "data/processed/sft/mafia_sft (holds it in" in said
    assert f"shards/shard-{shard_of(key, 2)}-of-2" in said
    assert f"shards/shard-{1 - shard_of(key, 2)}-of-2" not in said
    assert project.audit("retract", "--check", "--configfile", *OWN)[0] == 1
    assert project.planned(*TARGETS, config=OWN) == ONE_SHARD
    project.run(*TARGETS, config=OWN)
    status, said = project.audit("retract", "--check", "--configfile", *OWN)
    assert status == 0, said
    counts = quality_of(project)
    assert (counts["files"], counts["games"], counts["retracted"]) == (31, 30, 1)
    # The file may go: nothing is made anew for that.
    (logs / "one more.json").unlink()
    assert project.planned(*TARGETS, config=OWN) == Counter()
