"""Digests of files and folders, read again only where a file may have changed."""

import os
from collections.abc import Mapping
from pathlib import Path

from probeline.digests import sha256_bytes, sha256_file
from probeline.stat_cache import StatCache

STAT_CACHE = Path(".probeline/stat-cache.sqlite")
CACHE_PURPOSE = "sha256 1"
TIMESTAMP = ".snakemake_timestamp"
"""Snakemake puts it into folders; it belongs to no artifact."""


def files_of(folder: Path) -> dict[str, Path]:
    """Relative path → file, for all files of an artifact's folder, sorted; links are not followed into."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            if name != TIMESTAMP:
                path = Path(parent) / name
                found[path.relative_to(folder).as_posix()] = path
    return dict(sorted(found.items()))


def digests_of(paths: list[Path], cache: StatCache) -> list[str | None]:
    """Hex SHA-256 of each file; None where it cannot be read."""
    return cache.values(CACHE_PURPOSE, paths, sha256_file)


def directory_digest(files: Mapping[str, str]) -> str:
    """The `dirHash` of in-toto's digest sets: over the sorted lines `<sha256>  <relative path>`.

    Args:
        files: relative path → hex SHA-256.
    """
    return sha256_bytes("".join(f"{files[name]}  {name}\n" for name in sorted(files)).encode())
