"""What `probeline status` says of trainings, from what they leave behind."""

import fcntl
import json
from pathlib import Path

import pytest

from probeline.adapters import status
from probeline.adapters.status import Status, status_lines, training_status
from probeline.files import write_bytes, write_json, write_json_lines
from probeline.lineage.lock import run_is_going_on


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def checkpoint(recipe: str, step: int, **figures: float) -> Path:
    folder = Path(f".probeline/training/adapters--{recipe}--0123/checkpoint-{step}")
    state = {"max_steps": 40, "log_history": [{"step": step, **figures}, {"step": step, "runtime": 3}]}
    write_json(folder / "trainer_state.json", state)
    return folder


def test_every_state_has_its_last_figures() -> None:
    rows = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.5, "reward": 0.25}]
    write_json_lines(Path("results/adapters/done/training_log.jsonl"), rows)
    checkpoint("stopped", 10, loss=2.0)
    checkpoint("working", 10, loss=2.0)
    line = "Training: 13 of 40 (32 %), 0.3 step/s, step 13: loss 1.5, reward 0.4, 01:20 left\n"
    write_bytes(Path("logs/train_sft/working.log"), (line.replace("13", "12") + line).encode())
    found = training_status(["done", "stopped", "working", "new"], ["working"])
    assert found == [
        Status("done", "done", 2, 2, 2.5, 0.25),
        Status("stopped", "stopped", 10, 40, 2.0),
        Status("working", "at work", 13, 40, 1.5, 0.4),
        Status("new", "not begun"),
    ]
    shown = status_lines(found)
    assert len(shown) == 5
    assert shown[3].split() == ["working", "at", "work", "13", "of", "40", "1.5", "0.4"]


def test_the_steps_are_known_before_the_first_checkpoint() -> None:
    log = Path("logs/train_sft/a.log")
    write_bytes(log, b"12 steps over 368 examples; 25 held out; 0 left out\n")
    assert training_status(["a"], ["a"]) == [Status("a", "at work", None, 12)]
    begun = b"Training: 2 of 12 (17 %), 15.99s/step, step 1: loss 3.58, 02:39 left\n"
    write_bytes(log, log.read_bytes() + begun)
    assert training_status(["a"], ["a"]) == [Status("a", "at work", 1, 12, 3.58)]


def test_a_training_that_is_made_anew_shows_the_new_one() -> None:
    write_json_lines(Path("results/adapters/a/training_log.jsonl"), [{"step": 9, "loss": 1.0}])
    assert training_status(["a"], ["a"]) == [Status("a", "at work")]
    assert training_status(["a"], []) == [Status("a", "done", 9, 9, 1.0)]


def test_a_file_that_is_being_written_is_no_fault() -> None:
    (checkpoint("a", 10, loss=2.0) / "trainer_state.json").write_text('{"max_steps": 4')
    assert training_status(["a"], []) == [Status("a", "stopped")]


@pytest.mark.parametrize("state", ["[1]", "{}", '{"log_history": [1], "max_steps": 3}'])
def test_a_state_of_another_form_is_no_fault(state: str) -> None:
    (checkpoint("a", 10, loss=2.0) / "trainer_state.json").write_text(state)
    assert training_status(["a"], []) == [Status("a", "stopped")]


def test_a_checkpoint_that_is_removed_meanwhile_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint("a", 10, loss=2.0)
    gone = checkpoint("a", 20, loss=1.0) / "trainer_state.json"
    age = status._age

    def removing(path: Path) -> int:
        gone.unlink(missing_ok=True)
        return age(path)

    monkeypatch.setattr(status, "_age", removing)
    assert training_status(["a"], []) == [Status("a", "stopped", 10, 40, 2.0)]


def test_a_run_is_known_by_its_lock() -> None:
    lock = Path(".snakemake/probeline.lock")
    assert not run_is_going_on()
    write_bytes(lock, json.dumps("run").encode())
    assert not run_is_going_on()
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert run_is_going_on()
    assert not run_is_going_on()
