"""The loopback server keeps what it promises, as the real client sees it."""

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import modal
from tests.modal.loopback import REPOSITORY, Server

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def exercise(reached: Server) -> Iterator[ModuleType]:
    """The deployed app, imported as a script of its own."""
    reached.secrets["gemini-secret"] = {"GEMINI_API_KEY": "key"}
    module = load(HERE)
    module.app.deploy()
    yield module
    del sys.modules["exercise_app"]


def load(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("exercise_app", folder / "exercise_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["exercise_app"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model(exercise: ModuleType) -> Callable[..., Any]:
    """Model objects by name, each in a pool of its own with the options given."""

    def build(name: str, **options: Any) -> Any:
        defaults = {"scaledown_window": 20, "max_containers": 1}
        return modal.Cls.from_name("probeline-0123", "Model").with_options(**(defaults | options))(name=name)

    return build


@pytest.fixture(autouse=True)
def no_faults_left(reached: Server) -> Iterator[None]:
    yield
    reached.clear()


def until(condition: Callable[[], Any], seconds: float = 15) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
    return found


def pool(server: Server, target: Any) -> list[dict[str, Any]]:
    """The containers of a model object."""
    calls = {entry["call"]: entry["pool"] for entry in server.calls()}
    return [c for c in server.containers() if c["pool"] == calls[target]]


def attempts(server: Server, call: Any) -> list[str]:
    entry = next(entry for entry in server.calls() if entry["call"] == call.object_id)
    return [attempt["status"] for attempt in entry["attempts"]]


def test_a_warm_container_loads_once_and_gets_what_was_asked_for(reached, model, monkeypatch):
    monkeypatch.setenv("OF_THE_CALLER", "secret")
    reached.secrets["huggingface-secret"] = {"HF_TOKEN": "hf_x"}
    secrets = [modal.Secret.from_name("huggingface-secret")]
    warm = model("warm", gpu="H100:4", timeout=900, secrets=secrets, scaledown_window=3)
    long = "x" * 20_000  # goes through a blob
    calls = [warm.describe.spawn(text) for text in ("a", "b", long)]
    first, second, third = [modal.FunctionCall.from_id(call.object_id).get(timeout=20) for call in calls]
    assert [answer["runs"] for answer in (first, second, third)] == [1, 2, 3]
    assert third["text"] == long
    environment = first["environment"]
    assert environment["FROM_IMAGE"] == "two words"
    assert environment["FROM_SERVER"] == "yes"
    assert environment["HF_TOKEN"] == "hf_x"
    assert "OF_THE_CALLER" not in environment
    assert "MODAL_TOKEN_SECRET" not in environment
    assert first["mounted"] == ["conftest.py"]
    assert not Path("/opt/probeline").exists()
    [container] = pool(reached, calls[0].object_id)
    assert container["gpu"] == "H100:4"
    assert len(container["inputs"]) == 3
    bound = reached.requests("FunctionBindParams")[-1]["request"]["function_options"]
    assert bound["timeout_secs"] == 900
    layers = reached.images()[container["image"]]
    assert any("numpy==2.4.6" in line for layer in layers for line in layer["dockerfile_commands"])
    until(lambda: pool(reached, calls[0].object_id)[0]["ended"])
    assert pool(reached, calls[0].object_id)[0]["code"] == 0
    assert "leaving\n" in "".join(entry["data"] for entry in reached.logs())
    assert reached.volume("probeline-data")["left.txt"]["size"] == len("warm")  # committed as it ended


def test_the_pool_keeps_to_its_limit_and_shrinks(reached, model):
    two = model("two", max_containers=2)
    calls = [two.nap.spawn(0.4) for _ in range(4)]
    assert [call.get(timeout=20) for call in calls] == [0.4] * 4
    assert len(pool(reached, calls[0].object_id)) == 2
    [shrunk] = {container["pool"] for container in pool(reached, calls[0].object_id)}
    modal.Function.from_id(shrunk).autoscaler.update(scaledown_window=2)
    until(lambda: all(container["ended"] for container in pool(reached, calls[0].object_id)))


def test_a_redeployed_app_keeps_its_containers_unless_it_changed(exercise, model, tmp_path):
    before = model("redeployed").describe.remote("x")
    exercise.app.deploy()
    assert model("redeployed").describe.remote("x")["pid"] == before["pid"]
    for name in ("exercise_app.py", "conftest.py"):
        text = (HERE / name).read_text().replace("two words", "three words")
        (tmp_path / name).write_text(text)
    load(tmp_path).app.deploy()
    after = model("redeployed").describe.remote("x")
    assert after["pid"] != before["pid"]
    assert after["environment"]["FROM_IMAGE"] == "three words"
    exercise.app.deploy()


def test_functions_map_and_run_without_deployment(exercise):
    assert list(exercise.double.map(range(5))) == [0, 2, 4, 6, 8]
    with exercise.app.run():
        assert exercise.double.remote(21) == 42


def test_volume_writes_appear_at_commit_and_come_in_at_reload(reached, model):
    one, other = model("one"), model("other")
    assert other.read.remote("/data/x.txt") is None
    one.write.remote("/data/x.txt", "first", commit=False)
    assert one.read.remote("/data/x.txt") == "first"
    assert "x.txt" not in reached.volume("probeline-data")
    one.write.remote("/data/y.txt", "second")
    assert reached.volume("probeline-data")["x.txt"]["sha256"] == hashlib.sha256(b"first").hexdigest()
    assert other.read.remote("/data/x.txt") is None
    assert other.read.remote("/data/x.txt", reload=True) == "first"
    other.write.remote("/data/x.txt", "theirs")
    one.write.remote("/data/x.txt", "last")
    assert other.read.remote("/data/x.txt", reload=True) == "last"
    for mapped in (False, True):
        refused = one.reload_while_open.remote("/data/x.txt", mapped)
        assert "there are open files preventing the operation" in refused
    with pytest.raises(OSError, match="Read-only file system"):
        one.write.remote("/weights/x", "x", commit=False)
    assert not Path("/data").exists()


def test_the_client_uploads_lists_reads_and_removes(reached, exercise, model, tmp_path):
    weights = modal.Volume.from_name("probeline-weights")
    large = os.urandom(8 * 1024 * 1024) + b"tail" + bytes(1000)
    (tmp_path / "large").write_bytes(large)
    before = reached.uploaded_bytes()["volume"]
    for _ in range(2):
        with weights.batch_upload(force=True) as batch:
            batch.put_file(tmp_path / "large", "/cas/large")
    assert reached.uploaded_bytes()["volume"] - before == len(large) - 1000  # trailing zeros are not sent
    with pytest.raises(FileExistsError), weights.batch_upload() as batch:
        batch.put_file(tmp_path / "large", "/cas/large")
    assert [(entry.path, entry.size) for entry in weights.listdir("/cas")] == [("cas/large", len(large))]
    assert [entry.path for entry in weights.iterdir("/")] == ["cas", "cas/large"]
    assert b"".join(weights.read_file("cas/large")) == large
    assert reached.volume("probeline-weights")["cas/large"]["sha256"] == hashlib.sha256(large).hexdigest()
    for kind in ("corrupt_block", "cut_block"):  # the client does not notice
        reached.fault(kind)
        assert b"".join(weights.read_file("cas/large")) != large
    reached.fault("break_block")
    assert b"".join(weights.read_file("cas/large")) == large
    weights.remove_file("/cas", recursive=True)
    for absent in (lambda: weights.listdir("/cas"), lambda: weights.remove_file("/cas")):
        with pytest.raises((modal.exception.NotFoundError, FileNotFoundError)):
            absent()
    with pytest.raises(FileNotFoundError):
        list(weights.read_file("/cas/large"))


def test_exceptions_come_back_and_are_retried_as_the_policy_says(reached, model):
    policy = modal.Retries(max_retries=2, initial_delay=1.0, backoff_coefficient=1.0)
    call = model("retried", retries=policy).fail.spawn()
    assert call.get(timeout=20) == 3
    assert attempts(reached, call) == ["FAILURE", "FAILURE", "SUCCESS"]
    assert model("retried by the client", retries=policy).fail.remote() == 3
    with pytest.raises(LookupError, match="failure 1"):
        model("plain").fail.remote()
    with pytest.raises(ValueError, match="no such weights"):
        model("broken").describe.remote("x")


def test_another_process_gets_the_result(reached, model):
    call = model("plain").nap.spawn(0.5)
    with pytest.raises(TimeoutError):
        call.get(timeout=0)
    script = "import sys, modal; print(modal.FunctionCall.from_id(sys.argv[1]).get(timeout=20))"
    done = subprocess.run([sys.executable, "-c", script, call.object_id], capture_output=True, text=True)
    assert done.stdout == "0.5\n", done.stderr


def test_a_function_is_killed_at_its_timeout(reached, model):
    call = model("slow", timeout=1).nap.spawn(60)
    with pytest.raises(modal.exception.FunctionTimeoutError, match="timeout of 1s"):
        call.get(timeout=20)
    assert until(lambda: pool(reached, call.object_id)[0]["ended"])
    with pytest.raises(modal.exception.InvalidError, match="86400"):
        model("slow", timeout=86_401).nap.remote(0)


def test_running_and_waiting_inputs_are_cancelled(reached, model):
    busy = model("busy")
    running, waiting = busy.nap.spawn(60), busy.nap.spawn(61)
    until(lambda: attempts(reached, running) == ["running"])
    for call in (waiting, running):
        call.cancel()
        with pytest.raises(modal.exception.RemoteError, match="cancelled"):
            call.get(timeout=20)
    assert attempts(reached, running) == ["TERMINATED"]
    assert attempts(reached, waiting) == []
    assert busy.nap.remote(0) == 0  # in the same container
    assert len(pool(reached, running.object_id)) == 1


def test_lost_work_runs_again(reached, exercise, model):
    reached.fault("preempt", after=0.2, grace=5, times=1, match="once")
    reached.fault("preempt", after=0.2, grace=0, times=1, match="once")
    call = modal.Function.from_name("probeline-0123", "once").spawn("1.0")
    process, key = call.get(timeout=20)
    assert key == "key"
    assert attempts(reached, call) == ["INTERNAL_FAILURE", "INTERNAL_FAILURE", "SUCCESS"]
    containers = pool(reached, call.object_id)
    assert [len(container["inputs"]) for container in containers] == [1, 1, 1]
    assert [container["code"] for container in containers[:2]] == [0, -9]  # interrupted, killed
    assert containers[-1]["pid"] == process

    reached.fault("crash", after=0.2, match="Model.*")
    call = model("crashing").nap.spawn(1)
    with pytest.raises(modal.exception.RemoteError, match="exit code"):
        call.get(timeout=20)

    reached.fault("lose_output", match="Model.*")
    call = model("plain").nap.spawn(0)
    assert call.get(timeout=20) == 0
    assert attempts(reached, call) == ["LOST", "SUCCESS"]


def test_procedures_fail_and_connections_drop_on_demand(reached, model):
    target = model("plain")
    assert target.nap.remote(0) == 0
    before = len(reached.calls())
    for number, kind in enumerate(("fail", "drop_before", "drop_after"), 1):
        reached.fault(kind, match="FunctionMap")
        assert target.nap.remote(0) == 0
        assert len(reached.calls()) == before + number
    reached.fault("token")
    with pytest.raises(modal.exception.AuthError):
        target.nap.remote(0)
    assert target.nap.remote(0) == 0


def test_a_container_may_not_take_more_memory_than_it_has(reached, model):
    reached.fault("memory", bytes=600_000_000)
    small = model("small")
    with pytest.raises(MemoryError):
        small.allocate.remote(800_000_000)
    assert small.allocate.remote(1000) == 1000


def test_missing_things_are_named(exercise):
    absent = [
        (lambda: modal.Cls.from_name("no-app", "Model")().nap.remote(0), "no-app"),
        (lambda: modal.Cls.from_name("probeline-0123", "Modle")().nap.remote(0), "Modle"),
        (lambda: modal.Secret.from_name("no-secret").hydrate(), "no-secret"),
        (lambda: modal.Volume.from_name("no-volume").hydrate(), "no-volume"),
        (lambda: modal.FunctionCall.from_id("fc-0").get(), "fc-0"),
    ]
    for use, name in absent:
        with pytest.raises(modal.exception.NotFoundError, match=name):
            use()


def test_logs_follow_a_call(reached, model):
    talking = model("talking")
    talking.describe.remote("x")
    call = talking.describe.spawn("y")
    assert [entry.message for entry in call.logs.stream(timeout=5)] == ["run 2 of talking\n"]
    app = modal.App.lookup("probeline-0123")
    assert "run 2 of talking\n" in "".join(entry.message for entry in app.logs.tail(1000))


def test_the_workspace_can_be_asked(reached, exercise):
    assert {"probeline-data", "probeline-weights"} <= {volume.name for volume in modal.Volume.objects.list()}
    assert "gemini-secret" in {secret.name for secret in modal.Secret.objects.list()}
    reached.ask("rates", rates={"GPU_H100": "0.001"})
    assert str(modal.Workspace.from_context().billing.rates()["GPU_H100"]) == "0.001"
    done = subprocess.run(
        [sys.executable, "-m", "modal", "app", "list", "--json"], capture_output=True, text=True
    )
    assert "probeline-0123" in done.stdout, done.stderr


def processes(marker: str) -> list[int]:
    """Living processes whose environment or arguments hold a marker."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if marker in (folder / "environ").read_text(errors="replace") and (folder / "exe").exists():
                found.append(int(folder.name))
    return found


SCRIPT = """
import json, os, runpy, sys, time
from tests.modal.loopback import Server
server = Server()
os.environ.update(server.environment())
server.secrets["gemini-secret"] = {"GEMINI_API_KEY": "key"}
sys.path.insert(0, "tests/modal")
import exercise_app
exercise_app.app.deploy()
exercise_app.once.spawn("60")
while not any(container["ready"] for container in server.containers()):
    time.sleep(0.05)
print(json.dumps([server.url, server.process.pid, server.addresses["folder"]]), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("victim", ["the test's process", "the server"])
def test_nothing_outlives_its_parent(victim):
    words = [sys.executable, "-c", SCRIPT]
    with subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        url, server, folder = json.loads(parent.stdout.readline())
        container = set(processes(f"MODAL_SERVER_URL={url}")) - {parent.pid}
        assert len(container) == 1
        os.kill(parent.pid if victim == "the test's process" else server, signal.SIGKILL)
        until(lambda: not (container & set(processes(f"MODAL_SERVER_URL={url}"))))
        parent.kill()
    until(lambda: not Path(f"/proc/{server}").exists())
    if victim == "the server":
        shutil.rmtree(folder)
    assert not Path(folder).exists()


def test_only_loopback_is_bound(reached):
    listening = Path("/proc/net/tcp").read_text()
    for port in re.findall(r":(\d+)$", f"{reached.url}\n{reached.addresses['http']}", re.MULTILINE):
        assert f" 0100007F:{int(port):04X} 00000000:0000 0A" in listening
        assert f" 00000000:{int(port):04X} 00000000:0000 0A" not in listening


def test_an_app_is_stopped_with_its_containers(reached, exercise, model):
    call = model("stopped").nap.spawn(60)
    until(lambda: attempts(reached, call) == ["running"])
    modal.App.lookup("probeline-0123").stop()
    with pytest.raises(modal.exception.RemoteError, match="stopped"):
        call.get(timeout=20)
    until(lambda: all(container["ended"] for container in reached.containers()))
    with pytest.raises(modal.exception.NotFoundError):
        modal.Cls.from_name("probeline-0123", "Model")(name="x").nap.remote(0)
    exercise.app.deploy()
