"""Which games a corpus holds, and which of them are copies of another.

Imported while the workflow is parsed: the standard library and orjson only, and nothing is read twice
that did not change.
"""

import errno
import os
import re
import sys
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NoReturn

import orjson

from probeline.digests import canonical_digest, sha256_bytes, sha256_file
from probeline.errors import ProbelineError
from probeline.logs.formats import FILE_FORMATS, IGNORED_FILES
from probeline.stat_cache import StatCache
from probeline.text import plain_text

GAME_STATS = "game_stats.json"
LLM_LOG = "llm_log.txt"
# With another number all digests are made again: raise it when `game_content` changes what it digests.
CACHE_PURPOSE = "game_content 2"
FILE_CACHE_PURPOSE = "file_content 2"
BOM = b"\xef\xbb\xbf"
MAX_FILE_BYTES = 64 * 1024 * 1024
"""A larger file is no log of one game (the largest real ones have 3.5 MB) and is not read into memory."""
MAX_SMALL_FILE_BYTES = 16 * 1024 * 1024
"""The same for the files of corpora that are made of files (real Mafia logs stay below 1 MB)."""
MANY_FILES = 2000
"""Reading more takes long enough to be announced."""

_GAME_FOLDER = re.compile(r"game\d+")


def list_games(root: Path, corpus: str) -> list[str]:
    """The keys of all games under `root`, sorted.

    A game is a folder that holds `game_stats.json`, or one that is named `gameN` and holds neither that nor
    a game further below (it is quarantined when read). Links to folders are followed; a folder that is
    reached in several ways counts once, by its path without links where it has one.

    Args:
        root: the folder of the corpus.
        corpus: its name in the configuration.

    Returns:
        The games' folders relative to `root`, as seen from there, with `/` between their parts.

    Raises:
        ProbelineError: `root` is no folder, holds no game, or is itself one; or a folder cannot be read.
    """
    if not root.is_dir():
        raise _no_games(root, corpus, "it is not a folder" if root.exists() else "it does not exist")
    games, without_stats = [], []
    for folder, files in _folders(root):
        if GAME_STATS in files:
            games.append(_key(root, folder))
        elif _GAME_FOLDER.fullmatch(folder.name):
            without_stats.append(_key(root, folder))
    if "." in games:
        raise ProbelineError(
            f"{root} holds {GAME_STATS} itself: it is one game, not a folder of games. Set "
            f"corpora.{corpus}.root to the folder above it, or move its {GAME_STATS} and {LLM_LOG} into a "
            f"folder {root}/game1."
        )
    above = {".", *(parent for game in games for parent in _parents(game))}
    for key in sorted(without_stats, key=len, reverse=True):  # those below before those above
        if key not in above:
            games.append(key)
            above.update(_parents(key))
    if not games:
        raise _no_games(root, corpus, "it holds no game")
    return sorted(games)


def list_files(root: Path, corpus: str, format_name: str) -> list[str]:
    """The files that may hold logs of a format, anywhere under `root`, sorted.

    Args:
        root: the folder of the corpus.
        corpus: its name in the configuration.
        format_name: a key of FILE_FORMATS.

    Returns:
        Paths relative to `root`, with `/` between their parts.

    Raises:
        ProbelineError: `root` is no folder or holds no such file; or a folder cannot be read.
    """
    ending = FILE_FORMATS[format_name]
    if not root.is_dir():
        raise _no_files(root, corpus, ending, "it is not a folder" if root.exists() else "it does not exist")
    files = files_under(root, ending)
    if not files:
        raise _no_files(root, corpus, ending, f"it holds no {ending} file")
    return files


def files_under(root: Path, ending: str) -> list[str]:
    """The files under `root` whose names end so, but for IGNORED_FILES; paths relative to it, sorted."""
    return sorted(
        _key(root, folder / name)
        for folder, names in _folders(root)
        for name in names
        if name.endswith(ending) and name not in IGNORED_FILES
    )


def _no_files(root: Path, corpus: str, ending: str, why: str) -> ProbelineError:
    return ProbelineError(
        f"No logs found in {root}: {why}. Expected {root}/**/*{ending}. Put the logs there, or set "
        f"corpora.{corpus}.root in the configuration to the folder that holds them."
    )


