"""The list of games taken out of the inputs, which `probeline audit retract` keeps and git holds.

Imported while the workflow is parsed: the standard library and yaml only.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from probeline.errors import ProbelineError
from probeline.files import write_bytes
from probeline.logs.formats import unit_key

RETRACTED = Path("config/retracted.yaml")
HEADER = """\
# Games taken out of the inputs. `probeline audit retract` writes this list; commit it.
# A game is out if its folder is listed for its corpus, or if its content is, in whatever corpus and folder.
"""


@dataclass(frozen=True, order=True)
class Retraction:
    """A game that is taken out.

    Attributes:
        corpus: name of its corpus in the config.
        game: its folder relative to the root of the corpus.
        content: digest of its content, see `listing.game_content`.
        reason: why, in words.
    """

    corpus: str
    game: str
    content: str
    reason: str


def read_retractions(path: Path = RETRACTED) -> list[Retraction]:
    """The list, sorted; empty where there is none.

    Raises:
        ProbelineError: the file is no such list; the text names it and the entry.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProbelineError(f"{path} is not valid YAML: {error}. Take it from git again.") from error
    if not isinstance(entries or [], list):
        raise ProbelineError(f"{path} holds no list of games. Take it from git again.")
    return sorted(_retraction(path, number, entry) for number, entry in enumerate(entries or [], 1))


def _retraction(path: Path, number: int, entry: object) -> Retraction:
    names = [field.name for field in fields(Retraction)]
    if (
        not isinstance(entry, dict)
        or entry.keys() != set(names)
        or not all(isinstance(value, str) and value for value in entry.values())
        or not re.fullmatch("[0-9a-f]{64}", entry["content"])
    ):
        raise ProbelineError(
            f"{path}, entry {number}: expected {', '.join(names)}, all of them text, and content a SHA-256 "
            "in hex. Let `probeline audit retract` write this file, or take it from git again."
        )
    return Retraction(**entry)


def write_retractions(retractions: Iterable[Retraction], path: Path = RETRACTED) -> None:
    """Write the list, whole or not at all; without an entry there is no file."""
    entries = [asdict(retraction) for retraction in sorted(retractions)]
    if not entries:
        path.unlink(missing_ok=True)
        return
    text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=100)
    write_bytes(path, (HEADER + text).encode())


def retracted_games(
    corpus: str, contents: Mapping[str, str], retractions: Iterable[Retraction]
) -> dict[str, str]:
    """The games of a corpus that are out.

    A listed game counts also when its log was deleted meanwhile, so that deleting it changes nothing more.

    Args:
        corpus: its name in the config.
        contents: game → digest of its content, where it can be read.
        retractions: the list.

    Returns:
        Game → the reason, sorted; for a copy with the game that it is a copy of.
    """
    listed = sorted(retractions)
    by_content = {entry.content: entry for entry in reversed(listed)}
    found = {}
    for game, content in contents.items():
        if entry := by_content.get(content):
            found[game] = f"a copy of {entry.game} of {entry.corpus}: {entry.reason}"
    found |= {entry.game: entry.reason for entry in listed if entry.corpus == corpus}
    return dict(sorted(found.items()))


def retracted_units(
    format_name: str, corpora: Mapping[str, Mapping[str, Any]], retractions: Iterable[Retraction]
) -> dict[str, str]:
    """Key → the reason, sorted, for what is taken out of corpora of a format whose files hold many units.

    A key is taken from the content there, so that one entry stands for every copy in every corpus of the
    format. An entry of a corpus that is gone from the config may be of any format.

    Args:
        format_name: the format.
        corpora: the corpora of the config.
        retractions: the list.
    """
    return {
        entry.game: entry.reason
        for entry in sorted(retractions)
        if entry.game == unit_key(entry.content)
        and corpora.get(entry.corpus, {"format": format_name})["format"] == format_name
    }
