"""A model of the hub: Modal fetches it where it is needed, and only there."""

import json
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from probeline.digests import sha256_bytes
from probeline.models.fetch import fetch_model
from tests.modal.loopback import Server
from tests.modal.projects import run_on_modal
from tests.workflow.conftest import TINY, Project, fresh_project

REVISION = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/tiny"
SHARD = "results/activations/collusion/shard-0-of-2"
RANDOM = {
    "random": {
        **{"architecture": "llama", "layers": 4, "width": 32, "heads": 2},
        **{"vocabulary": 400, "max_length": 8192, "seed": 0},
    }
}


class Hub(ThreadingHTTPServer):
    """The part of the Hugging Face hub that a download of one model asks for, on the loopback interface."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokens: set[str | None] = set()
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        path = self.path.partition("?")[0]
        if "/tree/" in path:
            files = sorted(self.server.folder.iterdir())
            listed = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}
                for file in files
            ]
            self.reply(json.dumps(listed).encode(), {})
            return
        if path.startswith(f"/api/models/{NAME}"):
            siblings = [{"rfilename": file.name} for file in sorted(self.server.folder.iterdir())]
            self.reply(json.dumps({"id": NAME, "sha": REVISION, "siblings": siblings}).encode(), {})
            return
        file = self.server.folder / path.rpartition("/")[2]
        if not file.is_file():
            self.send_error(404)
            return
        data = file.read_bytes()
        self.reply(data, {"X-Repo-Commit": REVISION, "ETag": f'"{sha256_bytes(data)}"'})

    def do_HEAD(self) -> None:
        self.do_GET()

    def reply(self, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    fetch_model(RANDOM, folder)
    (folder / "manifest.json").unlink()
    with Hub(folder) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


@pytest.fixture(scope="module")
def server(hub: Hub) -> Iterator[Server]:
    with Server(environment={"HF_ENDPOINT": hub.url}) as running:
        # A service that has no more than a run cannot do without.
        for name in ("FunctionCallFromId", "FunctionCallGetInfo", "FunctionUpdateSchedulingParams"):
            running.fault("fail", match=name, status="UNIMPLEMENTED", times=-1)
        yield running


@pytest.fixture(scope="module")
def project(local_run: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """With the dialogues of a run on the same weights, made here."""
    project = local_run.copy(tmp_path_factory.mktemp("project") / "project")
    shutil.rmtree(project.folder / "results")
    shutil.rmtree(project.folder / ".probeline")
    config = {"model": "hubbed", "models": {"hubbed": {"hub": NAME, "revision": REVISION, "depth": 4}}}
    project.write("hub.yaml", json.dumps(config))
    return project


def test_without_the_secret_nothing_starts_and_it_is_named(project: Project, server: Server) -> None:
    done = run_on_modal(project, server, SHARD, config=(TINY, "hub.yaml"))
    assert done.returncode == 1
    assert "modal secret create huggingface-secret HF_TOKEN=" in done.stdout
    assert "Traceback" not in done.stdout
    assert not server.calls()


def test_weights_go_from_the_hub_to_the_volume_and_not_here(
    project: Project, server: Server, hub: Hub
) -> None:
    server.secrets["huggingface-secret"] = {"HF_TOKEN": "hf_of_the_test"}
    done = run_on_modal(project, server, SHARD, config=(TINY, "hub.yaml"))
    assert done.returncode == 0, done.stdout
    assert hub.tokens == {"Bearer hf_of_the_test"}
    assert done.stdout.count("games went through the model") == 1
    here = project.folder / "data/models/hubbed"
    manifest = json.loads((here / "manifest.json").read_text())
    assert not [*here.glob("*.safetensors")]
    assert (here / "tokenizer.json").is_file()
    there = {Path(path).name: file for path, file in server.volume("probeline-weights").items()}
    for name, file in manifest["files"].items():
        assert there[name]["sha256"] == file["sha256"], name
    assert "hf_of_the_test" not in "".join(
        file.read_text(errors="replace") for file in project.folder.rglob("*") if file.is_file()
    )


def test_what_came_here_is_what_the_record_and_the_manifest_say(project: Project) -> None:
    verified = project.command(sys.executable, "-m", "probeline.cli", "audit", "verify")
    assert verified.returncode == 0, verified.stdout


def test_it_is_fetched_once_for_all_who_use_it(project: Project, server: Server, tmp_path: Path) -> None:
    other = fresh_project(tmp_path / "other")
    (other.folder / "hub.yaml").write_text((project.folder / "hub.yaml").read_text())
    before = sum(call["function"].startswith("Weights") for call in server.calls())
    sent = server.uploaded_bytes()
    done = run_on_modal(other, server, "data/models/hubbed", config=(TINY, "hub.yaml"))
    assert done.returncode == 0, done.stdout
    assert server.uploaded_bytes()["volume"] == sent["volume"]
    assert sum(call["function"].startswith("Weights") for call in server.calls()) == before + 1
    manifest = "data/models/hubbed/manifest.json"
    assert (other.folder / manifest).read_bytes() == (project.folder / manifest).read_bytes()


def test_the_activations_are_those_of_the_same_weights_here(project: Project, local_run: Project) -> None:
    name = f"{SHARD}/activations.safetensors"
    one, other = (load_file(folder / name)["mean"] for folder in (local_run.folder, project.folder))
    assert one.tobytes() == other.tobytes()


def test_who_wants_to_use_it_here_is_told_where_its_weights_are(project: Project) -> None:
    done = project.snakemake(SHARD, "--forcerun", "extract_activations", config=(TINY, "hub.yaml"))
    assert done.returncode == 1
    assert "data/models/hubbed holds no weights" in done.stdout
