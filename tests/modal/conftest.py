"""The loopback server of a test module, and this process as its client."""

import os
from collections.abc import Iterator

import pytest

from tests.modal.loopback import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(environment={"FROM_SERVER": "yes"}) as running:
        yield running


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
