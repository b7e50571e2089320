"""What a run will cost: prices, plans out of records and guesses, the budget, the reference tables."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import grpclib.const
import grpclib.server
import orjson
import pytest
import yaml
from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from probeline.adapters.recipes import settings_of as recipe_settings
from probeline.cli import main
from probeline.compute.cost_tables import read_cost_table, reference_hours
from probeline.compute.plan import (
    PlannedJob,
    RemoteJob,
    keep_plan,
    plan_jobs,
    read_plan,
    require_budget,
    total,
    waiting,
    weights_of,
)
from probeline.compute.prices import OWN_TABLE, parse_gpu, read_prices
from probeline.compute.remote.settings import settings_of
from probeline.config import load_config
from probeline.errors import ProbelineError
from probeline.lineage.graph import Lineage, read_lineage
from tests.unit.lineage_records import write_record

REPOSITORY = Path(__file__).parents[2]
CONFIG: dict[str, Any] = {
    "compute": "modal",
    "model": "llama-70b",
    "models": {"llama-70b": {"hub": "meta-llama/Llama-3.3-70B-Instruct", "gpu": "h100:4"}},
    "modal": {
        **{"gpu": "L4", "cpu": 2, "memory": 16, "containers": 4, "timeout": 3600, "retries": 2, "idle": 300},
        **{"budget": 20, "rules": ["extract_activations", "train_probe"]},
    },
}
MODAL = {"backend": "modal", "gpu": "H100:4", "startSeconds": 0}
SECOND = 4 * 0.001097 + 2 * 0.0000131 + 16 * 0.00000222


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the tables of the repository and nothing else."""
    shutil.copytree(REPOSITORY / "config/costs", tmp_path / "config/costs")
    shutil.copy2(REPOSITORY / "config/prices.yaml", tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path


def shard(index: int, games: int = 10, size: int | None = 10_000) -> RemoteJob:
    name = f"shard-{index}-of-4"
    wildcards = {"concept": "trust", "shard": name}
    return RemoteJob("extract_activations", f"results/activations/trust/{name}", wildcards, size, games)


def ran(index: int, seconds: float, games: int = 10, size: int = 10_000, **cost: Any) -> None:
    """Record an extraction of the past, of dialogues of some size."""
    name = f"shard-{index}-of-4"
    keys = {"train": {f"baseline/game{index}{number}": None for number in range(games)}}
    dialogues = f"data/processed/dialogues/trust/{name}"
    write_record(dialogues, "build_dialogues", games=keys, size=size)
    write_record(
        f"results/activations/trust/{name}",
        "extract_activations",
        {dialogues: "dialogues"},
        keys,
        cost={"seconds": seconds, **MODAL, **cost},
        wildcards={"concept": "trust", "shard": name},
        config={"model": cost.pop("model", "llama-70b")},
    )


def plan(*jobs: RemoteJob, lineage: Lineage | None = None, **modal: Any) -> list[PlannedJob]:
    config = {**CONFIG, "modal": {**CONFIG["modal"], **modal}}
    return plan_jobs(jobs, config, lineage or read_lineage(), read_prices())


# Prices


def test_a_container_costs_its_gpus_cores_and_memory() -> None:
    prices = read_prices()
    assert prices.per_second("H100:4", 2, 16) == pytest.approx(SECOND)
    assert prices.per_second("h100:4", 2, 16) == prices.per_second("H100:4", 2, 16)
    assert prices.per_second("A10G", 0, 0) == prices.per_second("A10", 0, 0) == 0.000306
    assert prices.per_second("A100", 0, 0) == prices.per_second("A100-40GB", 0, 0)
    for none in (None, "none"):
        assert prices.per_second(none, 1, 1) == pytest.approx(0.0000131 + 0.00000222)


def test_four_h100_for_15_minutes_are_about_4_dollars() -> None:
    assert 15 * 60 * read_prices().per_second("H100:4", 2, 16) == pytest.approx(4, abs=0.01)


def test_an_unknown_gpu_gets_its_near_misses() -> None:
    with pytest.raises(ProbelineError, match=r"no price for the GPU H10:4\. Did you mean H100.*H200"):
        read_prices().per_second("H10:4", 1, 1)


@pytest.mark.parametrize("wrong", ["H100:0", "H100:9", "H100:four", "4xH100", "", "H100,A100"])
def test_what_is_no_gpu_is_refused(wrong: str) -> None:
    with pytest.raises(ProbelineError, match="H100:4"):
        parse_gpu(wrong)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gpu": {"T4": 1}}, r"unknown key gpu\. Did you mean gpus"),
        ({"cpu": None}, r"it lacks cpu"),
        ({"cpu": "dear"}, r"cpu is 'dear'; expected USD per second"),
        ({"memory": 0}, r"memory is 0; expected USD per second, a number above 0"),
        ({"gpus": {"H100": True}}, r"gpus\.H100 is True"),
        ({"gpus": {"h100": 0.1}}, r"gpus\.h100: no name of a GPU"),
        ({"gpus": []}, r"gpus is \[\]; expected a mapping"),
        ({"date": "soon"}, r"date is 'soon'; expected a day"),
    ],
)
def test_a_faulty_table_of_prices_is_named_by_its_key(change: dict[str, Any], said: str) -> None:
    file = Path("config/prices.yaml")
    table = {**yaml.safe_load(file.read_text()), **change}
    file.write_text(yaml.safe_dump({key: value for key, value in table.items() if value is not None}))
    with pytest.raises(ProbelineError, match=rf"config/prices\.yaml cannot be used: {said}"):
        read_prices()


