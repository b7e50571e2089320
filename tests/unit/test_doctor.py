"""What `probeline doctor` finds on this machine; what it asks of Modal is in tests/modal."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probeline.cli import main
from probeline.compute.remote import deploy, doctor
from probeline.compute.remote.secrets import HUB, Secret
from probeline.config import load_config
from tests.workflow.conftest import REPOSITORY

NO_TOKEN = {"MODAL_TOKEN_ID": "", "MODAL_TOKEN_SECRET": "", "MODAL_CONFIG_PATH": os.devnull}
MODAL_CONFIG = '{"compute": "modal"}'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/config").symlink_to(REPOSITORY / "config")
    (tmp_path / "project/modal.yaml").write_text(MODAL_CONFIG)
    return tmp_path / "project"


def run(project: Path, *words: str, **variables: str) -> tuple[int, dict[str, Any], str]:
    """Exit status, name → what was found, and all that was written."""
    done = subprocess.run(
        [sys.executable, "-m", "probeline.cli", *words, "--json"],
        cwd=project,
        env=os.environ
        | NO_TOKEN
        | {"HOME": str(project.parent), "PYTHONPATH": str(REPOSITORY / "scripts")}
        | variables,
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return (
        done.returncode,
        {item["name"]: item for item in json.loads(done.stdout)},
        done.stdout + done.stderr,
    )


Here = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """The same in this process."""
    monkeypatch.chdir(project)
    monkeypatch.setenv("HOME", str(project.parent))

    def run_here(*words: str, **variables: str) -> tuple[int, dict[str, Any], str]:
        for name, value in (NO_TOKEN | variables).items():
            monkeypatch.setenv(name, value)
        status = main([*words, "--json"])
        written = capsys.readouterr()
        found = {item["name"]: item for item in json.loads(written.out)}
        return status, found, written.out + written.err

    return run_here


def test_without_modal_a_missing_token_is_no_fault(here: Here) -> None:
    status, found, _ = here("doctor")
    assert status == 0, found
    assert found["Modal token"]["state"] == "not needed"
    assert {found[name]["state"] for name in ("Python", "packages", "config", "disk", "processor")} == {"ok"}


def test_a_corpus_that_is_not_there_is_a_fault(here: Here, project: Path) -> None:
    (project / "mine.json").write_text('{"corpora": {"mafia": {"root": "nowhere"}}}')
    status, found, _ = here("doctor", "--configfile", "mine.json")
    assert (status, found["corpus mafia"]["state"]) == (1, "missing")
    assert "No logs found in nowhere: it does not exist" in found["corpus mafia"]["says"]
    (project / "nowhere").mkdir()
    (project / "nowhere/one.json").touch()
    status, found, _ = here("doctor", "--configfile", "mine.json")
    assert (status, found["corpus mafia"]["says"]) == (0, "1 files in nowhere")


@pytest.mark.parametrize("words", [("doctor", "--configfile", "modal.yaml"), ("remote", "doctor")])
def test_for_modal_it_is_one(here: Here, words: tuple[str, ...]) -> None:
    status, found, _ = here(*words)
    assert status == 1
    assert found["Modal token"]["state"] == "missing"
    assert "modal token new" in found["Modal token"]["remedy"]


@pytest.mark.parametrize(
    ("rules", "asked"),
    [(["train_grpo"], True), (["evaluate_adapter"], True), (["train_sft", "train_probe"], False)],
)
def test_a_recipe_has_its_judge_and_its_model_there(
    monkeypatch: pytest.MonkeyPatch, rules: list[str], asked: bool
) -> None:
    monkeypatch.chdir(REPOSITORY)
    config = load_config([])
    config["modal"]["rules"] = rules
    config["judges"]["lab"] = {"kind": "openai", "model": "any", "key": "MY_LAB_KEY"}
    config["models"]["far"] = {"hub": "someone/model", "revision": "0" * 40}
    config["recipes"]["support_grpo"] |= {"grid": {"judge": ["local", "lab"]}, "model": "far"}
    needed = {HUB, Secret("my-lab-secret", "MY_LAB_KEY")} if asked else set()
    assert doctor._secrets_needed(config) == needed


def test_neither_the_home_folder_nor_a_token_is_shown(here: Here, project: Path) -> None:
    secret = "as-very-private"
    words = ("remote", "doctor", "--configfile", str(project / "none.yaml"))
    variables = {"MODAL_TOKEN_ID": "ak-private", "MODAL_TOKEN_SECRET": secret}
    status, found, written = here(*words, **variables, MODAL_SERVER_URL=f"http://127.0.0.1:1/{secret}")
    assert status == 1
    assert "~/project/none.yaml" in found["config"]["says"]
    assert found["Modal server"]["state"] == "missing"
    assert "Connection refused" in found["Modal server"]["remedy"]
    for private in (str(project.parent), secret, "ak-private"):
        assert private not in written


def test_a_server_that_takes_the_connection_and_says_nothing_is_given_up(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        variables = {"MODAL_TOKEN_ID": "ak-some", "MODAL_TOKEN_SECRET": "as-some", "MODAL_SERVER_URL": url}
        status, found, written = run(project, "remote", "doctor", **variables)
    assert status == 1
    assert found["Modal server"]["state"] == "missing"
    assert "exception" not in written


def test_packages_of_other_versions_and_lacking_ones_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = (REPOSITORY / "constraints.txt").read_text()
    assert "\norjson==" in lock
    other = "\n".join("orjson==0.1" if line.startswith("orjson==") else line for line in lock.splitlines())
    (tmp_path / "constraints.txt").write_text(other)
    monkeypatch.setattr(deploy, "LOCK_FILE", tmp_path / "constraints.txt")
    finding = state_of("packages")
    assert finding.state == "wrong"
    assert "(locked: 0.1)" in finding.says
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["orjson", "no-such-package>=1"]\n')
    monkeypatch.setattr(deploy, "SCRIPTS", tmp_path / "scripts")
    finding = state_of("packages")
    assert (finding.state, finding.says) == ("missing", "no-such-package")


def test_a_remote_of_dvc_that_is_not_there_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert state_of("DVC remote").state == "not needed"
    subprocess.run(["git", "init", "--quiet"], check=True)
    (tmp_path / ".dvc").mkdir()
    for url, state in (("../../first-push", "ok"), ("../../no/such/folder", "missing")):
        config = f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = {url}\n"
        (tmp_path / ".dvc/config").write_text(config)
        assert state_of("DVC remote").state == state


def state_of(name: str) -> doctor.Finding:
    return next(finding for finding in doctor.examine() if finding.name == name)
