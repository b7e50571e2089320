"""Files that hold many units (cases, dialogues) in, checked tables and an account of everything read out.

A unit is known by its content: neither the names of files nor their order decide anything, and copies are
kept once, wherever they lie. `quality.json` counts, over a shard or a corpus:

- files = files_read + files_skipped + files_quarantined: a file without a unit that can be read is in
  `quarantine.jsonl` as a whole.
- found = kept + duplicates + quarantined + retracted: the units of all other files; each one quarantined has
  a line in `quarantine.jsonl` with its own line or position. In a file with more than MOST_FAULTS of them
  the last line has `more`, the number of those that are not listed.
- all other keys: what the format counts of the kept units.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from heapq import merge
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from probeline.errors import ProbelineError
from probeline.files import atomic_directory, read_json, write_json, write_json_lines, write_manifest
from probeline.logs.formats import unit_key
from probeline.logs.reading import quarantined
from probeline.logs.tables import games_in, row_groups, row_writer, table_writer
from probeline.progress import progress
from probeline.text import plain_text

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)

MOST_FAULTS = 10_000
"""Faulty entries of a file that are listed; those beyond are counted."""
QUALITY_FILE = "quality.json"
QUARANTINE_FILE = "quarantine.jsonl"
_READ = (
    "files",
    "files_read",
    "files_skipped",
    "files_quarantined",
    "found",
    "duplicates",
    "quarantined",
    "retracted",
)
"""Counts of what was read; those of the kept units follow from their rows."""


class Unit(NamedTuple):
    """A unit that was read.

    Attributes:
        content: SHA-256 of its canonical content; `unit_key` of it is its key.
        row: its row of the table of units.
        parts: its rows of the table of parts.
    """

    content: str
    row: dict[str, Any]
    parts: list[dict[str, Any]]

    @property
    def key(self) -> str:
        """The unit's key."""
        return unit_key(self.content)


class Fault(NamedTuple):
    """A unit that could not be read: its line, or its position from 1, why, and the digest of its bytes."""

    number: int
    reason: str
    sha256: str


class Format(NamedTuple):
    """What is particular to a format.

    Attributes:
        noun: what a unit is called, in the plural; names the table of units.
        parts: name of the table of parts.
        unit_columns: a declaration of `probeline.schema`.
        part_columns: the same for the parts.
        read: the units and faults of a file, given the file and the corpus root; raises ProbelineError where
            the whole file is at fault; None where it is no log at all and may be skipped.
        rank: of a unit's row; of copies that of the lowest rank is kept.
        extra: counts that concern several units at once, from the two finished tables.
        counted: counts that are given even when they are 0.
    """

    noun: str
    parts: str
    unit_columns: list[tuple[str, str, str]]
    part_columns: list[tuple[str, str, str]]
    read: Callable[[Path, Path], Iterator[Unit | Fault] | None]
    rank: Callable[[Mapping[str, Any]], int]
    extra: Callable[[Path, Path], dict[str, Any]]
    counted: tuple[str, ...]


