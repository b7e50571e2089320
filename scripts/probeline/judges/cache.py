"""Answers of judges in one SQLite file that all runs and processes share. Failures are never in it.

Who wants to ask claims the question first, so that nobody else asks it meanwhile. A claim is renewed as long
as its owner lives and lapses soon after, so that a killed process holds nobody up.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from probeline.errors import ProbelineError
from probeline.judges.questions import RUBRIC, Question

CACHE = Path(".probeline/rewards.sqlite")
LEASE = 30.0
"""Seconds after which a claim that nobody renews is free."""
PATIENCE = 60.0
"""Seconds that a write waits for those of other processes."""
APPLICATION = 0x50524C4A
VERSION = 1
BATCH = 500

_TABLES = """
CREATE TABLE answers (
    key TEXT PRIMARY KEY,
    purpose TEXT NOT NULL CHECK (purpose IN ('score', 'rubric')),
    kind TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    temperature REAL NOT NULL,
    template TEXT NOT NULL,
    material TEXT NOT NULL,
    score REAL CHECK (score BETWEEN 0 AND 1),
    rubric TEXT,
    CHECK ((purpose = 'score') = (score IS NOT NULL) AND (purpose = 'rubric') = (rubric IS NOT NULL))
) WITHOUT ROWID;
CREATE TABLE claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL, expires REAL NOT NULL) WITHOUT ROWID;
"""

Answer = float | str
"""A score, or a rubric."""


class AnswerCache:
    """The file of answers; usable from several threads.

    Args:
        path: of the file; made where it is not there.
        lease: seconds after which a claim that is not renewed is free.

    Attributes:
        path: of the file.
        lease: seconds.

    Raises:
        ProbelineError: the file is damaged, another program's, or cannot be written.
    """

    def __init__(self, path: Path, lease: float = LEASE) -> None:
        self.path = path
        self.lease = lease
        self._lock = threading.Lock()
        with self._in_words():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path, timeout=PATIENCE, check_same_thread=False, isolation_level=None
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def known(self, keys: Sequence[str]) -> dict[str, Answer]:
        """Key → answer, of those that were answered before."""
        found: dict[str, Answer] = {}
        with self._lock, self._in_words():
            for start in range(0, len(keys), BATCH):
                some = keys[start : start + BATCH]
                marks = ",".join("?" * len(some))
                query = f"SELECT key, coalesce(score, rubric) FROM answers WHERE key IN ({marks})"
                found.update(self._connection.execute(query, some).fetchall())
        return found

    def claim(self, key: str, owner: str) -> tuple[Answer | None, bool]:
        """The answer if there is one, and else whether the question is the caller's to ask.

        Args:
            key: of the question.
            owner: the caller; each has a name of its own.
        """
        now = time.time()
        with self._write() as connection:
            row = connection.execute(
                "SELECT coalesce(score, rubric) FROM answers WHERE key = ?", (key,)
            ).fetchone()
            if row is not None:
                return row[0], False
            # A claim from far in the future was made before the clock was put back.
            claimed = connection.execute(
                "INSERT INTO claims VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE"
                " SET owner = excluded.owner, expires = excluded.expires"
                " WHERE expires < ? OR expires > ?",
                (key, owner, now + self.lease, now, now + 2 * self.lease),
            ).rowcount
        return None, claimed == 1

    def store(self, question: Question, owner: str, answer: Answer) -> Answer:
        """Remember an answer and end the claim.

        Returns:
            What is remembered: another's answer, where that was first after the caller's claim had lapsed.
        """
        key, asked = question.key, question.asked
        rubric = question.purpose == RUBRIC
        row: list[str | float | None]
        row = [key, question.purpose, asked.kind, asked.endpoint, asked.model, asked.temperature]
        row += [question.template, json.dumps(question.texts, ensure_ascii=False)]
        row += [None, answer] if rubric else [answer, None]
        with self._write() as connection:
            connection.execute(
                f"INSERT INTO answers VALUES ({','.join('?' * len(row))}) ON CONFLICT (key) DO NOTHING", row
            )
            connection.execute("DELETE FROM claims WHERE key = ? AND owner = ?", (key, owner))
            return connection.execute(
                "SELECT coalesce(score, rubric) FROM answers WHERE key = ?", (key,)
            ).fetchone()[0]

    def renew(self, owner: str) -> None:
        """Hold all claims of an owner for another lease."""
        with self._write() as connection:
            connection.execute(
                "UPDATE claims SET expires = ? WHERE owner = ?", (time.time() + self.lease, owner)
            )

    def release(self, owner: str, key: str | None = None) -> None:
        """End one claim of an owner, or all."""
        with self._write() as connection:
            connection.execute("DELETE FROM claims WHERE owner = ? AND key = coalesce(?, key)", (owner, key))

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """What a reading query finds, each row as a dict."""
        with self._lock, self._in_words():
            cursor = self._connection.execute(query, values)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._connection.close()

    def _prepare(self) -> None:
        if not self._is_ours():
            self._make_tables()
        _set_journal(self._connection)

    def _make_tables(self) -> None:
        # Several processes may begin at once; the one that comes first makes the tables.
        self._connection.execute("BEGIN EXCLUSIVE")
        try:
            if not self._is_ours():
                for statement in filter(str.strip, _TABLES.split(";")):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA application_id = {APPLICATION}")
                self._connection.execute(f"PRAGMA user_version = {VERSION}")
        finally:
            self._connection.execute("COMMIT")

    def _is_ours(self) -> bool:
        """Whether the tables are there; False for a new file.

        Raises:
            ProbelineError: the file is another program's, or of another version.
        """
        connection = self._connection
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not application and not tables:
            return False
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION or version != VERSION:
            what = "another program's" if application != APPLICATION else f"of version {version}"
            raise ProbelineError(
                f"{self.path} is {what}: the answers of judges cannot be kept in it. Move it away; a new one "
                "is made, and what judges have answered is asked again."
            )
        return True

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """A transaction of its own, before or after those of all other threads and processes."""
        with self._lock, self._in_words():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError):
            raise
        except sqlite3.OperationalError as error:
            raise ProbelineError(
                f"{self.path}, where the answers of judges are kept, cannot be used ({error}). It has to lie "
                "on a disk of this machine that has space and can be written. What is in it is kept."
            ) from error
        except sqlite3.DatabaseError as error:
            raise ProbelineError(
                f"{self.path}, where the answers of judges are kept, is damaged or no such file ({error}). "
                "Move it away with its -wal and -shm; a new one is made, and what judges have answered is "
                "asked again."
            ) from error


def _set_journal(connection: sqlite3.Connection) -> None:
    """Readers and a writer side by side; a commit survives the process, the last ones not a power failure.

    The change of mode does not wait for other processes by itself; where it was made before, nothing happens.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous = NORMAL")
