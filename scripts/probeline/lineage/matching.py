"""Whether an artifact is what its record says."""

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath

from probeline.errors import ProbelineError
from probeline.lineage.checks import check_manifest, check_record
from probeline.lineage.hashing import STAT_CACHE, digests_of, files_of
from probeline.lineage.records import Record, Subject, read_record, record_path
from probeline.stat_cache import StatCache


def require_as_recorded(artifact: Path) -> None:
    """Refuse an artifact that is not what its record says, if it has one: made elsewhere, it has none.

    Raises:
        ProbelineError: says what differs.
    """
    if not record_path(artifact).is_file():
        return
    record = read_record(record_path(artifact))
    files = artifact_files(record)
    paths = list(files.values())
    digests = dict(zip(paths, digests_of(paths, StatCache(STAT_CACHE)), strict=True))
    fault = foreign(record) or mismatch(record, files, digests)
    if fault:
        raise ProbelineError(
            f"{artifact} is not what its record says: {fault}. `probeline audit verify {artifact}` says "
            f"more; or delete it and run snakemake --cores 4 {artifact}"
        )


def artifact_files(record: Record) -> dict[str, Path]:
    """Name → file, for all that lies where an artifact should; what is no regular file counts, too.

    Args:
        record: one that is fit for use, see `unfit`.
    """
    found: dict[str, Path] = {}
    for subject in record.subjects:
        path = Path(subject.name)
        if path.is_dir():
            found |= {f"{subject.name}/{name}": file for name, file in files_of(path).items()}
            found = found or {subject.name: path}
        elif os.path.lexists(path):
            found[subject.name] = path
    return found


def expected_files(record: Record) -> dict[str, str]:
    """Name → digest of the files that an artifact should have."""
    return {name: digest for subject in record.subjects for name, digest in _expected(subject).items()}


def _expected(subject: Subject) -> dict[str, str]:
    """Name → digest of the files that a subject should have."""
    if not subject.files:
        return {subject.name: subject.sha256}
    return {f"{subject.name}/{name}": digest for name, digest in subject.files.items()}


def recorded_digest(record: Record, name: str) -> str | None:
    """What a record says of a file of its artifact."""
    for subject in record.subjects:
        if name in (expected := _expected(subject)):
            return expected[name]
    return None


def unfit(record: Record) -> str | None:
    """Why nothing that a record says may be used, whatever lies beside it."""
    if fault := foreign(record):
        return fault
    try:
        for key in ("startedOn", "finishedOn"):
            datetime.fromisoformat(record.metadata[key])
    except ValueError:
        return f"its record gives no moment as {key}"
    finding = check_record(record)
    return None if finding is None else edited(finding.says)


def edited(says: str) -> str:
    """What `audit verify` finds in a record, as the reason of a refusal."""
    return f"its record was edited. {says.removesuffix('.')}"


def foreign(record: Record) -> str | None:
    """Whether a record speaks of files elsewhere: one that was copied or forged must not touch them."""
    if not isinstance(record.outputs, list) or not all(isinstance(name, str) for name in record.outputs):
        return "its record names no outputs"
    if any(PurePosixPath(dependency.name).is_absolute() for dependency in record.dependencies):
        return "its record names inputs by absolute paths"
    own = PurePosixPath(record.name)
    named = [*(subject.name for subject in record.subjects), *record.outputs]
    for name in named:
        path = PurePosixPath(name)
        inside = path.is_relative_to(own) and ".." not in path.parts
        if not inside and name != record.path.as_posix():
            return f"its record is that of {name}"
    return None


def mismatch(record: Record, files: Mapping[str, Path], digests: Mapping[Path, str | None]) -> str | None:
    """How an artifact differs from its record; None where it does not.

    Args:
        record: the artifact's.
        files: of `artifact_files`.
        digests: file → hex SHA-256; what is no regular file has none.
    """
    expected = expected_files(record)
    outputs = set(record.outputs) - {subject.name for subject in record.subjects} - expected.keys()
    if outputs != {record.path.as_posix()}:
        return "its record and the outputs that it names do not fit together"
    missing = sorted(expected.keys() - files.keys())
    if missing:
        return f"{missing[0]} is missing" + _and_more(missing)
    extra = sorted(files.keys() - expected.keys())
    if extra:
        return f"{extra[0]} does not belong to it" + _and_more(extra)
    changed = sorted(name for name, path in files.items() if digests.get(path) != expected[name])
    if changed:
        return f"{changed[0]} was changed" + _and_more(changed)
    found = check_manifest(record, {name: digests[path] for name, path in files.items()})
    return next((edited(finding.says) for finding in found), None)


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
