"""The jobs of a run that go to Modal, out of Snakemake's graph of jobs, and their plan."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probeline.compute.plan import PlannedJob, RemoteJob, keep_plan, plan_jobs, require_budget
from probeline.compute.prices import read_prices
from probeline.errors import ProbelineError
from probeline.files import MANIFEST, read_json
from probeline.judges.chat import require_key
from probeline.lineage.cost import cost_line
from probeline.lineage.graph import PLACES, read_lineage
from probeline.lineage.records import SUFFIX, read_record
from probeline.lineage.walking import walk


def check_budget(dag: Any, config: Mapping[str, Any]) -> None:
    """Refuse a run that would cost more than modal.budget, and keep the plan of one that is not refused.

    Raises:
        ProbelineError: says what it would cost, and the dearest of it.
    """
    plan = plan_of(dag, config)
    if plan:
        require_budget(plan, config["modal"]["budget"])
        keep_plan(plan)


def check_judges(dag: Any, config: Mapping[str, Any]) -> None:
    """Refuse a run whose jobs ask a judge here that lacks its key; those on Modal get it from a secret.

    Args:
        dag: Snakemake's, as `workflow.dag` in `onstart`.
        config: of the run.

    Raises:
        ProbelineError: names the judge, the environment variable and the alternatives.
    """
    for job in dag.jobs:
        spec = job.params.get("spec") if dag.needrun(job) else None
        if isinstance(spec, Mapping) and spec.get("judge"):
            name = spec["judge"]["name"]
            if not job.resources.get("modal"):
                require_key(name, config["judges"][name])


def spent_line(started: float) -> str:
    """What a run took on Modal, in one line; empty where it had nothing made there.

    Args:
        started: seconds since the epoch; older records are not of the run.
    """
    paths = [
        Path(folder) / name
        for place in PLACES
        for folder, _, names in walk(place, lambda _: None)
        for name in names
        if name.endswith(SUFFIX)
    ]
    fresh = [path for path in paths if path.stat().st_mtime >= started]
    there = [record for record in map(read_record, fresh) if record.cost["backend"] == "modal"]
    paid = [record for record in there if not record.cost.get("reused")]
    reused = f", and {len(there) - len(paid)} from the volume" if len(there) > len(paid) else ""
    return f"On Modal: {cost_line(paid)}{reused} (probeline cost --actual)." if there else ""


def plan_of(dag: Any, config: Mapping[str, Any]) -> list[PlannedJob]:
    """The plan of a run; empty where nothing of it goes to Modal."""
    jobs = remote_jobs(dag, config)
    return plan_jobs(jobs, config, read_lineage(), read_prices()) if jobs else []


def remote_jobs(dag: Any, config: Mapping[str, Any]) -> list[RemoteJob]:
    """The jobs that a run has still to do and that go to Modal, with the sizes of what they read.

    Args:
        dag: Snakemake's, as `workflow.dag` in `onstart`.
        config: of the run.
    """
    if config["compute"] != "modal":
        return []
    chosen = [job for job in dag.jobs if dag.needrun(job) and job.rule.name in config["modal"]["rules"]]
    logs: dict[Any, tuple[int, int | None]] = {}
    found = []
    for job in chosen:
        games, log_bytes = _games_below(job, dag, logs)
        record = next(str(file) for file in job.output if str(file).endswith(SUFFIX))
        found.append(
            RemoteJob(
                job.rule.name,
                record.removesuffix(SUFFIX),
                dict(job.wildcards.items()),
                _bytes_read(job),
                games,
                log_bytes,
            )
        )
    return sorted(found, key=lambda job: (job.rule, job.name))


def _bytes_read(job: Any) -> int | None:
    """Bytes of a job's inputs, the model aside; None where one of them has not been made."""
    total = 0
    for role, files in job.input.items():
        if role in ("model", "adapter"):
            continue
        for file in [files] if isinstance(files, str) else files:
            path = Path(file)
            try:
                # The manifest stands for its folder.
                total += _folder_bytes(path) if path.name == MANIFEST else path.stat().st_size
            except (OSError, ProbelineError):
                return None
    return total


def _folder_bytes(manifest: Path) -> int:
    listed = read_json(manifest)["files"].values()
    return manifest.stat().st_size + sum(facts["bytes"] for facts in listed)


def _games_below(
    job: Any, dag: Any, logs: dict[Any, tuple[int, int | None]]
) -> tuple[int | None, int | None]:
    """Games that a job rests upon, and the bytes of their logs; None where that is not known.

    Args:
        job: of the graph.
        dag: the graph.
        logs: what is known of the jobs that read logs, filled on the way.
    """
    seen, pending, readers = {job}, [job], []
    while pending:
        current = pending.pop()
        if current.rule.name.startswith("ingest_"):
            readers.append(current)
            continue
        for parent in dag.dependencies[current]:
            if parent not in seen:
                seen.add(parent)
                pending.append(parent)
    for reader in readers:
        if reader not in logs:
            logs[reader] = _logs_of(reader, dag)
    if not readers:
        return None, None
    games = sum(logs[reader][0] for reader in readers)
    sizes = [size for size in (logs[reader][1] for reader in readers) if size is not None]
    return games, sum(sizes) if len(sizes) == len(readers) else None


def _logs_of(reader: Any, dag: Any) -> tuple[int, int | None]:
    """Games and bytes of the logs that one job reads; of simulated ones not yet made, only the games."""
    for parent in dag.dependencies[reader]:
        if parent.rule.name == "simulate_logs":
            return len(parent.params.spec["indices"]), None
    files = [Path(file) for file in reader.input]
    size = sum(file.stat().st_size for file in files if file.is_file())
    if reader.rule.name != "ingest_werewolf":
        return len(files), size
    return len({file.parent for file in files}), size
