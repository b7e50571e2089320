"""Artifacts that may not count as done: looked for at every parsing, so by names and sizes alone.

Snakemake asks for no more than the outputs that something needs. A folder whose record is missing, as a
killed job leaves it, would pass for finished where Snakemake has lost its own notes.
"""

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from probeline.errors import ProbelineError
from probeline.lineage.begun import begun
from probeline.lineage.snakemake_metadata import Mark, SnakemakeMetadata
from probeline.text import plain_text

UNRECORDED = "it has no record, so it was not finished"
OUTDATED = "what it was made from was to be made again, and that did not end"
NOT_HERE = "it was not here at the last `probeline restore`"
MOST_NAMED = 10


def mark_unfinished(rules: Iterable[Any]) -> list[str]:
    """Mark artifacts without a record, and partial ones that Snakemake knows nothing of, as unfinished.

    The profile lets Snakemake make such outputs again; without it, Snakemake stops and names them.

    Args:
        rules: Snakemake's, parsed; those with an output `record` make artifacts.

    Returns:
        What to tell the user, line by line.
    """
    metadata = SnakemakeMetadata()
    marks = metadata.marks()
    unverified = []
    for record, outputs in _outputs_by_record(rules).items():
        if not Path(record).exists():
            for output in outputs:
                metadata.mark(output, UNRECORDED)
            continue
        # Files come and go: what was marked by names and sizes is looked at again.
        again = [name for name in (record, *outputs) if name in marks and not marks[name].read]
        metadata.unmark(again)
        came_later = any(marks[name].why not in (UNRECORDED, OUTDATED) for name in again)
        known = metadata.knows(record) and not came_later
        if not known and not any(map(metadata.is_marked, [record, *outputs])):
            fault = _fault(Path(record), metadata, came_later)
            if fault:
                metadata.mark(record, fault)
            else:
                unverified.append(record)
    for record in _made_from(begun()):
        metadata.mark(record, OUTDATED)
    return _lines(metadata.marks(), unverified)


def _made_from(missing: Collection[str]) -> list[str]:
    """The records of artifacts that were made from some of which nothing is left."""
    if not missing:
        return []
    from probeline.lineage.graph import read_lineage

    return [
        record.path.as_posix()
        for record in read_lineage().records.values()
        if not {dependency.record for dependency in record.dependencies}.isdisjoint(missing)
    ]


def _outputs_by_record(rules: Iterable[Any]) -> dict[str, list[str]]:
    """Record → the outputs beside it that exist; files inside a folder that is an output are left out."""
    found: dict[str, list[str]] = {}
    for rule in rules:
        outputs = dict(rule.output.items())
        record = outputs.pop("record", None)
        if record is None:
            continue
        folders = [f"{output.file}/" for output in outputs.values() if output.is_directory]
        for output in outputs.values():
            if str(output.file).startswith(tuple(folders)):
                continue
            for path in Path().glob(_shell_pattern(str(output.file))):
                match = output.match(path.as_posix())
                if match and path.is_dir() == output.is_directory:
                    its_record = str(record.apply_wildcards(match.groupdict()))
                    found.setdefault(its_record, []).append(path.as_posix())
    return dict(sorted(found.items()))


def _shell_pattern(pattern: str) -> str:
    """A pattern of Snakemake's with `*` for each wildcard, whose constraint may hold braces."""
    return re.sub(r"\{\w+(?:,(?:[^{}]|\{[^{}]*\})*)?\}", "*", pattern)


def _fault(path: Path, metadata: SnakemakeMetadata, came_later: bool) -> str | None:
    """Why an artifact that nobody has verified cannot be whole, from names and sizes alone."""
    # Only where something came from elsewhere: the workflow is parsed often.
    from probeline.lineage.matching import foreign
    from probeline.lineage.records import read_record

    try:
        record = read_record(path)
    except ProbelineError as error:
        return str(error).removesuffix(".")
    if fault := foreign(record):
        return fault
    if came_later:
        metadata.forget(record.outputs)
    for subject in record.subjects:
        names = [f"{subject.name}/{name}" for name in subject.files] or [subject.name]
        missing = [name for name in names if not Path(name).is_file()]
        if missing:
            return f"{missing[0]} is missing"
        if sum(Path(name).stat().st_size for name in names) != subject.bytes:
            return f"{subject.name} is not of the size that its record says"
    return None


def _lines(marks: dict[str, Mark], unverified: list[str]) -> list[str]:
    """A line for each output that is marked and here, and one for all that nobody has verified."""
    here = [_line(output, mark.why) for output, mark in marks.items() if Path(output).exists()]
    lines = here[:MOST_NAMED]
    if len(here) > MOST_NAMED:
        lines.append(f"… and {len(here) - MOST_NAMED} more; `probeline restore` names all.")
    if unverified:
        lines.append(
            f"{len(unverified)} artifacts were neither made nor restored here, among them "
            f"{unverified[0].removesuffix('.lineage.json')}. Snakemake cannot see what has changed since "
            "then. Run `probeline restore` first."
        )
    # Records may come from anybody.
    return list(map(plain_text, lines))


def _line(output: str, why: str) -> str:
    until = "" if why in (UNRECORDED, OUTDATED) else " until `probeline restore` finds it whole"
    return f"{output}: {why}; it counts as not made{until}."
