"""`kill -9` at random moments: a plain `snakemake` goes on, and nothing partial ever counts as done."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import orjson
import psutil
import pytest

from tests.workflow.conftest import PROBE, TINY, Project, artifacts, fresh_project

SMALL = (TINY, "small.yaml")
"""Fewer games in fewer shards: as many kinds of jobs, in less time."""

pytestmark = pytest.mark.workflow

PATIENCE = 600
"""Seconds; a run that hangs fails the test."""


class Run:
    """A run that is going on in a session of its own."""

    def __init__(self, project: Project) -> None:
        self.log = project.folder / "run.log"
        command = [sys.executable, "-m", "snakemake", "--cores", "2", PROBE, "--configfile", *SMALL]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=project.folder, stdout=log, stderr=log, start_new_session=True
            )

    def wait_for_jobs(self, count: int) -> None:
        """Until that many jobs were started, or the run has ended."""
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None and self.log.read_bytes().count(b"\nJob ") < count:
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    def kill(self, whom: str) -> bool:
        """End the whole session, the main process alone, or one job; false where there was none left."""
        if self.process.poll() is not None:
            return False
        if whom == "session":
            os.killpg(self.process.pid, signal.SIGKILL)
        elif whom == "main":
            self.process.kill()
        else:
            jobs = [
                child for child in psutil.Process(self.process.pid).children(recursive=True) if is_job(child)
            ]
            if not jobs:
                return False
            jobs[0].kill()
        self.process.wait(PATIENCE)
        return True


def is_job(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return len(words) == 2 and ".snakemake/scripts/" in words[1]


def whole(project: Project, expected: dict[str, bytes]) -> None:
    """What has a record is whole, and is what an undisturbed run makes."""
    for record in project.folder.rglob("*.lineage.json"):
        for subject in orjson.loads(record.read_bytes())["subject"]:
            files = subject["annotations"].get("files")
            names = [subject["name"]] if files is None else [f"{subject['name']}/{name}" for name in files]
            assert names
            for name in names:
                assert (project.folder / name).read_bytes() == expected[name], f"{record}: {name}"


def disturb(project: Project, random: Random, whom: str, forget: bool, expected: dict[str, bytes]) -> str:
    """Start a run, kill it at a random moment, look at what is left; says what was done."""
    run = Run(project)
    jobs, seconds = random.randint(1, 5), random.uniform(0, 1.5)
    run.wait_for_jobs(jobs)
    time.sleep(seconds)
    killed = run.kill(whom)
    if whom != "main":
        # The jobs of a main process that was killed alone are still writing.
        whole(project, expected)
    if forget:
        shutil.rmtree(project.folder / ".snakemake", ignore_errors=True)
    return f"{whom if killed else 'none'} after {jobs} jobs and {seconds:.2f} s{', forgotten' * forget}"


def settle(project: Project, expected: dict[str, bytes], history: list[str]) -> None:
    """A plain run ends well, with what an undisturbed one makes, and leaves nothing half-made."""
    said = project.run(PROBE, config=SMALL)
    assert "Traceback" not in said, history
    made = artifacts(project.folder)
    differing = [name for name in made.keys() | expected.keys() if made.get(name) != expected.get(name)]
    assert not differing, (differing, history)
    whole(project, expected)
    assert not project.planned(PROBE, config=SMALL), history
    left = [
        path for top in ("data", "results", ".probeline") for path in (project.folder / top).rglob(".*.tmp-*")
    ]
    assert not left, history


def small_project(folder: Path) -> Project:
    project = fresh_project(folder)
    project.write("small.yaml", "shards: 1\ncorpora: {werewolf: {simulated_games: 8}}\n")
    return project


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    project = small_project(tmp_path_factory.mktemp("undisturbed") / "project")
    project.run(PROBE, config=SMALL)
    return artifacts(project.folder)


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    project, random = small_project(tmp_path / "project"), Random(4)
    ways = [
        ("session", False),
        ("job", False),
        ("main", False),
        ("session", True),
    ]
    history = [disturb(project, random, whom, forget, undisturbed) for whom, forget in ways]
    assert sum(not done.startswith("none") for done in history) >= 3, history
    settle(project, undisturbed, history)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(
    undisturbed: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    """Each from the beginning; the moment is anywhere from the first job to the last."""
    project, random = small_project(tmp_path / "project"), Random(seed)
    run = Run(project)
    run.wait_for_jobs(random.randint(1, 15))
    time.sleep(random.uniform(0, 1.5))
    killed = run.kill(["session", "job", "main", "session"][seed % 4])
    if seed % 2:
        shutil.rmtree(project.folder / ".snakemake", ignore_errors=True)
    settle(project, undisturbed, [f"seed {seed}, killed: {killed}"])
    shutil.rmtree(tmp_path)
