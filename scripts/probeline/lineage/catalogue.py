"""The probes and adapters that there are, here or at another git revision, and their download by DVC."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from probeline.digests import sha256_file
from probeline.errors import ProbelineError, near_misses
from probeline.files import atomic_directory
from probeline.lineage import dvc_repository
from probeline.lineage.git import commit_of, git_bytes
from probeline.lineage.hashing import directory_digest, files_of
from probeline.lineage.headlines import TRAINED_FOR, headline_path
from probeline.lineage.pointers import parse_pointer, pointer_path
from probeline.lineage.records import SUFFIX as RECORD
from probeline.lineage.records import Record, artifact_of, parse_record

FOLDERS = {"probe": Path("results/probes"), "adapter": Path("results/adapters")}
"""Kind → where they lie, in the order of a list."""


@dataclass(frozen=True)
class Made:
    """A probe or adapter as its record, its pointer and its headline figures tell of it.

    Attributes:
        name: of its folder.
        kind: probe or adapter.
        date: when it was made (UTC), ISO 8601.
        sha256: its `dirHash`.
        versioned: whether DVC has a pointer to it.
        here: whether its folder is in this working copy, in whatever version.
        metrics: headline figures; empty where it was never tracked.
    """

    name: str
    kind: str
    date: str
    sha256: str
    versioned: bool
    here: bool
    metrics: dict[str, float]

    @property
    def path(self) -> str:
        """Of its folder in the project."""
        return f"{FOLDERS[self.kind]}/{self.name}"


def list_made(revision: str | None = None) -> tuple[list[Made], list[str]]:
    """The probes and adapters that have a record in this working copy, or at a git revision.

    Returns:
        Probes first, each kind by name; and what is wrong with the records that cannot be read.

    Raises:
        ProbelineError: no such revision.
    """
    files = _files_here() if revision is None else _files_at(revision)
    made, faults = [], []
    for kind, folder in FOLDERS.items():
        for path in (Path(file) for file in sorted(files) if file.endswith(RECORD)):
            if path.parent == folder:
                try:
                    made.append(_made(kind, parse_record(path, files[path.as_posix()]), files))
                except ProbelineError as error:
                    faults.append(str(error))
    return made, faults


def _made(kind: str, record: Record, files: Mapping[str, bytes]) -> Made:
    path = artifact_of(record.path)
    metrics = files.get(headline_path(path.as_posix()).as_posix(), b"{}")
    return Made(
        name=path.name,
        kind=kind,
        date=record.metadata["finishedOn"],
        sha256=record.subjects[0].sha256,
        versioned=parse_pointer(files.get(pointer_path(path.as_posix()).as_posix(), b"")) is not None,
        here=path.is_dir(),
        metrics=_figures(metrics),
    )


def _figures(data: bytes) -> dict[str, float]:
    """The numbers among what a file of headline figures says; none where it is damaged."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return {k: v for k, v in value.items() if isinstance(v, int | float)} if isinstance(value, dict) else {}


def _files_here() -> dict[str, bytes]:
    """Records, pointers and headline figures of probes and adapters in this working copy."""
    found = [
        file
        for folder in FOLDERS.values()
        for pattern in (folder / f"*{RECORD}", folder / "*.dvc", headline_path(str(folder / "*")))
        for file in pattern.parent.glob(pattern.name)
    ]
    return {file.as_posix(): file.read_bytes() for file in found if file.is_file()}


