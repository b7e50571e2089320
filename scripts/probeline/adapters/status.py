"""How far trainings are: done, at work, stopped or not begun, with their last step, loss and reward."""

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

ADAPTERS = Path("results/adapters")
WORK = Path(".probeline/training")
"""Holds a folder for each training, see `compute.workplace`."""
LOGS = Path("logs")
DONE, AT_WORK, STOPPED, NOT_BEGUN = "done", "at work", "stopped", "not begun"
_STEPS = re.compile(r"^(\d+) steps over ", re.MULTILINE)
_NOTE = re.compile(r"step (\d+): ([^\n]*)")
_FIGURE = re.compile(r"\b(loss|reward) (-?[0-9.]+(?:e[+-]?\d+)?)")


@dataclass(frozen=True, slots=True)
class Status:
    """Of one training.

    Attributes:
        recipe: its name.
        state: done, at work, stopped (the same command goes on) or not begun.
        step: the last that is known of.
        steps: of the whole training; None before that is known.
        loss: of that step; None where nothing is known.
        reward: mean of that step, of a training on rewards.
    """

    recipe: str
    state: str
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    reward: float | None = None


def training_status(recipes: Iterable[str], at_work: Iterable[str]) -> list[Status]:
    """The state of each training, from its artifact, its checkpoints and its log.

    Args:
        recipes: names.
        at_work: those whose job has begun and not ended while a run is going on.
    """
    working = set(at_work)
    return [_status(recipe, recipe in working) for recipe in recipes]


def _status(recipe: str, working: bool) -> Status:
    made = ADAPTERS / recipe / "training_log.jsonl"
    if not working and made.is_file():
        rows = [orjson.loads(line) for line in made.read_bytes().splitlines()]
        return _of(recipe, DONE, rows, rows[-1]["step"] if rows else None)
    rows, steps = _last_state(recipe)
    if working:
        logged, planned = _last_of_log(recipe)
        steps = steps if planned is None else planned
        if logged and logged["step"] >= (rows[-1]["step"] if rows else 0):
            rows = [logged]
    known = bool(rows or working or list(WORK.glob(f"{ADAPTERS.name}--{recipe}--*")))
    return _of(recipe, AT_WORK if working else STOPPED if known else NOT_BEGUN, rows, steps)


def _last_state(recipe: str) -> tuple[list[dict[str, Any]], int | None]:
    """What the newest checkpoint logged, and the steps of the whole training; nothing where there is none."""
    states = sorted(WORK.glob(f"{ADAPTERS.name}--{recipe}--*/checkpoint-*/trainer_state.json"), key=_age)
    for path in reversed(states):
        # The trainer's own file: it may be half written, or be removed this very moment.
        with suppress(OSError, ValueError, KeyError, TypeError):
            state = json.loads(path.read_bytes())
            rows, steps = state["log_history"], state["max_steps"]
            if all(isinstance(row, dict) for row in rows):
                return rows, steps
    return [], None


def _of(recipe: str, state: str, rows: list[dict[str, Any]], steps: int | None) -> Status:
    def last(key: str) -> Any:
        return next((row[key] for row in reversed(rows) if isinstance(row.get(key), int | float)), None)

    return Status(recipe, state, last("step"), steps, last("loss"), last("reward"))


def _last_of_log(recipe: str) -> tuple[dict[str, Any], int | None]:
    """Step and figures of the last line of progress in the job's log, and the steps of the whole training."""
    logs = sorted(LOGS.glob(f"train_*/{recipe}.log"), key=_age)
    try:
        text = logs[-1].read_text(errors="replace") if logs else ""
    except FileNotFoundError:
        return {}, None
    planned, notes = _STEPS.findall(text), _NOTE.findall(text)
    steps = int(planned[-1]) if planned else None
    if not notes:
        return {}, steps
    step, said = notes[-1]
    return {"step": int(step)} | {name: float(value) for name, value in _FIGURE.findall(said)}, steps


def _age(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def status_lines(found: Iterable[Status]) -> list[str]:
    """The states as an aligned table."""
    lines = [f"{'recipe':<28}{'state':<11}{'step':>12}{'loss':>10}{'reward':>10}"]
    for one in found:
        done = "-" if one.step is None else f"{one.step}"
        step = f"{done} of {one.steps}" if one.steps else done
        loss, reward = ("-" if value is None else f"{value:.4g}" for value in (one.loss, one.reward))
        lines.append(f"{one.recipe:<28}{one.state:<11}{step:>12}{loss:>10}{reward:>10}")
    return lines


def status_rows(found: Iterable[Status]) -> list[Mapping[str, Any]]:
    """The states as JSON values."""
    return [asdict(one) for one in found]
