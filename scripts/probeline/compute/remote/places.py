"""What lies on the data volume of the artifacts here, remembered: what was made there is not sent there."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from probeline.files import read_json, write_json

MADE = Path(".probeline/modal/made")


def keep_entry(entry: Mapping[str, Any]) -> None:
    """Remember the entry on the volume of an artifact that came from there."""
    write_json(_note(entry["name"]), entry)


def kept_entries() -> Iterator[dict[str, Any]]:
    """The entries that are remembered."""
    for note in sorted(MADE.glob("*.json")):
        yield read_json(note)


def places_of(artifacts: Iterable[Path]) -> dict[str, str]:
    """SHA-256 → place on the data volume, of all that these artifacts were when they came from there."""
    places: dict[str, str] = {}
    for artifact in sorted(artifacts):
        note = _note(artifact.as_posix())
        if note.is_file():
            places |= {file["sha256"]: file["at"] for file in read_json(note)["files"].values()}
    return places


def forget_places(artifacts: Iterable[Path]) -> None:
    """Take these artifacts for such as were made here: the volume has lost them."""
    for artifact in artifacts:
        _note(artifact.as_posix()).unlink(missing_ok=True)


def _note(name: str) -> Path:
    return MADE / f"{name.replace('/', '--')}.json"
