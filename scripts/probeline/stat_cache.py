"""Digests of files, computed again only when a file may have changed."""

import os
import sqlite3
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

BATCH = 500
"""Fresh values that are computed before they are stored: an interruption costs no more than these."""
TICK = 0.02
"""Seconds. A kernel's clock for files ticks every 10 ms at worst: two edits within a tick look like one."""

# In memory, where the file cannot be written: then every process computes for itself.
_NO_FILE = Path(":memory:")


@dataclass(frozen=True)
class Unknown:
    """A file whose value is to be computed.

    Attributes:
        position: in the list that was asked for.
        path: the file.
        stat: its identity before it is read.
        size: in bytes.
    """

    position: int
    path: Path
    stat: str
    size: int


class StatCache:
    """Remembers a text per file, keyed by its path, size, mtime, ctime and inode.

    An edit whose mtime was put back still changes the ctime, which no ordinary program can set.

    Args:
        path: the SQLite file; made when absent or damaged, safe to delete at any time.

    Attributes:
        stored: how many values this object has stored.
    """

    def __init__(self, path: Path) -> None:
        self.stored = 0
        self._path = path
        self._connection = _open_or_start_anew(path)

    def lookup(
        self, purpose: str, paths: Sequence[Path], again: bool = False
    ) -> tuple[list[str | None], list[Unknown]]:
        """What is known of some files, and which are to be read.

        Args:
            purpose: what the values are, and in which version; another text is another cache.
            paths: the files.
            again: take every file as unknown.

        Returns:
            One value per path, None where it is unknown; and those files, but for the ones that are no
            regular files or not there.
        """
        keys = [_key(path) for path in paths]
        known = {} if again else self._known(purpose, keys)
        values: list[str | None] = []
        unknown: list[Unknown] = []
        latest = 0
        for position, (path, key) in enumerate(zip(paths, keys, strict=True)):
            info = _stat(path)
            identity = "" if info is None else _identity(info)
            stored_identity, value = known.get(key, (None, None))
            values.append(value if identity == stored_identity else None)
            if info is not None and identity != stored_identity:
                unknown.append(Unknown(position, path, identity, info.st_size))
                latest = max(latest, info.st_ctime_ns)
        if latest > time.time_ns() - TICK * 1e9:
            # Who edits a file from here on, after it was read, leaves another ctime.
            time.sleep(TICK)
        return values, unknown

    def store(self, purpose: str, fresh: Sequence[tuple[Unknown, str]]) -> None:
        """Remember values; a cache that cannot be written costs time and nothing else."""
        self.stored += len(fresh)
        rows = [(purpose, _key(file.path), file.stat, value) for file, value in fresh]
        try:
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", rows)
        except sqlite3.OperationalError:
            return
        except sqlite3.DatabaseError:
            self._start_anew()

    def values(
        self,
        purpose: str,
        paths: list[Path],
        compute: Callable[[Path], str],
        announce: Callable[[int], None] = lambda count: None,
    ) -> list[str | None]:
        """The value of each path, from the cache where its stat is unchanged.

        Args:
            purpose: what `compute` computes, and in which version; another text is another cache.
            paths: the files.
            compute: makes the value of one file.
            announce: is told, before the first is read, how many files will be.

        Returns:
            One value per path; None, which is not remembered, where the file could not be read.
        """
        values, unknown = self.lookup(purpose, paths)
        announce(len(unknown))
        for start in range(0, len(unknown), BATCH):
            fresh = []
            for file in unknown[start : start + BATCH]:
                # Who reads the file next is told of a fault again, and can say it.
                with suppress(OSError):
                    fresh.append((file, compute(file.path)))
            for file, value in fresh:
                values[file.position] = value
            self.store(purpose, fresh)
        return values

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    def _start_anew(self) -> None:
        """Without what is damaged."""
        self._connection.close()
        self._connection = _without(self._path)

    def _known(self, purpose: str, keys: list[str]) -> dict[str, tuple[str, str]]:
        """Path → identity and value; nothing where the cache is damaged."""
        try:
            return self._read(purpose, keys)
        except sqlite3.OperationalError:
            self._connection.close()
            self._connection = _open(_NO_FILE)
        except sqlite3.DatabaseError:
            self._start_anew()
        return {}

    def _read(self, purpose: str, keys: list[str]) -> dict[str, tuple[str, str]]:
        """Path → identity and value; only what was asked for is read, however large the cache."""
        found: dict[str, tuple[str, str]] = {}
        for start in range(0, len(keys), BATCH):
            some = keys[start : start + BATCH]
            query = "SELECT path, stat, value FROM entries WHERE purpose = ? AND path IN ({})"
            with closing(
                self._connection.execute(query.format(",".join("?" * len(some))), (purpose, *some))
            ) as rows:
                found.update((path, (identity, value)) for path, identity, value in rows)
        return found


def _open_or_start_anew(path: Path) -> sqlite3.Connection:
    try:
        return _open(path)
    except (OSError, sqlite3.OperationalError):
        return _open(_NO_FILE)
    except sqlite3.DatabaseError:
        return _without(path)


def _without(path: Path) -> sqlite3.Connection:
    """A new cache in the place of a damaged one, or in memory."""
    try:
        path.unlink(missing_ok=True)
        return _open(path)
    except (OSError, sqlite3.DatabaseError):
        return _open(_NO_FILE)


def _open(path: Path) -> sqlite3.Connection:
    if path != _NO_FILE:
        path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=30)
    connection.execute(
        "CREATE TABLE IF NOT EXISTS entries"
        " (purpose TEXT, path TEXT, stat TEXT, value TEXT, PRIMARY KEY (purpose, path))"
    )
    columns = [name for _, name, *_ in connection.execute("PRAGMA table_info(entries)")]
    if columns != ["purpose", "path", "stat", "value"]:
        connection.close()
        raise sqlite3.DatabaseError(f"{path} is a table of {columns}")
    return connection


def _key(path: Path) -> str:
    return str(path.absolute())


def _stat(path: Path) -> os.stat_result | None:
    """None also for a pipe or device in a file's place: reading it might never end."""
    try:
        info = path.stat()
    except OSError:
        return None
    return info if stat.S_ISREG(info.st_mode) else None


def _identity(info: os.stat_result) -> str:
    return f"{info.st_size}:{info.st_mtime_ns}:{info.st_ctime_ns}:{info.st_ino}"
