"""The loopback server of a test module, and this process as its client."""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.modal.loopback import Server
from tests.workflow.conftest import Project, fresh_project, made_once, make_adapters_run


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(environment={"FROM_SERVER": "yes"}) as running:
        yield running


@pytest.fixture(scope="session")
def local_run(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished run that knows nothing of Modal: the one of the tests of the workflow. Not to be edited."""
    folder = made_once(tmp_path_factory, "simulated", lambda top: fresh_project(top / "project").run())
    return Project(folder / "project")


@pytest.fixture(scope="session")
def adapters_run(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Every recipe and evaluations of them, made here, as for the tests of the workflow. Not to be edited."""
    return Project(made_once(tmp_path_factory, "adapters", make_adapters_run) / "project")


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


@pytest.fixture(scope="module")
def small_project(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with the bodies in miniature in its package, deployed under the name that we call, too."""
    project = fresh_project(tmp_path_factory.mktemp("small") / "project")
    shutil.copy2(Path(__file__).with_name("small_body.py"), project.folder / "scripts/probeline/bodies")
    project.write("data/text.txt", "some words")
    subprocess.run(
        [sys.executable, "-c", "from probeline.compute.remote.deploy import *; find_or_deploy()"],
        cwd=project.folder,
        env=os.environ | server.environment() | {"PYTHONPATH": str(project.folder / "scripts")},
        check=True,
    )
    return project


@pytest.fixture(scope="module")
def bodies() -> ModuleType:
    """The bodies in miniature, under the name that they have in containers."""
    spec = importlib.util.spec_from_file_location(
        "probeline.bodies.small_body", Path(__file__).with_name("small_body.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def small(
    reached: Server, small_project: Project, bodies: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    """The bodies, to be run in their project: one container serves all that ask for the same settings."""
    monkeypatch.chdir(small_project.folder)
    yield bodies
    reached.clear()


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
