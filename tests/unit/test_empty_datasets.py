"""A dataset without a single row is made, and said aloud to be empty."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probeline.datasets.forecasts import build_forecasts
from probeline.datasets.preferences import build_preferences
from probeline.datasets.prompts import build_prompts
from probeline.datasets.sft import build_sft
from probeline.logs.ingest_forecasts import collect_forecasts, ingest_forecasts
from probeline.logs.ingest_mafia import collect_mafia, ingest_mafia
from probeline.logs.ingest_support import collect_support, ingest_support

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
