"""Two runs never write at once; what a killed run has left is waited for."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HOLD = (
    "from pathlib import Path; from probeline.lineage.lock import *; {}; print('held', flush=True); input()"
)
RUN = "hold_workflow_lock(Path('.snakemake/probeline.lock'))"
JOB = "hold_job_lock()"


def start(folder: Path, what: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", HOLD.format(what)],
        cwd=folder,
        text=True,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
    )


def held(process: subprocess.Popen[str]) -> bool:
    assert process.stdout is not None
    assert process.stderr is not None
    said = process.stdout.readline()
    assert said == "held\n", process.stderr.read()
    return True


def test_a_second_run_is_refused_and_a_run_that_was_killed_is_not_in_the_way(tmp_path: Path) -> None:
    first = start(tmp_path, RUN)
    assert held(first)
    assert "Another snakemake run" in start(tmp_path, RUN).communicate()[1]
    first.kill()
    first.wait()
    again = start(tmp_path, RUN)
    assert held(again)
    again.communicate("\n")


def test_a_run_waits_for_the_jobs_that_a_killed_run_has_left(tmp_path: Path) -> None:
    jobs = [start(tmp_path, JOB), start(tmp_path, JOB)]
    assert all(map(held, jobs))
    run = start(tmp_path, RUN)
    assert run.stderr is not None
    assert run.stderr.readline() == "Waiting for the jobs of a run that was killed to end.\n"
    jobs[0].communicate("\n")
    assert run.poll() is None
    jobs[1].communicate("\n")
    assert held(run)
    # A run is no hindrance to its own jobs.
    own = start(tmp_path, JOB)
    assert held(own)
    own.communicate("\n")
    run.communicate("\n")


def test_a_job_that_starts_after_its_run_was_killed_gives_way(tmp_path: Path) -> None:
    """Its interpreter took a second to start; by then another run had begun."""
    late = "os.environ['PROBELINE_RUN'] = 'another'; hold_job_lock()"
    run = start(tmp_path, RUN)
    assert held(run)
    job = start(tmp_path, f"import os; {late}")
    assert "The run that started this job has ended" in job.communicate()[1]
    run.communicate("\n")


def test_jobs_that_start_together_keep_one_pool_warm_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from probeline.compute.remote import pools

    kept: list[int] = []

    def keep_warm(instance: object, seconds: int) -> None:
        time.sleep(0.05)  # a request
        kept.append(seconds)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pools, "instance_of", lambda given: object())
    monkeypatch.setattr(pools, "_keep_warm", keep_warm)
    together = threading.Barrier(6)

    def start(number: int) -> None:
        together.wait()
        pools.open_pool("app", "Model", {"scaledown_window": 60}, {"model": f"m{number % 2}"}, 1)

    with ThreadPoolExecutor(6) as jobs:
        list(jobs.map(start, range(6)))
    assert kept == [60, 60]
    pools.close_pools()
    assert kept == [60, 60, pools.SHORTEST, pools.SHORTEST]
