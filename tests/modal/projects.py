"""Projects whose extraction runs on the loopback service, as a user runs them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.modal.loopback import Server
from tests.workflow.conftest import TINY, Project

PROBE = "results/probes/trust_lr_l2"
PATIENCE = 120
"""Seconds; what hangs fails the test."""


def until(condition: Callable[[], Any]) -> Any:
    """What a condition gives when it is met."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)
    return found


class Run:
    """A run on the loopback service that is going on, in a session of its own."""

    def __init__(
        self, project: Project, server: Server, *words: str, environment: dict[str, str] | None = None
    ) -> None:
        """Start it.

        Args:
            project: in whose folder it runs.
            server: the service.
            words: targets and options of Snakemake.
            environment: variables that are another than those that lead to the service.
        """
        self._server, self._log = server, project.folder / "run.log"
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--profile", "profiles/modal", *words]
        self.calls_before = len(server.calls())
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--configfile", TINY],
                cwd=project.folder,
                env=os.environ | server.environment() | (environment or {}),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def end(self) -> int:
        """Its exit status."""
        return self.process.wait(PATIENCE)

    def calls(self) -> list[dict[str, Any]]:
        """The calls that the service got since it began."""
        return self._server.calls()[self.calls_before :]

    def container(self) -> int:
        """The process of the container that serves its call, when there is one."""

        def found() -> int | None:
            assert self.process.poll() is None, self.said
            attempts = [attempt for call in self.calls() for attempt in call["attempts"]]
            busy = {attempt["container"] for attempt in attempts if attempt["status"] == "running"}
            pids = [one["pid"] for one in self._server.containers() if one["id"] in busy and not one["ended"]]
            return pids[0] if pids else None

        return until(found)

    def freeze(self) -> int:
        """Stop that container, so that it gets no further; its process."""
        process = self.container()
        os.kill(process, signal.SIGSTOP)
        return process


def refused(project: Project, server: Server, *words: str, environment: dict[str, str] | None = None) -> str:
    """Run to a failure that is said in words; the output."""
    going = Run(project, server, *words, environment=environment)
    assert going.end() == 1, going.said
    assert "Traceback" not in going.said, going.said
    return going.said


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of an artifact."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".snakemake_timestamp"
    }


def run_on_modal(
    project: Project, server: Server, *words: str, config: tuple[str, ...] = (TINY,), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run to the end with the profile of Modal, with a config of its own."""
    base = (sys.executable, "-m", "snakemake", "--cores", "2", *words)
    return subprocess.run(
        [*base, "--profile", "profiles/modal", "--configfile", *config],
        cwd=project.folder,
        env=os.environ | server.environment() | variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
