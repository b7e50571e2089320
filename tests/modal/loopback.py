"""The loopback server as a test sees it: start it, ask it what happened, make things go wrong."""

import contextlib
import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]


class Server:
    """A process of its own that ends with this one, whatever happens to it.

    Use it as a context manager. `python` is the containers' interpreter; all containers get `environment`.
    """

    def __init__(self, python: str = sys.executable, environment: dict[str, str] | None = None) -> None:
        words = [sys.executable, "-m", "tests.modal.server", "--python", python]
        for name, value in (environment or {}).items():
            words += ["--environment", f"{name}={value}"]
        self.process = subprocess.Popen(
            words,
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt at the terminal is for the tests
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the loopback server did not start")
        self.addresses: dict[str, str] = json.loads(line)
        self.secrets = Secrets(self)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return self.addresses["url"]

    def stop(self) -> None:
        """End the server and its containers."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.addresses["folder"], ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """Variables with which the client reaches this server and nothing else."""
        return {
            "MODAL_SERVER_URL": self.url,
            "MODAL_TOKEN_ID": self.addresses["token_id"],
            "MODAL_TOKEN_SECRET": self.addresses["token_secret"],
            "MODAL_DISABLE_API_PROXY": "1",
            "MODAL_CONFIG_PATH": "/dev/null",
        }

    def ask(self, verb: str, **details: Any) -> Any:
        request = urllib.request.Request(
            f"{self.addresses['http']}/control/{verb}",
            data=json.dumps(details).encode(),
            headers={"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request) as answer:
            return json.load(answer)

    def requests(self, name: str) -> list[dict[str, Any]]:
        """All requests of a procedure (or a pattern): {time, task, name, request}; bytes are base64."""
        return self.ask("requests", name=name)

    def calls(self) -> list[dict[str, Any]]:
        """What ran: {call, input, function, pool, method, status, attempts: [{container, started, …}]}."""
        return self.ask("calls")

    def containers(self) -> list[dict[str, Any]]:
        """All so far: {id, function, pool, gpu, image, pid, inputs, started, ready, ended, code}."""
        return self.ask("containers")

    def images(self) -> dict[str, list[dict[str, Any]]]:
        """The layers of each image, the base first."""
        return self.ask("images")

    def logs(self) -> list[dict[str, Any]]:
        """What containers printed: {data, task, call, …}."""
        return self.ask("logs")

    def volume(self, name: str) -> dict[str, dict[str, Any]]:
        """Committed path → {size, sha256}."""
        return self.ask("volume", name=name)

    def uploaded_bytes(self) -> dict[str, int]:
        """Bytes received so far, by kind: volume, blob, mount."""
        return {"volume": 0, "blob": 0, "mount": 0} | self.ask("uploaded")

    def fault(self, kind: str, **details: Any) -> None:
        """Make something go wrong `times` times (1), where `match` (a pattern, "*") fits, after `skip` times.

        preempt        after, grace seconds (0: killed at once); match is the function's name ("Model.*")
        preempt_at     grace; when a file has been committed; match is its path on the volume
        crash          after seconds: it dies of itself, as when out of memory; match as above
        lose_output    the output of an input is lost, and the input runs again; match as above
        memory         bytes that a container started from now on may allocate; match as above
        fail           status of a procedure named by match ("UNAVAILABLE", …)
        drop_before, drop_after   the connection at a procedure, before or after it took effect
        token          the client's token is refused, at the procedure named by match
        corrupt_block, cut_block, break_block   a block's download: a bit, its half (unsaid), the connection
        """
        defaults = {
            "preempt": {"after": 0.5, "grace": 30.0},
            "preempt_at": {"grace": 0.0},
            "crash": {"after": 0.5},
            "fail": {"status": "UNAVAILABLE"},
        }
        self.ask("fault", kind=kind, **(defaults.get(kind, {}) | details))

    def preempt(self, grace: float = 30.0) -> None:
        """Take all containers that are at work away, after the grace period."""
        self.ask("preempt", grace=grace)

    def clear(self) -> None:
        """No more faults."""
        self.ask("clear")

    @contextlib.contextmanager
    def failing(self, kind: str, **details: Any) -> Iterator[None]:
        """A fault for the length of a block."""
        self.fault(kind, **details)
        try:
            yield
        finally:
            self.clear()


class Secrets:
    """The workspace's named secrets, set as `server.secrets["name"] = {…}`."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def __setitem__(self, name: str, values: dict[str, str]) -> None:
        self.server.ask("secret", name=name, values=values)

    def __delitem__(self, name: str) -> None:
        self.server.ask("secret", name=name, values=None)
