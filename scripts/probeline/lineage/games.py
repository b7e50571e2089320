"""Which games are in an artifact, and in which split: read from its tables, whatever stage made them."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from probeline.files import MANIFEST, open_parquet, read_json

TABLES = (
    *("scores.parquet", "samples.parquet", "games.parquet", "index.parquet"),
    *("cases.parquet", "dialogues.parquet", "shift.parquet", "tokens.parquet"),
)
"""Tables with a column `game`, the first that an artifact holds is read: it lists exactly what was used."""
WITHOUT_SPLIT = "all"
DIGITS = 32
"""Of a content digest, in a record: enough to tell games apart by content, half the bytes."""
FEWEST_DIGITS = 8
"""Of a content digest, to find a game by."""

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
    known: dict[str, dict[str | None, str]] = {}
    for games in upstream:
        for split, members in games.items():
            for game, content in members.items():
                contents = known.setdefault(game, {})
                if contents.get(content, WITHOUT_SPLIT) == WITHOUT_SPLIT:
                    contents[content] = split
    for contents in known.values():
        if len(contents) > 1:
            contents.pop(None, None)
    table = next((name for name in TABLES if name in files), None)
    if table is not None:
        return _sorted(_rows(files[table], known))
    logs = [PurePosixPath(name) for name in files if PurePosixPath(name).name == "game_stats.json"]
    if logs:
        return {WITHOUT_SPLIT: {log.parent.as_posix(): None for log in sorted(logs)}}
    unread = set(read_json(files[MANIFEST]).get("unread_splits", ())) if MANIFEST in files else set()
    return _sorted(
        (split, key_of(game, content, contents), content)
        for game, contents in known.items()
        for content, split in contents.items()
        if split not in unread
    )


def key_of(game: str, content: str | None, contents: Mapping[str | None, str]) -> str:
    """The key of a game in a record; where corpora call different games alike, it ends with the content."""
    return game if len(contents) == 1 else f"{game}#{content}"


def name_of(key: str, content: str | None) -> str:
    """The game's key in its corpus: the inverse of `key_of`."""
    return key.removesuffix(f"#{content}") if content and "#" in key else key


def _rows(
    table: Path, known: Mapping[str, Mapping[str | None, str]]
) -> Iterable[tuple[str, str, str | None]]:
    """Split, game and content of each game of a table, once."""
    file = open_parquet(table)
    columns = [name for name in ("game", "split", "content") if name in file.schema_arrow.names]
    rows: list[dict[str, Any]] = file.read(columns=columns).group_by(columns).aggregate([]).to_pylist()
    for row in rows:
        contents = known.get(row["game"], {None: WITHOUT_SPLIT})
        own = row.get("content")
        content = own[:DIGITS] if own else next(iter(contents))
        yield row.get("split", contents.get(content, WITHOUT_SPLIT)), row["game"], content


def _sorted(found: Iterable[tuple[str, str, str | None]]) -> Games:
    games: Games = {}
    for split, game, content in sorted(found, key=lambda row: row[:2]):
        games.setdefault(split, {})[game] = content
    return games


def names_like(wanted: str, names: Iterable[str]) -> set[str]:
    """The names that equal what is wanted, or else those that end with it."""
    names = set(names)
    return {wanted} if wanted in names else {name for name in names if name.endswith(f"/{wanted}")}


def contents_like(wanted: str, contents: Iterable[str]) -> set[str]:
    """The content digests that begin with what is wanted, where that is digits enough."""
    if not re.fullmatch(f"[0-9a-f]{{{FEWEST_DIGITS},64}}", wanted):
        return set()
    return {content for content in contents if content[:DIGITS].startswith(wanted[:DIGITS])}
