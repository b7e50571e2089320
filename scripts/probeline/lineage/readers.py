"""What read a file: as an input, as a part of an artifact, as code, or as the lock file."""

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import orjson

from probeline.config import DEFAULT_CONFIG, load_config
from probeline.digests import sha256_file
from probeline.lineage.environment import LOCK
from probeline.lineage.graph import Lineage, parent_names
from probeline.lineage.hashing import files_of
from probeline.lineage.places import portable, roots_of
from probeline.lineage.records import Record, artifact_of

MOST_READ = 20
"""Files of a folder that are looked for by content."""
QUARANTINE = "quarantine.jsonl"


def names_of_file(lineage: Lineage, path: str, configfiles: Sequence[Path]) -> Iterator[str]:
    """What records may call a file, the likeliest first.

    Args:
        lineage: all records.
        path: as the user wrote it, or as a record has it.
        configfiles: laid over the config; they say which folders outside belong to which corpus.
    """
    yield path.removeprefix("./").rstrip("/")
    there = Path(path).expanduser()
    yield Path(os.path.relpath(there)).as_posix()
    # Records can be asked without the workflow that they came from.
    if configfiles or DEFAULT_CONFIG.is_file():
        yield portable(there, roots_of(load_config(configfiles)))
    if there.is_file():
        yield from _named_by_content(lineage, sha256_file(there))
    elif there.is_dir():
        yield from _folders_by_content(lineage, there)


def _folders_by_content(lineage: Lineage, folder: Path) -> Iterator[str]:
    """The folders that records know, of which some of the first files of a folder are a part."""
    for inside, file in islice(files_of(folder).items(), MOST_READ):
        if file.is_file():
            names = _named_by_content(lineage, sha256_file(file))
            yield from (name.removesuffix(f"/{inside}") for name in names if name.endswith(f"/{inside}"))


def _named_by_content(lineage: Lineage, digest: str) -> Iterator[str]:
    """The files of this content that records name: for one that lies elsewhere than in the run."""
    for record in lineage.records.values():
        for subject in record.subjects:
            for file, content in subject.files.items():
                if content == digest:
                    yield f"{subject.name}/{file}"
        for dependency in record.dependencies:
            if dependency.sha256 == digest:
                yield dependency.name


def readers(lineage: Lineage, name: str) -> list[tuple[Record, str]] | None:
    """The records of what read a file directly, and in which way; None where no record names it.

    Args:
        lineage: all records.
        name: a file or folder as records name it, an artifact, a source, or the lock file.
    """
    records = lineage.records.values()
    if name in lineage.records:
        return [(child, f"reads it as {_role(child, name)}") for child in lineage.children.get(name, [])]
    found = [
        (record, f"reads {'it' if dependency.name == name else 'files under it'} as {dependency.role}")
        for record in records
        for dependency in record.dependencies
        if dependency.name == name or dependency.name.startswith(f"{name}/")
    ]
    found = list({record.name: (record, how) for record, how in found}.values())
    inside = next((record for record in records if _holds(record, name)), None)
    if inside is not None:
        whole = any(name.startswith(f"{subject.name}/") for subject in inside.subjects)
        others = lineage.children.get(inside.name, []) if whole else []
        named = {record.name for record, _ in found}
        return found + [
            (child, f"reads it as {_role(child, inside.name)}") for child in others if child.name not in named
        ]
    found += [(record, "its code") for record in records if name in record.code]
    if name == LOCK.name:
        found += [(record, "its lock file") for record in records if record.other_dependency("lock")]
    return found or None


def quarantined(lineage: Lineage, name: str) -> list[dict[str, str]]:
    """Where the log of a game was put into quarantine: artifact, file at fault and reason.

    Read from the lists that lie here and are still what their records say.

    Args:
        lineage: all records.
        name: a raw log as records name it.
    """
    found = []
    for record in lineage.records.values():
        roots = {str(record.params.get("root")), *parent_names(record)}
        if not any(name.startswith(f"{root}/") for root in roots):
            continue
        for subject in record.subjects:
            listed = Path(subject.name) / QUARANTINE
            if not listed.is_file() or sha256_file(listed) != subject.files.get(QUARANTINE):
                continue
            for row in map(orjson.loads, listed.read_bytes().splitlines()):
                # A game is a folder, or, in a corpus of files, a file.
                at_fault = {f"{root}/{row['path']}" for root in roots}
                if at_fault & {name, Path(name).parent.as_posix()}:
                    found.append({"artifact": subject.name, "file": row["file"], "reason": row["reason"]})
    return found


def _holds(record: Record, name: str) -> bool:
    """Whether a file or folder is an output, or lies in one."""
    return any(file == name or file.startswith(f"{name}/") for file in record.files) or any(
        name == subject.name for subject in record.subjects
    )


def _role(record: Record, artifact: str) -> str:
    """What a rule calls the input that an artifact is."""
    for dependency in record.dependencies:
        if dependency.record and artifact_of(Path(dependency.record)).as_posix() == artifact:
            return dependency.role
    return "input"
