"""Telling Snakemake what the records say of artifacts that were made elsewhere.

Every artifact is compared with its record. For those that are what it says, Snakemake's metadata are
written from the record, not from the present config, and mtimes are set such that an input which is not the
recorded one is newer, and no other. So Snakemake sees every edit, made before or after, and nothing else.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from probeline.lineage.checks import check_chain
from probeline.lineage.findings import EDITED
from probeline.lineage.graph import Lineage
from probeline.lineage.hashing import CACHE_PURPOSE, STAT_CACHE, TIMESTAMP, digests_of
from probeline.lineage.matching import (
    artifact_files,
    edited,
    expected_files,
    mismatch,
    recorded_digest,
    unfit,
)
from probeline.lineage.places import local, local_values
from probeline.lineage.records import Dependency, Record, artifact_of
from probeline.lineage.snakemake_metadata import SnakemakeMetadata, metadata
from probeline.lineage.unfinished import NOT_HERE
from probeline.stat_cache import StatCache

SECOND = 10**9
BENCHMARKS = Path("benchmarks")
"""What the rules note about times; no artifact, but Snakemake compares its mtimes, too."""


@dataclass
class Restored:
    """What was found and done, by artifact.

    Attributes:
        restored: Snakemake now knows what it was made from.
        fine: Snakemake knew all of it before.
        absent: there is a record, but no artifact.
        refused: artifact → why it is not what its record says; it will be made again.
        outdated: artifact, restored or fine → inputs that are not what it was made from: it runs again.
        unseen: folder of the user's, by its portable name → number of its files that were read, none of
            which is here: they were not compared.
        future: inputs that no rule makes whose mtime lies in the future: Snakemake fails jobs that read them.
    """

    restored: list[str] = field(default_factory=list)
    fine: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    outdated: dict[str, list[str]] = field(default_factory=dict)
    unseen: dict[str, int] = field(default_factory=dict)
    future: list[str] = field(default_factory=list)


@dataclass
class _Inputs:
    """The inputs of an artifact, and those of the artifacts between that are not here.

    Attributes:
        changed: portable name → mtime in nanoseconds of each that is not what was read.
        newest: mtime of the newest that is what was read, but for those of the future.
        unknown: why nobody can tell what the artifact was made from; empty where all is known.
    """

    changed: dict[str, int] = field(default_factory=dict)
    newest: int = 0
    unknown: str = ""

    def add(self, other: "_Inputs") -> None:
        self.changed |= other.changed
        self.newest = max(self.newest, other.newest)
        self.unknown = self.unknown or other.unknown


def restore(lineage: Lineage, records: list[Record], roots: Mapping[str, Path]) -> Restored:
    """Verify artifacts against their records, and make Snakemake's notes on them agree.

    Args:
        lineage: all records.
        records: of the artifacts in question; what something was made from stands before it.
        roots: of `places.written_roots`.
    """
    cache = StatCache(STAT_CACHE)
    try:
        return _Restoration(lineage, roots, cache, records).run()
    finally:
        cache.close()


class _Restoration:
    """One pass over the records, from the raw logs down."""

    def __init__(
        self, lineage: Lineage, roots: Mapping[str, Path], cache: StatCache, records: list[Record]
    ) -> None:
        self._lineage, self._roots, self._cache, self._records = lineage, roots, cache, records
        self._metadata = SnakemakeMetadata()
        self._found = Restored()
        self._now = time.time_ns()
        self._inputs: dict[str, _Inputs] = {}
        self._faults = _faults(lineage, records)
        self._files = {
            record.name: artifact_files(record) for record in records if record.name not in self._faults
        }
        self._digests, self._ctimes = self._read()
        self._stamped: list[Path] = []

    def run(self) -> Restored:
        for path, fault in self._lineage.faults.items():
            artifact = artifact_of(Path(path))
            if artifact.exists():
                self._refuse(artifact.as_posix(), path, fault)
        for record in self._records:
            self._one(record)
        self._remember()
        _stamp_benchmarks()
        self._found.future = sorted(set(self._found.future))
        return self._found

    def _read(self) -> tuple[dict[Path, str | None], dict[Path, int]]:
        """Digests of all files in question, by one look into the cache; and their ctimes before."""
        paths = set()
        for record in self._records:
            if record.name in self._faults:
                continue
            # Only what it names: a stray file is refused by its name alone.
            files = self._files[record.name]
            paths |= {files[name] for name in expected_files(record) if name in files}
            paths |= {local(dependency.name, self._roots) for dependency in record.dependencies}
        ordered = sorted(path for path in paths if path.is_file())
        ctimes = {path: path.stat().st_ctime_ns for path in ordered}
        return dict(zip(ordered, digests_of(ordered, self._cache), strict=True)), ctimes

    def _one(self, record: Record) -> None:
        fault = self._faults.get(record.name)
        inputs = self._inputs[record.name] = _Inputs() if fault else self._inputs_of(record)
        here = os.path.lexists(record.name) if fault else bool(self._files[record.name])
        if here and not fault:
            fault = mismatch(record, self._files[record.name], self._digests) or inputs.unknown
        if fault:
            if here:
                self._refuse(record.name, record.path.as_posix(), fault)
            inputs.unknown = (
                inputs.unknown or f"{record.name}, which it was made from, cannot be used: {fault}"
            )
            return
        said = self._said(record)
        known = all(self._metadata.says(output, said) for output in record.outputs)
        if not known:
            for output in record.outputs:
                self._metadata.write(output, said)
        marked = any(map(self._metadata.is_marked, record.outputs))
        self._metadata.unmark(record.outputs)
        if not here:
            self._found.absent.append(record.name)
            # What comes later has not been verified.
            for subject in record.subjects:
                self._metadata.mark(subject.name, NOT_HERE)
            return
        stamped = self._stamp(record, inputs)
        if stamped is None:
            self._refuse(record.name, record.path.as_posix(), "it was changed while it was verified")
            return
        (self._found.fine if known and not marked and not stamped else self._found.restored).append(
            record.name
        )
        if inputs.changed:
            self._found.outdated[record.name] = sorted(inputs.changed)
            # Through what is not here Snakemake compares mtimes in some graphs, and not in others.
            far = sorted(inputs.changed.keys() - {dependency.name for dependency in record.dependencies})
            if far:
                why = f"{far[0]} is not what it was made from"
                self._metadata.mark(record.path.as_posix(), why, read=True)
        # What was made from it meets its own files, not what it was made from.
        self._inputs[record.name] = _Inputs()

    def _refuse(self, name: str, record: str, why: str) -> None:
        self._found.refused[name] = why
        self._metadata.unmark([record])
        self._metadata.mark(record, why, read=True)

    def _inputs_of(self, record: Record) -> _Inputs:
        inputs = _Inputs()
        for dependency in record.dependencies:
            path = local(dependency.name, self._roots)
            if path not in self._digests:
                inputs.add(self._absent_input(record, dependency))
                continue
            mtime = path.stat().st_mtime_ns
            if mtime > self._now and dependency.record is None:
                self._found.future.append(dependency.name)
            if self._digests[path] != dependency.sha256:
                inputs.changed[dependency.name] = mtime
            elif mtime <= self._now:
                inputs.newest = max(inputs.newest, mtime)
        return inputs

    def _absent_input(self, record: Record, dependency: Dependency) -> _Inputs:
        """Through an artifact that is not here one sees what that was made from."""
        if dependency.record is None:
            return _Inputs()  # Snakemake misses what no rule makes, or sees another list of inputs.
        upstream = artifact_of(Path(dependency.record)).as_posix()
        parent = self._lineage.records.get(upstream)
        if parent is None:
            return _Inputs(unknown=f"it was made from {upstream}, which is not here and has no valid record")
        if recorded_digest(parent, dependency.name) != dependency.sha256:
            return _Inputs(unknown=f"it was made from another {dependency.name} than is recorded now")
        return self._inputs.get(upstream, _Inputs())

    def _said(self, record: Record) -> Any:
        return metadata(
            record.rule,
            {str(local(d.name, self._roots)): d.sha256 for d in record.dependencies},
            local_values(record.params, self._roots),
            record.metadata["startedOn"],
            record.metadata["finishedOn"],
        )

    def _stamp(self, record: Record, inputs: _Inputs) -> bool | None:
        """Set the mtimes of an artifact's outputs where they would mislead.

        Returns:
            Whether one was set; None where a file is no longer the one that was verified.
        """
        outputs = [_carrier(Path(output)) for output in record.outputs]
        mtimes = [path.lstat().st_mtime_ns for path in outputs]
        if inputs.changed:
            # Older than what has changed: Snakemake compares contents of newer inputs only.
            moment = min(*inputs.changed.values(), self._now) - SECOND
            right = max(mtimes) <= moment
        else:
            finished = int(datetime.fromisoformat(record.metadata["finishedOn"]).timestamp()) * SECOND
            # As early as can be, and never later than now: an edit of the next minute must be newer.
            moment = min(inputs.newest or finished, self._now)
            right = max(inputs.newest, 1) <= min(mtimes) and max(mtimes) <= self._now
        # Snakemake takes 0 for no mtime at all, and never reruns what has it.
        moment = moment or -SECOND
        if right and 0 not in mtimes:
            return False
        for path in outputs:
            before = self._ctimes.get(path)
            if before not in (None, path.stat().st_ctime_ns):
                return None
            os.utime(path, ns=(moment, moment), follow_symlinks=False)
        self._stamped += outputs
        return True

    def _remember(self) -> None:
        """The contents of what was stamped are known: another mtime is no reason to read them again."""
        known = {path: digest for path in self._stamped if (digest := self._digests.get(path)) is not None}
        self._cache.values(CACHE_PURPOSE, list(known), known.__getitem__)


def _faults(lineage: Lineage, records: list[Record]) -> dict[str, str]:
    """Artifact → why its record may not be used: `audit verify` would call it edited, or a copy."""
    found = {record.name: fault for record in records if (fault := unfit(record))}
    for finding in check_chain(lineage):
        if finding.state == EDITED:
            found.setdefault(artifact_of(Path(finding.path)).as_posix(), edited(finding.says))
    return found


def _stamp_benchmarks() -> None:
    """Snakemake never reruns a job of whose benchmark the mtime is 0, as it takes that for none."""
    for folder, _, names in os.walk(BENCHMARKS):
        for path in (Path(folder, name) for name in names):
            if path.lstat().st_mtime_ns == 0:
                os.utime(path, follow_symlinks=False)


def _carrier(output: Path) -> Path:
    """Where Snakemake looks for the mtime of an output: in a folder, at a file of its own if there is one."""
    timestamp = output / TIMESTAMP
    return timestamp if output.is_dir() and timestamp.is_file() else output
