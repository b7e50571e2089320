"""Where outputs of jobs lie on the data volume, remembered here: what was made there is not sent there."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from probeline.files import read_json, write_json

MADE = Path(".probeline/modal/made")


def keep_places(name: str, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Remember an artifact that came from the volume.

    Args:
        name: its path.
        files: file → `sha256` and `at`.
    """
    write_json(_note(name), {file["sha256"]: file["at"] for file in files.values()})


def places_of(artifacts: Iterable[Path]) -> dict[str, str]:
    """SHA-256 → place on the data volume, of all that these artifacts were when they came from there."""
    places: dict[str, str] = {}
    for artifact in sorted(artifacts):
        note = _note(artifact.as_posix())
        if note.is_file():
            places |= read_json(note)
    return places


def forget_places(artifacts: Iterable[Path]) -> None:
    """Take these artifacts for such as were made here: the volume has lost them."""
    for artifact in artifacts:
        _note(artifact.as_posix()).unlink(missing_ok=True)


def _note(name: str) -> Path:
    return MADE / f"{name.replace('/', '--')}.json"
