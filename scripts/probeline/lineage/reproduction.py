"""Making an artifact again in a clean checkout, and comparing every step with its record."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from probeline.errors import ProbelineError
from probeline.lineage.comparison import Comparison, compare, environment_differences
from probeline.lineage.environment import SOURCES
from probeline.lineage.graph import Lineage
from probeline.lineage.hashing import STAT_CACHE, digests_of
from probeline.lineage.places import local_values, roots_of
from probeline.lineage.records import Record, moment_text, record_path
from probeline.lineage.preconditions import require_code, require_inputs, require_own_files, require_records
from probeline.stat_cache import StatCache

WORK = Path(".probeline/reproduce")
"""Checkouts lie here: on the disk of the artifacts, and ignored by git."""
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
    with _checkout(target, dirty, keep) as (folder, sources):
        require_code(steps, folder)
        _remove_artifacts(steps, folder)
        _link_inputs(config, folder)
        fetched = [step for step in steps if step.rule == "fetch_model"]
        brought = {step.name for step in fetched if step is not target and _bring_model(step, folder)}
        models = {step.name: _origin(step, step.name in brought) for step in fetched}
        started, since = time.perf_counter(), moment_text(datetime.now(UTC))
        _snakemake(target, config, folder, cores)
        seconds = time.perf_counter() - started
        artifacts = [compare(step, folder, since) for step in steps if step.name not in brought]
        environment = environment_differences(target, folder)
    return Reproduction(target.name, sources, round(seconds, 1), models, environment, artifacts)


def _remove_artifacts(steps: list[Record], folder: Path) -> None:
    """Take out of the checkout what is to be made: git may hold artifacts, and holds records."""
    for step in steps:
        for path in (*(folder / subject.name for subject in step.subjects), folder / step.path):
            if not path.parent.resolve().is_relative_to(folder.resolve()):
                raise ProbelineError(
                    f"{path.relative_to(folder).parent} is a link out of the checkout: what lies there would be "
                    "made again in place. Take the link out of git."
                )
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


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


@contextmanager
def _checkout(target: Record, dirty: bool, keep: Path | None) -> Iterator[tuple[Path, str]]:
    """A folder with the sources, and where they are from; removed at the end."""
    source = target.other_dependency("source")
    prefix = _git("rev-parse", "--show-prefix", fault="no git repository").rstrip("\n") if source else ""
    dirty_files = source["annotations"].get("dirty", []) if source else []
    changed = [file for file in dirty_files if _matters(file.removeprefix(prefix))]
    if keep is not None and keep.exists():
        raise ProbelineError(f"{keep} exists; name a folder that does not.")
    if not dirty and source is None:
        raise ProbelineError(f"{target.name} was made outside git. --dirty takes the sources that lie here.")
    if not dirty and changed:
        raise ProbelineError(
            f"{target.name} was made with sources that were not committed: {', '.join(changed)}. --dirty "
            "takes the sources as they lie here, if they are still those that ran."
        )
    WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK, ignore_cleanup_errors=True) as temporary:
        folder = (keep or Path(temporary) / "checkout").absolute()
        if dirty or source is None:
            folder.mkdir(parents=True)
            for name in (*SOURCES, "profiles", "constraints.txt"):
                copy = shutil.copytree if Path(name).is_dir() else shutil.copy2
                if Path(name).exists():
                    copy(name, folder / name)
            yield folder, "with the sources that lie here"
            return
        commit = source["digest"]["gitCommit"]
        _git(
            "worktree",
            "add",
            "--quiet",
            "--detach",
            str(folder),
            commit,
            fault=f"the recorded commit {commit} cannot be checked out; fetch it, or use --dirty",
        )
        try:
            # The folder of the Snakefile may lie deeper in the repository.
            yield folder / prefix, f"at commit {commit[:12]}"
        finally:
            if keep is None:
                _git("worktree", "remove", "--force", "--force", str(folder), fault="the checkout stays")


def _matters(file: str) -> bool:
    """Whether an uncommitted source can change a result; the settings are in the record."""
    return not file.startswith("config/") or file.startswith(("config/templates/", "config/retracted.yaml"))


def _git(*arguments: str, fault: str) -> str:
    # No hooks: DVC's would check out the very artifacts that are to be made.
    command = ["git", "-c", f"core.hooksPath={os.devnull}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ProbelineError(f"{fault}: {done.stderr.strip()}")
    return done.stdout


def _link_inputs(config: dict[str, Any], folder: Path) -> None:
    """Let the checkout see the user's own folders that lie in this one and not in git."""
    named = [corpus["root"] for name, corpus in config["corpora"].items()]
    named += [model["path"] for model in config["models"].values() if "path" in model]
    if isinstance(config["model"], dict):
        named.append(config["model"]["adapter"])
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


def _bring_model(step: Record, folder: Path) -> bool:
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
    run = subprocess.run(command, cwd=folder, stdout=sys.stderr, env=environment)
    if run.returncode:
        raise ProbelineError(f"{target.name} could not be made again; what is wrong stands above.")