# The account's prices


def test_scoring_tokens_is_planned_for_the_games_that_are_shown_not_for_all_that_are_read() -> None:
    name, wildcards = "results/transcripts/trust_lr_l2", {"concept": "trust", "method": "lr", "layers": "2"}
    job = RemoteJob("score_tokens", name, wildcards, 600_000, 60)
    config = {**CONFIG, "report": {"transcripts": 4}}
    start, work = plan_jobs([job], config, read_lineage(), read_prices())
    assert (start.gpu, work.gpu) == ("H100:4", "H100:4")
    assert work.basis.startswith("a guess: 40,000 tokens (from 40 kB of dialogues)")


def rates_server(rates: dict[str, str]) -> dict[str, grpclib.const.Handler]:
    """The three procedures that asking for prices takes."""

    def answering(answer: Any) -> Any:
        async def handle(stream: Any) -> None:
            await stream.recv_message()
            await stream.send_message(answer)

        return handle

    procedures = {
        "ClientHello": (Empty, api_pb2.ClientHelloResponse()),
        "WorkspaceNameLookup": (Empty, api_pb2.WorkspaceNameLookupResponse(workspace_name="own")),
        "WorkspaceBillingRates": (
            api_pb2.WorkspaceBillingRatesRequest,
            api_pb2.WorkspaceBillingRatesResponse(rates=rates),
        ),
    }
    return {
        f"/modal.client.ModalClient/{name}": grpclib.const.Handler(
            answering(answer), grpclib.const.Cardinality.UNARY_UNARY, request, type(answer)
        )
        for name, (request, answer) in procedures.items()
    }


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server on loopback that knows these rates; its URL."""

    class Rates:
        def __mapping__(self) -> dict[str, grpclib.const.Handler]:
            return rates_server(request.param)

    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, daemon=True).start()

    async def start() -> tuple[grpclib.server.Server, int]:
        running = grpclib.server.Server([Rates()])
        await running.start("127.0.0.1", 0)
        assert running._server is not None
        assert running._server.sockets
        return running, running._server.sockets[0].getsockname()[1]

    async def stop(running: grpclib.server.Server) -> None:
        running.close()
        await running.wait_closed()

    running, port = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    yield f"http://127.0.0.1:{port}"
    asyncio.run_coroutine_threadsafe(stop(running), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)


def refresh(**environment: str) -> subprocess.CompletedProcess[str]:
    """`probeline cost --refresh` with nobody's token but what is given."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MODAL_")}
    kept |= {"MODAL_CONFIG_PATH": os.devnull, "PYTHONPATH": str(REPOSITORY / "scripts")}
    command = [sys.executable, "-m", "probeline.cli", "cost", "--refresh"]
    Path("Snakefile").touch()
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True)


TOKEN = {"MODAL_TOKEN_ID": "ak-test", "MODAL_TOKEN_SECRET": "as-test", "MODAL_DISABLE_API_PROXY": "1"}
RATES = {
    **{"gpu_hour_cost_h100": "3.6", "gpu_hour_cost_a100_80gb": "1.8", "cpu_hour_cost": "0.036"},
    **{"mem_gib_hour_cost": "0.0072", "cpu_hour_cost_sandbox": "9", "volume_gib_month_cost": "0.09"},
}


