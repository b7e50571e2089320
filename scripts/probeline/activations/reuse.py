"""What was computed for a game before, found by content.

Snakemake deletes the outputs of a rule before the rule runs again. So the results lie in a work folder, too,
as hard links that take no space while the output is there. A game's key is a digest of its tokens and spans,
and a folder belongs to one way of computing (weights, settings, code, machine), so that what is found is, bit
for bit, what would be computed. While a job runs, its new results are appended to a journal: a job that was
killed goes on where it was.
"""

import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from probeline.digests import sha256_bytes
from probeline.files import atomic_directory, explain_full_disk, write_json_lines

log = logging.getLogger(__name__)

GAMES = "games.jsonl"
JOURNAL_SUFFIX = ".journal"

Range = tuple[str, int, int]  # file, offset, length


class PastResults:
    """The results that one job finds, and those that it leaves.

    Args:
        work: the work folder.
        identity: digest of everything that decides about the bits of a result, but for the game.
        name: the job's own; it may go on with its own journal, and its results replace those of its last run.
        shared: whether others work there too, under names of theirs: what is there of other ways is kept.
    """

    def __init__(self, work: Path, identity: str, name: str, shared: bool = False) -> None:
        self._work = work
        self._shared = shared
        self._folder = work / identity[:16]
        self._name = name
        self._found: dict[str, tuple[Path, dict[str, Any]]] = {}
        for entry in self._entries():
            for line in _lines(entry / GAMES):
                self._found.setdefault(line["game"], (entry, line))

    def _entries(self) -> Iterator[Path]:
        if self._folder.is_dir():
            yield from sorted(entry for entry in self._folder.iterdir() if not entry.name.startswith("."))

    def find(self, key: str) -> list[bytes] | None:
        """The parts of a game's result, or None if it has to be computed."""
        if key not in self._found:
            return None
        entry, line = self._found[key]
        try:
            parts = [_read(entry / file, offset, length) for file, offset, length in line["parts"]]
        except OSError:
            return None  # a job that runs beside this one has replaced it
        if _digest(parts) != line["sha256"]:
            log.warning("A stored result in %s is not what was written: it is computed again.", entry.name)
            return None
        return parts

    def keep(self, key: str, parts: list[bytes]) -> None:
        """Append a new result to the journal. It is not left open: a network volume would not have that."""
        folder = self._folder / (self._name + JOURNAL_SUFFIX)
        with explain_full_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            ranges: list[Range] = []
            with (folder / "results").open("ab") as results:
                for part in parts:
                    ranges.append(("results", results.tell(), len(part)))
                    results.write(part)
            line = line_of(key, ranges, parts)
            with (folder / GAMES).open("ab") as games:
                # A killed job may have left half a line.
                games.write(b"\n" + orjson.dumps(line) + b"\n")
        # The same texts may come again, in a renamed copy of the game.
        self._found[key] = folder, line

    def finish(self, files: Mapping[str, Path], lines: list[dict[str, Any]]) -> None:
        """Put the finished artifact in the place of the journal, and of what this job left before.

        Args:
            files: name → file of the artifact that holds results.
            lines: what `line_of` gives for each game in them.
        """
        with atomic_directory(self._folder / self._name) as draft:
            for name, file in files.items():
                try:
                    os.link(file, draft / name)
                except OSError:  # on another filesystem, or on one without links
                    shutil.copyfile(file, draft / name)
            write_json_lines(draft / GAMES, lines)
        for other in [self._folder] if self._shared else self._work.glob("*/"):
            shutil.rmtree(other / (self._name + JOURNAL_SUFFIX), ignore_errors=True)
            if other != self._folder:
                shutil.rmtree(other / self._name, ignore_errors=True)


def remove_orphans(work: Path, jobs: Collection[str]) -> None:
    """Remove the results of jobs that the configuration no longer has, where only the work folder holds them.

    Args:
        work: the work folder.
        jobs: the names of the present jobs.
    """
    for entry in [*work.glob("*/*")]:
        files = [file for file in entry.glob("*") if file.name != GAMES]
        if entry.name.removesuffix(JOURNAL_SUFFIX) not in jobs and all(
            file.stat().st_nlink == 1 for file in files
        ):
            shutil.rmtree(entry)


def line_of(key: str, ranges: list[Range], parts: list[bytes]) -> dict[str, Any]:
    """A game's line in the list of results: where its parts lie, and their digest."""
    return {"game": key, "parts": ranges, "sha256": _digest(parts)}


def _digest(parts: list[bytes]) -> str:
    return sha256_bytes(b"".join(parts))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a list of results."""
    try:
        written = path.read_bytes().splitlines()
    except OSError:
        return
    for text in written:
        try:
            line = orjson.loads(text)
        except orjson.JSONDecodeError:
            continue  # half a line of a job that was killed, or that is writing now
        if isinstance(line, dict) and line.keys() == {"game", "parts", "sha256"}:
            yield line


def _read(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)
