"""A dataset without a single row is made, and said aloud to be empty."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probeline.datasets.accounts import warn_if_empty
from probeline.datasets.forecasts import build_forecasts
from probeline.datasets.preferences import build_preferences
from probeline.datasets.prompts import build_prompts
from probeline.datasets.sft import build_sft
from probeline.logs.ingest_forecasts import collect_forecasts, ingest_forecasts
from probeline.logs.ingest_mafia import collect_mafia, ingest_mafia
from probeline.logs.ingest_support import collect_support, ingest_support
from probeline.logs.simulate_forecasts import simulate_forecasts
from probeline.logs.simulate_mafia import simulate_mafia
from probeline.logs.simulate_support import simulate_support

SPLITS = {"by": "game", "train": 0.6, "validation": 0.2, "test": 0.2}


@pytest.mark.parametrize(
    ("ingest", "collect", "build"),
    [
        (ingest_mafia, collect_mafia, build_sft),
        (ingest_mafia, collect_mafia, build_preferences),
        (ingest_forecasts, collect_forecasts, build_forecasts),
        (ingest_support, collect_support, build_prompts),
    ],
)
def test_an_empty_dataset_is_told_of_aloud(
    ingest: Callable[..., None],
    collect: Callable[..., None],
    build: Callable[..., None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "other.json").write_text('{"of": "another format"}')
    corpus, dataset = tmp_path / "corpus", dict[str, Any]()
    ingest([tmp_path / "other.json"], tmp_path, corpus / "shard", {})
    collect([corpus / "shard"], corpus)
    assert "Is this the right root?" in caplog.text
    build(corpus, tmp_path / "mine", dataset, SPLITS, 0, simulated=False)
    assert "mine holds not a single row" in caplog.text


@pytest.mark.parametrize(
    ("simulate", "ingest", "collect", "build", "file"),
    [
        (simulate_mafia, ingest_mafia, collect_mafia, build_sft, "mafia_sft_dataset.jsonl"),
        (simulate_mafia, ingest_mafia, collect_mafia, build_preferences, "mafia_dpo_dataset.jsonl"),
        (simulate_forecasts, ingest_forecasts, collect_forecasts, build_forecasts, "grpo.jsonl"),
        (simulate_support, ingest_support, collect_support, build_prompts, "prompts.jsonl"),
    ],
)
def test_a_split_without_a_row_is_told_of_aloud(
    simulate: Callable[..., None],
    ingest: Callable[..., None],
    collect: Callable[..., None],
    build: Callable[..., None],
    file: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    simulate(0, range(40), tmp_path / "logs")
    files = [path for path in sorted((tmp_path / "logs").rglob("*.json*")) if "train" not in path.parts]
    corpus, shares = tmp_path / "corpus", {"by": "game", "train": 0.0, "validation": 0.5, "test": 0.5}
    ingest(files, tmp_path / "logs", corpus / "shard", {})
    collect([corpus / "shard"], corpus)
    build(corpus, tmp_path / "mine", {}, shares, 0, simulated=True)
    said = [record.getMessage() for record in caplog.records if "of mine" in record.getMessage()]
    assert f"{file} of mine holds no row of train." in said


def test_a_file_without_a_row_is_told_of_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = {"sft.jsonl": {"train": 0, "test": 0}, "grpo.jsonl": {"train": 3, "test": 1}}
    warn_if_empty(tmp_path / "mine", rows, tmp_path)
    assert [record.getMessage() for record in caplog.records] == ["sft.jsonl of mine holds not a single row."]
