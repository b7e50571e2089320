"""The benchmark's processes, seen from the one that times them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

ROOT = Path(__file__).resolve().parents[2]


class WorkerError(Exception):
    """A process ended before it answered; the text is the last line that it wrote."""


@dataclass
class Side:
    """A contender: one process, or several that share the work.

    Attributes:
        name: its line in the tables.
        loader: its function in `contenders.py`.
        dtype: number type of the forward pass.
        threads: of each process.
        shares: for each process the file of the games that it runs.
        jobs: what takes part in the rounds.
        seconds: of each job, one number per round.
        failure: why there are no numbers, if so.
    """

    name: str
    loader: str
    dtype: str
    threads: int
    shares: list[Path]
    jobs: list[str]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    failure: str = ""
    _processes: list[subprocess.Popen[str]] = field(default_factory=list)
    _logs: list[Path] = field(default_factory=list)

    def start(self, model: Path, folder: Path) -> None:
        """Load, one process after the other."""
        for number, share in enumerate(self.shares):
            log = folder / f"{self.name}-{number}.log".replace("/", "-")
            self._logs.append(log)
            with log.open("w") as stream:
                self._processes.append(_start(self, model, share, stream))
            self._answers([number])

    def run(self, job: str) -> float:
        """Seconds from the order to the last process's answer."""
        started = time.perf_counter()
        self._order(f"run {job}" for _ in self._processes)
        self._answers(range(len(self._processes)))
        return time.perf_counter() - started

    def result(self, folder: Path) -> np.ndarray:
        """What the last job gave: [spans, layers, width], in the order of the games."""
        parts = [folder / f"part-{number}.npy" for number in range(len(self._processes))]
        self._order(f"save {part}" for part in parts)
        self._answers(range(len(parts)))
        found = np.concatenate([np.load(part) for part in parts])
        for part in parts:  # so that another side can never be credited with these
            part.unlink()
        return found

    def stop(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
            process.kill()
            process.wait()
        self._processes.clear()

    def _order(self, lines: Iterable[str]) -> None:
        for process, line in zip(self._processes, lines, strict=True):
            assert process.stdin is not None
            print(line, file=process.stdin, flush=True)

    def _answers(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            stream = self._processes[number].stdout
            assert stream is not None
            if not stream.readline():
                written = self._logs[number].read_text().strip().splitlines()
                raise WorkerError(written[-1] if written else "ended without a word")


def _start(side: Side, model: Path, share: Path, log: IO[str]) -> subprocess.Popen[str]:
    """A process whose thread count is settled before it imports anything."""
    threads = str(side.threads)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "passive",  # a process that waits for its turn takes nothing from the others
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
    }
    command = [sys.executable, "-m", "tests.bench.worker", side.loader]
    command += ["--model", str(model), "--dtype", side.dtype]
    command += ["--threads", threads, "--workload", str(share)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        cwd=ROOT,
        env=environment,
    )
