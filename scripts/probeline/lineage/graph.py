"""All records of this directory as a graph, read from their files: there is no database to go stale."""

import difflib
import gc
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from probeline.errors import ProbelineError, near_misses
from probeline.lineage.records import SUFFIX, Dependency, Record, artifact_of, read_record
from probeline.lineage.walking import walk

PLACES = ("data", "results")
RAW = "data/raw"
"""What lies there is the user's, and has no records."""
SHOWN = Path("results/transcripts")
"""What shows a probe has its name, which alone means the probe."""
MOST_NAMES = 12
"""In a message."""


@dataclass(frozen=True)
class Lineage:
    """The records under data/ and results/.

    Attributes:
        records: artifact's path → its record, sorted.
        faults: path of each file that is no valid record, and of each folder that cannot be listed → what is
            wrong with it.
    """

    records: dict[str, Record]
    faults: dict[str, str]

    @cached_property
    def children(self) -> dict[str, list[Record]]:
        """Artifact's path → the records of what was made from it directly."""
        found: dict[str, list[Record]] = {}
        for record in self.records.values():
            superseded = self.superseded(record)
            for parent in parent_names(record):
                if parent not in superseded:
                    found.setdefault(parent, []).append(record)
        return found

    def parents(self, record: Record) -> list[Record]:
        """The records of what it was made from directly, but for those that are missing or superseded."""
        superseded = self.superseded(record)
        return [
            self.records[name]
            for name in parent_names(record)
            if name in self.records and name not in superseded
        ]

    def superseded(self, record: Record) -> list[str]:
        """The artifacts that it was made from in another version than is recorded here now.

        What the version of then was made from, the record of now cannot tell.
        """
        found = []
        for dependency in record.dependencies:
            parent = self.records.get((dependency.record or "").removesuffix(SUFFIX))
            if parent is None or parent.sha256 == dependency.record_sha256:
                continue
            # Made anew with the same result is no other version.
            if parent.files.get(dependency.name) != dependency.sha256:
                found.append(parent.name)
        return list(dict.fromkeys(found))

    def ancestors(self, records: Iterable[Record]) -> list[Record]:
        """The records and all above them: what something was made from stands before it."""
        ordered: dict[str, Record] = {}
        entered: set[str] = set()

        def visit(record: Record) -> None:
            pending: list[tuple[Record, Iterator[Record]]] = [(record, iter(self.parents(record)))]
            entered.add(record.name)
            while pending:
                current, above = pending[-1]
                following = next((parent for parent in above if parent.name not in entered), None)
                if following is None:
                    ordered[current.name] = current
                    pending.pop()
                else:
                    entered.add(following.name)
                    pending.append((following, iter(self.parents(following))))

        for record in records:
            if record.name not in entered:
                visit(record)
        return list(ordered.values())

    def descendants(self, records: Iterable[Record]) -> list[Record]:
        """The records and all below them, nearest first."""
        found = {record.name: record for record in records}
        pending = list(found.values())
        for record in pending:
            for child in self.children.get(record.name, []):
                if child.name not in found:
                    found[child.name] = child
                    pending.append(child)
        return pending

    def require_records(self) -> None:
        """Refuse to answer from nothing.

        Raises:
            ProbelineError: there are no records.
        """
        if not self.records:
            raise ProbelineError(
                "There are no valid records under data/ and results/. They are written by runs: make "
                "something first, for example with `snakemake --cores 4 results/probes/trust_lr_l22`."
            )

    def missing(self, records: Iterable[Record]) -> list[str]:
        """The artifacts among some and all above them that a record names and that have no valid one."""
        named = {name for record in self.ancestors(records) for name in parent_names(record)}
        return sorted(named - self.records.keys())

    def find(self, target: str) -> Record:
        """The record of a target as people name it.

        Args:
            target: an artifact, a file in it, its record, or the last part of its path where only one has it,
                transcripts aside.

        Raises:
            ProbelineError: there is none, or several; with the near ones.
        """
        if not target:
            raise ProbelineError("The target has no name. Give an artifact, or the last part of its path.")
        path = Path(os.path.relpath(target))
        if path.name.endswith(SUFFIX):
            path = artifact_of(path)
        faulty = {artifact_of(Path(file)).as_posix(): fault for file, fault in self.faults.items()}
        for artifact in map(Path.as_posix, (path, *path.parents)):
            if artifact in self.records:
                _require_listed(self.records[artifact], path.as_posix())
                return self.records[artifact]
            if artifact in faulty:
                raise ProbelineError(faulty[artifact])
        called = [
            record
            for name, record in self.records.items()
            if Path(name).name == target and Path(name).parent != SHOWN
        ]
        edited = [fault for name, fault in faulty.items() if Path(name).name == target]
        if edited and not called:
            raise ProbelineError("\n".join(edited))
        if len(called) == 1:
            return called[0]
        if called:
            raise ProbelineError(
                f"{target} names several artifacts. {closest(target, [record.name for record in called])} "
                "Give the whole path."
            )
        self.require_records()
        raise ProbelineError(f"No artifact {target} has a record. {closest(target, self.records)}")


