"""Which games a corpus holds, and which of them are copies of another.

Imported while the workflow is parsed: the standard library and orjson only, and nothing is read twice
that did not change.
"""

import os
import re
from pathlib import Path

import orjson

from probeline.digests import canonical_digest, sha256_bytes, sha256_file
from probeline.errors import ProbelineError
from probeline.stat_cache import StatCache

GAME_STATS = "game_stats.json"
LLM_LOG = "llm_log.txt"
MAX_FILE_BYTES = 64 * 1024 * 1024
"""A larger file is no log of one game (the largest real ones have 3.5 MB) and is not read into memory."""

_GAME_FOLDER = re.compile(r"game\d+")


def list_games(root: Path) -> list[str]:
    """The keys of all games under `root`, sorted.

    A game is a folder that holds `game_stats.json`, or one that is named `gameN` without holding it (it is
    quarantined when read). Links to folders are not followed.

    Args:
        root: the folder of the corpus.

    Returns:
        The games' folders relative to `root`, with `/` between their parts.

    Raises:
        ProbelineError: `root` is no folder, or holds no game.
    """
    if not root.is_dir():
        raise _no_games(root, "it is not a folder" if root.exists() else "it does not exist")
    games = []
    for folder, _, files in os.walk(root, onerror=_unreadable):
        if GAME_STATS in files or _GAME_FOLDER.fullmatch(folder.rpartition(os.sep)[2]):
            games.append(_key(root, folder))
    if not games:
        raise _no_games(root, "it holds no game")
    return sorted(games)


def _unreadable(error: OSError) -> None:
    raise ProbelineError(
        f"The folder {error.filename} cannot be read ({error.strerror}). "
        "Allow reading it, or move it elsewhere."
    ) from error


def _key(root: Path, folder: str) -> str:
    key = Path(folder).relative_to(root).as_posix()
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise ProbelineError(f"The folder name {key!r} under {root} is not UTF-8. Rename it.") from error
    return key


def _no_games(root: Path, why: str) -> ProbelineError:
    return ProbelineError(
        f"No game data found in {root}: {why}. Expected {root}/**/gameN/{GAME_STATS}. "
        "Put the logs there, or set corpora.<corpus>.root in the configuration to the folder that holds them."
    )


def game_files(root: Path, game: str) -> list[Path]:
    """The input files of a game that exist: `game_stats.json` and `llm_log.txt`."""
    folder = root / game
    return [file for name in (GAME_STATS, LLM_LOG) if (file := folder / name).is_file()]


def game_content(stats_bytes: bytes) -> str:
    """The digest of a game's content, whatever the formatting and the order of keys.

    Args:
        stats_bytes: the content of `game_stats.json`.

    Returns:
        Hex SHA-256 of the canonical JSON, or of the bytes themselves where they are not JSON.
    """
    try:
        return canonical_digest(orjson.loads(stats_bytes))
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, RecursionError):
        return sha256_bytes(stats_bytes)


def find_duplicates(root: Path, games: list[str], cache: StatCache) -> dict[str, str]:
    """Which games are copies of another, by content.

    Of several copies the one with an `llm_log.txt` is kept, then the first by key.

    Args:
        root: the folder of the corpus.
        games: keys of its games.
        cache: remembers the digests of unchanged files.

    Returns:
        Key of each copy → key of the game that is kept instead.
    """
    present = [game for game in games if (root / game / GAME_STATS).is_file()]
    contents = cache.values("game_content", [root / game / GAME_STATS for game in present], _file_content)
    copies: dict[str, list[str]] = {}
    for game, content in zip(present, contents, strict=True):
        copies.setdefault(content, []).append(game)
    duplicates = {}
    for same in copies.values():
        if len(same) > 1:
            kept = min(same, key=lambda game: (not (root / game / LLM_LOG).is_file(), game))
            duplicates.update({game: kept for game in same if game != kept})
    return dict(sorted(duplicates.items()))


def _file_content(path: Path) -> str:
    if path.stat().st_size > MAX_FILE_BYTES:
        return sha256_file(path)
    return game_content(path.read_bytes())
