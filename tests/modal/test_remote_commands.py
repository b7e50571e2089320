"""`probeline remote …` as a user types it, against the loopback server."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from probeline.cli import main
from probeline.compute.remote import calls, pools
from probeline.compute.remote.layout import CONTENT, DATA_VOLUME, artifact_entry
from probeline.digests import sha256_file
from probeline.files import write_manifest
from probeline.lineage.hashing import files_of
from probeline.lineage.records import record_path
from tests.modal.loopback import Server
from tests.workflow.conftest import Project

pytestmark = pytest.mark.workflow

MADE = "results/sweeps/of.trust/one"
PROBE = "results/probes/trust_lr_l2"
HEADLINE = {
    "auroc": {"value": 0.8, "low": 0.7, "high": 0.9},
    "text_masked": {"value": 0.61},
    "text_input": {"value": 0.72},
}


@pytest.fixture(scope="module")
def project(reached: Server, small_project: Project, bodies: ModuleType) -> Project:
    """One artifact that was made on Modal, and one that was made here."""
    with contextlib.chdir(small_project.folder):
        bodies.main(MADE, "data/text.txt")
    record_path(small_project.folder / MADE).write_text('{"another": "record"}\n')
    make_probe(small_project.folder / PROBE)
    return small_project


def make_probe(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "detector.pt").write_bytes(bytes(range(256)) * 20)
    (folder / "metrics.json").write_text('{"auroc": 0.8}\n')
    write_manifest(folder, "probe", {"headline": HEADLINE})
    record_path(folder).write_text('{"a": "record"}\n')


def environment(project: Project, server: Server) -> dict[str, str]:
    return os.environ | server.environment() | {"PYTHONPATH": str(project.folder / "scripts")}


def command(project: Project, server: Server, *words: str, **variables: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "probeline.cli", "remote", *words],
        cwd=project.folder,
        env=environment(project, server) | variables,
        text=True,
        capture_output=True,
        timeout=120,
    )


def said(project: Project, *words: str) -> tuple[int, str, str]:
    """Run a command in this process, which saves the start of another: status, output, errors."""
    out, errors = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(project.folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        status = main(["remote", *words])
    return status, out.getvalue(), errors.getvalue()


@pytest.fixture(scope="module")
def remote(project: Project) -> Callable[..., str]:
    """Run a command to success: its standard output."""

    def run(*words: str) -> str:
        status, out, errors = said(project, *words)
        assert status == 0, out + errors
        return out

    return run


@pytest.fixture(scope="module")
def refused(project: Project) -> Callable[..., str]:
    """Run a command that fails in words: what it says."""

    def run(*words: str) -> str:
        status, out, errors = said(project, *words)
        assert status == 1, out + errors
        assert "Traceback" not in errors
        return errors

    return run


@pytest.fixture(scope="module")
def sent(project: Project, remote: Callable[..., str]) -> int:
    """Bytes of the first upload of the probe."""
    return json.loads(remote("upload", PROBE, "--json"))[PROBE]["sent"]


def here(project: Project, name: str) -> dict[str, str]:
    return {file: sha256_file(path) for file, path in files_of(project.folder / name).items()}


def test_what_was_made_on_modal_is_there_and_here_with_equal_digests(
    project: Project, server: Server, remote: Callable[..., str]
) -> None:
    listed = {copy["name"]: copy for copy in json.loads(remote("list", "--all", "--json"))}
    there = server.volume(DATA_VOLUME)
    out = [path for path in there if "/out/" in path]
    found = {path.partition("/out/one/")[2]: there[path]["sha256"] for path in out}
    assert found == listed[MADE]["files"] == here(project, MADE)
    assert {*listed} <= {MADE, PROBE}
    assert set(found) == {"numbers.json", "inner/input.txt", "manifest.json"}
    assert listed[MADE]["kind"] == "sweep"


def test_an_upload_sends_each_byte_once_and_takes_the_record_along(
    project: Project, server: Server, sent: int, remote: Callable[..., str]
) -> None:
    files = here(project, PROBE) | {"record": sha256_file(record_path(project.folder / PROBE))}
    there = server.volume(DATA_VOLUME)
    assert {there[f"{CONTENT}/{digest}"]["sha256"] for digest in files.values()} == {*files.values()}
    sizes = sum(there[f"{CONTENT}/{digest}"]["size"] for digest in files.values())
    assert sent == sizes + there[artifact_entry(PROBE)]["size"]
    before = server.uploaded_bytes()
    assert "0 bytes sent" in remote("upload", str(project.folder / PROBE))
    assert server.uploaded_bytes() == before
    assert server.volume(DATA_VOLUME) == there


def test_of_what_was_made_there_only_the_record_is_sent(
    project: Project, server: Server, remote: Callable[..., str]
) -> None:
    record = record_path(project.folder / MADE)
    sent = json.loads(remote("upload", MADE, "--json"))[MADE]["sent"]
    there = server.volume(DATA_VOLUME)
    assert sent == record.stat().st_size + there[artifact_entry(MADE)]["size"]
    assert there[f"{CONTENT}/{sha256_file(record)}"]["size"] == record.stat().st_size


def test_the_list_shows_name_date_figures_and_size(sent: int, remote: Callable[..., str]) -> None:
    lines = remote("list").splitlines()
    for column in ("name", "made (UTC)", "AUROC, test games", "better text", "size"):
        assert column in lines[0]
    assert lines[1].split()[0] == "trust_lr_l2"
    assert "0.800 (0.700 to 0.900)  0.720" in lines[1]
    assert lines[1].endswith("kB")
    assert lines[2] == "1 of other kinds: --all"
    assert MADE in remote("list", "--all")


def test_a_download_is_what_was_sent_also_where_a_block_comes_damaged(
    project: Project, sent: int, server: Server, remote: Callable[..., str]
) -> None:
    wanted = {path.name: path.read_bytes() for path in files_of(project.folder / PROBE).values()}
    record = record_path(project.folder / PROBE).read_bytes()
    shutil.rmtree(project.folder / PROBE)
    record_path(project.folder / PROBE).unlink()
    # Once the entry, then one of the files.
    server.fault("corrupt_block", match="*")
    server.fault("corrupt_block", match="*", skip=2)
    remote("download", "trust_lr_l2")
    server.clear()
    assert {path.name: path.read_bytes() for path in files_of(project.folder / PROBE).values()} == wanted
    assert record_path(project.folder / PROBE).read_bytes() == record
    assert "already" in remote("download", PROBE)
    remote("download", "trust_lr_l2", "--output", "elsewhere/probe")
    assert here(project, "elsewhere/probe") == here(project, PROBE)
    shutil.rmtree(project.folder / "elsewhere")


def test_a_download_that_cannot_be_verified_leaves_nothing(
    project: Project, sent: int, server: Server, remote: Callable[..., str], refused: Callable[..., str]
) -> None:
    # The entry comes through, what follows does not.
    with server.failing("break_block", match="*", times=1000, skip=1):
        said = refused("download", "trust_lr_l2", "--output", "elsewhere/damaged")
    assert "came damaged from the volume 3 times" in said
    assert not list((project.folder / "elsewhere").iterdir())


def test_a_download_leaves_another_folder_alone_and_names_the_near_ones(
    project: Project, sent: int, remote: Callable[..., str], refused: Callable[..., str]
) -> None:
    mine = project.folder / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    said = refused("download", "trust_lr_l2", "--output", "mine")
    assert "mine is here and is another one than that on Modal: detector.pt is missing" in said
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]
    assert "Did you mean trust_lr_l2?" in refused("download", "trust_lr_l3")
    assert f"Did you mean {MADE}?" in refused("download", f"{MADE}s")


def test_what_is_no_artifact_or_was_changed_is_not_sent(
    project: Project, server: Server, refused: Callable[..., str]
) -> None:
    before = server.uploaded_bytes()
    assert f"Did you mean {PROBE}" in refused("upload", "results/probes/trust_lr_2")
    assert "name those: results/sweeps/of.trust/*" in refused("upload", "results/sweeps/of.trust")
    assert "config is no artifact of this project" in refused("upload", "config")
    changed = project.folder / "results/probes/changed"
    make_probe(changed)
    (changed / "metrics.json").write_text("{}")
    assert "metrics.json was changed after it was made" in refused("upload", "results/probes/changed")
    shutil.rmtree(changed)
    assert server.uploaded_bytes() == before


def test_status_and_stop_know_of_running_calls_warm_containers_and_apps(
    project: Project, reached: Server, remote: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed = json.loads(remote("deploy", "--json"))
    app = deployed["app"]
    assert not deployed["deployed_now"]
    monkeypatch.chdir(project.folder)
    options = {"cpu": 1, "memory": 1024, "timeout": 600, "max_containers": 1, "scaledown_window": 300}
    # A call whose output is lost again and again runs until it is cancelled.
    with reached.failing("lose_output", match="Task.*", times=10**9):
        task = pools.open_pool(app, "Task", options, {"threads": 1, "variables": "{}"}, 0)
        call = task.run.spawn({"key": "none"})
        calls.Journal(PROBE).write(call.object_id, "none")
        found = json.loads(remote("status", "--json"))
        assert found["app"] == {"name": app, "deployed": True}
        assert found["calls"] == [{"artifact": PROBE, "call": call.object_id, "state": "running"}]
        assert [pool["containers"] for pool in found["pools"]] == [1]
        there = reached.volume(DATA_VOLUME)
        sizes = sum(file["size"] for file in there.values())
        assert found["volumes"][DATA_VOLUME] == {"files": len(there), "bytes": sizes}
        assert found["kept"]["runs"] == 1
        assert json.loads(remote("stop", "--json")) == {
            "apps": [],
            "calls": {PROBE: "cancelled"},
            "pools": 1,
        }
        cancelled = [entry["request"]["function_call_id"] for entry in reached.requests("FunctionCallCancel")]
        assert cancelled == [call.object_id]
    assert "Nothing of this project ran" in remote("stop")
    assert f"{app} is stopped" in remote("stop", "--app")
    status = remote("status")
    assert f"{app}, not deployed" in status
    assert "none is kept warm" in status


@pytest.mark.parametrize("words", ["deploy", "status", "list", "download a", "upload a", "stop"])
def test_each_command_says_what_keeps_it_from_modal(
    project: Project, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("MODAL_TOKEN_ID", "")
    assert main(["remote", *words.split()]) == 1
    assert "modal token new" in capsys.readouterr().err
    monkeypatch.setenv("MODAL_TOKEN_ID", "ak-some")
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-some")
    monkeypatch.setenv("MODAL_SERVER_URL", "http://127.0.0.1:1")
    assert main(["remote", *words.split()]) == 1
    assert "Modal does not answer at http://127.0.0.1:1" in capsys.readouterr().err


def test_a_refused_token_is_said(project: Project, server: Server) -> None:
    done = command(project, server, "list", MODAL_TOKEN_SECRET="as-another")
    assert done.returncode == 1
    assert "Modal refused the token" in done.stderr
    assert "Traceback" not in done.stderr
    assert "as-another" not in done.stdout + done.stderr


def test_the_doctor_asks_modal_without_showing_a_secret(project: Project) -> None:
    hub = {
        "model": "someone",
        "models": {"someone": {"hub": "someone/model", "revision": "0" * 40, "depth": 30}},
        "judges": {"mine": {"kind": "openai", "url": "https://127.0.0.1", "model": "m", "key": "MY_LAB_KEY"}},
        "evaluation": {"adapters": {"judge": "mine"}},
    }
    project.write("hub.yaml", json.dumps(hub))
    with Server() as empty:

        def examined(*words: str, **variables: str) -> dict[str, tuple[str, str]]:
            done = command(project, empty, "doctor", "--json", *words, **variables)
            assert str(Path.home()) not in done.stdout
            return {
                item["name"]: (item["state"], item["says"] + item["remedy"])
                for item in json.loads(done.stdout)
            }

        found = examined("--configfile", "hub.yaml")
        assert found["Modal token"][0] == found["Modal server"][0] == "ok"
        for name in ("volume probeline-data", "volume probeline-weights", "app"):
            assert found[name][0] == "not needed"
            assert "probeline remote deploy" in found[name][1]
        assert found["secret huggingface-secret"][0] == "missing"
        assert "modal secret create huggingface-secret HF_TOKEN=…" in found["secret huggingface-secret"][1]
        assert found["secret gemini-secret"][0] == "not needed"
        assert found["secret my-lab-secret"][0] == "missing"
        assert examined(MODAL_TOKEN_SECRET="as-another")["Modal token"][0] == "wrong"
        assert "a Modal volume is missing".lower() in command(project, empty, "list").stderr.lower()
        assert "probeline-data is missing" in command(project, empty, "status").stdout

        empty.secrets["huggingface-secret"] = {"OTHER": "hf_private"}
        empty.secrets["gemini-secret"] = {"GEMINI_API_KEY": "gm_private"}
        assert command(project, empty, "deploy").returncode == 0
        found = examined("--configfile", "hub.yaml")
        assert found["app"][0] == found["volume probeline-data"][0] == "ok"
        assert found["secret gemini-secret"][0] == "ok"
        assert found["secret huggingface-secret"][0] == "missing"
        assert "there, but without HF_TOKEN" in found["secret huggingface-secret"][1]
        assert "private" not in str(found)

        # A deployed app would go on with the volumes that were deleted.
        delete = [sys.executable, "-m", "modal", "volume", "delete", "--yes", DATA_VOLUME]
        subprocess.run(delete, env=environment(project, empty), check=True, capture_output=True)
        assert "was deployed already" not in command(project, empty, "deploy").stdout
        assert "No probe or adapter" in command(project, empty, "list").stdout
