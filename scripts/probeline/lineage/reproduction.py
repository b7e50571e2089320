"""Making an artifact again in a clean checkout, and comparing every step with its record."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from probeline.config import users_adapters
from probeline.errors import ProbelineError
from probeline.lineage.checkout import checkout, remove_artifacts
from probeline.lineage.comparison import Comparison, compare, environment_differences
from probeline.lineage.graph import Lineage
from probeline.lineage.hashing import STAT_CACHE, digests_of
from probeline.lineage.places import local_values, roots_of
from probeline.lineage.preconditions import require_code, require_inputs, require_own_files, require_records
from probeline.lineage.records import Record, moment_text, record_path
from probeline.stat_cache import StatCache

RECORDED_CONFIG = "recorded-config.json"


@dataclass(frozen=True)
class Reproduction:
    """What came of making an artifact again.

    Attributes:
        target: its path.
        sources: where the sources came from, in words.
        seconds: the run took.
        models: model → how it came into the checkout; one that was brought there is not compared.
        environment: what differs from the recorded environment, in words.
        artifacts: one comparison per artifact that was made again, what is made first standing first.
    """

    target: str
    sources: str
    seconds: float
    models: dict[str, str]
    environment: list[str]
    artifacts: list[Comparison]

    @property
    def identical(self) -> bool:
        """Whether no artifact differs."""
        return not any(comparison.differences for comparison in self.artifacts)


def reproduce(
    lineage: Lineage,
    target: Record,
    cores: int,
    dirty: bool = False,
    configfiles: Sequence[Path] = (),
    keep: Path | None = None,
) -> Reproduction:
    """Make an artifact again from the raw logs and compare.

    Args:
        lineage: all records.
        target: the record of the artifact.
        cores: for the run.
        dirty: take the present sources instead of those of the recorded commit.
        configfiles: laid over the present config, which says where folders outside are.
        keep: a folder to run in that is left there; by default a temporary one.

    Raises:
        ProbelineError: the sources, the config or the raw logs of the record are not to be had, or the run
            failed.
    """
    steps = lineage.ancestors([target])
    require_records(lineage, steps)
    require_own_files(target)
    config, roots = _config_of(steps, target, configfiles)
    require_inputs(steps, roots)
    with checkout(target, dirty, keep) as (folder, sources):
        require_code(steps, folder)
        remove_artifacts(steps, folder)
        _link_inputs(config, folder)
        models = [step for step in steps if step.rule == "fetch_model"]
        # The target itself is fetched: compared with what was brought, it would always be the same.
        brought = {step.name for step in models if step is not target and bring_model(step, folder)}
        started, since = time.perf_counter(), moment_text(datetime.now(UTC))
        _snakemake(target, config, folder, cores)
        seconds = time.perf_counter() - started
        artifacts = [compare(step, folder, since) for step in steps if step.name not in brought]
        environment = environment_differences(target, folder)
    origins = {step.name: _origin(step, step.name in brought) for step in models}
    return Reproduction(target.name, sources, round(seconds, 1), origins, environment, artifacts)


def _config_of(
    steps: list[Record], target: Record, configfiles: Sequence[Path]
) -> tuple[dict[str, Any], dict[str, Path]]:
    """The recorded config as it is written on this machine, and where the folders outside are."""
    from probeline.config import load_config

    if not target.config:
        raise ProbelineError(
            f"{target.path} holds no config: it was written by an older version. Delete {target.name} and "
            "make it again to have it recorded."
        )
    roots = roots_of(load_config(configfiles))
    config = local_values(target.config, roots)
    for name, corpus in config["corpora"].items():
        if corpus["root"].startswith("raw/") and not Path(corpus["root"]).exists():
            raise ProbelineError(
                f"The logs of {name} lie outside this folder, and the present config does not say where: "
                "give the --configfile that does."
            )
    for step in steps:
        if step.rule == "extract_activations":
            # `auto` depends on the processor.
            config["activations"]["dtype"] = step.params["dtype"]
    if "versions" in config:
        config["versions"] = {**config["versions"], "auto": False}
    return config, roots


def _link_inputs(config: dict[str, Any], folder: Path) -> None:
    """Let the checkout see the user's own folders that lie in this one and not in git."""
    named = [corpus["root"] for name, corpus in config["corpora"].items()]
    named += [model["path"] for model in config["models"].values() if "path" in model]
    named += map(str, users_adapters(config))
    for name in named:
        there = folder / name
        if Path(name).is_absolute() or name.startswith("~") or there.exists():
            continue
        if Path(name).exists() and not record_path(Path(name)).exists() and not _is_made(name):
            there.parent.mkdir(parents=True, exist_ok=True)
            there.symlink_to(Path(name).absolute())


def _is_made(name: str) -> bool:
    """Whether a rule makes what lies there: simulated logs are simulated again."""
    return Path(name).parts[:2] == ("data", "simulated")


def bring_model(step: Record, folder: Path) -> bool:
    """Spare the download of a model that lies here and is what its record says; whether it was spared."""
    if _is_local(step):
        return False
    subject = step.subjects[0]
    files = [Path(subject.name, name) for name in subject.files]
    cache = StatCache(STAT_CACHE)
    found = digests_of(files, cache)
    cache.close()
    if found != list(subject.files.values()):
        return False
    for file in (*files, step.path):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        # No hard link: a job that wrote into it would change the model here.
        shutil.copy2(file, folder / file)
    return True


def _is_local(step: Record) -> bool:
    """Whether a model is made from what lies here, not fetched from a hub."""
    return "random" in step.params["source"] or "path" in step.params["source"]


def _origin(step: Record, brought: bool) -> str:
    if brought:
        return f"taken from {step.name}, where it is what its record says; not made again"
    return "made again" if _is_local(step) else "fetched again"


def _snakemake(target: Record, config: dict[str, Any], folder: Path, cores: int) -> None:
    """Run the workflow in the checkout, with the recorded config and nothing else."""
    import orjson

    (folder / RECORDED_CONFIG).write_bytes(orjson.dumps(config))
    command = [sys.executable, "-m", "snakemake", "--cores", str(cores)]
    command += ["--configfile", RECORDED_CONFIG, "--replace-workflow-config", "--"]
    command += [subject.name for subject in target.subjects]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as run:
        try:
            for line in run.stdout or ():
                # It lies in the checkout, which is deleted in a moment.
                if not line.startswith("Complete log"):
                    print(line, end="", file=sys.stderr, flush=True)
        except BaseException:
            run.kill()
            raise
    if run.returncode:
        raise ProbelineError(f"{target.name} could not be made again; what is wrong stands above.")
