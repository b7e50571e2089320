"""Which games are in an artifact, and in which split: read from its tables, whatever stage made them."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from probeline.files import MANIFEST, open_parquet, read_json

TABLES = ("scores.parquet", "samples.parquet", "games.parquet", "index.parquet")
"""Tables with a column `game`, the first that an artifact holds is read: it lists exactly what was used."""
WITHOUT_SPLIT = "all"
DIGITS = 32
"""Of a content digest, in a record: enough to tell games apart by content, half the bytes."""

Games = dict[str, dict[str, str | None]]
"""Split → game → the first digits of its content digest (None before the logs were read)."""


def games_in(files: Mapping[str, Path], upstream: Iterable[Games]) -> Games:
    """The games that an artifact shows.

    Where it has no table of games (a sweep, a transfer), these are all games of what it was made from, but
    for the splits that its manifest names as `unread_splits`. Splits and contents that a table lacks come
    from there, too.

    Args:
        files: relative path → file of the artifact.
        upstream: games of what it was made from.
    """
    known: dict[str, tuple[str, str | None]] = {}
    for games in upstream:
        for split, members in games.items():
            for game, content in members.items():
                before = known.get(game)
                if before is None or before[0] == WITHOUT_SPLIT or before[1] is None:
                    known[game] = (split, content)
    table = next((name for name in TABLES if name in files), None)
    if table is not None:
        return _sorted(_rows(files[table], known))
    logs = [PurePosixPath(name) for name in files if PurePosixPath(name).name == "game_stats.json"]
    if logs:
        return {WITHOUT_SPLIT: {log.parent.as_posix(): None for log in sorted(logs)}}
    unread = set(read_json(files[MANIFEST]).get("unread_splits", ())) if MANIFEST in files else set()
    return _sorted((split, game, content) for game, (split, content) in known.items() if split not in unread)


def _rows(table: Path, known: Mapping[str, tuple[str, str | None]]) -> Iterable[tuple[str, str, str | None]]:
    """Split, game and content of each game of a table, once."""
    file = open_parquet(table)
    columns = [name for name in ("game", "split", "content") if name in file.schema_arrow.names]
    rows: list[dict[str, Any]] = file.read(columns=columns).group_by(columns).aggregate([]).to_pylist()
    for row in rows:
        split, content = known.get(row["game"], (WITHOUT_SPLIT, None))
        own = row.get("content")
        yield row.get("split", split), row["game"], own[:DIGITS] if own else content


def _sorted(found: Iterable[tuple[str, str, str | None]]) -> Games:
    games: Games = {}
    for split, game, content in sorted(found, key=lambda row: row[:2]):
        games.setdefault(split, {})[game] = content
    return games
