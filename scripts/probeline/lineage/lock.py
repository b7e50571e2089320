"""One run at a time, without locks that outlive a killed run."""

import fcntl
from pathlib import Path
from typing import IO

from probeline.errors import ProbelineError

# The open file is the lock: the kernel frees it when this process ends, however it ends.
_held: list[IO[str]] = []


def hold_workflow_lock(path: Path) -> None:
    """Take the lock of this working directory for the life of the process.

    Snakemake's own lock is off in the profiles: after `kill -9` it stays and must be removed by hand.

    Raises:
        ProbelineError: another run holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ProbelineError(
            "Another snakemake run is working in this folder. Wait for it to end, or stop it, and run again."
        ) from None
    _held.append(file)
