"""Support dialogues in the format of Schema-Guided Dialogue, checked field by field."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from probeline.digests import sha256_bytes
from probeline.errors import ProbelineError
from probeline.logs.reading import kind_of, optional, parse_json, part_digest, take
from probeline.logs.responses import clean

MAX_TURNS = 200
MAX_SERVICES = 100
MAX_SHOWN = 1_000_000
"""Most characters of all prompts of a dialogue: each shows again what those before it show."""
MAX_DIALOGUES = 100_000

_SPEAKERS = {"USER": "user", "SYSTEM": "assistant"}
_VERSION = re.compile(r"_\d+$")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said: `role` is user, or assistant for the system."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A dialogue; `content` is the digest of its canonical JSON, `repairs` counts what was mended."""

    content: str
    dialogue_id: str
    services: list[str]
    turns: list[Turn]
    repairs: Counter[str]


@dataclass(frozen=True, slots=True)
class Row:
    """A turn of the system with what was said before it."""

    turn_index: int
    prompt: list[dict[str, str]]
    ground_truth: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A dialogue that is none: its position from 1, why, and a digest of it."""

    position: int
    reason: str
    sha256: str


def read_support(data: bytes) -> Iterator[Dialogue | Unreadable]:
    """The dialogues of a file.

    Raises:
        ProbelineError: the file is no list of dialogues; the text says why.
    """
    mended: Counter[str] = Counter()
    logged = parse_json(data, mended)
    if not isinstance(logged, list):
        raise ProbelineError(f"the file holds {kind_of(logged)}, expected a list of dialogues")
    if len(logged) > MAX_DIALOGUES:
        raise ProbelineError(f"the file holds {len(logged)} entries, more than {MAX_DIALOGUES}")
    for position, entry in enumerate(logged, 1):
        digest = None
        try:
            digest = part_digest(entry)
            yield _dialogue(entry, digest, Counter({f"dialogues_of_{name}": 1 for name in mended}))
        except ProbelineError as error:
            yield Unreadable(position, str(error), digest or sha256_bytes(data))


def _dialogue(logged: Any, content: str, repairs: Counter[str]) -> Dialogue:
    dialogue_id = clean(take(logged, "dialogue_id", str))
    if not dialogue_id.strip():
        raise ProbelineError("dialogue_id is empty")
    services = take(logged, "services", list)
    if len(services) > MAX_SERVICES or not all(isinstance(service, str) for service in services):
        raise ProbelineError(f"services is no list of at most {MAX_SERVICES} texts")
    turns = take(logged, "turns", list)
    if not 1 <= len(turns) <= MAX_TURNS:
        raise ProbelineError(f"turns has {len(turns)} entries, expected 1 to {MAX_TURNS}")
    read = [_turn(turn, f"turns[{index}]") for index, turn in enumerate(turns)]
    if (shown := _shown(read, len(task_description(services)))) > MAX_SHOWN:
        raise ProbelineError(
            f"the prompts of the {len(turns)} turns have {shown} characters together, more than {MAX_SHOWN}"
        )
    return Dialogue(content, dialogue_id, [clean(service) for service in services], read, repairs)


def _shown(turns: list[Turn], task: int) -> int:
    """Characters of all prompts of a dialogue whose task has so many."""
    shown = told = 0
    for turn in turns:
        shown += (told + task) * (turn.role == "assistant")
        told += len(turn.text)
    return shown


def _turn(logged: Any, where: str) -> Turn:
    speaker = take(logged, "speaker", str, where=where)
    if speaker not in _SPEAKERS:
        raise ProbelineError(f"{where}.speaker is neither USER nor SYSTEM")
    for number, frame in enumerate(optional(logged, "frames", list, [], where)):
        take(frame, "service", str, where=f"{where}.frames[{number}]")
        for field, kind in (("slots", list), ("actions", list), ("state", dict)):
            optional(frame, field, kind, kind(), f"{where}.frames[{number}]")
    return Turn(_SPEAKERS[speaker], clean(take(logged, "utterance", str, where=where)).strip())


def rows_of(dialogue: Dialogue, counts: Counter[str]) -> list[Row]:
    """One row per turn of the system but the first; turns without words make none. All are counted.

    Several turns of one side in a row are one message, as chat templates ask for. Rows share the messages
    that they have in common: none is to be changed.
    """
    rows: list[Row] = []
    messages: list[dict[str, str]] = []
    seen = 0
    for index, turn in enumerate(dialogue.turns):
        if turn.role == "assistant":
            seen += 1
            counts["system_turns"] += 1
            if seen == 1:
                counts["first_system_turns"] += 1
            elif not turn.text:
                counts["system_turns_without_words"] += 1
            else:
                rows.append(Row(index, list(messages), turn.text))
        if not turn.text:
            counts["user_turns_without_words"] += turn.role == "user"
        elif messages and messages[-1]["role"] == turn.role:
            counts["turns_merged"] += 1
            messages[-1] = {"role": turn.role, "content": f"{messages[-1]['content']}\n{turn.text}"}
        else:
            messages.append({"role": turn.role, "content": turn.text})
    counts["rows"] += len(rows)
    return rows


def task_description(services: list[str]) -> str:
    """What the assistant of a dialogue is for: `RentalCars_1` is rental cars."""
    names = [_HUMP.sub(" ", _VERSION.sub("", service)).replace("_", " ").lower() for service in services]
    names = [name for name in dict.fromkeys(names) if name.strip()]
    subject = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    about = f" for {subject}" if subject else ""
    return (
        f"You are the customer-service assistant{about}. Help the customer with what they ask for: answer "
        "accurately, ask for what is missing, and be concise."
    )
