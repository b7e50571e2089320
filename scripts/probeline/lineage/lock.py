"""One run at a time, without locks that outlive a killed run."""

import fcntl
import os
import secrets
import sys
from pathlib import Path
from typing import IO

from probeline.errors import ProbelineError

JOBS = Path(".probeline/jobs.lock")
"""Shared by all jobs that are running."""
WORKFLOW = Path(".snakemake/probeline.lock")
"""Held by the main process of a run; it holds the run's name."""
RUN = "PROBELINE_RUN"
"""Tells a job which run it belongs to."""
ENDED = " was told to end"
"""Follows the run's name in the file of its lock."""
# The open file is the lock: the kernel frees it when this process ends, however it ends.
_held: list[IO[str]] = []


def hold_workflow_lock(path: Path = WORKFLOW) -> None:
    """Take the lock of this working directory for the life of the process.

    Snakemake's own lock is off in the profiles: after `kill -9` it stays and must be removed by hand. Where
    only the main process was killed, its jobs go on by themselves: this waits for them, else two jobs would
    write one artifact.

    Raises:
        ProbelineError: another run holds it.
    """
    file = _opened(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ProbelineError(
            "Another snakemake run is working in this folder. Wait for it to end, or stop it, and run again."
        ) from None
    _held.append(file)
    os.environ[RUN] = secrets.token_hex(8)
    file.truncate(0)
    file.write(os.environ[RUN])
    file.flush()
    with _opened(JOBS) as jobs:
        try:
            fcntl.flock(jobs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for the jobs of a run that was killed to end.", file=sys.stderr, flush=True)
            fcntl.flock(jobs, fcntl.LOCK_EX)


def run_is_going_on(path: Path = WORKFLOW) -> bool:
    """Whether a run holds the lock of this working directory, or jobs of one that was killed go on."""
    return not _is_free(path) or not _is_free(JOBS)


def _is_free(path: Path) -> bool:
    if not path.exists():
        return True
    with path.open() as file:
        try:
            # Given back at once, at the end of the block.
            fcntl.flock(file, (fcntl.LOCK_EX if path == JOBS else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def hold_job_lock() -> None:
    """Let the next run know, for the life of this process, that a job is at work.

    Raises:
        ProbelineError: the run that this job belongs to was killed, and another one has begun since then.
    """
    file = _opened(JOBS)
    fcntl.flock(file, fcntl.LOCK_SH)
    _held.append(file)
    run = os.environ.get(RUN)
    if run is not None and run != WORKFLOW.read_text():
        raise ProbelineError("The run that started this job has ended, and another one is at work here.")


def end_run() -> None:
    """Let the jobs of this process's run know that it was told to end."""
    WORKFLOW.write_text(os.environ[RUN] + ENDED)


def run_has_ended() -> bool:
    """Whether the run of this job was told to end; one that was killed could not be told."""
    run = os.environ.get(RUN)
    return run is not None and WORKFLOW.is_file() and WORKFLOW.read_text() == run + ENDED


def _opened(path: Path) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a")  # who opens it does not know yet whether it may write
