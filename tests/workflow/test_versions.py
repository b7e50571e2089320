"""Artifacts in DVC: what goes in comes out, nothing is touched, and only what changed is handed over."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.workflow.conftest import TINY, Project, artifacts, fresh_project

NAME = "collusion_lr_l2"
PROBE = f"results/probes/{NAME}"
CONFIG = (TINY, "one-shard.yaml")


@dataclass(frozen=True)
class Versioned(Project):
    """A project in git, whose commands see neither CI nor anything of this machine's user."""

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "CI"} | {
            "PYTHONPATH": str(self.folder / "scripts"),
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self.folder.parent / "site"),
            **{f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }
        return subprocess.run(
            words,
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
        )

    def said(self, *words: str, status: int = 0) -> str:
        done = self.command(*words)
        assert done.returncode == status, done.stdout
        return done.stdout

    def probeline(self, *words: str, status: int = 0) -> str:
        return self.said(sys.executable, "-m", "probeline.cli", *words, status=status)

    def dvc(self, *words: str) -> str:
        return self.said(sys.executable, "-m", "dvc", *words)

    def git(self, *words: str) -> str:
        return self.said("git", *words)

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", "a state")

    def pointers(self) -> dict[str, bytes]:
        return {
            str(file.relative_to(self.folder)): file.read_bytes()
            for place in ("data", "results")
            for file in (self.folder / place).rglob("*.dvc")
        }


def stats(folder: Path) -> dict[str, tuple[int, ...]]:
    """All that tracking must leave alone, by file, in artifacts and in the work folder."""
    return {
        str(file): (s.st_ino, s.st_mtime_ns, s.st_ctime_ns, s.st_nlink, s.st_mode)
        for place in ("data", "results", ".probeline/activations")
        for file in sorted((folder / place).rglob("*"))
        if file.is_file() and file.suffix != ".dvc" and (s := file.stat())
    }


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Versioned:
    """A run of one probe, tracked, pushed and committed. Not to be edited: copy it."""
    project = Versioned(fresh_project(tmp_path_factory.mktemp("versions") / "project").folder)
    project.write(CONFIG[1], "shards: 1\ncorpora: {werewolf: {simulated_games: 12}}\n")
    project.git("init", "-q")
    project.commit()
    project.run(PROBE, config=CONFIG)
    before = stats(project.folder)
    said = project.probeline("track", "--push")
    assert "its remote is ../project-dvc" in said
    assert "The remote holds everything that is tracked." in said
    assert stats(project.folder) == before
    project.commit()
    return project


@pytest.fixture
def project(tracked: Versioned, tmp_path: Path) -> Versioned:
    """The same, to be edited; its remote is its own."""
    shutil.copytree(tracked.folder.parent / "project-dvc", tmp_path / "project-dvc")
    return Versioned(tracked.copy(tmp_path / "project").folder)


def clone(project: Versioned, name: str) -> Versioned:
    """A clone beside the project: the relative address of the remote leads to the same folder."""
    project.said("git", "clone", "-q", ".", f"../{name}")
    return Versioned(project.folder.parent / name)


def test_git_holds_pointers_and_records_and_nothing_that_was_made(tracked: Versioned) -> None:
    files = set(tracked.git("ls-files").splitlines())
    assert {"dvc.yaml", ".dvc/config", ".dvcignore", f"{PROBE}.dvc", f"{PROBE}.lineage.json"} <= files
    assert f"metrics/probes/{NAME}.json" in files
    made = {file for file in files if file.startswith(("data/", "results/"))}
    assert made
    assert all(file.endswith((".dvc", ".lineage.json")) for file in made)
    assert not any(file.startswith((".dvc/cache", ".dvc/tmp", ".probeline", ".snakemake")) for file in files)
    assert str(tracked.folder.parent) not in (tracked.folder / ".dvc/config").read_text()
    assert tracked.git("status", "--porcelain", "--untracked-files=all") == ""


def test_snakemake_sees_nothing_of_it(tracked: Versioned) -> None:
    assert not tracked.planned(PROBE, config=CONFIG)


def test_a_clone_pulls_the_same_bytes_and_one_probe_alone(tracked: Versioned) -> None:
    there = clone(tracked, "clone")
    assert f"{PROBE} is versioned, but not here" in there.probeline("get", NAME, "--output", "x", status=1)
    there.dvc("pull", "-q", PROBE)
    pulled = {path for path in artifacts(there.folder) if not path.endswith((".dvc", ".lineage.json"))}
    assert {str(Path(path).parent) for path in pulled} == {PROBE}
    there.dvc("pull", "-q")
    assert artifacts(there.folder) == artifacts(tracked.folder)
    assert there.git("status", "--porcelain", "--untracked-files=all") == ""
    assert "auroc" in there.dvc("metrics", "show")


