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

FEW = """\
shards: 5
corpora: {werewolf: {simulated_games: 15}}
models:
  # Slow, and of large rows, for a container that is lost or short of memory half-way.
  wide:
    random:
      {architecture: llama, layers: 1, width: 1024, heads: 8, vocabulary: 400, max_length: 8192, seed: 0}
"""
WIDE = "model: wide\ntargets: {probes: [collusion_mms_l1]}\n"
CONFIG = (TINY, "few.yaml")
PROBE = "results/probes/trust_lr_l2"
PATIENCE = 120
"""Seconds; what hangs fails the test."""


def shard(number: int) -> str:
    return f"results/activations/collusion/shard-{number}-of-5"


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
            project: in whose folder it runs; extra.yaml there is put on top of the config.
            server: the service.
            words: targets and options of Snakemake.
            environment: variables that are another than those that lead to the service.
        """
        self._server, self._log = server, project.folder / "run.log"
        extra = [name for name in ("extra.yaml",) if (project.folder / name).is_file()]
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--profile", "profiles/modal", *words]
        self.calls_before = len(server.calls())
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--configfile", *CONFIG, *extra],
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


def run(project: Project, server: Server, *words: str, environment: dict[str, str] | None = None) -> str:
    """Run to success; the output."""
    going = Run(project, server, *words, environment=environment)
    assert going.end() == 0, going.said
    assert "Traceback" not in going.said, going.said
    return going.said


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
