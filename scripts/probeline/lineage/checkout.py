"""A folder of its own with the sources that made an artifact, and nothing made in it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from probeline.errors import ProbelineError
from probeline.lineage.environment import SOURCES
from probeline.lineage.records import Record

WORK = Path(".probeline/reproduce")
"""Checkouts lie here: on the disk of the artifacts, and ignored by git."""


@contextmanager
def checkout(target: Record, dirty: bool, keep: Path | None) -> Iterator[tuple[Path, str]]:
    """A folder with the sources, and where they are from; removed at the end."""
    source = target.other_dependency("source")
    if keep is not None and keep.exists():
        raise ProbelineError(f"{keep} exists; name a folder that does not.")
    if not dirty and source is None:
        raise ProbelineError(f"{target.name} was made outside git. --dirty takes the sources that lie here.")
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
        # The folder of the Snakefile may lie deeper in the repository.
        prefix = _git("rev-parse", "--show-prefix", fault="there is no git repository here").rstrip("\n")
        _require_committed(target, source["annotations"].get("dirty", []), prefix)
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
            yield folder / prefix, f"at commit {commit[:12]}"
        finally:
            if keep is None:
                _git("worktree", "remove", "--force", "--force", str(folder), fault="the checkout stays")


def _require_committed(target: Record, dirty: list[str], prefix: str) -> None:
    """Refuse where the commit is not what ran; git names files from the top of the repository."""
    changed = [file for name in dirty if _matters(file := name.removeprefix(prefix))]
    if changed:
        raise ProbelineError(
            f"{target.name} was made with sources that were not committed: {', '.join(changed)}. --dirty "
            "takes the sources as they lie here, if they are still those that ran."
        )


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


def remove_artifacts(steps: list[Record], folder: Path) -> None:
    """Take out of the checkout what is to be made: git may hold artifacts, and holds records."""
    for step in steps:
        for path in (*(folder / subject.name for subject in step.subjects), folder / step.path):
            if not path.parent.resolve().is_relative_to(folder.resolve()):
                raise ProbelineError(
                    f"{path.relative_to(folder).parent} is a link out of the checkout: what lies there would "
                    "be made again in place. Take the link out of git."
                )
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
