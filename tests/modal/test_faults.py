"""Everything that can go wrong on the way to Modal, there, and on the way back."""

import contextlib
import io
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import modal
from probeline.compute.remote import before_run, calls, store
from probeline.digests import sha256_bytes, sha256_file
from probeline.errors import ProbelineError
from tests.modal.loopback import Server
from tests.modal.projects import PROBE, Run, files_of, refused, until
from tests.workflow.conftest import Project

pytestmark = pytest.mark.workflow

TEXT = "data/text.txt"


@pytest.fixture
def untrained(local_run: Project, tmp_path: Path) -> Iterator[Project]:
    """A project that lacks nothing but a probe."""
    project = local_run.copy(tmp_path / "project")
    shutil.rmtree(project.folder / PROBE)
    (project.folder / f"{PROBE}.lineage.json").unlink()
    yield project
    shutil.rmtree(tmp_path / "project")


@contextlib.contextmanager
def meanwhile(action: Callable[[], Any]) -> Iterator[None]:
    """Do something beside what the block does; what goes wrong there fails the test."""
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(action)
        yield
        going.result()


def only_call(server: Server, before: int) -> dict[str, Any]:
    """The one call since there were so many."""
    [call] = server.calls()[before:]
    return call


def at_work(server: Server, before: int) -> dict[str, Any]:
    """The container that serves the call since there were so many, once there is one."""

    def found() -> dict[str, Any] | None:
        attempts = [attempt for call in server.calls()[before:] for attempt in call["attempts"]]
        busy = [attempt["container"] for attempt in attempts if attempt["status"] == "running"]
        return next((one for one in server.containers() if one["id"] in busy and not one["ended"]), None)

    return until(found)


# Before anything starts


def test_without_a_token_nothing_starts(fresh: Server, untrained: Project) -> None:
    said = refused(untrained, fresh, PROBE, environment={"MODAL_TOKEN_ID": "", "MODAL_TOKEN_SECRET": ""})
    assert "There is no token for Modal. Make one with" in said
    assert "Job 0" not in said


