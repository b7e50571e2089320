"""What the jobs of a run that go to Modal will take and cost, said before anything starts.

Expected seconds come from earlier records where there are some, else from a guess that is called one. A plan
holds the start of each container, the loading of the model into it and the work, each once; docs/cost.md says
what it leaves out.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from probeline.adapters.recipes import recipe_points
from probeline.adapters.recipes import settings_of as recipe_settings
from probeline.compute.cost_tables import reference_hours
from probeline.compute.prices import Prices, gpu_text, parse_gpu
from probeline.compute.remote.settings import ALONE, TRAINING, Settings, settings_of
from probeline.config import base_model
from probeline.errors import ProbelineError
from probeline.files import MANIFEST, read_json, write_json

if TYPE_CHECKING:
    from probeline.lineage.graph import Lineage
    from probeline.lineage.records import Record

PLAN = Path(".probeline/plan.json")
"""The last plan of each artifact, to be held against what it took."""
WITHOUT_GPU = ("train_probe", "sweep_probes", "evaluate_transfer", "evaluate_probe_shift")
"""Rules that hold no model."""

UTILISATION = 0.4
"""Of a GPU's peak, in a guess."""
PEAKS = {
    **{"T4": 65e12, "L4": 121e12, "A10": 70e12, "L40S": 362e12, "A100-40GB": 312e12, "A100-80GB": 312e12},
    **{"H100": 989e12, "H200": 989e12, "B200": 2250e12},
}
"""Dense bf16 (T4: fp16) FLOP per second, from the makers' data sheets."""
UNKNOWN_PEAK = 312e12
CORE_PEAK = 0.2e12
"""Of a core of a container without a GPU."""
LOADING = 1e9
"""Bytes of weights per second, from a volume to the GPU."""
STARTING = 20.0
"""Seconds until a container is up and has imported torch."""
PER_JOB = 5.0
"""Seconds of a job around its work: reading, writing, committing."""
PARAMETERS = 7e9
"""Of a model of which nothing tells its size."""
BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}

TOKENS_PER_DIALOGUE_BYTE = 1.0
"""Of the dialogues' files; 0.7 with the embedded default."""
TOKENS_PER_LOG_BYTE = 0.02
"""Of raw logs, which say much that no model is shown; 0.01 with the embedded default."""
TOKENS_PER_GAME = 2000
"""Where not even the logs are there; 1,600 with the embedded default."""
SECONDS_PER_GAME = {
    **{"train_probe": 0.1, "sweep_probes": 1.0, "evaluate_transfer": 0.5, "evaluate_probe_shift": 0.1},
}
"""Of the rules without a GPU, on two cores."""
OF_FEW_GAMES = ("score_tokens",)
"""Rules that put no more games through the model than `report.transcripts` says, of all that they read."""
START = "start of "
"""Begins the name of what is planned for containers that come up."""
DEAREST = 3
"""Jobs that a refusal names."""


@dataclass(frozen=True)
class RemoteJob:
    """A job of a run that goes to Modal.

    Attributes:
        rule: its rule.
        name: the artifact that it makes.
        wildcards: of the rule.
        bytes: of what it reads, the model aside; None where some of it has not been made.
        games: that it reads; None where that is not known.
        log_bytes: of the raw logs of these games; None where they are not there.
    """

    rule: str
    name: str
    wildcards: Mapping[str, str]
    bytes: int | None = None
    games: int | None = None
    log_bytes: int | None = None


@dataclass(frozen=True)
class PlannedJob:
    """What a job, or the start of containers, is expected to take.

    Attributes:
        name: the artifact, or what is started.
        rule: its rule.
        gpu: as Modal is asked for it; None without one.
        cpu: physical cores.
        memory: GiB.
        seconds: that are paid for.
        basis: what the seconds rest upon, in words.
        usd: their price.
    """

    name: str
    rule: str
    gpu: str | None
    cpu: float
    memory: float
    seconds: float
    basis: str
    usd: float

    @property
    def is_start(self) -> bool:
        """Whether it is the start of containers rather than an artifact."""
        return self.name.startswith(START)


@dataclass(frozen=True)
class Earlier:
    """A job of an earlier run.

    Attributes:
        record: its record.
        seconds: of the work alone, as if nothing had been kept from before.
        bytes: of what it read, the model aside; None where that is not known any more.
        games: in what it made.
    """

    record: "Record"
    seconds: float
    bytes: int | None
    games: int | None


def gpu_of(rule: str, config: Mapping[str, Any]) -> str | None:
    """The GPU of a rule's containers, `H100:4`; None without one.

    Raises:
        ProbelineError: the config names none that there can be.
    """
    if rule in WITHOUT_GPU:
        return None
    model = config["models"][base_model(config)]
    return gpu_text(model.get("gpu", config["modal"]["gpu"]))


