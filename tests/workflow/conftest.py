"""The workflow as a user runs it: a copy of the repository, real commands, real files."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from probeline.config import load_config
from probeline.lineage.records import SUFFIX
from probeline.logs.simulate_werewolf import simulate_games

REPOSITORY = Path(__file__).parents[2]
TINY = "tests/config/tiny.yaml"
PROBE = "results/probes/collusion_mms_l2"


@dataclass(frozen=True)
class Project:
    """A working copy in which commands run as a user types them."""

    folder: Path

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def snakemake(self, *words: str, config: tuple[str, ...] = (TINY,)) -> subprocess.CompletedProcess[str]:
        base = (sys.executable, "-m", "snakemake", "--cores", "2")
        return self.command(*base, *words, "--configfile", *config)

    def run(self, *targets: str, config: tuple[str, ...] = (TINY,)) -> str:
        """Run to success; the output."""
        done = self.snakemake(*targets, config=config)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def refused(self, *targets: str, config: tuple[str, ...] = (TINY,)) -> str:
        """Run to a failure that is said in words; the output."""
        done = self.snakemake(*targets, config=config)
        assert done.returncode != 0, done.stdout
        assert "Traceback (most recent call last)" not in done.stdout, done.stdout
        return done.stdout

    def planned(self, *targets: str, config: tuple[str, ...] = (TINY,)) -> Counter[str]:
        """Rule → number of jobs that a run would execute now."""
        done = self.command(
            *(sys.executable, "-m", "snakemake", "--dry-run", "--cores", "2", *targets),
            *("--configfile", *config),
        )
        assert done.returncode == 0, done.stdout
        table = done.stdout.partition("Job stats:")[2].partition("\n\n")[0]
        jobs = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}
        jobs.pop("total", None)
        if not jobs:
            assert "Nothing to be done" in done.stdout, done.stdout
        return Counter(jobs)

    def audit(self, *words: str) -> tuple[int, str]:
        """The status and the answer of a question to the records."""
        done = self.command(sys.executable, "-m", "probeline.cli", "audit", *words)
        return done.returncode, done.stdout

    def write(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.folder / path).read_text()
        assert old in text, f"{path} no longer holds {old!r}"
        (self.folder / path).write_text(text.replace(old, new))

    def git(self, *words: str) -> str:
        """Run git to success, as somebody whose settings do not count; the output."""
        who = ("-c", "user.name=someone", "-c", "user.email=someone@example.org", "-c", "gc.auto=0")
        done = self.command("git", *who, *words)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def commit(self, message: str) -> None:
        """Commit everything that git does not ignore, in a new repository where there is none."""
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)

    def copy(self, folder: Path) -> "Project":
        """The same project elsewhere, with its results, metadata and times."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)


def fresh_project(folder: Path) -> Project:
    """A copy of the repository as a clone would have it: sources only."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("Snakefile", "README.md", "pyproject.toml", "constraints.txt", ".gitignore", ".dvcignore"):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, folder / name)
    for name in ("rules", "scripts", "config", "profiles", "report", "tests/config"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    project = Project(folder)
    # Two shards tell what three do, in two thirds of the jobs.
    project.edit(TINY, "shards: 3", "shards: 2")
    return project


def artifacts(folder: Path) -> dict[str, bytes]:
    """Every file that a run made, by its path; the records aside, which say when it was."""
    return {name: data for name, data in written(folder).items() if not name.endswith(SUFFIX)}


def written(folder: Path) -> dict[str, bytes]:
    """Every file that a run wrote, the records included, by its path."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for top in ("results", "data/processed", "data/simulated", "data/models")
        for file in sorted((folder / top).rglob("*"))
        if file.is_file() and file.name != ".snakemake_timestamp"
    }


OWN_LOGS = """\
corpora:
  werewolf:
    root: data/raw/games
"""


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first of pytest's workers to ask makes, and that all of them share."""
    top = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        top = top.parent
    folder, made = top / f"shared-{name}", top / f"shared-{name}.made"
    with (top / f"shared-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def simulated_run(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished run of everything that the tiny config names, on simulated logs. Not to be edited."""
    return Project(
        made_once(tmp_path_factory, "simulated", lambda top: fresh_project(top / "project").run()) / "project"
    )


GAMES = 12
"""On a user's own root: about as few as have both classes in each split."""


def make_own_logs_run(top: Path) -> None:
    """A run on logs inside of the project."""
    project = fresh_project(top / "project")
    project.write("own.yaml", OWN_LOGS)
    simulate_games(7, range(GAMES), project.folder / "data/raw/games")
    (project.folder / "data/raw/games/manifest.json").unlink()
    project.run(PROBE, config=(TINY, "own.yaml"))


@pytest.fixture(scope="session")
def own_logs_run(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished run on a user's own root. Not to be edited: copy it."""
    return Project(made_once(tmp_path_factory, "own", make_own_logs_run) / "project")


OUTSIDE_CONFIG = """\
corpora:
  werewolf:
    root: {}
"""


def make_outside_logs_run(top: Path) -> None:
    """A run on logs beside the project, committed with its records."""
    simulate_games(7, range(GAMES), top / "games")
    (top / "games/manifest.json").unlink()
    project = fresh_project(top / "project")
    project.write("own.yaml", OUTSIDE_CONFIG.format(top / "games"))
    project.run(PROBE, config=(TINY, "own.yaml"))
    project.commit("A probe and its records")


@pytest.fixture(scope="session")
def outside_logs_run(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished run on a corpus outside of the repository, its records in git. Not to be edited: copy it."""
    return Project(made_once(tmp_path_factory, "outside", make_outside_logs_run) / "project")


SHIFT = "results/evaluation/probe_shift/member_after_sft"
EVALUATIONS = ("results/evaluation/adapters/mafia_sft", "results/evaluation/comparisons/support_steps", SHIFT)
ADAPTER_SETTINGS = {
    # The probe and the adapter on the games of one corpus.
    "probe_shifts": {"member_after_sft": {"probe": "mafia_member_mms_l2", "adapter": "mafia_sft"}},
}


def make_adapters_run(top: Path) -> None:
    """All adapters and evaluations of them, and what a run printed."""
    project = fresh_project(top / "project")
    project.edit(TINY, "shards: 2", "shards: 1")
    project.write("adapters.yaml", yaml.safe_dump(ADAPTER_SETTINGS))
    files = [project.folder / TINY, project.folder / "adapters.yaml"]
    # What is printed in the README names no config; so this one is the default here.
    project.write("config/config.yaml", yaml.safe_dump(load_config(files), sort_keys=False))
    (top / "said.txt").write_text(project.run("adapters", *EVALUATIONS))


@pytest.fixture(scope="session")
def adapters_run(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished run of every recipe of the tiny config, with evaluations. Not to be edited: copy it.

    What it printed lies beside it, in said.txt.
    """
    return Project(made_once(tmp_path_factory, "adapters", make_adapters_run) / "project")


@pytest.fixture
def own_logs(own_logs_run: Project, tmp_path: Path) -> Iterator[Project]:
    """A finished run on a user's own root, to be edited."""
    yield own_logs_run.copy(tmp_path / "project")
    shutil.rmtree(tmp_path / "project")
