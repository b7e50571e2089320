"""The last lines of a run: what it has read and built, and how a job that is told to end says so."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from probeline.logs.summary import data_summary

INTERRUPTED = """
from types import SimpleNamespace
from probeline.compute.jobs import job

config = {"corpora": {}, "models": {}, "model": "tiny"}
what = {"rule": "rule", "config": config, "wildcards": {}, "threads": 1, "log": ["logs/rule/it.log"]}
what["output"] = SimpleNamespace(record="results/it.lineage.json")
what["input"] = SimpleNamespace(items=dict().items)
what["params"] = SimpleNamespace(spec={"code": {}})
with job(SimpleNamespace(**what)):
    raise KeyboardInterrupt
"""


def test_ctrl_c_ends_a_job_in_words(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 130, done.stderr
    assert done.stderr == "it: Interrupted. The same command takes it up again.\n"
    assert not (tmp_path / "results/it.lineage.json").exists()


def test_what_was_read_and_built_is_said_with_what_was_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    counts = {"quarantined": 0, "duplicates": 0, "retracted": 0}
    for corpus, found in {
        "cases": {"cases": 1, "files_quarantined": 1, "quarantined": 2},
        "games": {"games": 1200, "duplicates": 1},
        "old": {"games": 3},
    }.items():
        file = Path("data/processed", corpus, "quality.json")
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(counts | found))
    started = time.time() - 60
    os.utime("data/processed/old/quality.json", (started - 60, started - 60))
    Path("data/processed/sft/mine").mkdir(parents=True)
    Path("data/processed/sft/mine/manifest.json").write_text("{}")
    assert data_summary(Path("data/processed"), started).splitlines() == [
        "Corpus cases: 1 case, 1 unreadable file (data/processed/cases/quarantine.jsonl), "
        "2 in quarantine (data/processed/cases/quarantine.jsonl); "
        "data/processed/cases/quality.json",
        "Corpus games: 1,200 games, 1 copy of another; data/processed/games/quality.json",
        "Datasets: data/processed/sft/mine",
    ]
