"""Records as they were: git has every version of them."""

from dataclasses import dataclass
from pathlib import Path

from probeline.errors import ProbelineError
from probeline.lineage.git import commit_of, git, git_bytes
from probeline.lineage.records import Record, parse_record, read_record

HERE = "here"
"""Names the version that lies in the working directory."""


@dataclass(frozen=True)
class Version:
    """Records of one moment.

    Attributes:
        revision: a commit's full name, or None for the working directory.
        words: what it is called in an answer.
    """

    revision: str | None
    words: str

    def read(self, path: Path) -> Record | None:
        """The record at a path in this version; None where it had none.

        Raises:
            ProbelineError: it is no record.
        """
        if self.revision is None:
            return read_record(path) if path.is_file() else None
        data = git_bytes("show", f"{self.revision}:./{path.as_posix()}")
        return None if data is None else parse_record(path, data)


def version(revision: str) -> Version:
    """The version that a person names: a commit, branch or tag, or `here`.

    Raises:
        ProbelineError: git knows no such commit.
    """
    if revision == HERE:
        return Version(None, "the record here")
    commit = commit_of(revision)
    if commit is None:
        raise ProbelineError(f"git knows no commit {revision}. `git log --oneline` lists them.")
    return Version(commit, f"{revision} ({described(commit)})")


def described(commit: str) -> str:
    """A commit for a person: its first digits, day and subject."""
    return (git("log", "-1", "--format=%h, %cs: %s", commit) or commit[:12]).strip()


def last_two_versions(path: Path) -> tuple[Version, Version]:
    """The last two versions of a record that differ, the older first.

    The record here against that of HEAD; where these are equal, HEAD's against the one before the last commit
    that changed it.

    Raises:
        ProbelineError: there is only one version, or no git repository.
    """
    if git("rev-parse", "--verify", "--quiet", "HEAD") is None:
        raise ProbelineError(
            "The versions of a record are those that git has, and this is no git repository with a commit."
        )
    here, head = version(HERE), version("HEAD")
    ours, committed = here.read(path), head.read(path)
    if committed is None:
        raise ProbelineError(
            f"{path} is not committed, so there is no other version of it. Commit the records after each "
            "run: git add data results && git commit"
        )
    if ours is not None and ours.sha256 != committed.sha256:
        return head, here
    changes = (git("log", "-2", "--format=%H", "--", path.as_posix()) or "").split()
    if len(changes) < 2:
        raise ProbelineError(
            f"git has one version of {path} only, and it is the one that lies here: it was made once, in "
            f"{described(changes[0]) if changes else 'HEAD'}."
        )
    newer, older = changes
    return Version(older, described(older)), Version(newer, described(newer))
