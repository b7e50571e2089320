"""Walking through the folders in which artifacts lie."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from probeline.files import MANIFEST
from probeline.lineage.hashing import is_link
from probeline.lineage.records import SUFFIX


def walk(place: str, unreadable: Callable[[OSError], None]) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk`, but into links to folders elsewhere, too: artifacts may lie on another disk.

    All other links to folders are among the names of files: those inside an artifact, whose files must lie in
    it, and those that lead back to this directory, around it, or to what is walked already.

    Args:
        place: the folder to begin with.
        unreadable: is told of each folder that cannot be listed.

    Yields:
        A folder, the names of the folders in it (those that are taken out are not entered), and of its files.
    """
    entered = [Path(os.path.realpath(path)) for path in (".", place)]
    artifacts = {place} if os.path.lexists(f"{place}{SUFFIX}") else set()
    for folder, folders, names in os.walk(place, onerror=unreadable, followlinks=True):
        inside = folder in artifacts or MANIFEST in names
        for name in folders.copy():
            path = f"{folder}/{name}"
            if is_link(path):
                target = Path(os.path.realpath(path))
                if inside or any(_overlap(target, other) for other in entered):
                    folders.remove(name)
                    names.append(name)
                    continue
                entered.append(target)
            if inside or f"{name}{SUFFIX}" in names:
                artifacts.add(path)
        yield folder, folders, names


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)
