"""DVC's pointers beside artifacts, and what they say of the records. Read without DVC: it is slow to load."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from probeline.files import draft_beside
from probeline.lineage.graph import PLACES
from probeline.lineage.walking import walk

SUFFIX = ".dvc"
# In C, where PyYAML has them: a thousand pointers are read in a fifth of the time.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True)
class Version:
    """An artifact, or a corpus of raw logs, as it is now.

    Attributes:
        path: relative to the working directory.
        sha256: its `dirHash`, or its digest if it is a file.
        description: what it is, for people.
        record: path and SHA-256 of its record; None for raw logs.
    """

    path: str
    sha256: str
    description: str
    record: tuple[str, str] | None

    @property
    def notes(self) -> dict[str, str]:
        """What the pointer's `meta` says of it."""
        notes = {"sha256": self.sha256}
        if self.record is not None:
            notes |= {"record": self.record[0], "record_sha256": self.record[1]}
        return notes


def pointer_path(artifact: str) -> Path:
    """Where the pointer of an artifact lies: beside it."""
    return Path(artifact + SUFFIX)


def read_pointer(path: Path) -> dict[str, Any] | None:
    """The pointer's YAML; None where there is none that names one output."""
    try:
        return parse_pointer(path.read_bytes())
    except FileNotFoundError:
        return None


def parse_pointer(text: bytes) -> dict[str, Any] | None:
    """A pointer's YAML; None where it does not name one output with its digest."""
    try:
        pointer = yaml.load(text, Loader=LOADER)
        _ = pointer["outs"][0]["md5"] + "", pointer["outs"][0]["path"] + ""
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, IndexError):
        return None
    return pointer


def points_at(pointer: dict[str, Any] | None, version: Version) -> bool:
    """Whether a pointer is of this very content, whatever it says of the record.

    Its `meta` holds the digest that DVC computed then, too: a pointer that something else has rewritten
    since then does not count.
    """
    if pointer is None:
        return False
    notes = notes_of(pointer)
    return notes.get("sha256") == version.sha256 and notes.get("md5") == pointer["outs"][0]["md5"]


def notes_of(pointer: dict[str, Any]) -> dict[str, Any]:
    """What `annotate` has written into a pointer; empty in one that somebody else has made."""
    notes = pointer.get("meta")
    return notes if isinstance(notes, dict) else {}


def is_current(pointer: dict[str, Any] | None, version: Version) -> bool:
    """Whether there is nothing to do for a version."""
    return (
        pointer is not None
        and points_at(pointer, version)
        and notes_of(pointer) == version.notes | {"md5": pointer["outs"][0]["md5"]}
    )


def annotate(version: Version) -> None:
    """Have the pointer of a version say what it is and which record goes with it."""
    path = pointer_path(version.path)
    pointer = yaml.load(path.read_bytes(), Loader=LOADER)
    pointer["desc"] = version.description
    pointer["meta"] = version.notes | {"md5": pointer["outs"][0]["md5"]}
    with draft_beside(path) as draft:
        draft.write_text(yaml.dump(pointer, Dumper=DUMPER, sort_keys=False, width=1000, allow_unicode=True))
        draft.replace(path)


def pointers_under(places: Iterable[str] = PLACES) -> Iterator[Path]:
    """Every pointer under some folders, sorted."""
    found = [
        Path(folder, name)
        for place in places
        for folder, _, names in walk(place, lambda error: None)  # of what is closed, read_lineage tells
        for name in names
        if name.endswith(SUFFIX)
    ]
    yield from sorted(found)
