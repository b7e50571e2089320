"""The checks of `probeline audit verify`, one by one."""

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from probeline.errors import ProbelineError
from probeline.files import MANIFEST, read_json
from probeline.lineage.findings import (
    CHANGED,
    EDITED,
    MISSING,
    OUTDATED,
    REISSUED,
    UNRECORDED,
    Finding,
    counted,
    expected,
    make_again,
    some,
    take_back,
)
from probeline.lineage.graph import PLACES, Lineage
from probeline.lineage.hashing import TIMESTAMP, directory_digest
from probeline.lineage.records import SUFFIX, Dependency, Record
from probeline.lineage.walking import walk

DRAFT = re.compile(r"\..*\.tmp-[0-9a-f]+")
"""What a killed job left."""
IGNORED = re.compile(
    rf"{re.escape(TIMESTAMP)}|\.gitignore|.*\.dvc|.*{re.escape(SUFFIX)}|{DRAFT.pattern}", re.DOTALL
)
"""Names beside artifacts that belong to none."""
STAMP = re.compile(re.escape(TIMESTAMP))
"""The only name that is ignored inside an artifact."""
TABLES = "events.parquet"
"""A folder of tables of a corpus is an artifact also without its manifest."""


def check_record(record: Record) -> Finding | None:
    """Whether a record speaks of the artifact that it lies beside, and does not contradict itself."""
    for subject in record.subjects:
        if not f"{subject.name}/".startswith(f"{record.name}/") and _is_plain(subject.name):
            says = f"The record beside it is that of {subject.name}: this is a copy under another name."
            remedy = "Delete it with its record, or have it made by its rule."
            return Finding(UNRECORDED, record.name, says, remedy)
    named = [subject.name for subject in record.subjects] + [d.name for d in record.dependencies]
    inside = [name for subject in record.subjects for name in subject.files]
    if not record.subjects or not all(map(_is_plain, [*named, *inside])):
        says = "The record lists nothing that was made, or files outside its artifact."
    elif any(s.files and directory_digest(s.files) != s.sha256 for s in record.subjects):
        says = "The digests of the files do not make up the dirHash."
    else:
        return None
    return Finding(EDITED, record.path.as_posix(), says, take_back(record.path.as_posix()), (record.name,))


def _is_plain(name: str) -> bool:
    """Whether a relative name stays below where it starts."""
    return name != "" and not name.startswith("/") and ".." not in name.split("/") and "\0" not in name


def check_files(record: Record, digests: Mapping[str, str | None]) -> Iterator[Finding]:
    """Whether an artifact's files are there, and what they were.

    Args:
        record: of the artifact.
        digests: path → digest of every file that is there.
    """
    listed = record.files
    readers = (record.name,)
    gone = [name for name, digest in listed.items() if digests[name] is None]
    if len(gone) == len(listed):
        says = (
            f"It is not here, nor any of its {counted(len(listed), 'file')}."
            if len(listed) > 1
            else "It is not here."
        )
        yield Finding(MISSING, record.name, says, make_again(record), readers, tuple(gone))
    elif gone:
        names = some([_within(name, record) for name in gone])
        says = f"{len(gone):,} of its {len(listed):,} files cannot be found or read: {names}."
        yield Finding(MISSING, record.name, says, make_again(record), readers, tuple(gone))
    changed = [name for name, digest in listed.items() if digests[name] not in (None, digest)]
    if changed:
        shown = [f"{_within(name, record)} ({expected(listed[name], digests[name])})" for name in changed]
        verb = "is" if len(changed) == 1 else "are"
        says = f"{some(shown)} {verb} not what the record says."
        yield Finding(CHANGED, record.name, says, make_again(record), readers, tuple(changed))


def check_manifest(record: Record, digests: Mapping[str, str | None]) -> Iterator[Finding]:
    """Whether a record and the manifest in its artifact list the same files.

    What was made from an artifact names the digest of its manifest, which names those of its files: so the
    files of an upstream artifact cannot be exchanged together with its record.
    """
    path = f"{record.name}/{MANIFEST}"
    if record.files.get(path) is None or digests[path] != record.files[path]:
        return
    try:
        files = read_json(Path(path))["files"]
        inside = {f"{record.name}/{name}": facts["sha256"] for name, facts in files.items()}
    except (ProbelineError, KeyError, TypeError, AttributeError):
        return
    told = {name: digest for name, digest in record.files.items() if name != path}
    if different := sorted({name for name, _ in inside.items() ^ told.items()}):
        names = some([_within(name, record) for name in different])
        says = f"The record and {path} disagree about {names}."
        yield Finding(EDITED, record.path.as_posix(), says, take_back(record.path.as_posix()), (record.name,))


def check_chain(lineage: Lineage) -> Iterator[Finding]:
    """Whether the records that records were made from are those that are there now."""
    found: dict[tuple[str, str], list[str]] = {}
    for record in lineage.records.values():
        earlier: list[str] = []
        for dependency in record.dependencies:
            if dependency.record is None:
                continue
            state, path = _link(lineage, record, dependency)
            if state == OUTDATED:
                earlier += [path] * (path not in earlier)
                continue
            readers = found.setdefault((state, path), [])
            if state and record.name not in readers:
                readers.append(record.name)
        if earlier:
            says = f"It was made from earlier versions of {some(earlier)}."
            remedy = f"Make it anew: snakemake --cores 4 {shlex.quote(record.subjects[0].name)}"
            yield Finding(OUTDATED, record.name, says, remedy, (record.name,))
    for (state, path), readers in found.items():
        was = "was" if len(readers) == 1 else "were"
        made = f"{counted(len(readers), 'artifact')} {was} made from it"
        if state == MISSING:
            says = f"The record is missing: {made}, and what it was made from can no longer be said."
            yield Finding(MISSING, path, says, take_back(path), tuple(readers))
        elif state == EDITED:
            says = f"This is not the record that was here when {some(readers)} {was} made, nor a newer one."
            yield Finding(EDITED, path, says, take_back(path), tuple(readers))
        elif state == REISSUED:
            yield Finding(
                REISSUED, path, f"Made again with the same content since {made}.", "", tuple(readers)
            )