def test_tracking_again_does_nothing(tracked: Versioned) -> None:
    before = tracked.pointers()
    told = json.loads(tracked.probeline("track", "--json"))
    assert (told["new"], told["changed"], told["renoted"], told["refused"]) == ([], [], [], {})
    assert len(told["unchanged"]) == len(before)
    assert tracked.pointers() == before
    assert tracked.git("status", "--porcelain") == ""


def test_a_run_tracks_what_it_changed_and_the_figures_can_be_compared(project: Versioned) -> None:
    before = project.pointers()
    figures = json.loads((project.folder / f"metrics/probes/{NAME}.json").read_text())
    project.edit("config/config.yaml", "regularization: 100", "regularization: 1")
    assert "versions: 1 artifact handed to DVC" in project.run(PROBE, config=CONFIG)
    after = project.pointers()
    assert {path for path in after if after[path] != before.get(path)} == {f"{PROBE}.dvc"}
    assert after.keys() == before.keys()
    project.commit()
    compared = json.loads(project.dvc("metrics", "diff", "--json", "HEAD~1", "HEAD"))
    auroc = compared[f"metrics/probes/{NAME}.json"]["auroc"]
    assert auroc["old"] == figures["auroc"] != auroc["new"]
    params = json.loads(project.dvc("params", "diff", "--json", "HEAD~1", "HEAD"))
    assert params["config/config.yaml"]["methods.lr.regularization"] == {"old": 100, "new": 1, "diff": -99}
    # The probe of before is still to be had, bit for bit what it was.
    project.probeline("get", NAME, "--rev", "HEAD~1", "--output", "../before")
    kept = json.loads((project.folder.parent / "before/metrics.json").read_text())
    assert kept["test"]["auroc"] == figures["auroc"]


def test_what_is_not_as_its_record_says_is_refused_by_name(project: Versioned) -> None:
    record = project.folder / "data/models/tiny.lineage.json"
    record.write_text(record.read_text().replace('"fetch_model"', '"fetch_modem"'))
    detector = project.folder / PROBE / "detector.pt"
    data, times = detector.read_bytes(), detector.stat()
    detector.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(detector, ns=(times.st_atime_ns, times.st_mtime_ns))
    shard = "data/processed/dialogues/collusion/shard-0-of-1"
    (project.folder / f"{shard}.dvc").unlink()
    before = project.pointers()
    said = project.probeline("track", status=1)
    assert "data/models/tiny.lineage.json was edited after it was written" in said
    assert f"refused: {PROBE}: {PROBE}/detector.pt was changed since" in said
    assert said.count("refused:") == 2
    after = project.pointers()
    assert {path for path in after if after[path] != before.get(path)} == {f"{shard}.dvc"}


def test_pointers_of_what_is_gone_are_named_and_pruned_on_request(project: Versioned) -> None:
    shutil.rmtree(project.folder / PROBE)
    assert "1 not here" in project.probeline("track")
    (project.folder / f"{PROBE}.lineage.json").unlink()
    assert f"{PROBE}.dvc" in project.probeline("track")
    assert f"{PROBE}.dvc" in project.pointers()
    assert not (project.folder / f"metrics/probes/{NAME}.json").exists()
    project.probeline("track", "--prune")
    assert f"{PROBE}.dvc" not in project.pointers()


def test_probes_are_listed_and_what_the_remote_lost_is_noticed_and_pushed_again(project: Versioned) -> None:
    (listed,) = json.loads(project.probeline("list", "--remote", "--json"))
    assert (listed["name"], listed["in_remote"], listed["here"]) == (NAME, True, True)
    assert listed["date"].startswith("20")
    assert 0 <= listed["metrics"]["auroc"] <= 1
    assert f"Did you mean {NAME}?" in project.probeline(
        *("get", "collusion_lr_l1", "--rev", "HEAD", "--output", "../x"), status=1
    )
    assert "git knows no revision 'v9'" in project.probeline("list", "--rev", "v9", status=1)
    shutil.rmtree(project.folder.parent / "project-dvc")
    shutil.rmtree(project.folder / ".dvc/cache")
    (listed,) = json.loads(project.probeline("list", "--remote", "--json"))
    assert not listed["in_remote"]
    before = project.pointers()
    assert "The remote holds everything" in project.probeline("track", "--push")
    assert project.pointers() == before
    there = clone(project, "other")
    there.probeline("get", NAME, "--rev", "HEAD", "--output", "../copy")
    copied = {file.name: file.read_bytes() for file in (project.folder.parent / "copy").iterdir()}
    made = project.folder / PROBE
    assert copied == {f.name: f.read_bytes() for f in made.iterdir() if f.name != ".snakemake_timestamp"}


def test_tracking_without_git_or_a_workflow_says_so(tmp_path: Path) -> None:
    project = Versioned(tmp_path)
    shutil.copytree(Path(__file__).parents[2] / "scripts", tmp_path / "scripts")
    assert "no Snakefile here" in project.probeline("track", status=1)
    (tmp_path / "Snakefile").touch()
    assert "git init" in project.probeline("track", status=1)
    assert not (tmp_path / ".dvc").exists()