def _folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each folder under `root` once, with the names of its files: first without links, then through them."""
    visited = set()
    starts = deque([root])
    while starts:
        for path, names, files in os.walk(starts.popleft(), onerror=_unreadable):
            folder = Path(path)
            try:
                info = folder.stat()
                links = [folder / name for name in sorted(names) if (folder / name).is_symlink()]
            except OSError as error:
                _unreadable(error)
            if (info.st_dev, info.st_ino) in visited:
                names.clear()
                continue
            visited.add((info.st_dev, info.st_ino))
            names.sort()  # the order decides which of several links counts
            starts.extend(links)
            yield folder, files


def _unreadable(error: OSError) -> NoReturn:
    raise ProbelineError(
        f"The folder {plain_text(str(error.filename))} cannot be read ({error.strerror}). "
        "Allow reading it, or move it elsewhere."
    ) from error


def _key(root: Path, path: Path) -> str:
    key = path.relative_to(root).as_posix()
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise ProbelineError(f"The name {key!r} under {root} is not UTF-8. Rename it.") from error
    return key


def _parents(key: str) -> list[str]:
    return [str(parent) for parent in PurePosixPath(key).parents]


def _no_games(root: Path, corpus: str, why: str) -> ProbelineError:
    return ProbelineError(
        f"No game data found in {root}: {why}. Expected {root}/**/gameN/{GAME_STATS}. "
        f"Put the logs there, or set corpora.{corpus}.root in the configuration to the folder that holds "
        "them."
    )


def game_files(root: Path, game: str) -> list[Path]:
    """The input files of a game: `game_stats.json` and `llm_log.txt`, where they exist and may be read.

    Snakemake reads its input files; a file that it must not read is for `ingest_werewolf` to report. Once
    it may be read it is one input more, and its shard is made again.
    """
    files = [root / game / name for name in (GAME_STATS, LLM_LOG)]
    return [file for file in files if can_be_input(file)]


def has_file(path: Path) -> bool:
    """Whether there is a file; also true where that must not be looked up: reading it says why."""
    try:
        return path.is_file()
    except OSError:
        return True


def game_content(stats_bytes: bytes) -> str:
    """The digest of a game's content, whatever the formatting and the order of keys.

    Args:
        stats_bytes: the content of `game_stats.json`.

    Returns:
        Hex SHA-256 of the canonical JSON, without a byte order mark; of the bytes themselves where they
        are not JSON.
    """
    try:
        return canonical_digest(orjson.loads(stats_bytes.removeprefix(BOM)))
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, RecursionError):
        return sha256_bytes(stats_bytes)


def contents_of(root: Path, games: list[str], cache: StatCache) -> dict[str, str]:
    """The digest of each game's content (see `game_content`), but for those that cannot be read.

    Args:
        root: the folder of the corpus.
        games: keys of its games.
        cache: remembers the digests of unchanged files.
    """
    present = [game for game in games if has_file(root / game / GAME_STATS)]
    files = [root / game / GAME_STATS for game in present]
    contents = cache.values(CACHE_PURPOSE, files, file_content, _announce)
    return {game: content for game, content in zip(present, contents, strict=True) if content is not None}


def file_contents(root: Path, files: list[str], cache: StatCache) -> dict[str, str]:
    """The digest of each file's content (see `game_content`), but for those that cannot be read.

    Args:
        root: the folder of the corpus.
        files: paths relative to it.
        cache: remembers the digests of unchanged files.
    """
    compute = partial(file_content, limit=MAX_SMALL_FILE_BYTES)
    contents = cache.values(FILE_CACHE_PURPOSE, [root / file for file in files], compute, _announce)
    return {file: content for file, content in zip(files, contents, strict=True) if content is not None}


def find_duplicates(root: Path, games: list[str], cache: StatCache) -> dict[str, str]:
    """Which games are copies of another, by content.

    Of several copies the one with an `llm_log.txt` is kept, then the first by key. A game that cannot be
    read is no copy; `ingest_werewolf` puts it into quarantine.

    Args:
        root: the folder of the corpus.
        games: keys of its games.
        cache: remembers the digests of unchanged files.

    Returns:
        Key of each copy → key of the game that is kept instead.
    """
    copies: dict[str, list[str]] = {}
    for game, content in contents_of(root, games, cache).items():
        copies.setdefault(content, []).append(game)
    duplicates = {}
    for same in copies.values():
        if len(same) > 1:
            kept = min(same, key=lambda game: (not has_file(root / game / LLM_LOG), game))
            duplicates.update({game: kept for game in same if game != kept})
    return dict(sorted(duplicates.items()))


def _announce(count: int) -> None:
    if count > MANY_FILES:
        # The Snakefile is being parsed: nothing is logged yet.
        print(f"Reading {count:,} game logs once, to find copies …", file=sys.stderr, flush=True)


def can_be_input(path: Path) -> bool:
    """Whether Snakemake may read a file; a pipe in a file's place would never end."""
    return os.access(path, os.R_OK) and path.is_file()


def file_content(path: Path, limit: int = MAX_FILE_BYTES) -> str:
    """The digest of a file's content, see `game_content`; of its bytes where it is too large to be a log.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    if not path.is_file():
        raise OSError(errno.EINVAL, "no regular file", str(path))
    if path.stat().st_size > limit:
        return sha256_file(path)
    return game_content(path.read_bytes())
