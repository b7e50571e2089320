"""Digests of files, computed again only when a file may have changed."""

import sqlite3
from collections.abc import Callable
from pathlib import Path


class StatCache:
    """Remembers a text per file, keyed by its path, size, mtime, ctime and inode.

    An edit whose mtime was put back still changes the ctime, which no ordinary program can set.

    Args:
        path: the SQLite file; made when absent, safe to delete at any time.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, timeout=30)
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS entries"
            " (purpose TEXT, path TEXT, stat TEXT, value TEXT, PRIMARY KEY (purpose, path))"
        )

    def values(self, purpose: str, paths: list[Path], compute: Callable[[Path], str]) -> list[str]:
        """The value of each path, from the cache where its stat is unchanged.

        Args:
            purpose: the name of what `compute` computes; another name is another cache.
            paths: existing files.
            compute: makes the value of one file.
        """
        known = {
            path: (stat, value)
            for path, stat, value in self._connection.execute(
                "SELECT path, stat, value FROM entries WHERE purpose = ?", (purpose,)
            )
        }
        values, fresh = [], []
        for path in paths:
            key = str(path.absolute())
            info = path.stat()
            stat = f"{info.st_size}:{info.st_mtime_ns}:{info.st_ctime_ns}:{info.st_ino}"
            entry = known.get(key)
            if entry is None or entry[0] != stat:
                entry = (stat, compute(path))
                fresh.append((purpose, key, *entry))
            values.append(entry[1])
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", fresh)
        return values

    def close(self) -> None:
        """Release the file."""
        self._connection.close()
