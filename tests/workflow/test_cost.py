"""`probeline cost --plan` as a user runs it."""

import json
import sys
from typing import Any

import pytest

from tests.workflow.conftest import Project, fresh_project

pytestmark = pytest.mark.workflow
CLI = (sys.executable, "-m", "probeline.cli")
TINY = ("--configfile", "tests/config/tiny.yaml")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Sources, and nothing made yet."""
    return fresh_project(tmp_path_factory.mktemp("cost") / "project")


def plan(project: Project, *words: str) -> Any:
    done = project.command(*CLI, "cost", "--plan", *words, "--json")
    assert done.returncode == 0, done.stdout
    return json.loads(done.stdout)


def test_a_plan_can_be_made_before_anything_is(project: Project) -> None:
    facts = plan(project, "results/probes/trust_lr_l2", *TINY)
    assert facts["compute"] == "local"
    names = [job["name"] for job in facts["jobs"]]
    extractions = [name for name in names if name.startswith("results/activations/trust/")]
    assert len(extractions) == 2
    assert not [name for name in names if "collusion" in name]
    games = [
        job["basis"].partition("(from ")[2].split()[0] for job in facts["jobs"] if job["name"] in extractions
    ]
    assert sum(map(int, games)) == 24
    assert facts["jobs"][-1]["basis"] == "a guess: 0.1 s for each of 24 games"
    assert 0 < facts["total"] < facts["budget"]
    assert not (project.folder / "data/simulated").exists()


def test_a_budget_and_a_gpu_of_ones_own_count(project: Project) -> None:
    project.write("dear.yaml", "compute: modal\nmodal: {gpu: 'B200:8', budget: 0.01}\n")
    done = project.command(*CLI, "cost", "--plan", "--configfile", TINY[1], "dear.yaml")
    assert done.returncode == 1
    assert "B200:8" in done.stdout
    assert "the run is refused" in done.stdout


def test_the_full_size_config_asks_for_four_h100_and_says_what_they_cost(project: Project) -> None:
    facts = plan(project, "results/probes/trust_lr_l22", "--configfile", "config/full.yaml")
    assert facts["compute"] == "modal"
    on_gpu = [job for job in facts["jobs"] if job["rule"] == "extract_activations"]
    assert {job["gpu"] for job in on_gpu} == {"H100:4"}
    assert any("140 GB of weights" in job["basis"] for job in on_gpu)
    # 4 x 3.95 USD, eight cores and 64 GiB.
    assert on_gpu[0]["usd_per_hour"] == pytest.approx(
        3600 * (4 * 0.001097 + 8 * 0.0000131 + 64 * 0.00000222), abs=1e-3
    )
    assert 0 < facts["total"] < facts["budget"]
