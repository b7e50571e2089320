"""Digests of files, computed again only when a file may have changed."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

BATCH = 500
"""Fresh values that are computed before they are stored: an interruption costs no more than these."""


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
        known = {
            path: (stat, value)
            for path, stat, value in self._connection.execute(
                "SELECT path, stat, value FROM entries WHERE purpose = ?", (purpose,)
            )
        }
        values: list[str | None] = []
        stale: list[tuple[int, str]] = []
        for position, path in enumerate(paths):
            stat = _stat(path)
            stored_stat, value = known.get(str(path.absolute()), (None, None))
            values.append(value if stat == stored_stat else None)
            if stat is not None and stat != stored_stat:
                stale.append((position, stat))
        announce(len(stale))
        for start in range(0, len(stale), BATCH):
            fresh = []
            for position, stat in stale[start : start + BATCH]:
                try:
                    value = compute(paths[position])
                except OSError:
                    continue  # Who reads the file next is told so again, and can say it.
                values[position] = value
                fresh.append((purpose, str(paths[position].absolute()), stat, value))
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", fresh)
        return values

    def close(self) -> None:
        """Release the file."""
        self._connection.close()


def _stat(path: Path) -> str | None:
    try:
        info = path.stat()
    except OSError:
        return None
    return f"{info.st_size}:{info.st_mtime_ns}:{info.st_ctime_ns}:{info.st_ino}"