def test_a_refused_token_and_a_server_that_does_not_answer_are_named_before_a_run(
    fresh: Server, small: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # In a process of its own: this one keeps its client, with its token.
    asked = subprocess.run(
        [sys.executable, "-m", "probeline.compute.remote.before_run"],
        env=os.environ | {"MODAL_TOKEN_SECRET": "as-wrong"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert asked.returncode == 1
    assert "Modal refused the token. Make a new one with" in asked.stdout
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("MODAL_SERVER_URL", url)
        assert before_run.main([]) == 1
    assert f"Modal does not answer at {url} (Connection refused)" in capsys.readouterr().out


# In the containers


@pytest.mark.parametrize(
    ("end", "status", "words"),
    [
        ("lost", "FAILURE", "was lost, also when the job was tried again (Runner failed with exit code"),
        ("slow", "TIMEOUT", "was stopped after 2 s, the limit of one job. Raise modal.timeout"),
        ("cancelled", "TERMINATED", "The call was cancelled on Modal, and not from here."),
    ],
)
def test_each_way_in_which_a_call_ends_has_its_words(
    fresh: Server, small: ModuleType, end: str, status: str, words: str
) -> None:
    name, before = f"results/sweeps/of.ends/{end}", len(fresh.calls())
    seen: list[dict[str, Any]] = []

    def bring_about() -> None:
        seen.append(at_work(fresh, before))
        if end == "lost":
            os.kill(seen[0]["pid"], signal.SIGKILL)
        if end == "cancelled":
            modal.FunctionCall.from_id(only_call(fresh, before)["call"]).cancel()

    with meanwhile(bring_about), pytest.raises(ProbelineError) as raised:
        small.run(name, TEXT, small.sleep, retries=0, timeout=2 if end == "slow" else 600)
    assert words in str(raised.value)
    assert "Traceback" not in str(raised.value)
    assert only_call(fresh, before)["status"] == status
    assert calls.journalled() == {}
    assert not Path(name).exists()
    if end != "cancelled":
        until(lambda: not Path(f"/proc/{seen[0]['pid']}").exists())


def test_an_exception_there_comes_with_its_type_and_traceback(fresh: Server, small: ModuleType) -> None:
    name, before = "results/sweeps/of.faults/exception", len(fresh.calls())
    with pytest.raises(ProbelineError) as raised:
        small.run(name, TEXT, small.fail_once)
    said = str(raised.value)
    assert "On Modal, the job ended with LookupError: there is no such word" in said
    assert "Traceback (most recent call last):" in said
    assert "in fail_once" in said
    assert len(only_call(fresh, before)["attempts"]) == 1  # nothing of it is tried again
    # The same command, once the reason is gone.
    small.run(name, TEXT, small.fail_once)
    assert (Path(name) / "numbers.json").is_file()


def test_a_lack_of_memory_there_has_its_words(fresh: Server, small: ModuleType) -> None:
    before = len(fresh.calls())
    with pytest.raises(ProbelineError, match=r"The container's memory is used up. Raise modal\.memory"):
        small.run("results/sweeps/of.faults/memory", TEXT, small.take_memory)
    assert len(only_call(fresh, before)["attempts"]) == 1


def test_another_code_under_the_apps_name_is_refused(fresh: Server, small: ModuleType) -> None:
    spec = {"code": {"scripts/probeline/activations/engine.py": "0" * 64}}
    with pytest.raises(ProbelineError) as raised:
        small.run("results/sweeps/of.faults/code", TEXT, spec=spec)
    assert "What runs on Modal is not what is here: the container's" in str(raised.value)
    assert "scripts/probeline/activations/engine.py is another one" in str(raised.value)
    assert "probeline remote deploy" in str(raised.value)


# With a model


@pytest.fixture(scope="module")
def extract(small_project: Project) -> Callable[..., Any]:
    """Run the extraction of one game of many short sequences, in rows as long as the budget says."""
    from probeline.bodies.extract_activations import extract_activations
    from probeline.compute.remote.backend import run_remotely
    from probeline.config import load_config
    from probeline.files import write_manifest
    from probeline.models.fetch import fetch_model
    from tests.unit import tiny

    # Little to load and to compute, and more memory for each token than any of the rest takes.
    random = {"architecture": "llama", "layers": 1, "width": 256, "heads": 4, "vocabulary": 400}
    source = {"random": {**random, "max_length": 8192, "seed": 0}}
    fetch_model(source, small_project.folder / "data/models/steep")
    dialogues = small_project.folder / "data/processed/dialogues/trust/shard-0-of-1"
    talk = "I was at home last night and saw nobody, and whoever says otherwise is wrong about it."
    chats = {
        f"g1#{number:04}": tiny.chat(
            ("user", f"{number}: what do you say?"), ("assistant", f"{number}: {talk}")
        )
        for number in range(400)
    }
    tiny.write_dialogues(dialogues, chats)
    write_manifest(dialogues, "dialogues", {})

    def run(name: str, budget: int, **settings: Any) -> Any:
        config = load_config()
        models = {"steep": {**source, "gpu": "H100:4"}}
        job = SimpleNamespace(
            rule="extract_activations",
            config={**config, "compute": "modal", "model": "steep", "models": models}
            | {"modal": config["modal"] | settings},
            input={
                "dialogues": ["data/processed/dialogues/trust/shard-0-of-1/manifest.json"],
                "model": "data/models/steep/manifest.json",
            },
            output=SimpleNamespace(record=f"results/activations/trust/{name}.lineage.json"),
            params=SimpleNamespace(
                spec={"layers": None, "token_layers": [], "dtype": "float32", "store": "float32"}
                | {"threads": 1, "token_budget": budget, "engine": "0" * 64}
            ),
        )
        return run_remotely(job, extract_activations, threads=1)

    return run


def described(name: str) -> dict[str, Any]:
    """The manifest of activations."""
    return json.loads((Path("results/activations/trust") / name / "manifest.json").read_bytes())


class Memory:
    """The most memory that counts against the limit of a container at work, while the block runs."""

    def __init__(self, server: Server) -> None:
        self._server, self._before, self.peak = server, len(server.calls()), 0
        self._over = threading.Event()

    def watch(self) -> None:
        status = Path(f"/proc/{at_work(self._server, self._before)['pid']}/status")
        while not self._over.wait(0.002):
            with contextlib.suppress(OSError, ValueError):  # it has ended
                [line] = [line for line in status.read_text().splitlines() if line.startswith("VmData")]
                self.peak = max(self.peak, int(line.split()[1]) * 1024)

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        with meanwhile(self.watch):
            try:
                yield
            finally:
                self._over.set()


@pytest.mark.slow
def test_short_of_memory_rows_are_halved(
    fresh: Server, small: ModuleType, extract: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    peaks = []
    # Each in a container of its own: what one has freed stays in its heap.
    for name, budget, settings in (("small", 2048, {"memory": 1}), ("large", 32768, {"memory": 2})):
        memory = Memory(fresh)
        with memory.measured():
            extract(name, budget, **settings)
        assert described(name)["smallest_token_budget"] == budget
        peaks.append(memory.peak)
    assert "Out of memory" not in caplog.text
    assert peaks[1] - peaks[0] > 200e6, peaks

    # Of its own, as memory is one of the settings that a container has.
    fresh.fault("memory", bytes=peaks[0] + (peaks[1] - peaks[0]) // 4, match="Model.*")
    # Another budget, too: what was computed with that one is kept.
    extract("short", 32000, memory=3)
    assert described("short")["smallest_token_budget"] < 32000
    assert re.search(r"Out of memory: trying rows of \d+ tokens for this game", caplog.text)
    assert caplog.text.count("games went through the model") == 3
    assert described("short")["samples"] == described("large")["samples"] == 400
    assert {one["gpu"] for one in fresh.containers() if one["function"] == "Model.*"} == {"H100:4"}


def test_a_model_that_cannot_be_loaded_is_said_once_with_its_traceback(
    fresh: Server, small: ModuleType, extract: Callable[..., Any]
) -> None:
    # As a run would have sent it, and damaged since then.
    folder = Path("data/models/steep")
    at = f"models/{sha256_file(folder / 'manifest.json')}/steep"
    weights = modal.Volume.from_name("probeline-weights")
    with weights.batch_upload(force=True) as batch:
        for file in folder.iterdir():
            data = b"{" * file.stat().st_size if file.suffix == ".safetensors" else file.read_bytes()
            batch.put_file(io.BytesIO(data), f"{at}/{file.name}")
    before = len(fresh.calls())
    with pytest.raises(ProbelineError) as raised:
        extract("damaged", 2048, memory=4)
    weights.remove_file(at, recursive=True)
    assert "On Modal, the job ended with SafetensorError: " in str(raised.value)
    assert "in load_decoder" in str(raised.value)
    assert len(only_call(fresh, before)["attempts"]) == 1


# The end of this side


def test_a_run_that_is_told_to_end_cancels_its_call_whoever_was_told(
    fresh: Server, untrained: Project
) -> None:
    for number, tell in ((signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)):
        going = Run(untrained, fresh, PROBE)
        frozen = going.freeze()
        tell(going.process.pid, number)
        assert going.end() == 1, going.said
        assert "Traceback" not in going.said, going.said
        assert "Cancelling the call on Modal." in going.said
        os.kill(frozen, signal.SIGCONT)
        until(lambda going=going: [call["status"] for call in going.calls()] == ["TERMINATED"])
        assert not list((untrained.folder / ".probeline/modal/calls").glob("*"))


def test_what_a_killed_run_has_started_is_taken_up_by_the_next(
    fresh: Server, untrained: Project, local_run: Project
) -> None:
    killed = Run(untrained, fresh, PROBE)
    frozen = killed.freeze()
    killed.process.kill()
    killed.end()
    again = Run(untrained, fresh, PROBE)
    until(lambda: "Waiting for the jobs of a run that was killed to end." in again.said)
    os.killpg(killed.process.pid, signal.SIGKILL)  # its job, which waits on
    until(lambda: "Taking up the call" in again.said)
    os.kill(frozen, signal.SIGCONT)
    assert again.end() == 0, again.said
    assert [call["status"] for call in killed.calls()] == ["SUCCESS"]  # of both runs
    assert files_of(untrained.folder / PROBE) == files_of(local_run.folder / PROBE)


def test_a_call_is_taken_up_after_the_token_was_refused(
    fresh: Server, small: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    name, before = "results/sweeps/of.faults/token", len(fresh.calls())
    with (
        fresh.failing("token", match="FunctionGetOutputs", times=100),
        pytest.raises(ProbelineError, match=r"Modal refused the token\."),
    ):
        small.run(name, TEXT)
    assert [*calls.journalled().values()] == [only_call(fresh, before)["call"]]
    small.run(name, TEXT)
    assert only_call(fresh, before)["status"] == "SUCCESS"
    # Whether it still ran or had ended by then.
    assert ("Taking up the call" in caplog.text) or ("It was run on Modal already" in caplog.text)
    assert "Numbers are written." in caplog.text
    assert calls.journalled() == {}


# The end of the other side


def test_lost_containers_and_connections_cost_no_work_twice(
    fresh: Server, small: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    name, before = "results/sweeps/of.faults/lost", len(fresh.calls())
    fresh.fault("fail", match="FunctionGetOutputs", times=4)
    fresh.fault("drop_before", match="FunctionGetOutputs", skip=1)

    def kept(steps: int) -> bool:
        there = fresh.volume("probeline-data").get("work/" + name.replace("/", "--"), {})
        return there.get("sha256") == sha256_bytes(str(steps).encode())

    def lose() -> None:
        until(lambda: kept(10))
        fresh.preempt(grace=5)
        until(lambda: kept(20))
        os.kill(at_work(fresh, before)["pid"], signal.SIGKILL)

    with meanwhile(lose):
        small.run(name, TEXT, small.count, {"count": 30})
    statuses = [attempt["status"] for attempt in only_call(fresh, before)["attempts"]]
    assert statuses == ["INTERNAL_FAILURE", "FAILURE", "SUCCESS"]
    assert json.loads((Path(name) / "numbers.json").read_bytes()) == [*range(30)]
    assert "The connection to Modal is away" in caplog.text
    for number in (2, 3):
        words = f"Attempt {number}: what the one before has left on the volume is used."
        assert caplog.text.count(words) == 1
    for steps in (0, 10, 20):
        assert caplog.text.count(f" {steps} steps were taken before.") == 1


# The way back


@pytest.fixture
def stored(fresh: Server, small: ModuleType, tmp_path: Path) -> Any:
    """A store with a file on it, and how a fetch names it."""
    found = store.Store()
    (tmp_path / "sent").write_bytes(os.urandom(9_000_000))  # of two blocks
    digest = sha256_file(tmp_path / "sent")
    found.send({digest: tmp_path / "sent"})
    return found, {"part/file": {"sha256": digest, "at": f"cas/{digest}"}}


def test_what_comes_damaged_is_fetched_again(
    fresh: Server, stored: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found, files = stored
    for kind in ("corrupt_block", "cut_block", "break_block"):
        fresh.fault(kind)
        found.fetch(files, tmp_path / kind)
        assert sha256_file(tmp_path / kind / "part/file") == files["part/file"]["sha256"]
    assert caplog.text.count("came damaged (its digest is another one), attempt 1 of 3") == 2
    with (
        fresh.failing("corrupt_block", times=6),
        pytest.raises(ProbelineError, match="came damaged from the volume 3 times"),
    ):
        found.fetch(files, tmp_path / "never")
    assert not list(tmp_path.glob("*never*"))


def test_what_the_volume_says_of_a_job_is_verified(
    fresh: Server, small: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    name = "results/sweeps/of.faults/told"
    small.run(name, TEXT)
    made = files_of(Path(name))
    shutil.rmtree(name)
    before, called = fresh.uploaded_bytes()["volume"], len(fresh.calls())
    caplog.clear()
    # The first block that comes is that of _DONE.json.
    with fresh.failing("corrupt_block", times=2):
        small.run(name, TEXT)
    assert caplog.text.count("_DONE.json came damaged") == 2
    assert "It was run on Modal already" in caplog.text
    assert caplog.text.count("Numbers are written.") == 1
    assert (fresh.uploaded_bytes()["volume"], len(fresh.calls())) == (before, called)
    assert files_of(Path(name)) == made


def test_what_has_vanished_from_the_volume_is_sent_or_made_again(
    fresh: Server, small: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    name, after = "results/sweeps/of.faults/vanished", "results/sweeps/of.faults/after"
    small.run(name, TEXT)
    made = files_of(Path(name))
    data = modal.Volume.from_name("probeline-data")

    # An output that is fetched once more, and inputs that were sent.
    outputs = [path for path in fresh.volume("probeline-data") if path.endswith("/numbers.json")]
    assert outputs
    for path in outputs:
        data.remove_file(path)
    data.remove_file("cas", recursive=True)
    shutil.rmtree(name)
    small.run(name, TEXT)
    assert "The job is run again." in caplog.text
    assert files_of(Path(name)) == made

    # Inputs that were made there: the next job takes them to be on the volume still.
    data.remove_file("runs", recursive=True)
    caplog.clear()
    small.run(after, f"{name}/manifest.json")
    assert "sent again" in caplog.text
    assert (Path(after) / "inner/input.txt").read_bytes() == made["manifest.json"]