def ingest_units(
    form: Format, files: list[Path], root: Path, output: Path, retracted: Mapping[str, str]
) -> None:
    """Read the files of one shard into tables.

    Args:
        form: the format.
        files: the shard's files.
        root: the folder of the corpus.
        output: the folder to make: two tables, quality.json, quarantine.jsonl, manifest.json.
        retracted: key of each unit that is taken out → the reason.
    """
    counts: Counter[str] = Counter()
    quarantine: list[dict[str, Any]] = []
    kept: dict[str, Unit] = {}
    for path in progress(sorted(files), f"Reading {form.noun}", total=len(files), unit="file"):
        counts["files"] += 1
        own, faults, skipped = _read_file(form, path, root, quarantine, counts)
        if own or faults or skipped:
            counts["files_skipped" if skipped else "files_read"] += 1
        for unit in own:
            counts["found"] += 1
            if unit.key in retracted:
                counts["retracted"] += 1
                _log.info("Left out, because it was retracted: %s", plain_text(retracted[unit.key]))
            elif unit.key in kept:
                counts["duplicates"] += 1
                kept[unit.key] = min(kept[unit.key], unit, key=lambda one: _order(form, one.row))
            else:
                kept[unit.key] = unit
    units = [kept[key] for key in sorted(kept)]
    with atomic_directory(output) as draft:
        with (
            row_writer(draft / f"{form.noun}.parquet", form.unit_columns) as write_row,
            row_writer(draft / f"{form.parts}.parquet", form.part_columns) as write_parts,
        ):
            for unit in units:
                write_row([unit.row])
                write_parts(unit.parts)
        _write_account(form, draft, counts, quarantine)
        write_manifest(draft, "corpus-shard", _facts(form, counts, len(units)))


def _order(form: Format, row: Mapping[str, Any]) -> tuple[int, bytes]:
    """Of copies the first by this is kept: it depends on the copies alone."""
    return form.rank(row), orjson.dumps(row)


def _read_file(
    form: Format, path: Path, root: Path, quarantine: list[dict[str, Any]], counts: Counter[str]
) -> tuple[list[Unit], list[Fault], bool]:
    """The units and faults of a file, and whether it was skipped; without a unit it goes into quarantine."""
    units: list[Unit] = []
    faults: list[Fault] = []
    unlisted = 0
    try:
        entries = form.read(path, root)
        if entries is None:
            return [], [], True
        for entry in entries:
            if isinstance(entry, Unit):
                units.append(entry)
                continue
            if len(faults) < MOST_FAULTS:
                faults.append(entry)
            else:
                unlisted += 1
        if not units:
            first = f"; the first entry: {faults[0].reason}" if faults else ""
            raise ProbelineError(f"the file holds none of the {form.noun}{first}")
    except (ProbelineError, OSError) as error:
        counts["files_quarantined"] += 1
        place = place_of(path, root)
        line = {**place, "entry": None, **quarantined(path, error)}
        _log.warning("Quarantined %s: %s", plain_text(place["path"]), line["reason"])
        quarantine.append(line)
        return [], [], False
    counts["found"] += len(faults) + unlisted
    counts["quarantined"] += len(faults) + unlisted
    listed: list[dict[str, Any]] = [
        {
            **place_of(path, root),
            "entry": fault.number,
            "reason": plain_text(fault.reason),
            "sha256": fault.sha256,
        }
        for fault in faults
    ]
    if unlisted:
        listed[-1] |= {
            "reason": f"{listed[-1]['reason']}; {unlisted} more of the file are not listed",
            "more": unlisted,
        }
    if listed:
        of = f"{len(listed) + unlisted} of the {form.noun} in {plain_text(listed[0]['path'])}"
        _log.warning("Quarantined %s; the first: %s", of, listed[0]["reason"])
    quarantine += listed
    return units, faults, False


def place_of(path: Path, root: Path) -> dict[str, str]:
    """A file's path below the root of its corpus and its name, for the quarantine."""
    name = path.relative_to(root).as_posix().encode("utf-8", "replace").decode()
    return {"path": name, "file": name.rpartition("/")[2]}