def plan_jobs(
    jobs: Iterable[RemoteJob], config: Mapping[str, Any], lineage: "Lineage | None", prices: Prices
) -> list[PlannedJob]:
    """The plan of some jobs, and of the containers that they start.

    Args:
        jobs: those of a run that go to Modal.
        config: checked.
        lineage: all records; None for a plan out of guesses alone.
        prices: of Modal.

    Raises:
        ProbelineError: the config names a GPU that has no price.
    """
    settings, jobs = config["modal"], list(jobs)
    earlier = {rule: earlier_jobs(rule, config, lineage) for rule in {job.rule: None for job in jobs}}
    planned = []

    def add(name: str, rule: str, own: Settings, gpu: str | None, seconds: float, basis: str) -> None:
        usd = round(seconds * prices.per_second(gpu, own.cpu, own.memory), 6)
        planned.append(PlannedJob(name, rule, gpu, own.cpu, own.memory, round(seconds, 1), basis, usd))

    # Those that load the model themselves have each a container of their own, whose start their limit holds.
    for rule, count in Counter(job.rule for job in jobs if job.rule not in ALONE).items():
        gpu, containers = gpu_of(rule, config), min(count, settings["containers"])
        seconds, basis = _start(gpu, config, earlier[rule])
        each = "" if containers == 1 else f", {containers} containers"
        add(f"{START}{rule}{each}", rule, settings_of(rule, config), gpu, containers * seconds, basis)
    for job in jobs:
        if job.rule in OF_FEW_GAMES:
            job = _of_few_games(job, config["report"]["transcripts"])
        own = settings_of(job.rule, config, _named(job))
        if job.rule in ALONE:
            add(job.name, job.rule, own, own.gpu, *_work_alone(job, own, config, earlier[job.rule], prices))
        else:
            gpu = gpu_of(job.rule, config)
            add(job.name, job.rule, own, gpu, *_work(job, gpu, config, earlier[job.rule]))
    return planned


def _of_few_games(job: RemoteJob, most: int) -> RemoteJob:
    """A job as large as its share of the games; what else it reads takes next to no time."""
    if not job.games:
        return replace(job, games=most, bytes=None, log_bytes=None)
    share = min(1.0, most / job.games)
    size, logs = (None if count is None else round(count * share) for count in (job.bytes, job.log_bytes))
    return replace(job, games=min(most, job.games), bytes=size, log_bytes=logs)


def _named(job: RemoteJob) -> str | None:
    """The recipe that a job trains, or what it evaluates."""
    return job.wildcards.get("recipe") or job.wildcards.get("comparison")


def _start(gpu: str | None, config: Mapping[str, Any], earlier: Sequence[Earlier]) -> tuple[float, str]:
    """Seconds until one container has its model, and what they rest upon."""
    starts = [one.record.cost.get("startSeconds") for one in earlier if _place(one.record) == gpu]
    known = [start for start in starts if isinstance(start, int | float) and start > 0]
    if known:
        return median(known), _count(len(known), "earlier start") + _on(gpu)
    if gpu is None:
        return STARTING, f"a guess: {STARTING:.0f} s"
    weights = weights_of(config)[1]
    return (
        STARTING + weights / LOADING,
        f"a guess: {STARTING:.0f} s, and {_bytes(weights)} of weights at 1 GB/s",
    )


def _work(
    job: RemoteJob, gpu: str | None, config: Mapping[str, Any], earlier: Sequence[Earlier]
) -> tuple[float, str]:
    """Seconds of a job in a container that is up, and what they rest upon."""
    fitting = [one for one in earlier if _place(one.record) == gpu]
    last = [one for one in fitting if one.record.name == job.name]
    if last:
        seconds, measure = _scaled(job, last)
        return seconds, f"its last run{_where(last, gpu)}{measure}"
    if fitting:
        seconds, measure = _scaled(job, fitting)
        return seconds, f"{_count(len(fitting), 'earlier run')} of {job.rule}{_where(fitting, gpu)}{measure}"
    if job.rule in SECONDS_PER_GAME:
        rate, games = SECONDS_PER_GAME[job.rule], job.games or 0
        return PER_JOB + rate * games, f"a guess: {rate:g} s for each of {_count(games, 'game')}"
    tokens, basis = _tokens(job, earlier)
    parameters, _ = weights_of(config)
    seconds = 2 * parameters * tokens / (UTILISATION * _peak(gpu, config))
    return PER_JOB + seconds, f"a guess: {tokens:,.0f} tokens ({basis}), {_number(parameters)} parameters"