@pytest.mark.parametrize("server", [RATES], indirect=True)
def test_the_prices_of_the_account_go_before_the_projects(server: str) -> None:
    done = refresh(MODAL_SERVER_URL=server, **TOKEN)
    assert done.returncode == 0, done.stderr
    prices = read_prices()
    assert prices.file == OWN_TABLE
    assert dict(prices.gpus) == {"H100": 0.001, "A100-80GB": 0.0005}
    assert (prices.cpu, prices.memory) == (0.00001, 0.000002)
    OWN_TABLE.write_text("cpu: 1\n")
    with pytest.raises(ProbelineError, match="probeline cost --refresh"):
        read_prices()


@pytest.mark.parametrize("server", [{"gpu_hour_cost_h100": "3.6", "cores": "1"}], indirect=True)
def test_rates_of_another_kind_are_not_taken_for_prices(server: str) -> None:
    done = refresh(MODAL_SERVER_URL=server, **TOKEN)
    assert done.returncode == 1
    assert "it lacks cpu. it lacks memory. It has: cores, gpu_hour_cost_h100" in done.stderr
    assert not OWN_TABLE.exists()


def test_without_an_account_or_a_server_the_projects_prices_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("Snakefile").touch()
    monkeypatch.setenv("MODAL_TOKEN_ID", "")
    assert main(["cost", "--refresh"]) == 1
    assert "There is no token for Modal. Make one with `modal token new`" in capsys.readouterr().err
    for name, value in {**TOKEN, "MODAL_SERVER_URL": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    assert main(["cost", "--refresh"]) == 1
    assert "does not answer at http://127.0.0.1:9" in capsys.readouterr().err
    assert read_prices().file == Path("config/prices.yaml")


# The plan


def test_without_records_a_plan_is_a_guess_from_the_size_of_the_model() -> None:
    start, job = plan(shard(0, size=1_000_000))
    assert (start.gpu, job.gpu) == ("H100:4", "H100:4")
    assert start.seconds == 20 + 140e9 / 1e9
    # 2 x 70e9 x 1e6 tokens at 40 % of one H100.
    assert job.seconds == pytest.approx(5 + 2 * 70e9 * 1e6 / (0.4 * 989e12), abs=0.1)
    assert job.basis == "a guess: 1,000,000 tokens (from 1 MB of dialogues), 70 billion parameters"
    assert job.usd == pytest.approx(job.seconds * SECOND, abs=1e-4)


def test_the_model_is_loaded_once_in_each_container() -> None:
    jobs = [shard(index) for index in range(4)]
    for containers, loads in ((1, 1), (2, 2), (9, 4)):
        start, *rest = plan(*jobs, containers=containers)
        assert start.seconds == loads * 160
        assert len(rest) == 4


def test_an_evaluation_of_adapters_gets_the_gpu_of_its_model_and_the_limits_of_its_recipes() -> None:
    recipe = {"method": "sft", "model": "llama-70b", "dataset": "acts", "gpu": "A10", "memory": 32}
    config = {
        **CONFIG,
        "recipes": {"a": {**recipe, "timeout": 7200}},
        "datasets": {"acts": {"kind": "sft", "corpus": "mafia"}},
        "evaluation": {"adapters": {"checkpoints": False, "judge": "local", "match_judge": None}},
        "comparisons": {"both": {"of": ["base", "a"]}},
    }
    for rule, name in (("evaluate_adapter", "a"), ("compare_adapters", "both")):
        found = settings_of(rule, config, name)
        assert (found.gpu, found.memory, found.timeout) == ("H100:4", 32, 7200)
    assert settings_of("train_sft", config, "a").gpu == "A10"
    job = RemoteJob("compare_adapters", "results/x", {"comparison": "both"}, 1, None, None)
    (planned,) = plan_jobs([job], config, None, read_prices())
    assert (planned.gpu, planned.seconds) == ("H100:4", 7200)


def planned_training(**recipe: Any) -> PlannedJob:
    """The plan of one training of the full-size mafia_sft, or of one that differs from it."""
    settings = {"method": "sft", "model": "qwen2.5-7b", "dataset": "acts", "epochs": 3, "max_steps": None}
    settings |= {"gpu": "A100-80GB:2", "memory": 96, "timeout": 14400}
    config = {
        **CONFIG,
        "models": {**CONFIG["models"], "qwen2.5-7b": {"hub": "Qwen/Qwen2.5-7B-Instruct"}},
        "recipes": {"mafia_sft": settings | recipe},
    }
    job = RemoteJob("train_sft", "results/adapters/mafia_sft", {"recipe": "mafia_sft"})
    (planned,) = plan_jobs([job], config, read_lineage(), read_prices())
    return planned


def test_a_training_is_expected_to_take_what_it_took_or_what_the_reference_says() -> None:
    planned = planned_training()
    assert planned.seconds == 3 * 3600
    assert planned.basis == "the reference system's 3.00 h on A100-80GB:2 (config/costs/mafia.yaml)"
    assert planned.usd == pytest.approx(3 * 3600 * read_prices().per_second("A100-80GB:2", 2, 96), abs=1e-4)
    assert planned_training(timeout=7200).seconds == 7200
    shorter = planned_training(max_steps=12)
    assert (shorter.seconds, shorter.basis) == (14400, "the most: its time limit of 14,400 s")

    figures = {"steps": 50, "resumed_from_step": 150}
    write_record(
        "results/adapters/mafia_sft",
        "train_sft",
        cost={**MODAL, "seconds": 1000.0, "gpu": "A100-80GB:2", "figures": figures},
        wildcards={"recipe": "mafia_sft"},
        params={"recipe": {"model": "qwen2.5-7b", "epochs": 3, "max_steps": None}},
    )
    # What went on from a checkpoint took its share of the time.
    assert planned_training().seconds == 4000
    assert planned_training().basis == "its last run on A100-80GB:2"
    assert planned_training(gpu="H100").basis.startswith("the reference system's")
    assert planned_training(epochs=1).basis.startswith("the most")


def test_every_full_size_recipe_has_the_hours_of_its_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    recipes = load_config([Path("config/full.yaml")])["recipes"]
    found = {name: reference_hours(name, recipe_settings(name, recipes), read_prices()) for name in recipes}
    assert {name: round(given[0], 2) for name, given in found.items() if given} == {
        **{"mafia_sft": 3, "mafia_dpo": 2, "forecast_sft": 0.75, "forecast_grpo": 1, "support_grpo": 0.55},
        "forecast_sft_quick": 0.25,
    }


def test_a_rule_without_a_model_has_no_gpu() -> None:
    start, job = plan(RemoteJob("train_probe", "results/probes/trust_lr_l2", {}, games=100))
    assert start.gpu is None
    assert job.gpu is None
    assert job.seconds == 15
    assert job.usd == pytest.approx(15 * (SECOND - 4 * 0.001097), abs=1e-4)


def test_a_job_is_expected_to_take_what_it_took() -> None:
    ran(0, 30.0)
    ran(1, 90.0)
    _, job = plan(shard(0))
    assert (job.seconds, job.basis) == (30, "its last run on H100:4, by bytes read")
    _, twice = plan(shard(0, size=20_000))
    assert twice.seconds == 60


def test_a_new_job_is_scaled_from_its_like() -> None:
    for index, seconds in enumerate((30.0, 60.0, 300.0)):
        ran(index, seconds)
    _, job = plan(shard(3, size=20_000))
    assert job.seconds == 120
    assert job.basis == "3 earlier runs of extract_activations on H100:4, by bytes read"
    _, unmade = plan(shard(3, games=5, size=None))
    assert (unmade.seconds, unmade.basis.rpartition(", ")[2]) == (30, "by games")


def test_a_run_that_kept_its_games_counts_for_what_it_computed() -> None:
    ran(0, 10.0, figures={"games": 10, "games_computed": 2})
    ran(1, 1.0, figures={"games": 10, "games_computed": 0})
    _, job = plan(shard(2))
    assert (job.seconds, job.basis.split(" of ")[0]) == (50, "1 earlier run")


@pytest.mark.parametrize("other", [{"gpu": "L4"}, {"backend": "local", "gpu": None}, {"model": "llama-8b"}])
def test_other_gpus_and_models_tell_nothing_of_the_time(other: dict[str, Any]) -> None:
    ran(0, 1000.0, **other)
    _, job = plan(shard(0))
    assert job.basis.startswith("a guess: ")
    assert job.seconds < 100


def test_a_run_here_tells_how_many_tokens_there_are() -> None:
    ran(0, 1000.0, backend="local", gpu=None, figures={"games": 10, "games_computed": 10, "tokens": 5000})
    _, own, other = plan(shard(0), shard(1, games=20))
    assert "5,000 tokens (as in its last run)" in own.basis
    assert "10,000 tokens (as in 1 earlier run by games)" in other.basis


def test_starts_of_the_past_count_too() -> None:
    ran(0, 30.0, startSeconds=100)
    ran(1, 30.0, startSeconds=0)
    start, *_ = plan(shard(0), containers=1)
    assert (start.seconds, start.basis) == (100, "1 earlier start on H100:4")


@pytest.mark.parametrize(
    "cost", [{"figures": {"games": "many", "games_computed": []}}, {"figures": [1]}, {"startSeconds": "x"}]
)
def test_a_strange_record_does_no_harm(cost: dict[str, Any]) -> None:
    ran(0, 30.0, **cost)
    assert plan(shard(0))[1].seconds == 30


def test_the_size_of_a_model_comes_from_its_files_or_its_name() -> None:
    def size(name: str, **model: Any) -> tuple[float, float]:
        return weights_of({"model": name, "models": {name: model}})

    assert size("mine", hub="meta-llama/Llama-3.3-70B-Instruct") == (70e9, 140e9)
    assert size("smollm2-135m", package="x") == (135e6, 270e6)
    assert size("mine", hub="someone/unknown") == (7e9, 14e9)
    manifest = Path("data/models/mine/manifest.json")
    manifest.parent.mkdir(parents=True)
    files = {"model.safetensors": {"bytes": 400}, "tokenizer.json": {"bytes": 9}}
    manifest.write_bytes(orjson.dumps({"dtype": "float32", "files": files}))
    assert size("mine", hub="someone/unknown") == (100, 400)


def test_waiting_containers_are_told_of_beside_the_plan() -> None:
    jobs = plan(*(shard(index) for index in range(4)), containers=2)
    assert waiting(jobs, {"containers": 2, "idle": 300}) == pytest.approx(2 * 300 * SECOND, rel=1e-3)


def test_a_thousand_cheap_jobs_are_not_free() -> None:
    jobs = plan(*[RemoteJob("train_probe", f"results/probes/p{index}", {}, games=1) for index in range(1000)])
    assert total(jobs) > 1000 * 5 * (SECOND - 4 * 0.001097)


# The budget


def test_a_budget_refuses_in_words() -> None:
    jobs = plan(*(shard(index, size=1000 * (index + 1)) for index in range(4)))
    require_budget(jobs, total(jobs))
    with pytest.raises(ProbelineError) as refused:
        require_budget(jobs, 0.01)
    text = str(refused.value)
    assert f"{total(jobs):.2f} USD" in text
    assert "modal.budget allows, 0.01 USD" in text
    assert text.count("results/activations/trust/") == 2  # beside the start, which is the dearest
    assert "shard-3-of-4" in text
    assert "probeline cost --plan" in text


SNAKEFILE = """
from probeline.errors import ProbelineError
from probeline.lineage.planned_run import check_budget
from snakemake.exceptions import WorkflowError

configfile: "config.json"

rule train_probe:
    input:
        activations="results/activations/trust/shard/manifest.json",
    output:
        record="results/probes/trust.lineage.json",
    shell: "touch {output}"

rule extract_activations:
    input:
        dialogues="dialogues/manifest.json",
        model="data/models/m/manifest.json",
    output:
        record="results/activations/trust/{shard}.lineage.json",
        manifest="results/activations/trust/{shard}/manifest.json",
    shell: "touch {output}"

rule build_dialogues:
    input: "processed/manifest.json"
    output: "dialogues/manifest.json"
    shell: "touch {output}"

rule ingest_werewolf:
    input: logs=["raw/game1/stats", "raw/game1/log", "raw/game2/stats"]
    output: "processed/manifest.json"
    shell: "touch {output}"

rule fetch_model:
    output: "data/models/m/manifest.json"
    shell: "touch {output}"

onstart:
    try:
        check_budget(workflow.dag, config)
    except ProbelineError as error:
        raise WorkflowError(str(error))
"""


def snakemake(config: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    Path("config.json").write_bytes(orjson.dumps(config))
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "scripts")}
    command = [sys.executable, "-m", "snakemake", "--cores", "1"]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_run_over_its_budget_ends_before_anything_starts() -> None:
    Path("Snakefile").write_text(SNAKEFILE)
    for file in ("raw/game1/stats", "raw/game1/log", "raw/game2/stats"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text("x" * 1000)
    done = snakemake({**CONFIG, "modal": {**CONFIG["modal"], "budget": 0.01}})
    assert done.returncode == 1
    assert "modal.budget allows, 0.01 USD" in done.stderr
    assert not Path("processed").exists()
    assert not Path("data").exists()
    done = snakemake(CONFIG)
    assert done.returncode == 0, done.stderr
    kept = read_plan()
    assert kept.keys() == {"results/activations/trust/shard", "results/probes/trust"}
    assert "60 tokens (from 3 kB of logs)" in kept["results/activations/trust/shard"]["basis"]
    assert "2 games" in kept["results/probes/trust"]["basis"]


# The command


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    Path("data").mkdir(exist_ok=True)
    assert main(["cost", *words, "--json"]) == 0
    return orjson.loads(capsys.readouterr().out)


def test_what_was_paid_stands_beside_what_was_planned(capsys: pytest.CaptureFixture[str]) -> None:
    ran(0, 30.0, gpuSeconds=120, usd=0.25)
    ran(1, 10.0, backend="local", gpu=None)
    keep_plan(plan(shard(0), shard(1)))
    facts = ask(capsys, "--actual")
    assert facts["total"]["usd"] == 0.25
    assert facts["rules"]["extract_activations"]["gpu_seconds"] == 120
    first, second = (facts["artifacts"][f"results/activations/trust/shard-{index}-of-4"] for index in (0, 1))
    assert (first["gpu"], first["planned_seconds"], first["usd"]) == ("H100:4", 30, 0.25)
    assert second["planned_usd"] is None
    assert main(["cost", "--actual", "results/activations/trust/shard-0-of-4"]) == 0
    shown = capsys.readouterr().out
    assert "modal H100:4" in shown
    assert "planned USD" in shown


def test_the_tables_of_the_references_are_reproduced(capsys: pytest.CaptureFixture[str]) -> None:
    def usd(name: str) -> dict[str, tuple[Any, Any]]:
        return {
            stage["name"]: ([round(end, 2) for end in stage["usd"]], stage["states"])
            for stage in ask(capsys, "--plan", "--table", name)["stages"]
        }

    mafia = ask(capsys, "--plan", "--table", "mafia")
    assert [stage["usd"][0] for stage in mafia["stages"]] == [0.5, 2, 24, 16, 2]
    assert mafia["sum_usd"] == [44.5, 44.5]
    assert mafia["usd"] == [48.95, 48.95]
    for name in ("forecasts", "mafia", "support"):
        for worked_out, stated in usd(name).values():
            assert worked_out == stated
    assert {name: stated for name, (_, stated) in usd("forecasts").items()} == {
        "SFT 1 epoch": [0.5, 0.5],
        "SFT 3 epochs": [1.5, 1.5],
        "GRPO": [1, 1],
    }
    assert [stated for _, stated in usd("support").values()] == [[0.3, 0.6], [0.6, 1.2], [2.5, 3.5]]
    # At 10 USD an hour, rounded up to dollars.
    assert usd("probes") == {"train a probe": ([1.67, 2.5], [2, 3])}
    today = ask(capsys, "--plan", "--table", "probes")["stages"][0]["today"]
    assert today[1] == pytest.approx(4, abs=0.01)
    assert main(["cost", "--plan", "--table", "mafia"]) == 0
    shown = capsys.readouterr().out
    assert "48.95" in shown
    assert read_prices().date in shown


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            "title: x\nstages: [{name: a, gpu: none, hours: 1, price: 1, cost: 2}]",
            r"stages\.0: unknown key cost",
        ),
        ("title: x\nstages: [{name: a, gpu: none, hours: 1}]", r"stages\.0 lacks price"),
        ("title: x\nstages: [{name: a, gpu: H10, hours: 1, price: 1}]", "no price for the GPU H10"),
        ("title: x\nstages: [{name: a, gpu: none, hours: [1], price: 1}]", r"stages\.0\.hours is \[1\]"),
        (
            "title: x\nstages: [{name: a, gpu: none, hours: 1, price: 1, recipe: mafia_sft}]",
            r"stages\.0\.recipe: expected a mapping",
        ),
        ("title: x\nstages: 3", "stages: expected a list"),
        ("- 1", "expected a mapping"),
    ],
)
def test_a_faulty_table_is_named_by_its_key(table: str, said: str) -> None:
    Path("own.yaml").write_text(table)
    with pytest.raises(ProbelineError, match=rf"own\.yaml cannot be used: .*{said}"):
        read_cost_table("own.yaml", read_prices())


def test_a_mistyped_table_gets_its_near_misses(capsys: pytest.CaptureFixture[str]) -> None:
    Path("Snakefile").touch()
    assert main(["cost", "--plan", "--table", "mafai"]) == 1
    assert "Did you mean mafia?" in capsys.readouterr().err
    assert main(["cost", "--actual", "--table", "mafia"]) == 1
    assert "go with --plan" in capsys.readouterr().err