def _require_listed(record: Record, path: str) -> None:
    """Refuse a path in an artifact that its record does not list, with the near ones."""
    listed = {record.name, *record.files, *(subject.name for subject in record.subjects)}
    if path in listed or any(file.startswith(f"{path}/") for file in listed):
        return
    inside = [file.removeprefix(f"{record.name}/") for file in record.files]
    wanted = path.removeprefix(f"{record.name}/")
    raise ProbelineError(f"The record of {record.name} lists no file {wanted}. {closest(wanted, inside)}")


def closest(wanted: str, names: Iterable[str]) -> str:
    """The names nearest to what was asked for; all of them only where they are few.

    Args:
        wanted: what is none of them.
        names: of artifacts or games, thousands perhaps.
    """
    names = sorted(names)
    if len(names) <= MOST_NAMES:
        return near_misses(wanted, names)
    last = PurePosixPath(wanted).name
    inside = [name for name in names if wanted in name or (last and last in name)]
    ends = {name.rpartition("/")[2]: name for name in names}
    near = difflib.get_close_matches(wanted, names, n=3) or [
        ends[end] for end in difflib.get_close_matches(last, ends, n=3)
    ]
    shown = list(dict.fromkeys([*near, *inside]))[:MOST_NAMES]
    hint = f"Did you mean {' or '.join(shown)}? " if shown else ""
    return f"{hint}There are {len(names):,} in all."


def parent_names(record: Record) -> list[str]:
    """The paths of the artifacts that a record names as its inputs, each once, in their order."""
    return list(dict.fromkeys(d.record.removesuffix(SUFFIX) for d in record.dependencies if d.record))


def read_lineage(places: Iterable[str] = PLACES) -> Lineage:
    """Read every record under some folders; what is no valid record is kept apart, with its fault."""
    records: dict[str, Record] = {}
    faults: dict[str, str] = {}
    with _no_collection():
        for path in sorted(_record_files(places, faults)):
            try:
                record = read_record(Path(path))
            except ProbelineError as error:
                faults[path] = str(error)
                continue
            records[record.name] = record
    return Lineage(records, faults)


@contextmanager
def _no_collection() -> Iterator[None]:
    """No search for cyclic garbage among what stays: thousands of records took twice as long with it."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _record_files(places: Iterable[str], faults: dict[str, str]) -> Iterator[str]:
    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            faults[error.filename] = f"{error.filename} cannot be listed: {error.strerror}."

    for place in places:
        for folder, folders, names in walk(place, unreadable):
            folders[:] = [name for name in folders if f"{folder}/{name}" != RAW]
            yield from (f"{folder}/{name}" for name in names if name.endswith(SUFFIX))


def covers(record: Record, dependency: Dependency) -> bool:
    """Whether a record lists what a dependency names, as itself or as a file inside a folder of it."""
    for subject in record.subjects:
        if dependency.name == subject.name:
            return True
        if dependency.name.removeprefix(f"{subject.name}/") in subject.files:
            return True
    return False