def _work_alone(
    job: RemoteJob, own: Settings, config: Mapping[str, Any], earlier: Sequence[Earlier], prices: Prices
) -> tuple[float, str]:
    """Seconds of a job that trains or evaluates adapters, and what they rest upon; at most its time limit."""
    limit, name = float(own.timeout), _named(job)
    recipes = recipe_points(config["recipes"])
    recipe = recipe_settings(name, recipes) if job.rule in TRAINING and name is not None else None
    last = [
        one
        for one in earlier
        if one.record.name == job.name
        and _place(one.record) == own.gpu
        and (recipe is None or _trains_as_long(one.record, recipe))
    ]
    if last:
        seconds, measure = _scaled(job, last)
        return min(seconds, limit), f"its last run{_where(last, own.gpu)}{measure}"
    found = reference_hours(str(name), recipe, prices) if recipe is not None else None
    if found is not None:
        hours, where = found
        return min(hours * 3600, limit), f"the reference system's {hours:.2f} h on {where}"
    return limit, f"the most: its time limit of {own.timeout:,} s"


def _trains_as_long(record: "Record", recipe: Mapping[str, Any]) -> bool:
    """Whether an earlier training had as many epochs or steps, of the same model."""
    its = record.params.get("recipe")
    alike = ("model", "epochs", "max_steps")
    return isinstance(its, Mapping) and all(its.get(key) == recipe.get(key) for key in alike)


def _peak(gpu: str | None, config: Mapping[str, Any]) -> float:
    """FLOP per second of what computes at a time."""
    wanted = parse_gpu(gpu)
    if wanted is None:
        return CORE_PEAK * config["modal"]["cpu"]
    # The blocks lie on the GPUs one after the other, so one of several computes at a time.
    return PEAKS.get(wanted[0], UNKNOWN_PEAK)


def _scaled(job: RemoteJob, runs: Sequence[Earlier]) -> tuple[float, str]:
    """The median of some runs, scaled to the size of a job where the sizes are known, and by what."""
    for measure, noun in (("bytes", "bytes read"), ("games", "games")):
        size = getattr(job, measure)
        known = [(one.seconds, getattr(one, measure)) for one in runs if getattr(one, measure)]
        if size and known:
            return median(seconds * size / its for seconds, its in known), f", by {noun}"
    return median(one.seconds for one in runs), ""


def _tokens(job: RemoteJob, earlier: Sequence[Earlier]) -> tuple[float, str]:
    """How many tokens a job puts through the model, and whence that is known.

    How often a game is shown depends on the concept: only runs of the same one tell.
    """
    concept = job.wildcards.get("concept")
    rates = []
    for one in earlier:
        tokens = _figures(one.record).get("tokens")
        if not isinstance(tokens, int | float) or not tokens or not one.games:
            continue
        if one.record.name == job.name:
            return tokens * (job.games or one.games) / one.games, "as in its last run"
        if one.record.wildcards.get("concept") == concept:
            rates.append(tokens / one.games)
    if rates and job.games:
        return median(rates) * job.games, f"as in {_count(len(rates), 'earlier run')} by games"
    if job.bytes:
        return job.bytes * TOKENS_PER_DIALOGUE_BYTE, f"from {_bytes(job.bytes)} of dialogues"
    if job.log_bytes:
        return job.log_bytes * TOKENS_PER_LOG_BYTE, f"from {_bytes(job.log_bytes)} of logs"
    return (job.games or 1) * TOKENS_PER_GAME, f"from {_count(job.games or 1, 'game')}"


def earlier_jobs(rule: str, config: Mapping[str, Any], lineage: "Lineage | None") -> list[Earlier]:
    """The jobs of a rule that the records tell of; of those with a model, only with the same one."""
    found = []
    for record in lineage.records.values() if lineage else ():
        if record.rule != rule:
            continue
        model = record.config.get("model")
        name = model.get("base") if isinstance(model, Mapping) else model
        # Those of adapters are compared by their names, and read more models than one.
        if rule not in (*WITHOUT_GPU, *ALONE) and name != base_model(config):
            continue
        one = _earlier(record, lineage)
        if one is not None:
            found.append(one)
    return found


def _earlier(record: "Record", lineage: "Lineage | None") -> Earlier | None:
    """What a record tells of its job; None where it did next to nothing, as its results were kept."""
    done, of = (_figures(record).get(key) for key in ("games_computed", "games"))
    share = done / of if isinstance(done, int) and isinstance(of, int) and of > 0 else 1.0
    steps, before = (_figures(record).get(key) for key in ("steps", "resumed_from_step"))
    if isinstance(steps, int) and isinstance(before, int) and steps + before > 0:
        share = steps / (steps + before)
    if share <= 0:
        return None
    parents = [one for one in lineage.parents(record) if one.rule != "fetch_model"] if lineage else []
    named = {d.record for d in record.dependencies if d.record and d.role != "model"}
    read = sum(subject.bytes for one in parents for subject in one.subjects)
    games = len({key for members in record.games.values() for key in members})
    return Earlier(
        record,
        record.cost["seconds"] / share,
        read if len(parents) == len(named) and read else None,
        games or None,
    )


