import logging

import pytest

from probeline import progress as module
from probeline.progress import progress


@pytest.fixture
def lines(monkeypatch, caplog):
    """Each step a line."""
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0)
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


def test_the_remaining_time_is_reckoned_from_the_pace_that_is_told(lines):
    """Ten games: the first three were computed before and say nothing of how long the others take."""
    forwarded = []
    for number in progress(range(10), "Extracting", 10, "game", pace=lambda: 0.1 if forwarded else 0.0):
        if number >= 3:
            forwarded.append(number)
    said = lines()
    assert any("3 of 10" in line and line.endswith("? left") for line in said)
    assert any("4 of 10" in line and line.endswith("01:00 left") for line in said)
    assert any("8 of 10" in line and line.endswith("00:20 left") for line in said)
