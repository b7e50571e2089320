"""The loopback server of a test module, and this process as its client."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.modal.loopback import Server
from tests.modal.projects import CONFIG, FEW
from tests.workflow.conftest import Project, fresh_project, made_once


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(environment={"FROM_SERVER": "yes"}) as running:
        yield running


@pytest.fixture(scope="session")
def local_run(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished run that knows nothing of Modal: the one of the tests of the workflow. Not to be edited."""
    folder = made_once(tmp_path_factory, "simulated", lambda top: fresh_project(top / "project").run())
    return Project(folder / "project")


@pytest.fixture(scope="module")
def reached(server: Server) -> Iterator[Server]:
    """The server, with the Modal client of this process turned to it."""
    import modal

    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MODAL_")]:
            patch.delenv(name)
        for name, value in server.environment().items():
            patch.setenv(name, value)
        yield server
        modal.Client.from_env().close()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with dialogues and models, and all activations still to be made. Not to be edited."""
    project = fresh_project(tmp_path_factory.mktemp("prepared") / "project")
    project.write("few.yaml", FEW)
    made = [f"data/processed/dialogues/collusion/shard-{number}-of-5/manifest.json" for number in range(5)]
    made += [f"data/processed/dialogues/trust/shard-{number}-of-5/manifest.json" for number in (0, 3)]
    made += [f"data/models/{name}/manifest.json" for name in ("tiny", "wide")]
    project.run(*made, config=CONFIG)
    return project


@pytest.fixture
def project(prepared: Project, tmp_path: Path) -> Iterator[Project]:
    """A copy of the prepared project, to be run on the service."""
    yield prepared.copy(tmp_path / "project")
    shutil.rmtree(tmp_path / "project")


@pytest.fixture
def fresh(reached: Server) -> Iterator[Server]:
    """The server without results of earlier tests, and without faults."""
    import modal

    if reached.volume("probeline-data"):
        data = modal.Volume.from_name("probeline-data")
        for folder in ("runs", "work"):
            with contextlib.suppress(modal.exception.NotFoundError, FileNotFoundError):
                data.remove_file(folder, recursive=True)
    yield reached
    reached.clear()
