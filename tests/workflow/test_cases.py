"""Corpora of cases and dialogues: what a new file touches, and what a retraction does."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from probeline.logs.forecasts import read_forecast
from probeline.logs.simulate_forecasts import simulate_case
from probeline.logs.simulate_support import simulate_dialogue
from tests.workflow.conftest import TINY, Project, fresh_project

pytestmark = pytest.mark.workflow

OWN = (TINY, "own.yaml")
OWN_LOGS = """\
shards: 2
corpora:
  forecast:
    root: data/raw/cases
  support:
    root: data/raw/dialogues
"""
DATASET = "data/processed/forecasts/forecasts"
PROMPTS = "data/processed/prompts/support"


def with_logs(folder: Path) -> Project:
    project = fresh_project(folder)
    project.write("own.yaml", OWN_LOGS)
    for number in range(8):
        project.write(f"data/raw/cases/{number}.jsonl", orjson.dumps(simulate_case(7, number)).decode())
        split, dialogue = simulate_dialogue(7, number)
        project.write(f"data/raw/dialogues/{split}/{number}.json", orjson.dumps([dialogue]).decode())
    return project


def json_of(project: Project, name: str) -> Any:
    return json.loads((project.folder / name).read_text())


def retract(project: Project, corpus: str, content: str) -> None:
    entry = {"corpus": corpus, "game": content[:16], "content": content, "reason": "asked to"}
    project.write("config/retracted.yaml", yaml.safe_dump([entry]))


@pytest.mark.slow
def test_a_new_file_touches_one_shard_and_a_retraction_its_format_alone(tmp_path: Path) -> None:
    project = with_logs(tmp_path / "project")
    project.run(DATASET, PROMPTS, config=OWN)
    quality = json_of(project, "data/processed/forecast/quality.json")
    assert (quality["files"], quality["cases"]) == (8, 8)
    manifest = json_of(project, f"{DATASET}/manifest.json")
    assert manifest["simulated"] is False
    assert manifest["counts"]["grpo_prompts"] > 0
    assert json_of(project, "data/processed/support/quality.json")["dialogues"] == 8
    assert json_of(project, f"{PROMPTS}/manifest.json")["counts"]["prompts"] > 0

    retract(project, "mafia", "ab" * 32)
    assert project.planned(DATASET, PROMPTS, config=OWN) == Counter()
    case = read_forecast((project.folder / "data/raw/cases/3.jsonl").read_bytes())
    retract(project, "forecast", case.content)
    expected = Counter(ingest_forecasts=2, collect_forecasts=1, build_forecasts=1)
    assert project.planned(DATASET, PROMPTS, config=OWN) == expected

    project.write("data/raw/dialogues/train/a b.json", orjson.dumps([simulate_dialogue(7, 8)[1]]).decode())
    expected += Counter(ingest_support=1, collect_support=1, build_prompts=1)
    assert project.planned(DATASET, PROMPTS, config=OWN) == expected
    project.run(DATASET, PROMPTS, config=OWN)
    quality = json_of(project, "data/processed/forecast/quality.json")
    assert (quality["cases"], quality["retracted"]) == (7, 1)
    assert json_of(project, "data/processed/support/quality.json")["dialogues"] == 9

    project.write("data/raw/cases/a b.jsonl", orjson.dumps(simulate_case(7, 8)).decode())
    expected = Counter(ingest_forecasts=1, collect_forecasts=1, build_forecasts=1)
    assert project.planned(DATASET, PROMPTS, config=OWN) == expected
