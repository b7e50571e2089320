"""Digests of files and folders, read again only where a file may have changed."""

import hashlib
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

from probeline.digests import sha256_bytes
from probeline.stat_cache import BATCH, StatCache, Unknown

STAT_CACHE = Path(".probeline/stat-cache.sqlite")
CACHE_PURPOSE = "sha256 1"
TIMESTAMP = ".snakemake_timestamp"
"""Snakemake puts it into folders; it belongs to no artifact."""
PIECE = 1 << 20
"""Bytes read at once; hashing that many, Python lets other threads work."""
FILES_TOGETHER = 16
"""Small files that a thread takes at once: handing over each alone would cost more than reading it."""


def files_of(folder: Path) -> dict[str, Path]:
    """Relative path → file, for all files of an artifact's folder, sorted.

    Links to folders and folders that cannot be listed count as files: they have no digest.
    """
    unreadable: list[OSError] = []
    paths = []
    for parent, folders, names in os.walk(folder, onerror=unreadable.append):
        links = [name for name in folders if is_link(f"{parent}/{name}")]
        paths += [Path(parent) / name for name in (*names, *links) if name != TIMESTAMP]
    paths += [Path(error.filename) for error in unreadable if os.path.lexists(error.filename)]
    return {path.relative_to(folder).as_posix(): path for path in sorted(paths)}


def is_link(path: str) -> bool:
    """False also where nobody may look."""
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:
        return False


def digests_of(
    paths: Sequence[Path], cache: StatCache, threads: int = 1, again: bool = False, title: str | None = None
) -> list[str | None]:
    """Hex SHA-256 of each file; None where it cannot be read.

    Args:
        paths: the files.
        cache: remembers the digests of unchanged files.
        threads: how many files are read at a time.
        again: read also what the cache knows.
        title: shows a bar of this title on a terminal.
    """
    values, unknown = cache.lookup(CACHE_PURPOSE, paths, again)
    # The largest first: no thread is left alone with one in the end.
    unknown.sort(key=lambda file: -file.size)
    total = sum(file.size for file in unknown)
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(
            total=total,
            desc=title,
            unit="B",
            unit_scale=True,
            disable=None if title else True,
            delay=1,
            leave=False,
        ) as bar,
    ):
        for start in range(0, len(unknown), BATCH):
            batch = unknown[start : start + BATCH]
            step = FILES_TOGETHER if batch[0].size < PIECE else 1
            groups = [batch[first : first + step] for first in range(0, len(batch), step)]
            hash_group = partial(_hash_group, report=bar.update)
            done = pool.map(hash_group, groups) if threads > 1 else map(hash_group, groups)
            fresh = [pair for group in done for pair in group]
            for file, digest in fresh:
                values[file.position] = digest
            cache.store(CACHE_PURPOSE, fresh)
    return values


def _hash_group(files: Sequence[Unknown], report: Callable[[int], object]) -> list[tuple[Unknown, str]]:
    """The files that can be read, with their digests."""
    buffer = bytearray(min(PIECE, max(file.size for file in files) + 1))
    view = memoryview(buffer)
    done = []
    for file in files:
        digest = hashlib.sha256()
        try:
            with file.path.open("rb", buffering=0) as source:
                while count := source.readinto(buffer):
                    digest.update(view[:count])
                    report(count)
        except OSError:
            continue
        done.append((file, digest.hexdigest()))
    return done


def directory_digest(files: Mapping[str, str]) -> str:
    """The `dirHash` of in-toto's digest sets: over the sorted lines `<sha256>  <relative path>`.

    Args:
        files: relative path → hex SHA-256.
    """
    return sha256_bytes("".join(f"{files[name]}  {name}\n" for name in sorted(files)).encode())