def _files_at(revision: str) -> dict[str, bytes]:
    """The same at a git revision, from git's objects: in two processes, however many there are."""
    commit = commit_of(revision)
    if commit is None:
        raise ProbelineError(f"git knows no revision {revision!r}: give a commit, a branch or a tag.")
    folders = [
        f"{place}/"
        for folder in FOLDERS.values()
        for place in (folder, headline_path(str(folder / "*")).parent)
    ]
    names = (git_bytes("ls-tree", "--name-only", "-z", commit, "--", *folders) or b"").split(b"\0")
    wanted = [
        name for name in names if name.endswith((RECORD.encode(), b".dvc", b".json")) and b"\n" not in name
    ]
    given = b"".join(commit.encode() + b":./" + name + b"\n" for name in wanted)
    answer = git_bytes("cat-file", "--batch", given=given) or b""
    files, at = {}, 0
    for name in wanted:
        head, _, _ = answer[at:].partition(b"\n")
        size = int(head.split()[2])
        at += len(head) + 1
        files[name.decode(errors="replace")] = answer[at : at + size]
        at += size + 1
    return files


def find_made(wanted: str, among: Iterable[Made]) -> Made | None:
    """The one of a path, or of the last part of one; a path of no kind counts as its last part.

    Raises:
        ProbelineError: a probe and an adapter have this name.
    """
    given = Path(wanted)
    found = [one for one in among if one.name == given.name]
    if given.parent in FOLDERS.values():
        found = [one for one in found if FOLDERS[one.kind] == given.parent]
    if len(found) > 1:
        paths = " and ".join(one.path for one in found)
        raise ProbelineError(f"{wanted} is the name of {paths}. Give the path of one.")
    return found[0] if found else None


def get_version(name: str, revision: str, output: Path) -> Made:
    """Write a probe or adapter as it was at a git revision, and check it against the record of then.

    Args:
        name: of the probe or adapter, or its path.
        revision: a commit, branch or tag.
        output: a folder that does not exist yet.

    Raises:
        ProbelineError: no such revision or name, with those that there are; DVC lacks it; it is damaged.
    """
    versioned = [one for one in list_made(revision)[0] if one.versioned]
    made = find_made(name, versioned)
    if made is None:
        misses = near_misses(Path(name).name, [one.name for one in versioned])
        raise ProbelineError(f"No probe or adapter {name} is versioned at {revision}. {misses}")
    with atomic_directory(output) as draft:
        whole = draft / "whole"
        dvc_repository.download(made.path, revision, whole)
        files = files_of(whole)
        if directory_digest({name: sha256_file(path) for name, path in files.items()}) != made.sha256:
            raise ProbelineError(
                f"What DVC holds as {made.name} at {revision} is not what its record says: do not use it."
            )
        for file in whole.iterdir():
            file.rename(draft / file.name)
        whole.rmdir()
    return made


def stored_paths(made: Iterable[Made]) -> set[str]:
    """The paths of those whose present version the default remote holds whole."""
    paths = [one.path for one in made if one.versioned]
    return set(dvc_repository.stored(paths)) if paths else set()


def as_rows(made: Iterable[Made]) -> list[list[str]]:
    """A line of text each: name, kind, date, figures, the better text, where it is."""
    return [
        [
            one.name,
            one.kind,
            one.date[:16].replace("T", " "),
            _interval(one.metrics) if one.kind == "probe" else _change(one.metrics),
            _number(max((one.metrics[k] for k in TEXTS if k in one.metrics), default=None)),
            "yes" if one.here else "no",
            "yes" if one.versioned else "no",
        ]
        for one in made
    ]


TEXTS = ("text_masked", "text_input")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(metrics: Mapping[str, float]) -> str:
    value = f"AUROC {metrics['auroc']:.3f}" if "auroc" in metrics else ""
    if "auroc_low" not in metrics:
        return value
    return f"{value} ({metrics['auroc_low']:.3f} to {metrics['auroc_high']:.3f})"


def _change(metrics: Mapping[str, float]) -> str:
    """Of an adapter: what it was trained for, before and after."""
    for name in TRAINED_FOR.values():
        before, after = (metrics.get(f"{name}_{when}") for when in ("before", "after"))
        if before is not None and after is not None:
            return f"{name.replace('_', ' ')} {before:.3f} to {after:.3f}"
    return ""
