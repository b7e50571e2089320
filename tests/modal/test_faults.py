"""Everything that can go wrong on the way to Modal, there, and on the way back."""

import contextlib
import io
import os
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from probeline.compute.remote import deploy, store
from probeline.digests import sha256_file
from probeline.errors import ProbelineError
from tests.modal.loopback import Server
from tests.modal.projects import CONFIG, WIDE, Run, files_of, refused, run, shard, until
from tests.workflow.conftest import Project

modal = pytest.importorskip("modal")

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def made_here(prepared: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Artifacts made without the service, by model."""
    found = {}
    for model, number in (("tiny", 0), ("wide", 4)):
        project = prepared.copy(tmp_path_factory.mktemp("local") / model)
        project.write("extra.yaml", WIDE if model == "wide" else "")
        project.run(shard(number), config=(*CONFIG, *(["extra.yaml"] if model == "wide" else [])))
        found[model] = files_of(project.folder / shard(number))
        shutil.rmtree(project.folder)
    return found


def log_of(project: Project, number: int) -> str:
    return (project.folder / f"logs/extract_activations/collusion/shard-{number}-of-5.log").read_text()


# Before anything starts


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"MODAL_TOKEN_ID": "", "MODAL_TOKEN_SECRET": ""}, "There is no token for Modal. Make one with"),
        ({"MODAL_TOKEN_SECRET": "as-wrong"}, "Modal refused the token. Make a new one with"),
    ],
)
def test_without_a_good_token_nothing_starts(
    fresh: Server, project: Project, environment: dict[str, str], words: str
) -> None:
    said = refused(project, fresh, shard(0), environment=environment)
    assert words in said
    assert "Job 0" not in said


def test_a_server_that_does_not_answer_is_named(fresh: Server, project: Project) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        said = refused(project, fresh, shard(0), environment={"MODAL_SERVER_URL": url})
    assert f"Modal does not answer at {url} (Connection refused)" in said
    assert "Job 0" not in said


# In the containers


def test_each_way_in_which_a_call_ends_has_its_words(fresh: Server, project: Project) -> None:
    project.write("extra.yaml", "modal: {containers: 1, retries: 0, timeout: 2}")
    fresh.fault("crash", after=0, match="Model.*")
    going = Run(project, fresh, "--keep-going", *map(shard, range(3)))
    lost = until(lambda: [call for call in going.calls() if call["status"] == "FAILURE"])
    hanging = going.freeze()
    waiting = until(
        lambda: [call for call in going.calls() if not call["attempts"]] if len(going.calls()) == 3 else []
    )
    modal.FunctionCall.from_id(waiting[0]["call"]).cancel()
    assert going.end() == 1, going.said
    assert not Path(f"/proc/{hanging}").exists()
    assert len(lost) == 1
    assert sorted(call["status"] for call in going.calls()) == ["FAILURE", "TERMINATED", "TIMEOUT"]
    for words in (
        "The container on Modal was lost, also when the job was tried again (Runner failed with exit code",
        "The container was stopped after 2 s, the limit of one job. Raise modal.timeout",
        "The call was cancelled on Modal, and not from here.",
    ):
        assert going.said.count(words) == 1, going.said
    assert "Traceback" not in going.said, going.said
    assert not list((project.folder / ".probeline/modal/calls").glob("*"))
    assert not list((project.folder / "results").rglob("manifest.json"))


def test_an_exception_there_comes_with_its_type_and_traceback(fresh: Server, project: Project) -> None:
    run(project, fresh, shard(0))
    until(lambda: all(container["ended"] for container in fresh.containers()))
    [damaged] = [
        name for name in fresh.volume("probeline-weights") if name.endswith("tiny/model.safetensors")
    ]
    weights = modal.Volume.from_name("probeline-weights")
    whole = b"".join(weights.read_file(damaged))

    def put(content: bytes) -> None:
        with weights.batch_upload(force=True) as batch:
            batch.put_file(io.BytesIO(content), damaged)

    put(b"{" * len(whole))
    going = Run(project, fresh, shard(1))
    assert going.end() == 1
    put(whole)
    assert "On Modal, the job ended with SafetensorError: " in going.said
    assert "Traceback (most recent call last):" in going.said
    assert "in load_decoder" in going.said
    assert len(going.calls()) == 1
    assert len(going.calls()[0]["attempts"]) == 1  # nothing of it is tried again
    run(project, fresh, shard(1))


def test_another_code_under_the_apps_name_is_refused(fresh: Server, project: Project) -> None:
    project.edit("scripts/probeline/activations/engine.py", "MOST_OPENINGS = 256", "MOST_OPENINGS = 255")
    asked = project.command(
        *("env", "PYTHONPATH=scripts", shutil.which("python") or "python", "-c"),
        "from probeline.compute.remote import deploy; print(deploy.app_name())",
    )
    name = asked.stdout.strip()
    assert name != deploy.app_name()
    deploy.deploy(name)
    said = refused(project, fresh, shard(0))
    assert "What runs on Modal is not what is here: the container's" in said
    assert "scripts/probeline/activations/engine.py is another one" in said
    assert "probeline remote deploy" in said


# Memory


def memory_of(process: int) -> int:
    """Bytes of a process that count against its limit."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("VmData")]
    return int(line.split()[1]) * 1024


def test_short_of_memory_rows_are_halved_and_less_ends_in_words(fresh: Server, project: Project) -> None:
    """Whole games as input, so that a row takes far more than loading the model."""
    one, other = (f"results/activations/trust/shard-{number}-of-5" for number in (0, 3))
    project.write("extra.yaml", WIDE + "activations: {token_budget: 256}\n")
    going = Run(project, fresh, one)
    process = going.container()
    held = peak = memory_of(process)  # the model is loaded, which took more than what is left of it
    while going.process.poll() is None:
        with contextlib.suppress(OSError, ValueError):  # it has ended
            peak = max(peak, memory_of(process))
        time.sleep(0.002)
    assert going.end() == 0, going.said
    assert "Out of memory" not in going.said

    project.write("extra.yaml", WIDE + "activations: {token_budget: 8192}\nmodal: {retries: 1}\n")
    fresh.fault("memory", bytes=peak + 100_000_000, match="Model.*")
    said = run(project, fresh, one)
    assert "Out of memory: trying rows of" in said
    log = (project.folder / "logs/extract_activations/trust/shard-0-of-5.log").read_text()
    assert log.count("Out of memory: trying rows of") == said.count("Out of memory: trying rows of")

    project.write("extra.yaml", WIDE + "modal: {retries: 0}\n")
    fresh.fault("memory", bytes=held, match="Model.*")
    said = refused(project, fresh, other)
    assert (
        "The container's memory is used up. Raise modal.memory" in said or "The memory does not hold" in said
    )


# The end of this side


def test_a_run_that_is_killed_or_told_to_end_leaves_nothing_twice(
    fresh: Server, project: Project, made_here: dict[str, dict[str, bytes]]
) -> None:
    # Told to end: the call is cancelled there, whoever was told, and how.
    for number, group in ((signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)):
        going = Run(project, fresh, shard(0))
        frozen = going.freeze()
        (os.killpg if group else os.kill)(going.process.pid, number)
        assert going.end() == 1, going.said
        assert "Traceback" not in going.said, going.said
        assert "Cancelling the call on Modal." in going.said
        os.kill(frozen, signal.SIGCONT)
        until(lambda going=going: [call["status"] for call in going.calls()] == ["TERMINATED"])
        assert not list((project.folder / ".probeline/modal/calls").glob("*"))

    # Killed: it runs on.
    killed = Run(project, fresh, shard(0))
    frozen = killed.freeze()
    os.killpg(killed.process.pid, signal.SIGKILL)
    killed.end()
    with fresh.failing("token", match="FunctionGetOutputs", times=100):
        said = refused(project, fresh, shard(0))
    assert "Modal refused the token." in said
    os.kill(frozen, signal.SIGCONT)
    again = Run(project, fresh, shard(0))
    assert again.end() == 0, again.said
    assert [call["status"] for call in killed.calls()] == ["SUCCESS"]
    assert not again.calls()
    assert files_of(project.folder / shard(0)) == made_here["tiny"]
    assert log_of(project, 0).count("games went through the model") == 1
    assert again.said.count("games went through the model") == 1


def test_a_job_whose_run_was_killed_ends_by_itself(
    fresh: Server, project: Project, made_here: dict[str, dict[str, bytes]]
) -> None:
    killed = Run(project, fresh, shard(0))
    frozen = killed.freeze()
    killed.process.kill()
    killed.end()
    again = Run(project, fresh, shard(0))
    until(lambda: "Waiting for the jobs of a run that was killed to end." in again.said)
    os.kill(frozen, signal.SIGCONT)
    assert again.end() == 0, again.said
    assert [call["status"] for call in killed.calls()] == ["SUCCESS"]
    assert files_of(project.folder / shard(0)) == made_here["tiny"]


# The end of the other side


def test_lost_containers_and_connections_cost_no_work_twice(
    fresh: Server, project: Project, made_here: dict[str, dict[str, bytes]]
) -> None:
    project.write("extra.yaml", WIDE)
    fresh.fault("preempt", after=0.2, grace=20, match="Model.*")
    fresh.fault("fail", match="FunctionGetOutputs", times=4)
    fresh.fault("drop_before", match="FunctionGetOutputs", skip=1)
    going = Run(project, fresh, shard(4))

    def worked() -> bool:
        """Whether the second container has kept a game."""
        found = fresh.volume("probeline-data").items()
        kept = [file["size"] for name, file in found if name.endswith(".journal/results")]
        attempts = [attempt for call in going.calls() for attempt in call["attempts"]]
        return len(attempts) == 2 and any(kept) and attempts[-1]["status"] == "running"

    until(worked)
    os.kill(going.container(), signal.SIGKILL)
    assert going.end() == 0, going.said
    assert "The connection to Modal is away" in going.said
    [call] = going.calls()
    statuses = [attempt["status"] for attempt in call["attempts"]]
    assert statuses == ["INTERNAL_FAILURE", "FAILURE", "SUCCESS"]
    assert files_of(project.folder / shard(4)) == made_here["wide"]
    lines = log_of(project, 4).splitlines()
    assert [line for line in lines if line.startswith("Attempt")] == [
        f"Attempt {number}: what the one before has left on the volume is used." for number in (2, 3)
    ]
    assert any("games were computed before and are taken from there." in line for line in lines)
    assert going.said.count("Attempt 3") == 1


# The way back


@pytest.fixture
def stored(fresh: Server, tmp_path: Path) -> Any:
    """A store with a file on it, and how a fetch names it."""
    deploy.find_or_deploy()
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
    fresh: Server, project: Project, made_here: dict[str, dict[str, bytes]]
) -> None:
    run(project, fresh, shard(0))
    shutil.rmtree(project.folder / "results")
    before = fresh.uploaded_bytes()["volume"]
    # The first block that comes is that of _DONE.json.
    with fresh.failing("corrupt_block", times=2):
        said = run(project, fresh, shard(0))
    assert said.count("_DONE.json came damaged") == 2
    assert "It was run on Modal already" in said
    assert fresh.uploaded_bytes()["volume"] == before
    assert files_of(project.folder / shard(0)) == made_here["tiny"]
    assert log_of(project, 0).count("games went through the model") == 1
