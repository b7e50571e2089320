"""The probes that there are, here or at another git revision, and their download by DVC."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from probeline.digests import sha256_file
from probeline.errors import ProbelineError, near_misses
from probeline.files import atomic_directory
from probeline.lineage import dvc_repository
from probeline.lineage.git import commit_of, git_bytes
from probeline.lineage.hashing import directory_digest, files_of
from probeline.lineage.headlines import headline_path
from probeline.lineage.pointers import parse_pointer, pointer_path
from probeline.lineage.records import SUFFIX as RECORD
from probeline.lineage.records import Record, artifact_of, parse_record

PROBES = Path("results/probes")


@dataclass(frozen=True)
class Probe:
    """A probe as its record, its pointer and its headline figures tell of it.

    Attributes:
        name: of its folder.
        date: when it was made (UTC), ISO 8601.
        sha256: its `dirHash`.
        versioned: whether DVC has a pointer to it.
        here: whether its folder is in this working copy, in whatever version.
        metrics: headline figures; empty where it was never tracked.
    """

    name: str
    date: str
    sha256: str
    versioned: bool
    here: bool
    metrics: dict[str, float]


def list_probes(revision: str | None = None) -> tuple[dict[str, Probe], list[str]]:
    """The probes that have a record in this working copy, or at a git revision.

    Returns:
        Name → probe, and what is wrong with the records that cannot be read.

    Raises:
        ProbelineError: no such revision.
    """
    files = _files_here() if revision is None else _files_at(revision)
    probes, faults = {}, []
    for path in (Path(file) for file in sorted(files) if file.endswith(RECORD)):
        name = artifact_of(path).name
        try:
            probes[name] = _probe(name, parse_record(path, files[path.as_posix()]), files)
        except ProbelineError as error:
            faults.append(str(error))
    return probes, faults


def _probe(name: str, record: Record, files: Mapping[str, bytes]) -> Probe:
    path = f"{PROBES}/{name}"
    metrics = files.get(headline_path(path).as_posix(), b"{}")
    return Probe(
        name=name,
        date=record.metadata["finishedOn"],
        sha256=record.subjects[0].sha256,
        versioned=parse_pointer(files.get(pointer_path(path).as_posix(), b"")) is not None,
        here=Path(path).is_dir(),
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
    """Records, pointers and headline figures of probes in this working copy."""
    found = [
        *PROBES.glob(f"*{RECORD}"),
        *PROBES.glob("*.dvc"),
        *headline_path(str(PROBES / "*")).parent.glob("*"),
    ]
    return {file.as_posix(): file.read_bytes() for file in found if file.is_file()}


def _files_at(revision: str) -> dict[str, bytes]:
    """The same at a git revision, from git's objects: in two processes, however many there are."""
    commit = commit_of(revision)
    if commit is None:
        raise ProbelineError(f"git knows no revision {revision!r}: give a commit, a branch or a tag.")
    folders = (f"{PROBES}/", f"{headline_path(str(PROBES / '*')).parent}/")
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


def get_version(name: str, revision: str, output: Path) -> Probe:
    """Write a probe as it was at a git revision, and check it against the record of then.

    Args:
        name: of the probe, or its path.
        revision: a commit, branch or tag.
        output: a folder that does not exist yet.

    Raises:
        ProbelineError: no such revision or probe, with those that there are; DVC lacks it; it is damaged.
    """
    probes = {name: probe for name, probe in list_probes(revision)[0].items() if probe.versioned}
    probe = probes.get(Path(name).name)
    if probe is None:
        raise ProbelineError(
            f"No probe {name} is versioned at {revision}. {near_misses(Path(name).name, probes)}"
        )
    with atomic_directory(output) as draft:
        dvc_repository.download(f"{PROBES}/{probe.name}", revision, draft / "probe")
        files = files_of(draft / "probe")
        if directory_digest({name: sha256_file(path) for name, path in files.items()}) != probe.sha256:
            raise ProbelineError(
                f"What DVC holds as {probe.name} at {revision} is not what its record says: do not use it."
            )
        for file in (draft / "probe").iterdir():
            file.rename(draft / file.name)
        (draft / "probe").rmdir()
    return probe


def stored_probes(probes: Mapping[str, Probe]) -> set[str]:
    """The names of those whose present version the default remote holds whole."""
    paths = [f"{PROBES}/{name}" for name, probe in probes.items() if probe.versioned]
    return {Path(path).name for path in dvc_repository.stored(paths)} if paths else set()


def as_rows(probes: Mapping[str, Probe]) -> list[list[Any]]:
    """A line of text per probe: name, date, AUROC with interval, the better text, where it is."""
    return [
        [
            probe.name,
            probe.date[:16].replace("T", " "),
            _interval(probe.metrics),
            _number(max((probe.metrics[k] for k in TEXTS if k in probe.metrics), default=None)),
            "yes" if probe.here else "no",
            "yes" if probe.versioned else "no",
        ]
        for probe in probes.values()
    ]


TEXTS = ("text_masked", "text_input")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(metrics: Mapping[str, float]) -> str:
    value = _number(metrics.get("auroc"))
    if "auroc_low" not in metrics:
        return value
    return f"{value} ({metrics['auroc_low']:.3f} to {metrics['auroc_high']:.3f})"
