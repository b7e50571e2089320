"""What the service is asked for, and that the same is never asked for twice."""

import base64
import os
import subprocess
import sys
from typing import Any

import pytest

from probeline.compute.remote import deploy
from tests.modal.loopback import REPOSITORY, Server
from tests.modal.projects import files_of, refused, run, shard, until
from tests.workflow.conftest import Project

modal = pytest.importorskip("modal")

pytestmark = pytest.mark.workflow

SHARDS = [shard(number) for number in range(5)]
H100 = """\
models: {tiny: {gpu: "H100:4"}}
modal: {timeout: 1234, retries: 3, containers: 1, idle: 77, cpu: 2, memory: 3}
"""


def functions(server: Server) -> dict[str, dict[str, Any]]:
    """Name → definition of what the app was deployed with."""
    asked = (entry["request"] for entry in server.requests("FunctionCreate"))
    definitions = [
        request["function"] if "function" in request else ranked["function"] | request["function_data"]
        for request in asked
        for ranked in request.get("function_data", {}).get("ranked_functions", [{}])
    ]
    return {definition["function_name"]: definition for definition in definitions}


def in_project(project: Project, deployed: str) -> None:
    """Deploy in a process of its own: it knows no volume yet."""
    words = f"from probeline.compute.remote.deploy import *; {deployed}"
    environment = os.environ | {"PYTHONPATH": "scripts"}
    subprocess.run([sys.executable, "-c", words], cwd=project.folder, env=environment, check=True)


def test_requests_carry_what_the_config_says_and_a_model_is_loaded_once(
    fresh: Server, project: Project
) -> None:
    project.write("extra.yaml", H100)
    run(project, fresh, *SHARDS)

    names = {
        entry["request"]["deployment_name"]: entry["request"] for entry in fresh.requests("VolumeGetOrCreate")
    }
    assert {"probeline-data", "probeline-weights"} <= set(names)
    deployed = functions(fresh)
    mounts = {
        name: {mount["mount_path"]: mount.get("read_only", False) for mount in function["volume_mounts"]}
        for name, function in deployed.items()
    }
    assert mounts == {
        "Model.*": {"/data": False, "/weights": True},
        "Task.*": {"/data": False},
        "Weights.*": {"/weights": False},
    }
    assert not any(function.get("secret_ids") for function in deployed.values())

    bound = fresh.requests("FunctionBindParams")[-1]["request"]["function_options"]
    assert bound["resources"]["gpu_config"] == {"count": 4, "gpu_type": "H100"}
    assert bound["resources"]["milli_cpu"] == 2000
    assert bound["resources"]["memory_mb"] == 3 * 1024
    assert bound["timeout_secs"] == 1234
    assert bound["retry_policy"]["retries"] == 3
    assert bound["concurrency_limit"] == 1
    assert bound["task_idle_timeout_secs"] == 77
    assert not bound.get("secret_ids")

    [image] = {container["image"] for container in fresh.containers()}
    layers = fresh.images()[image]
    copied = [
        base64.b64decode(file["data"]).decode() for layer in layers for file in layer.get("context_files", [])
    ]
    assert (REPOSITORY / "constraints.txt").read_text() in copied
    commands = " ".join(line for layer in layers for line in layer.get("dockerfile_commands", []))
    assert f"python:{deploy.python_version()}" in commands
    assert deploy.lock_digest() in commands

    # What the run has kept warm ends with it.
    until(lambda: fresh.containers()[0]["ended"])
    assert len({entry["request"]["function_id"] for entry in fresh.requests("FunctionUpdate*")}) == 1

    # Five jobs at once: one container, which loads the model once, and one sending of the model.
    [container] = fresh.containers()
    assert (container["gpu"], len(container["inputs"])) == ("H100:4", 5)
    assert sum(entry["data"].count("Loaded tiny") for entry in fresh.logs()) == 1
    sent = [
        file["path"]
        for entry in fresh.requests("VolumePutFiles2")
        for file in entry["request"]["files"]
        if "models/" in file["path"]
    ]
    # Each file is announced, and once more when its blocks are there.
    assert set(map(sent.count, sent)) <= {1, 2}
    assert len(sent) == len(set(sent)) * 2


def test_two_containers_share_the_work_where_two_are_allowed(fresh: Server, project: Project) -> None:
    project.write("extra.yaml", "modal: {containers: 2}")
    before = len(fresh.containers())
    run(project, fresh, *SHARDS)
    containers = fresh.containers()[before:]
    assert len(containers) == 2
    assert all(container["inputs"] for container in containers)
    assert len({container["pool"] for container in containers}) == 1


def test_what_has_vanished_from_the_volume_is_sent_or_made_again(fresh: Server, project: Project) -> None:
    project.write("extra.yaml", "activations: {shards: 1}")
    whole = "results/activations/collusion/shard-0-of-1"
    run(project, fresh, whole)
    made = files_of(project.folder / whole)
    data = modal.Volume.from_name("probeline-data")

    # An output that is fetched once more, and inputs that were sent.
    outputs = [name for name in fresh.volume("probeline-data") if name.endswith("activations.safetensors")]
    assert outputs
    for name in outputs:
        data.remove_file(name)
    data.remove_file("cas", recursive=True)
    (project.folder / f"{whole}.lineage.json").unlink()
    assert "The job is run again." in run(project, fresh, whole)
    assert files_of(project.folder / whole) == made

    # Inputs that were made there: the next job takes them to be on the volume still.
    data.remove_file("runs", recursive=True)
    said = run(project, fresh, "results/probes/collusion_mms_l1")
    assert "sent again" in said


def test_a_model_of_the_hub_needs_its_secret_and_nothing_else_gets_it(
    fresh: Server, project: Project
) -> None:
    project.write(
        "extra.yaml", f"model: far\nmodels: {{far: {{hub: a/b, revision: {'a' * 40}, depth: 4}}}}\n"
    )
    said = refused(project, fresh, "data/models/far/manifest.json")
    assert "The Modal secret huggingface-secret with HF_TOKEN is missing." in said
    assert "modal secret create huggingface-secret HF_TOKEN=" in said
    assert "Job 0" not in said

    fresh.secrets["huggingface-secret"] = {"HF_TOKEN": "hf_loopback"}
    said = refused(project, fresh, "data/models/far/manifest.json")  # there is no hub here
    options = fresh.requests("FunctionBindParams")[-1]["request"]["function_options"]
    assert len(options["secret_ids"]) == 1
    assert "a/b" in said


def test_a_volume_that_was_deleted_is_named_and_deploying_makes_it_anew(
    fresh: Server, project: Project
) -> None:
    in_project(project, "find_or_deploy()")
    modal.Volume.objects.delete("probeline-weights")
    said = refused(project, fresh, SHARDS[1])
    assert "A Modal volume is missing" in said
    assert "probeline-weights" in said
    assert "probeline remote deploy" in said
    in_project(project, "deploy(app_name())")
    weights = modal.Volume.from_name("probeline-weights").hydrate()
    mounts = functions(fresh)["Model.*"]["volume_mounts"]
    assert weights.object_id in [mount["volume_id"] for mount in mounts]
