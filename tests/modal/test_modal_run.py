"""A run on Modal: the same artifacts, nothing paid twice, and a record of where it was and what it cost."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from probeline.digests import sha256_bytes
from probeline.files import write_manifest
from probeline.lineage.records import read_record, record_path
from tests.modal.loopback import Server
from tests.modal.projects import PROBE, run_on_modal
from tests.unit.tiny import make_adapter
from tests.workflow.conftest import TINY, Project, artifacts

GPU_JOBS = 5
"""Two shards of trust, as many of its role-masked twin, and the tokens of its worst games."""
TOKENS = "results/transcripts/trust_lr_l2"


def of_trust(project: Project) -> dict[str, bytes]:
    """What a run made, without the report, and the results of the other concept that the tiny config has."""
    made = artifacts(project.folder)
    other = ("results/report.html", *(name for name in made if "collusion" in name))
    return {name: made[name] for name in made if not (name.startswith("results/") and name in other)}


def requests_from_here(server: Server) -> list[str]:
    """Names of the procedures that were called, but for those that containers call."""
    return [request["name"] for request in server.requests("*") if not request["task"]]


@pytest.fixture(scope="module")
def run(local_run: Project, server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """The same with all results made on the loopback service; and what it printed."""
    project = local_run.copy(tmp_path_factory.mktemp("remote") / "project")
    shutil.rmtree(project.folder / "results")
    shutil.rmtree(project.folder / ".probeline")
    project.write("one.yaml", "modal: {containers: 1}\n")
    done = run_on_modal(project, server, PROBE, TOKENS, config=(TINY, "one.yaml"))
    assert done.returncode == 0, done.stdout
    return project, done.stdout


def test_what_is_made_on_modal_is_what_is_made_here_byte_for_byte(
    run: tuple[Project, str], local_run: Project
) -> None:
    assert artifacts(run[0].folder) == of_trust(local_run)


def test_one_container_loads_the_model_for_all_shards(run: tuple[Project, str], server: Server) -> None:
    models = [container for container in server.containers() if container["function"].startswith("Model")]
    assert sum(len(container["inputs"]) for container in models) == GPU_JOBS
    loads = [line["data"] for line in server.logs() if line["data"].startswith("Loaded tiny")]
    assert len(loads) == len(models) == 1


def test_the_record_says_where_it_ran_and_what_it_cost(run: tuple[Project, str], server: Server) -> None:
    calls = {call["call"] for call in server.calls()}
    shard = read_record(record_path(run[0].folder / "results/activations/trust/shard-0-of-2"))
    assert shard.cost["backend"] == "modal"
    assert shard.cost["gpu"] == "L4"
    assert shard.cost["callId"] in calls
    paid = shard.cost["seconds"] + shard.cost["startSeconds"]
    # An L4, four cores and 16 GiB, a second.
    assert shard.cost["usd"] == pytest.approx(paid * (0.000222 + 4 * 0.0000131 + 16 * 0.00000222), abs=2e-6)
    probe = read_record(record_path(run[0].folder / PROBE))
    assert probe.cost["gpu"] is None
    assert probe.cost["usd"] > 0
    assert f"On Modal: {GPU_JOBS + 1} jobs" in run[1]


def test_all_of_it_is_on_the_volume_with_equal_digests(run: tuple[Project, str], server: Server) -> None:
    there = {file["sha256"] for file in server.volume("probeline-data").values()}
    for name, data in artifacts(run[0].folder).items():
        if name.startswith("results/"):
            assert sha256_bytes(data) in there, name


def test_records_go_to_the_volume_at_the_end_of_a_run(run: tuple[Project, str], server: Server) -> None:
    there = server.volume("probeline-data")
    for name in (PROBE, "results/activations/trust/shard-0-of-2"):
        assert f"artifacts/{name}.json" in there
        assert f"cas/{sha256_bytes(record_path(run[0].folder / name).read_bytes())}" in there


def test_outputs_of_one_job_are_not_sent_to_the_next(run: tuple[Project, str], server: Server) -> None:
    sent = {path for path in server.volume("probeline-data") if path.startswith("cas/")}
    activations = run[0].folder / "results/activations/trust/shard-0-of-2/activations.safetensors"
    assert f"cas/{sha256_bytes(activations.read_bytes())}" not in sent


def test_lines_of_the_containers_are_in_the_log_and_on_the_screen_once(run: tuple[Project, str]) -> None:
    log = (run[0].folder / "logs/extract_activations/trust/shard-0-of-2.log").read_text()
    assert log.count("games went through the model") == 1
    said = [line for line in run[1].splitlines() if line.startswith("trust/shard-0-of-2: ")]
    assert len([line for line in said if "games went through the model" in line]) == 1


def test_a_second_run_sends_nothing_and_calls_nothing(run: tuple[Project, str], server: Server) -> None:
    before = server.uploaded_bytes(), len(server.calls())
    again = run_on_modal(run[0], server, PROBE)
    assert "Nothing to be done" in again.stdout, again.stdout
    assert (server.uploaded_bytes(), len(server.calls())) == before


def test_what_lies_on_the_volume_is_not_paid_for_again(
    run: tuple[Project, str], local_run: Project, server: Server, tmp_path: Path
) -> None:
    """The results are lost here, or somebody else runs the same: they come from the volume."""
    project = run[0].copy(tmp_path / "project")
    shutil.rmtree(project.folder / "results")
    before = server.uploaded_bytes(), len(server.calls())
    done = run_on_modal(project, server, PROBE, TOKENS)
    assert done.returncode == 0, done.stdout
    assert (server.uploaded_bytes(), len(server.calls())) == before
    assert artifacts(project.folder) == of_trust(local_run)
    assert read_record(record_path(project.folder / PROBE)).cost["reused"] is True
    assert f"On Modal: 0 jobs, 0.0 s, 0.0 s of processor, and {GPU_JOBS + 1} from the volume" in done.stdout


@pytest.mark.slow
def test_an_adapter_from_anywhere_goes_along_and_its_settings_count(
    run: tuple[Project, str], server: Server, tmp_path: Path
) -> None:
    project, shard = run[0].copy(tmp_path / "project"), "results/activations/trust/shard-0-of-2"
    adapter = make_adapter(project.folder / "data/models/tiny", tmp_path / "adapters" / "lora")
    recipe = project.folder / "results/adapters/mafia_sft"
    shutil.copytree(adapter, recipe)
    settings = json.loads((recipe / "adapter_config.json").read_text())
    (recipe / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 64}))
    write_manifest(recipe, "adapter", {})
    recipes = {"mafia_sft": {"method": "sft", "model": "tiny", "dataset": "mafia_sft"}}
    config = (TINY, "adapter.yaml")
    made = []
    for name in (str(adapter), "mafia_sft"):
        model = {"base": "tiny", "adapter": name}
        project.write("adapter.yaml", json.dumps({"model": model, "recipes": recipes}))
        done = run_on_modal(project, server, shard, config=config)
        assert done.returncode == 0, done.stdout
        made.append((project.folder / shard / "activations.safetensors").read_bytes())
    assert made[0] != made[1]
    project.run(shard, "--forcerun", "extract_activations", config=config)
    assert (project.folder / shard / "activations.safetensors").read_bytes() == made[1]


def test_a_profile_whose_config_is_replaced_by_the_command_line_says_so(run: tuple[Project, str]) -> None:
    words = (sys.executable, "-m", "snakemake", "-n", "--cores", "2", PROBE, "--profile", "profiles/modal")
    done = run[0].command(*words, "--config", "seed=1", "--configfile", TINY)
    assert done.returncode == 1
    assert "Add compute=modal to it" in done.stdout
    done = run[0].command(*words, "--config", "seed=1", "compute=modal", "--configfile", TINY)
    assert done.returncode == 0, done.stdout


def test_turning_to_modal_or_back_reruns_nothing(run: tuple[Project, str]) -> None:
    assert not run[0].planned(PROBE)


def test_after_the_run_no_container_is_kept_warm(run: tuple[Project, str], server: Server) -> None:
    windows = [
        request["request"]["settings"]["scaledown_window"]
        for request in server.requests("FunctionUpdateSchedulingParams")
    ]
    assert windows[0] == 300
    assert windows[-1] < 10


def test_a_run_beyond_the_budget_is_refused_before_anything_starts(
    local_run: Project, server: Server, tmp_path: Path
) -> None:
    project = local_run.copy(tmp_path / "project")
    shutil.rmtree(project.folder / "results")
    project.write("cheap.yaml", json.dumps({"modal": {"budget": 0.01}}))
    before = len(requests_from_here(server))
    done = run_on_modal(project, server, PROBE, config=(TINY, "cheap.yaml"))
    assert done.returncode == 1
    assert "more than modal.budget allows, 0.01 USD. Nothing was started." in done.stdout
    assert "Traceback" not in done.stdout
    assert len(requests_from_here(server)) == before
    assert not (project.folder / "results/activations").exists()


def test_costs_of_the_run_are_shown_beside_its_plan(run: tuple[Project, str]) -> None:
    shown = run[0].command(sys.executable, "-m", "probeline.cli", "cost", "--actual", "--json")
    assert shown.returncode == 0, shown.stdout
    assert json.loads(shown.stdout)["total"]["usd"] > 0
