"""Corpora of forecasting cases: one new file touches one shard, and its name decides nothing."""

import json
from collections import Counter
from pathlib import Path

import orjson
import pytest

from probeline.logs.simulate_forecasts import simulate_case
from tests.workflow.conftest import TINY, fresh_project

pytestmark = pytest.mark.workflow

OWN = (TINY, "own.yaml")
OWN_LOGS = """\
shards: 2
corpora:
  forecast:
    root: data/raw/cases
"""
DATASET = "data/processed/forecasts/forecasts"


def test_a_new_file_of_cases_touches_one_shard(tmp_path: Path) -> None:
    project = fresh_project(tmp_path / "project")
    project.write("own.yaml", OWN_LOGS)
    for number in range(8):
        project.write(f"data/raw/cases/{number}.jsonl", orjson.dumps(simulate_case(7, number)).decode())
    project.run(DATASET, config=OWN)
    quality = json.loads((project.folder / "data/processed/forecast/quality.json").read_text())
    assert (quality["files"], quality["cases"]) == (8, 8)
    manifest = json.loads((project.folder / DATASET / "manifest.json").read_text())
    assert manifest["simulated"] is False
    assert manifest["counts"]["grpo_prompts"] > 0

    project.write("data/raw/cases/a b.jsonl", orjson.dumps(simulate_case(7, 8)).decode())
    expected = Counter(ingest_forecasts=1, collect_forecasts=1, build_forecasts=1)
    assert project.planned(DATASET, config=OWN) == expected