def _figures(record: "Record") -> Mapping[str, Any]:
    """What a job counted of itself; empty where it counted nothing."""
    figures = record.cost.get("figures")
    return figures if isinstance(figures, Mapping) else {}


def _place(record: "Record") -> str | None:
    """The GPU that a job ran on; `here` for what ran here with a model."""
    cost = record.cost
    if record.rule in WITHOUT_GPU:
        return None
    if cost["backend"] != "modal":
        return "here"
    gpu = cost.get("gpu")
    return gpu if isinstance(gpu, str) else None


def weights_of(config: Mapping[str, Any]) -> tuple[float, float]:
    """Parameters and bytes of weights of the configured model: from its files, else from its name."""
    name = base_model(config)
    model = config["models"][name]
    if "random" in model:
        size = model["random"]
        count = 12.0 * size["layers"] * size["width"] ** 2 + size["vocabulary"] * size["width"]
        return count, 4 * count
    manifest = Path("data/models") / name / MANIFEST
    if manifest.exists():
        said = read_json(manifest)
        weights = sum(
            facts["bytes"] for file, facts in said["files"].items() if file.endswith(".safetensors")
        )
        if weights:
            return weights / BYTES.get(said.get("dtype"), 2), float(weights)
    if "path" in model:
        weights = sum(file.stat().st_size for file in Path(model["path"]).expanduser().glob("*.safetensors"))
        if weights:
            return weights / 2, float(weights)
    found = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)([bm])(?![a-z])", f"{name} {model.get('hub', '')}".lower())
    count = PARAMETERS if found is None else float(found[1]) * (1e9 if found[2] == "b" else 1e6)
    return count, 2 * count


def require_budget(plan: Sequence[PlannedJob], budget: float) -> None:
    """Refuse a run that would cost more than it may.

    Raises:
        ProbelineError: names the total, the budget and the dearest jobs.
    """
    cost = total(plan)
    if cost <= budget:
        return
    dearest = sorted(plan, key=lambda job: -job.usd)[:DEAREST]
    raise ProbelineError(
        f"By its plan this run costs {_usd(cost)} USD on Modal, more than modal.budget allows, "
        f"{budget:g} USD. Nothing was started.\nThe dearest of {_count(len(plan), 'entry', 'entries')}: "
        + "; ".join(f"{job.name} {_usd(job.usd)} USD ({job.basis})" for job in dearest)
        + ".\nRaise modal.budget in the config, or ask for less;"
        " `probeline cost --plan` shows the whole plan."
    )


def total(plan: Iterable[PlannedJob]) -> float:
    """USD."""
    return round(sum(job.usd for job in plan), 4)


def waiting(plan: Sequence[PlannedJob], settings: Mapping[str, Any]) -> float:
    """USD, at most, for containers that wait once for modal.idle seconds, which are not in the plan.

    Args:
        plan: of a run.
        settings: `modal` of the config.
    """
    jobs = Counter(job.rule for job in plan if not job.is_start)
    idle = [
        min(jobs[start.rule], settings["containers"]) * settings["idle"] * start.usd / start.seconds
        for start in plan
        if start.is_start
    ]
    return round(sum(idle), 4)


def keep_plan(plan: Iterable[PlannedJob]) -> None:
    """Keep what is planned for each artifact, over what was planned for it before."""
    kept = read_plan() | {job.name: asdict(job) for job in plan if not job.is_start}
    write_json(PLAN, kept)


def read_plan() -> dict[str, Any]:
    """Artifact → what was last planned for it; empty where nothing was."""
    return dict(read_json(PLAN)) if PLAN.exists() else {}


def _where(runs: Sequence[Earlier], gpu: str | None) -> str:
    places = {one.record.cost["backend"] for one in runs}
    return _on(gpu) if gpu else " here" if places == {"local"} else ""


def _on(gpu: str | None) -> str:
    return f" on {gpu}" if gpu else ""


def _usd(amount: float) -> str:
    return f"{amount:.2f}" if amount >= 0.095 else f"{amount:.4f}"


def _count(count: int, noun: str, several: str | None = None) -> str:
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"


def _bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def _number(count: float) -> str:
    return f"{count / 1e9:.3g} billion" if count >= 1e9 else f"{count / 1e6:.3g} million"
