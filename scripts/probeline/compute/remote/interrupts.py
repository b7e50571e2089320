"""Being told to end while a call runs on Modal: it is cancelled there, whoever was told."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

from probeline.lineage.lock import end_run, run_has_ended

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SECONDS_BETWEEN_LOOKS = 0.5


def tell_jobs() -> None:
    """Let the jobs on Modal know when this process, the main one of a run, is told to end.

    Ctrl-C reaches all processes. Where the main one alone is told, Snakemake waits for its jobs: of a call
    that may take a day, that is not what was meant.
    """
    for number in SIGNALS:
        before = signal.getsignal(number)
        if callable(before):  # else it is ignored, as under nohup
            signal.signal(number, partial(_pass_on, before))


def _pass_on(before: Callable[[int, FrameType | None], Any], number: int, frame: FrameType | None) -> None:
    end_run()
    before(number, frame)


class Interrupts:
    """Makes one KeyboardInterrupt of all the ways in which a job is told to end; a context manager."""

    def __init__(self) -> None:
        self._told = self._deferred = False
        self._over = threading.Event()

    def __enter__(self) -> "Interrupts":
        self._before = {number: signal.signal(number, self._tell) for number in SIGNALS}
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """What must not be done by half: a call that is started and not remembered."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self._told:
            raise KeyboardInterrupt

    def _tell(self, number: int, frame: FrameType | None) -> None:
        # Once: a second one, on its way through another process, would interrupt the cancelling.
        first, self._told = not self._told, True
        if first and not self._deferred:
            raise KeyboardInterrupt

    def _watch(self) -> None:
        while not self._over.wait(SECONDS_BETWEEN_LOOKS):
            if run_has_ended():
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
                return
