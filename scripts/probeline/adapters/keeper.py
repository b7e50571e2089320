"""What is kept while a training runs, so that it can go on after any stop: checkpoints, rewards, progress."""

import logging
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from probeline.errors import ProbelineError
from probeline.files import atomic_directory, flush, write_bytes, write_json_lines
from probeline.progress import progress

log = logging.getLogger(__name__)

PREFIX = "checkpoint-"
COMPLETE = "complete"
"""Lies in a checkpoint that is whole; a killed job leaves others."""
SECONDS_BETWEEN_CHECKPOINTS = 120
FINITE = {"loss": "loss", "grad_norm": "norm of the gradient"}
"""What must be a finite number at each step, by its key in the log."""
RESERVE = 0.1
LEAST_RESERVE, MOST_RESERVE = 5, 300
"""Of the time limit, and in seconds: what is left to save in."""


class Keeper(TrainerCallback):
    """Saves checkpoints, in the end and between, and stops in time.

    Attributes:
        work: folder of the checkpoints.
        wanted: steps whose model is a part of the result.
        rewards: rows about completions that were rewarded so far.
        stopped: why it stopped before its end, in words; empty if it did not.
        model: what is trained, once the trainer has made it.
    """

    def __init__(
        self,
        work: Path,
        steps: int,
        wanted: Collection[int],
        save: Callable[[Path], None],
        commit: Callable[[], None],
        seconds: float | None,
        started: float,
    ) -> None:
        """Begin to keep.

        Args:
            work: as above.
            steps: of the whole training.
            wanted: as above.
            save: writes the model as it is now into a folder.
            commit: keeps what was written, should the machine be lost.
            seconds: the time limit.
            started: when they began, by the monotonic clock; loading a model may have taken some.
        """
        self.work, self.steps, self.wanted = work, steps, frozenset(wanted)
        self.rewards: list[dict[str, Any]] = []
        self.stopped = ""
        self.model: Any = None
        self._save, self._commit = save, commit
        self._saved = time.monotonic()
        reserve = min(max((seconds or 0) * RESERVE, LEAST_RESERVE), MOST_RESERVE)
        self._end = None if seconds is None else started + seconds - reserve
        self._seconds = seconds
        self._bar: Any = None
        self._note = ""
        self._handler: Any = None

    def _asked_to_stop(self, *_: Any) -> None:
        self.stopped = "it was asked to stop (SIGTERM)"

    # What follows is called by transformers' Trainer.

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin to tell of progress and to listen for a request to stop."""
        left = range(state.global_step, self.steps)
        self._bar = progress(left, "Training", len(left), "step", note=lambda: self._note)
        next(self._bar, None)
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGTERM, self._asked_to_stop)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Listen no longer."""
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Take loss and reward into the line about progress.

        Raises:
            ProbelineError: the training has diverged: its loss, or the gradient, is no finite number.
        """
        logs = logs or {}
        for key, words in FINITE.items():
            if not math.isfinite(logs.get(key, 0)):
                raise ProbelineError(
                    f"The training has diverged: at step {state.global_step} of {self.steps} the "
                    f"{words} is {logs[key]}. Lower learning_rate, or raise warmup (the share of steps "
                    "in which it rises)."
                )
        told = {"loss": logs.get("loss"), "reward": logs.get("reward")}
        said = [f"{key} {value:.4g}" for key, value in told.items() if isinstance(value, float)]
        self._note = f"step {state.global_step}: {', '.join(said)}" if said else self._note

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the model of a step that is asked for; save, and stop, when it is time."""
        step = state.global_step
        next(self._bar, None)
        if step in self.wanted:
            self._keep(step)
        if self._end is not None and time.monotonic() > self._end and step < self.steps:
            self.stopped = self.stopped or f"its time limit of {self._seconds:g} seconds is near"
        if self.stopped:
            control.should_training_stop = True
        overdue = time.monotonic() - self._saved > SECONDS_BETWEEN_CHECKPOINTS
        control.should_save = bool(self.stopped) or overdue or step in self.wanted or step == self.steps

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark a checkpoint as whole, and remove the one before."""
        folder = self.work / f"{PREFIX}{state.global_step}"
        write_json_lines(folder / "rewards.jsonl", self.rewards)
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                flush(file)
        write_bytes(folder / COMPLETE, b"")
        for other in self.work.glob(f"{PREFIX}*"):
            if other != folder:
                shutil.rmtree(other)
        self._saved = time.monotonic()
        self._commit()

    def _keep(self, step: int) -> None:
        with atomic_directory(kept_folder(self.work, step)) as draft:
            self._save(draft)

    def check_finished(self, step: int) -> None:
        """Say where a training that stopped before its end can go on.

        Raises:
            ProbelineError: it did stop.
        """
        if self.stopped and step < self.steps:
            raise ProbelineError(
                f"The training stopped at step {step} of {self.steps}: {self.stopped}. What it has done is "
                "saved: run the same command again and it goes on from there."
            )


def kept_folder(work: Path, step: int) -> Path:
    """Where the model of a step is kept that is asked for."""
    return work / "kept" / f"step-{step}"


def last_checkpoint(work: Path) -> Path | None:
    """The last whole checkpoint; others are removed."""
    found: Path | None = None
    for folder in work.glob(f"{PREFIX}*"):
        if not (folder / COMPLETE).is_file():
            shutil.rmtree(folder)
        elif found is None or step_of(folder) > step_of(found):
            found = folder
    return found


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was saved."""
    return int(checkpoint.name.removeprefix(PREFIX))


def wanted_steps(checkpoints: Any, steps: int) -> list[int]:
    """The steps whose model is kept.

    Args:
        checkpoints: a list of steps, or `{every: n}`.
        steps: of the whole training.

    Raises:
        ProbelineError: a step lies behind the end.
    """
    if isinstance(checkpoints, Mapping):
        every = checkpoints["every"]
        if every > steps:
            raise ProbelineError(
                f"checkpoints asks for every {every} steps, but the training has {steps}. Raise epochs or "
                "max_steps, or ask for more of them."
            )
        return list(range(every, steps + 1, every))
    beyond = [step for step in checkpoints if step > steps]
    if beyond:
        raise ProbelineError(
            f"checkpoints asks for step {beyond[0]}, but the training has {steps} steps. Raise epochs or "
            "max_steps, or ask for an earlier one."
        )
    return sorted(set(checkpoints))
