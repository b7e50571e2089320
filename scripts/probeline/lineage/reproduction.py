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
from pathlib import Path
from typing import Any

from probeline.errors import ProbelineError
from probeline.lineage.comparison import Comparison, compare, environment_differences
from probeline.lineage.environment import SOURCES
from probeline.lineage.graph import Lineage
from probeline.lineage.hashing import STAT_CACHE, digests_of
from probeline.lineage.places import local_values, roots_of
from probeline.lineage.records import Record, record_path
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
        models: model → how it came into the checkout.
        environment: what differs from the recorded environment, in words.
        artifacts: one comparison per artifact on the way, what is made first standing first.
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
        _link_inputs(config, folder)
        models = {step.name: _bring_model(step, folder) for step in steps if step.rule == "fetch_model"}
        started = time.perf_counter()
        _snakemake(target, config, folder, cores)
        seconds = time.perf_counter() - started
        artifacts = [compare(step, folder) for step in steps]
        environment = environment_differences(target, folder)
    return Reproduction(target.name, sources, round(seconds, 1), models, environment, artifacts)


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
    changed = [
        file for file in (source or {"annotations": {"dirty": []}})["annotations"]["dirty"] if _matters(file)
    ]
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
            yield folder, f"at commit {commit[:12]}"
        finally:
            if keep is None:
                _git("worktree", "remove", "--force", "--force", str(folder), fault="the checkout stays")


def _matters(file: str) -> bool:
    """Whether an uncommitted source can change a result; the settings are in the record."""
    return not file.startswith("config/") or file.startswith(("config/templates/", "config/retracted.yaml"))


def _git(*arguments: str, fault: str) -> None:
    # No hooks: DVC's would check out the very artifacts that are to be made.
    command = ["git", "-c", f"core.hooksPath={os.devnull}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ProbelineError(f"{fault}: {done.stderr.strip()}")


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


def _bring_model(step: Record, folder: Path) -> str:
    """Spare the download of a model that lies here and is what its record says."""
    source = step.params["source"]
    if "random" in source or "path" in source:
        return "made again"
    subject = step.subjects[0]
    files = [Path(subject.name, name) for name in subject.files]
    cache = StatCache(STAT_CACHE)
    found = digests_of(files, cache)
    cache.close()
    if found != list(subject.files.values()):
        return "fetched again"
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, folder / file)
        except OSError:  # on another filesystem
            shutil.copy2(file, folder / file)
    shutil.copy2(step.path, folder / step.path)
    return f"taken from {subject.name}, where it is what its record says"


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
