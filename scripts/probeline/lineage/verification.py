"""Every hash up the chain: what `probeline audit verify` does."""

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from probeline.lineage import checks
from probeline.lineage.findings import EDITED, FAULTS, MISSING, Finding, Report, take_back
from probeline.lineage.graph import PLACES, RAW, Lineage, parent_names
from probeline.lineage.hashing import STAT_CACHE, digests_of
from probeline.lineage.raw_inputs import check_raw_inputs, homes_of, raw_inputs
from probeline.lineage.records import SUFFIX, Record
from probeline.stat_cache import StatCache


def verify(
    lineage: Lineage,
    targets: Sequence[str] = (),
    config: dict[str, Any] | None = None,
    rehash: bool = False,
    threads: int = 1,
) -> Report:
    """Check records and files.

    Args:
        lineage: all records.
        targets: artifacts, folders of them, or names; everything where there is none.
        config: names the folders of raw logs; None where it is not known.
        rehash: read also the files that seem unchanged.
        threads: files that are read at a time.

    Raises:
        ProbelineError: there is no such target, or nothing at all to be checked.
    """
    chosen = _choose(lineage, targets)
    findings, homes = list(chosen.findings), homes_of(config)
    sound = []
    for record in chosen.records:
        finding = checks.check_record(record)
        if finding is None:
            sound.append(record)
        else:
            findings.append(finding)
    inputs = raw_inputs(lineage, sound, homes)
    paths = dict.fromkeys(path for record in sound for path in record.files)
    paths |= dict.fromkeys(str(given.path) for given in inputs)
    digests, read = _digests(list(paths), rehash, threads)
    for record in sound:
        findings += checks.check_files(record, digests)
        findings += checks.check_manifest(record, digests)
    findings += chosen.concerning(checks.check_chain(lineage))
    findings += check_raw_inputs(inputs, homes, digests)
    findings += checks.unrecorded(lineage, chosen.places, [RAW, *homes])
    if not (findings or chosen.records):
        lineage.require_records()
    order = {state: position for position, state in enumerate(FAULTS)}
    findings.sort(key=lambda finding: (order.get(finding.state, len(FAULTS)), finding.state, finding.path))
    return Report(lineage, chosen.records, findings, len(paths), read)


@dataclass(frozen=True)
class _Chosen:
    """What is to be checked.

    Attributes:
        records: the valid ones.
        names: artifacts of the targets themselves, with or without a valid record; empty for everything.
        places: folders in which every file must be recorded.
        findings: records that are no valid ones.
    """

    records: list[Record]
    names: set[str]
    places: list[str]
    findings: list[Finding]

    def concerning(self, findings: Iterable[Finding]) -> list[Finding]:
        """The findings of the whole chain that are about these records."""
        if not self.names:
            return list(findings)
        above = {record.name for record in self.records}
        return [
            finding
            for finding in findings
            if above.intersection(finding.readers)
            or (
                finding.state in (EDITED, MISSING) and finding.path.removesuffix(SUFFIX) in above | self.names
            )
        ]


def _choose(lineage: Lineage, targets: Sequence[str]) -> _Chosen:
    """The records of some targets and all above them; everything where there is no target."""
    broken = {path.removesuffix(SUFFIX): path for path in lineage.faults}
    if not targets or any(Path(target).resolve() == Path.cwd() for target in targets):
        findings = [_no_record(lineage, path) for path in lineage.faults]
        return _Chosen(list(lineage.records.values()), set(), list(PLACES), findings)
    names: set[str] = set()
    folders = []
    for target in targets:
        path = os.path.relpath(target).removesuffix(SUFFIX)
        below = {name for name in [*lineage.records, *broken] if f"{name}/".startswith(f"{path}/")}
        if below and path not in below:
            folders.append(path)
        called = {name for name in broken if Path(name).name == path}
        names |= below or called or _without_record(lineage, path) or {lineage.find(target).name}
    records = lineage.ancestors([lineage.records[name] for name in sorted(names) if name in lineage.records])
    above = {parent for record in records for parent in parent_names(record)}
    around = names | above | {record.name for record in records}
    findings = [_no_record(lineage, path) for name, path in broken.items() if _is_in(name, around)]
    places = [record.name for record in records]
    return _Chosen(records, names, [*places, *folders, *sorted(names.difference(lineage.records))], findings)


def _is_in(name: str, artifacts: set[str]) -> bool:
    """Whether this is one of some artifacts, or lies in one."""
    return any(str(path) in artifacts for path in (name, *PurePosixPath(name).parents))


def _without_record(lineage: Lineage, path: str) -> set[str]:
    """An artifact that has no record, but is there, or something was made from it."""
    found = {finding.path for finding in checks.unrecorded(lineage, [path], [RAW])}
    return found.difference(lineage.records) | ({path} if path in lineage.children else set())


def _no_record(lineage: Lineage, path: str) -> Finding:
    readers = tuple(child.name for child in lineage.children.get(path.removesuffix(SUFFIX), []))
    says = lineage.faults[path].replace(path, "It", 1)
    if not path.endswith(SUFFIX):
        remedy = f"Make it readable (`chmod u+rx {shlex.quote(path)}`, perhaps), or delete it."
        return Finding(MISSING, path, says, remedy, readers)
    return Finding(EDITED, path, says, take_back(path), readers)


def _digests(paths: list[str], rehash: bool, threads: int) -> tuple[dict[str, str | None], int]:
    """Path → digest of every file that is there, and how many of them were read."""
    cache = StatCache(STAT_CACHE)
    try:
        found = digests_of([Path(path) for path in paths], cache, threads, rehash, "Reading")
    finally:
        cache.close()
    return dict(zip(paths, found, strict=True)), cache.stored
