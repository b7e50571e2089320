"""Training on Modal: the same adapter as here, also when its container is lost in the middle."""

import shutil
import threading
from pathlib import Path

import pytest

from tests.modal.loopback import Server
from tests.modal.projects import files_of, run_on_modal, until
from tests.workflow.conftest import TINY, Project, fresh_project

ADAPTER = "results/adapters/mafia_sft"
LONGER = """\
recipes:
  mafia_sft: {max_steps: 60, checkpoints: {every: 5}}
modal: {containers: 1, gpu: none}
"""
CONFIG = (TINY, "own.yaml")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """An adapter that was made here."""
    project = fresh_project(tmp_path_factory.mktemp("training") / "project")
    project.write("own.yaml", LONGER)
    project.run(ADAPTER, config=CONFIG)
    return project


def test_a_lost_training_goes_on_elsewhere_and_ends_with_the_same_bytes(
    trained: Project, server: Server, tmp_path: Path
) -> None:
    project = trained.copy(tmp_path / "project")
    shutil.rmtree(project.folder / "results")
    shutil.rmtree(project.folder / ".probeline")

    def lose() -> None:
        until(lambda: any(path.endswith("/complete") for path in server.volume("probeline-data")))
        server.preempt(grace=1)

    losing = threading.Thread(target=lose)
    losing.start()
    done = run_on_modal(project, server, ADAPTER, config=CONFIG)
    losing.join()

    assert done.returncode == 0, done.stdout
    assert "Going on from step" in done.stdout
    assert [len(call["attempts"]) for call in server.calls()] == [2]
    assert files_of(project.folder / ADAPTER) == files_of(trained.folder / ADAPTER)
