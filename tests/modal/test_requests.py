"""What the service is asked for, and that the same is never asked for twice."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import modal
from probeline.compute.remote import before_run, deploy, pools
from tests.modal.loopback import REPOSITORY, Server
from tests.modal.projects import until
from tests.unit.judge_server import judge_server
from tests.workflow.conftest import Project

pytestmark = pytest.mark.workflow

TEXT = "data/text.txt"


def functions(server: Server) -> dict[str, dict[str, Any]]:
    """Name → definition of what the app was deployed with."""
    asked = (entry["request"] for entry in server.requests("FunctionCreate"))
    definitions = [
        request["function"] if "function" in request else ranked["function"] | request["function_data"]
        for request in asked
        for ranked in request.get("function_data", {}).get("ranked_functions", [{}])
    ]
    return {definition["function_name"]: definition for definition in definitions}


def test_requests_carry_what_the_config_says(fresh: Server, small: ModuleType) -> None:
    asked = {"timeout": 1234, "retries": 3, "containers": 2, "idle": 77, "cpu": 2, "memory": 3}
    for number in range(3):
        small.run(f"results/sweeps/of.requests/{number}", TEXT, **asked)

    names = {entry["request"]["deployment_name"] for entry in fresh.requests("VolumeGetOrCreate")}
    assert {"probeline-data", "probeline-weights"} <= names
    deployed = functions(fresh)
    mounts = {
        name: {mount["mount_path"]: mount.get("read_only", False) for mount in function["volume_mounts"]}
        for name, function in deployed.items()
    }
    assert mounts == {
        "Model.*": {"/data": False, "/weights": True},
        "Task.*": {"/data": False},
        "Training.*": {"/data": False, "/weights": True},
        "Weights.*": {"/weights": False},
    }
    assert not any(function.get("secret_ids") for function in deployed.values())

    bound = fresh.requests("FunctionBindParams")[-1]["request"]["function_options"]
    assert not bound["resources"].get("gpu_config", {}).get("count")
    assert bound["resources"]["milli_cpu"] == 2000
    assert bound["resources"]["memory_mb"] == 3 * 1024
    assert bound["timeout_secs"] == 1234
    assert bound["retry_policy"]["retries"] == 3
    assert bound["concurrency_limit"] == 2
    assert bound["task_idle_timeout_secs"] == 77
    assert not bound.get("secret_ids")

    [container] = fresh.containers()  # it serves one job after another
    assert len(container["inputs"]) == 3
    layers = fresh.images()[container["image"]]
    copied = [
        base64.b64decode(file["data"]).decode() for layer in layers for file in layer.get("context_files", [])
    ]
    assert (REPOSITORY / "constraints.txt").read_text() in copied
    commands = " ".join(line for layer in layers for line in layer.get("dockerfile_commands", []))
    assert f"python:{deploy.python_version()}" in commands
    assert deploy.lock_digest() in commands

    # What a run has kept warm ends with it.
    pools.close_pools()
    until(lambda: fresh.containers()[0]["ended"])
    assert len({entry["request"]["function_id"] for entry in fresh.requests("FunctionUpdate*")}) == 1
    assert not [*Path(".probeline/modal/pools").glob("*.json")]


def test_a_judge_gets_its_key_from_a_secret_that_goes_to_its_containers_alone(
    fresh: Server, small: ModuleType, small_project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    key, artifact, needed = "sk-of-the-test", "results/sweeps/judged", "my-lab-secret=MY_LAB_API_KEY"
    assert before_run.main([needed]) == 1
    assert "`modal secret create my-lab-secret MY_LAB_API_KEY=…` makes it." in capsys.readouterr().out
    fresh.secrets["my-lab-secret"] = {"OTHER": key}
    assert before_run.main([needed]) == 1
    fresh.secrets["my-lab-secret"] = {"MY_LAB_API_KEY": key}
    assert before_run.main([needed]) == 0

    with judge_server(lambda completion, attempt: '{"score": 0.5}') as judge:
        mine = judge.settings(key="MY_LAB_API_KEY")
        small_project.write("judges.yaml", json.dumps({"judges": {"mine": mine}}))
        asked = {"judge": {"name": "mine"}}
        small.run(artifact, TEXT, small.ask_judge, asked, configfiles=[Path("judges.yaml")])
        pools.close_pools()
        assert judge.keys == {f"Bearer {key}"}
    assert json.loads((small_project.folder / artifact / "scores.json").read_bytes()) == [0.5]

    bound = [entry["request"]["function_options"] for entry in fresh.requests("FunctionBindParams")]
    assert len(bound[-1]["secret_ids"]) == 1
    assert not any(function.get("secret_ids") for function in functions(fresh).values())
    told = [json.dumps(what) for what in (fresh.requests("*"), fresh.logs())]
    told += [path.read_text(errors="replace") for path in small_project.folder.rglob("*") if path.is_file()]
    told += [
        b"".join(modal.Volume.from_name("probeline-data").read_file(path)).decode(errors="replace")
        for path in fresh.volume("probeline-data")
    ]
    assert not [text for text in told if key in text]


def test_a_volume_that_was_deleted_is_named_and_deploying_makes_it_anew(
    fresh: Server, small: ModuleType, small_project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    modal.Volume.objects.delete("probeline-weights")
    assert before_run.main([]) == 1
    said = capsys.readouterr().out
    assert "A Modal volume is missing" in said
    assert "probeline-weights" in said
    assert "probeline remote deploy" in said
    # In a process of its own: it knows no volume yet.
    subprocess.run(
        [sys.executable, "-m", "probeline.cli", "remote", "deploy"],
        env=os.environ | {"PYTHONPATH": str(small_project.folder / "scripts")},
        check=True,
    )
    weights = modal.Volume.from_name("probeline-weights").hydrate()
    mounts = functions(fresh)["Model.*"]["volume_mounts"]
    assert weights.object_id in [mount["volume_id"] for mount in mounts]
