"""An artifact that was made again, beside its record."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probeline.digests import sha256_file
from probeline.errors import ProbelineError
from probeline.lineage.environment import LOCK
from probeline.lineage.file_differences import first_difference
from probeline.lineage.hashing import files_of
from probeline.lineage.records import Record, Subject, read_record


@dataclass(frozen=True)
class Comparison:
    """One artifact.

    Attributes:
        artifact: its path.
        rule: that makes it.
        gpu: whether a GPU made it, then or now.
        differences: what differs, in words: parameters, inputs that no rule made, then files; empty where
            every bit is the same.
    """

    artifact: str
    rule: str
    gpu: bool
    differences: list[str]


def compare(record: Record, folder: Path, since: str) -> Comparison:
    """Compare what was made again in a folder with what the record says, by the bytes that lie there.

    Args:
        record: of the artifact as it was made before.
        folder: the other working directory.
        since: when the other run started, as records say it; what is older was not made by it.
    """
    try:
        again = read_record(folder / record.path)
    except ProbelineError as error:
        return Comparison(record.name, record.rule, False, [f"it was not made: {error}"])
    if again.metadata["startedOn"] < since:
        return Comparison(record.name, record.rule, False, ["it was not made: what lies there is older"])
    differences = [
        f"parameter {name}: {record.params.get(name)!r}, now {again.params.get(name)!r}"
        for name in sorted(record.params.keys() | again.params.keys())
        if record.params.get(name) != again.params.get(name)
    ]
    given = {dependency.name: dependency.sha256 for dependency in again.dependencies}
    differences += [
        f"input {one.name} is another: sha256 {one.sha256[:12]}, now {given.get(one.name, 'missing')[:12]}"
        for one in record.dependencies
        if one.record is None and given.get(one.name) != one.sha256
    ]
    for subject in record.subjects:
        differences += _in_subject(subject, folder)
    gpu = any(one.environment["hardware"]["gpus"] for one in (record, again))
    return Comparison(record.name, record.rule, gpu, differences)


def _in_subject(subject: Subject, folder: Path) -> list[str]:
    made = folder / subject.name
    if made.is_dir():
        recorded, found = subject.files, files_of(made)
    else:
        recorded, found = {"": subject.sha256}, {"": made} if made.is_file() else {}
    differences = []
    for name in sorted(recorded.keys() | found.keys()):
        file = "/".join(filter(None, (subject.name, name)))
        if name not in found:
            differences.append(f"{file} was not made")
        elif name not in recorded:
            differences.append(f"{file} is new")
        elif (now := sha256_file(found[name])) != recorded[name]:
            differences.append(f"{file}: {_where(Path(file), recorded[name], found[name], now)}")
    return differences


def _where(here: Path, digest: str, made: Path, now: str) -> str:
    """The part that differs, where the file as it was recorded is at hand."""
    if here.is_file() and sha256_file(here) == digest:
        return first_difference(here, made)
    return f"sha256 {digest[:12]}, now {now[:12]}; the recorded file is not here, so where is unknown"


def environment_differences(record: Record, folder: Path) -> list[str]:
    """What differs between the environment of a record and that of the same artifact made again, in words."""
    again = read_record(folder / record.path)
    before, now = _flat(record.environment), _flat(again.environment)
    lock = record.other_dependency("lock")
    if lock is not None:
        before[LOCK.name] = lock["digest"]["sha256"][:12]
        now[LOCK.name] = sha256_file(LOCK)[:12] if LOCK.is_file() else "missing"
    return [
        f"{name} {before.get(name, 'none')}, now {now.get(name, 'none')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def _flat(environment: dict[str, Any]) -> dict[str, str]:
    flat = {name: str(environment[name]) for name in ("python", "platform")}
    flat |= environment["packages"]
    hardware = environment["hardware"]
    flat |= {name: str(hardware[name]) for name in ("processor", "cores", "threads")}
    return flat | {"GPUs": ", ".join(hardware["gpus"]) or "none"}