def collect_units(form: Format, shards: list[Path], output: Path) -> None:
    """Merge the shards of a corpus; the result does not depend on how many there are.

    Args:
        form: the format.
        shards: folders made by `ingest_units`.
        output: the folder of the corpus, which may hold the shards too; its manifest is written last.
    """
    (output / "manifest.json").unlink(missing_ok=True)
    counts: Counter[str] = Counter()
    quarantine: list[dict[str, Any]] = []
    for shard in shards:
        quality = read_json(shard / QUALITY_FILE)
        counts.update({name: quality[name] for name in _READ})
        quarantine += read_quarantine(shard)
    tables = [f"{form.noun}.parquet", f"{form.parts}.parquet"]
    chosen: dict[str, int] = {}
    with table_writer(output / tables[0], form.unit_columns) as write:
        for group in row_groups(_first_of_copies(form, shards, chosen)):
            write(group)
    streams = (_parts_of_chosen(form, shard, number, chosen) for number, shard in enumerate(shards))
    with table_writer(output / tables[1], form.part_columns) as write:
        for group in row_groups(merge(*streams, key=itemgetter(0))):
            write(group)
    counts["duplicates"] += (
        counts["found"]
        - len(chosen)
        - sum(counts[name] for name in ("duplicates", "quarantined", "retracted"))
    )
    _write_account(form, output, counts, quarantine)
    facts = _facts(form, counts, len(chosen))
    write_manifest(output, "corpus", facts, [*tables, QUALITY_FILE, QUARANTINE_FILE])
    faults = counts["files_quarantined"] + counts["quarantined"]
    if faults and not chosen:
        _log.warning("None of the %s could be read. Is this the right root?", form.noun)
    if faults:
        _log.warning("%d in quarantine: see %s", faults, output / QUARANTINE_FILE)


def _first_of_copies(
    form: Format, shards: list[Path], chosen: dict[str, int]
) -> Iterator[tuple[str, "pa.Table"]]:
    """Each unit once, sorted; notes in `chosen` which shard it came from."""
    streams = (_units_of(form, shard, number) for number, shard in enumerate(shards))
    for key, copies in groupby(merge(*streams, key=itemgetter(0, 1)), key=itemgetter(0)):
        _, number, table = min(copies, key=lambda copy: _order(form, copy[2].to_pylist()[0]))
        chosen[key] = number
        yield key, table


def _units_of(form: Format, shard: Path, number: int) -> Iterator[tuple[str, int, "pa.Table"]]:
    for key, table in games_in(shard / f"{form.noun}.parquet"):
        yield key, number, table


def _parts_of_chosen(
    form: Format, shard: Path, number: int, chosen: Mapping[str, int]
) -> Iterator[tuple[str, "pa.Table"]]:
    for key, table in games_in(shard / f"{form.parts}.parquet"):
        if chosen[key] == number:
            yield key, table


def _facts(form: Format, counts: Counter[str], kept: int) -> dict[str, int]:
    return {form.noun: kept, "files_read": counts["files_read"]}


def _write_account(
    form: Format, folder: Path, counts: Counter[str], quarantine: list[dict[str, Any]]
) -> None:
    own: Counter[str] = Counter(dict.fromkeys(form.counted, 0))
    kept = 0
    units, parts = folder / f"{form.noun}.parquet", folder / f"{form.parts}.parquet"
    for _, table in games_in(units):
        kept += 1
        for entry in table["counts"].to_pylist()[0]:
            own[entry["name"]] += entry["count"]
    account = {name: counts[name] for name in _READ} | {form.noun: kept}
    write_json(folder / QUALITY_FILE, {**account, **own, **form.extra(units, parts)})
    write_quarantine(folder, quarantine)
    _log.info("%s", ", ".join(f"{count} {name}" for name, count in account.items()))


def read_quarantine(folder: Path) -> list[dict[str, Any]]:
    """What a shard or a corpus has in quarantine."""
    return [orjson.loads(line) for line in (folder / QUARANTINE_FILE).read_bytes().splitlines()]


def write_quarantine(folder: Path, quarantine: list[dict[str, Any]]) -> None:
    """Write quarantine.jsonl, by path and entry."""
    order = sorted(quarantine, key=lambda line: (line["path"], line.get("entry") or 0))
    write_json_lines(folder / QUARANTINE_FILE, order)


def counts_column(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Counts as the column `counts` of a unit holds them; zeros are left out."""
    return [{"name": name, "count": count} for name, count in sorted(counts.items()) if count]