def _link(lineage: Lineage, record: Record, dependency: Dependency) -> tuple[str, str]:
    """State and path of what a dependency rests on; the state is empty where all is as it was."""
    path = dependency.record or ""
    upstream = lineage.records.get(path.removesuffix(SUFFIX))
    if upstream is None:
        # A record that is there and no valid one has its own finding.
        return ("", path) if path in lineage.faults else (MISSING, path)
    same = upstream.files.get(dependency.name) == dependency.sha256
    if upstream.sha256 == dependency.record_sha256:
        # Who rewrote one of the two forgot the other.
        return ("", path) if same else (EDITED, record.path.as_posix())
    if upstream.metadata["startedOn"] <= record.metadata["finishedOn"]:
        return EDITED, path
    return (REISSUED if same else OUTDATED), upstream.name


def unrecorded(lineage: Lineage, places: Iterable[str], skipped: Iterable[str]) -> Iterator[Finding]:
    """Files without a record, by artifact or folder, and files in an artifact that its record does not list.

    Args:
        lineage: all records.
        places: folders to look through.
        skipped: folders of the user's own files.
    """
    for owner, files in _strays(lineage, places, {*skipped}).items():
        record = lineage.records.get(owner)
        shown = some([name.removeprefix(f"{owner}/") for name in files])
        away = f"elete or move {'it' if len(files) == 1 else 'them'}."
        if record is None and any(os.access(f"{owner}/{name}", os.F_OK) for name in (MANIFEST, TABLES)):
            says = f"{counted(len(files), 'file')} without a record: nothing says where this comes from."
            back = f"Take its record back (`git checkout -- {shlex.quote(f'{owner}{SUFFIX}')}`)"
            again = f"have it made by its rule: `rm -r {shlex.quote(owner)}`, then run snakemake."
            yield Finding(UNRECORDED, owner, says, f"{back}, or {again}", (), tuple(files))
        elif record is None:
            says = f"Nothing says where {counted(len(files), 'file')} in it come from: {shown}."
            says = says.replace("come", "comes") if len(files) == 1 else says
            remedy = f"Take the record back with git where there was one, or d{away}"
            yield Finding(UNRECORDED, owner, says, remedy, (), tuple(files))
        elif check_record(record) is None:
            says = f"{counted(len(files), 'file')} that the record does not list: {shown}."
            yield Finding(UNRECORDED, owner, says, f"D{away}", (owner,), tuple(files))


def _strays(lineage: Lineage, places: Iterable[str], skipped: set[str]) -> dict[str, list[str]]:
    """Artifact or folder → its files that no record lists; a broken or missed record is said elsewhere."""
    listed = {name for record in lineage.records.values() for name in record.files}
    known = {path.removesuffix(SUFFIX) for path in lineage.faults}
    known |= lineage.children.keys() - lineage.records.keys()
    artifacts = lineage.records.keys() | known
    # A file beside artifacts is a stray alone; a folder in which there is none is one as a whole.
    shared = {above.as_posix() for name in artifacts for above in PurePosixPath(name).parents}
    sealed = _sealed(lineage)
    owners: dict[str, str] = {}
    strays: dict[str, set[str]] = {}
    for place in _outermost(places, skipped):
        parents = [above.as_posix() for above in PurePosixPath(place).parents]
        owners[parents[0]] = next((name for name in parents if name in lineage.records), "")
        sealed |= {parents[0]} if sealed.intersection(parents) else set()
        # What cannot be listed is among the lineage's faults.
        for folder, folders, names in walk(place, lambda error: None):
            above = folder.rpartition("/")[0]
            ignored = IGNORED
            if folder in sealed or above in sealed:
                sealed.add(folder)
                ignored = STAMP
            folders[:] = [
                name for name in folders if not ignored.fullmatch(name) and f"{folder}/{name}" not in skipped
            ]
            is_artifact = folder in artifacts or MANIFEST in names or TABLES in names
            owner = folder if is_artifact else owners.get(above, "")
            owners[folder] = owner = owner or ("" if folder in shared else folder)
            paths = {f"{folder}/{name}" for name in names if not ignored.fullmatch(name)} - listed
            if paths and owner not in known:
                strays.setdefault(owner or folder, set()).update(paths)
    return {owner: sorted(files) for owner, files in sorted(strays.items())}


def _sealed(lineage: Lineage) -> set[str]:
    """The folders that jobs made as a whole: whatever lies in them must be listed."""
    return {
        subject.name
        for record in lineage.records.values()
        for subject in record.subjects
        if subject.files and f"{subject.name}/".startswith(f"{record.name}/")
    }


def _outermost(places: Iterable[str], skipped: set[str]) -> list[str]:
    """The places of artifacts that lie in no other of them, nor in a folder that is skipped."""
    unique = {*places}
    covered = unique | skipped
    return [
        place
        for place in sorted(unique - skipped)
        if place.partition("/")[0] in PLACES
        and not any(above.as_posix() in covered for above in PurePosixPath(place).parents)
    ]


def _within(name: str, record: Record) -> str:
    return name.removeprefix(f"{record.name}/")
