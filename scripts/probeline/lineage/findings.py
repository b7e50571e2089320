"""What `probeline audit verify` finds, and how it says it."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probeline.lineage.graph import Lineage
from probeline.lineage.records import SUFFIX, Record
from probeline.text import plain_text

if TYPE_CHECKING:
    from rich.console import Console

OK, CHANGED, MISSING, UNRECORDED, EDITED = "ok", "changed", "missing", "unrecorded", "edited"
OUTDATED, REISSUED, NOT_HERE = "outdated", "re-issued", "not here"
FAULTS = (EDITED, CHANGED, MISSING, UNRECORDED, OUTDATED)
"""The worst first. What else is found is said, and no fault."""
COLOURS = {REISSUED: "cyan", NOT_HERE: "yellow"}
NAMED = 3
"""Files or artifacts that a sentence names; the others are counted."""
DIGITS = 12
"""Of a digest, in a sentence."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not, or need not be, what the records say.

    Attributes:
        state: what it is: one of the words above.
        path: the artifact, record or input.
        says: what was expected and what is there.
        remedy: what to do about it; empty where there is nothing to do.
        readers: the artifacts that were made from it directly, or the one that it is.
        files: the files of the artifact that are meant.
    """

    state: str
    path: str
    says: str
    remedy: str = ""
    readers: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def rests(self, lineage: Lineage) -> list[str]:
        """All artifacts that rest on it, those on which nothing rests first: they are what people use."""
        readers = [lineage.records[name] for name in self.readers if name in lineage.records]
        own = self.path.removesuffix(SUFFIX)
        below = [record.name for record in lineage.descendants(readers) if record.name != own]
        return sorted(below, key=lambda name: bool(lineage.children.get(name)))


@dataclass(frozen=True)
class Report:
    """What was checked, and what was found.

    Attributes:
        lineage: all records.
        records: those that were checked.
        findings: faults first.
        files: how many files were checked.
        read: how many of these were read; the others are unchanged since they were.
    """

    lineage: Lineage
    records: Sequence[Record]
    findings: Sequence[Finding]
    files: int
    read: int

    def rests(self, finding: Finding) -> list[str]:
        """All artifacts that rest on it; on logs that are not here, those among what was checked."""
        asked = {record.name for record in self.records}
        return [name for name in finding.rests(self.lineage) if finding.state != NOT_HERE or name in asked]

    @property
    def faults(self) -> list[Finding]:
        """The findings that are faults."""
        return [finding for finding in self.findings if finding.state in FAULTS]

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        states = {record.name: OK for record in self.records}
        for finding in reversed(self.findings):
            states[finding.path.removesuffix(SUFFIX)] = finding.state
        return {
            "faults": len(self.faults),
            "records": len(self.records),
            "files": self.files,
            "files_read": self.read,
            "findings": [
                {
                    "state": finding.state,
                    "path": finding.path,
                    "says": finding.says,
                    "remedy": finding.remedy,
                    "files": finding.files,
                    "rests_on_it": self.rests(finding),
                }
                for finding in self.findings
            ],
            "states": dict(sorted(states.items())),
        }


def show(report: Report, console: "Console") -> None:
    """Print a report for people."""
    from rich.text import Text

    width = max((len(finding.state) for finding in report.findings), default=0)
    for finding in report.findings:
        colour = COLOURS.get(finding.state, "red")
        head = Text.assemble(
            (f"{finding.state:{width}}", f"bold {colour}"), "  ", (plain_text(finding.path), "bold")
        )
        lines = [finding.says]
        if rests := report.rests(finding):
            verb = "rests" if len(rests) == 1 else "rest"
            lines.append(f"{counted(len(rests), 'artifact')} {verb} on it: {some(rests)}.")
        lines += [finding.remedy] if finding.remedy else []
        console.print(head, soft_wrap=True)
        for line in lines:
            console.print(Text(" " * (width + 2) + plain_text(line)), soft_wrap=True)
    files = f"{report.files:,} files ({report.read:,} read; the others are unchanged since they were)"
    checked = f"{counted(len(report.records), 'record')} and {files}"
    if report.faults:
        console.print(
            Text(f"{counted(len(report.faults), 'fault')} in {checked}.", "bold red"), soft_wrap=True
        )
    else:
        console.print(Text(f"{checked} are what they were.", "green"), soft_wrap=True)


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def expected(recorded: str, found: str | None) -> str:
    """Two digests that differ."""
    return f"expected {recorded[:DIGITS]}…, found {(found or 'nothing')[:DIGITS]}…"


def counted(count: int, noun: str) -> str:
    """`1 artifact`, `2 artifacts`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def make_again(record: Record) -> str:
    """How to have an artifact again that is damaged or gone."""
    target = shlex.quote(record.subjects[0].name)
    again = f"snakemake --cores 4 {target}"
    pointer = f"{record.name}.dvc"
    if Path(pointer).is_file():
        return (
            f"Take it back with `dvc checkout --force {shlex.quote(pointer)}` (after `dvc pull` if need be)."
        )
    there = any(os.path.lexists(subject.name) for subject in record.subjects)
    return f"Have it made again: `rm -r {target}`, then `{again}`." if there else f"Have it made: `{again}`."


def take_back(record: str) -> str:
    """How to have a record again."""
    back = f"git checkout -- {shlex.quote(record)}"
    return f"Take it back with `{back}`, or delete it with its artifact and run snakemake."
