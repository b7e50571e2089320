"""Training and evaluation on Modal: the same bytes as here, also when containers are lost in the middle."""

import shutil
from pathlib import Path

import pytest

from probeline.lineage.records import read_record, record_path
from tests.modal.loopback import Server
from tests.modal.projects import files_of, run_on_modal
from tests.workflow.conftest import EVALUATIONS, SHIFT, Project

LOST = ("results/adapters/mafia_dpo", "results/adapters/support_grpo")
"""Their containers are taken away at their first checkpoint."""
# forecast_sft is sent: made here, it is merged there into the model of forecast_grpo.
MADE = (*LOST, "results/adapters/mafia_sft", "results/adapters/forecast_grpo", *EVALUATIONS)
ADAPTED = "results/activations/mafia_member.on.mafia_sft/shard-0-of-1"


@pytest.fixture(scope="module")
def run(
    adapters_run: Project, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Project, str]:
    """A project in which all of that was made on Modal, and what the run printed."""
    project = adapters_run.copy(tmp_path_factory.mktemp("training") / "project")
    for name in (*MADE, ADAPTED):
        shutil.rmtree(project.folder / name)
        record_path(project.folder / name).unlink()
    shutil.rmtree(project.folder / ".probeline")
    project.write("modal.yaml", "modal: {containers: 2, gpu: none}\n")
    for name, grace in zip(LOST, (0.0, 1.0), strict=True):
        server.fault("preempt_at", match=f"work/training/adapters--{Path(name).name}-*/complete", grace=grace)
    done = run_on_modal(project, server, *MADE, config=("modal.yaml",))
    assert done.returncode == 0, done.stdout
    return project, done.stdout


@pytest.mark.parametrize("name", [*MADE, ADAPTED])
def test_it_is_made_there_as_it_is_made_here_byte_for_byte(
    run: tuple[Project, str], adapters_run: Project, name: str
) -> None:
    assert files_of(run[0].folder / name) == files_of(adapters_run.folder / name)
    assert read_record(record_path(run[0].folder / name)).cost["backend"] == "modal"


def test_a_lost_training_goes_on_from_its_checkpoint(run: tuple[Project, str], server: Server) -> None:
    attempts = {call["call"]: len(call["attempts"]) for call in server.calls()}
    calls = {name: read_record(record_path(run[0].folder / name)).cost["callId"] for name in MADE}

    assert {name: attempts[call] for name, call in calls.items()} == {
        name: 2 if name in LOST else 1 for name in MADE
    }
    assert run[1].count("Going on from step 1") == len(LOST)
    assert SHIFT in calls
