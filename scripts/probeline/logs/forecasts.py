"""One forecasting case as a line of a jsonl file records it, checked field by field.

A case is a seed event and levels, each with candidates for what followed, one of them true. All variants are
read: with and without `seed.domain`, `domain` and `knowledge_cutoff`, any number of candidates, and the old
flat form `seed_event, …, outcome_chain[]`, whose levels have the true candidate only.

What makes such logs unfit for training as they are is told per level by `findings`, in names that
`quality.json` counts.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from probeline.digests import sha256_bytes
from probeline.errors import ProbelineError
from probeline.logs.reading import kind_of, optional, parse_json, part_digest, take
from probeline.logs.responses import clean

MAX_CASE_BYTES = 4 * 1024 * 1024
"""A longer line is no case (real ones have 6 KB) and is not read into memory."""
MAX_LEVELS = 20
MAX_CANDIDATES = 100
MAX_PATH = 100
MAX_EVENT = 2_000
MAX_CONTEXT = 20_000
"""Most characters of an event, and of what is told of it: the prompt of each level shows them again."""
MAX_LEVEL_DEPTH = 1000

_WORD = re.compile(r"\w+")
# Too common to tell one candidate from another.
_STOP = frozenset(
    (
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "but",
        "by",
        "for",
        "from",
        "has",
        "have",
        "in",
        "into",
        "is",
        "it",
        "its",
        "no",
        "not",
        "of",
        "off",
        "on",
        "or",
        "over",
        "still",
        "that",
        "the",
        "their",
        "this",
        "to",
        "under",
        "up",
        "was",
        "were",
        "while",
        "will",
        "with",
        "after",
        "amid",
        "despite",
    )
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that may have followed, and whether it did."""

    event: str
    label: bool


@dataclass(frozen=True, slots=True)
class Level:
    """One step of a case, as logged: `path` and `research` may hold the answer."""

    depth: int
    parent: str | None
    path: list[str]
    timeframe: float | None
    date: str | None
    research: str | None
    candidates: list[Candidate]

    @property
    def true_index(self) -> int | None:
        """Position of the true candidate, or None unless there is exactly one."""
        found = [index for index, candidate in enumerate(self.candidates) if candidate.label]
        return found[0] if len(found) == 1 else None


@dataclass(slots=True)
class Case:
    """A case; `repairs` counts what was mended or is absent, by reason."""

    content: str
    case_id: str
    form: str
    event: str
    date: str | None
    context: str | None
    domain: str | None
    knowledge_cutoff: str | None
    levels: list[Level] = field(default_factory=list)
    repairs: Counter[str] = field(default_factory=Counter)


def read_forecast(data: bytes) -> Case:
    """The case in a line.

    Raises:
        ProbelineError: it is none; the text says why and names the field.
    """
    repairs: Counter[str] = Counter()
    if len(data) > MAX_CASE_BYTES:
        raise ProbelineError(f"the line has more than {MAX_CASE_BYTES} bytes")
    logged = parse_json(data, repairs, "line")
    if not isinstance(logged, dict):
        raise ProbelineError(f"the line holds {kind_of(logged)}, expected an object")
    flat = "outcome_chain" in logged
    seed = logged if flat else take(logged, "seed", dict)
    names = ("", "seed_event", "seed_date") if flat else ("seed", "event", "date")
    case = Case(
        content=part_digest(logged),
        case_id=_text(logged, "case_id"),
        form="chain" if flat else "levels",
        event=_text(seed, names[1], names[0]),
        date=_date(seed, names[2], repairs, names[0]),
        context=_optional_text(seed, "context", names[0], MAX_CONTEXT),
        domain=_optional_text(seed, "domain", names[0], MAX_EVENT)
        or _optional_text(logged, "domain", "", MAX_EVENT),
        knowledge_cutoff=_date(logged, "knowledge_cutoff", repairs),
        repairs=repairs,
    )
    name = "outcome_chain" if flat else "levels"
    levels = take(logged, name, list)
    if not 1 <= len(levels) <= MAX_LEVELS:
        raise ProbelineError(f"{name} has {len(levels)} entries, expected 1 to {MAX_LEVELS}")
    read = _read_outcome if flat else _read_level
    case.levels = [read(level, f"{name}[{number}]", repairs) for number, level in enumerate(levels)]
    depths = [level.depth for level in case.levels]
    if depths != sorted(set(depths)):
        raise ProbelineError(f"{name} has the depths {depths[:10]}, expected each once, in order")
    repairs["cases_without_context"] += case.context is None
    repairs["cases_without_domain"] += case.domain is None
    return case


def _read_level(logged: Any, where: str, repairs: Counter[str]) -> Level:
    candidates = take(logged, "candidates", list, where=where)
    if not 1 <= len(candidates) <= MAX_CANDIDATES:
        raise ProbelineError(
            f"{where}.candidates has {len(candidates)} entries, expected 1 to {MAX_CANDIDATES}"
        )
    path = optional(logged, "path", list, [], where)
    if len(path) > MAX_PATH or not all(isinstance(item, str) for item in path):
        raise ProbelineError(f"{where}.path is no list of at most {MAX_PATH} texts")
    return Level(
        depth=_depth(logged, where),
        parent=_optional_text(logged, "parent_event", where),
        path=[clean(item) for item in path],
        timeframe=_months(logged, where),
        date=_date(logged, "date", repairs, where),
        research=_optional_text(logged, "research_summary", where),
        candidates=[
            _read_candidate(candidate, f"{where}.candidates[{number}]", repairs)
            for number, candidate in enumerate(candidates)
        ],
    )


def _read_candidate(logged: Any, where: str, repairs: Counter[str]) -> Candidate:
    if not isinstance(logged, dict):
        raise ProbelineError(f"{where} is {kind_of(logged)}, expected an object")
    label = logged.get("label")
    if label not in (0, 1) or not isinstance(label, bool | int | float):
        raise ProbelineError(f"{where}.label is neither 0 nor 1")
    repairs["labels_not_integers"] += type(label) is not int
    return Candidate(_text(logged, "event", where), bool(label))


def _read_outcome(logged: Any, where: str, repairs: Counter[str]) -> Level:
    return Level(
        depth=_depth(logged, where),
        parent=None,
        path=[],
        timeframe=_months(logged, where),
        date=_date(logged, "date", repairs, where),
        research=None,
        candidates=[Candidate(_text(logged, "event", where), True)],
    )


def _text(data: Any, name: str, where: str = "") -> str:
    text = _bounded(clean(take(data, name, str, where=where)).strip(), name, where, MAX_EVENT)
    if not text:
        raise ProbelineError(f"{where + '.' if where else ''}{name} is empty")
    return text


def _optional_text(data: Any, name: str, where: str = "", most: int | None = None) -> str | None:
    return _bounded(clean(optional(data, name, str, "", where)).strip(), name, where, most) or None


def _bounded(text: str, name: str, where: str, most: int | None) -> str:
    if most is not None and len(text) > most:
        named = f"{where + '.' if where else ''}{name}"
        raise ProbelineError(f"{named} has {len(text)} characters, more than {most}")
    return text


def _depth(data: Any, where: str) -> int:
    depth: int = take(data, "depth", int, where=where)
    if not 1 <= depth <= MAX_LEVEL_DEPTH:
        raise ProbelineError(f"{where}.depth is {depth}, expected 1 to {MAX_LEVEL_DEPTH}")
    return depth


def _months(data: Any, where: str) -> float | None:
    months = data.get("timeframe_months")
    if months is None:
        return None
    if type(months) not in (int, float) or not 0 <= months <= 12_000:  # false for NaN, too
        raise ProbelineError(f"{where}.timeframe_months is no number of months")
    return float(months)


def _date(data: Any, name: str, repairs: Counter[str], where: str = "") -> str | None:
    text = optional(data, name, str, "", where).strip()
    try:
        return datetime.fromisoformat(text).date().isoformat()
    except ValueError:
        repairs["dates_absent" if not text else "dates_unreadable"] += name != "knowledge_cutoff" or bool(
            text
        )
        return None


def words_of(text: str) -> list[str]:
    """The words of a text without case and punctuation: equal for texts that differ in these alone."""
    return _WORD.findall(text.casefold())


def event_key(event: str) -> str:
    """16 hex digits that are the same for events of the same words."""
    return sha256_bytes(" ".join(words_of(event)).encode())[:16]


def findings(case: Case, number: int) -> list[str]:
    """What is wrong with a level, as names that `quality.json` counts; see `ingest_forecasts`."""
    level = case.levels[number]
    answer = level.true_index
    found = ["levels_with_one_candidate"] if len(level.candidates) == 1 else []
    if answer is None:
        return [*found, "levels_without_one_answer"]
    if level.path and len(level.path) > level.depth:
        found.append("paths_beyond_parent")
    if len(level.candidates) > 1:
        events = [candidate.event for candidate in level.candidates]
        found += ["answers_first"] if answer == 0 else []
        found += ["path_ends_giving_answer"] if level.path and _tells(level.path[-1], events, answer) else []
        found += ["research_giving_answer"] if _tells(level.research or "", events, answer) else []
    before = case.levels[number - 1] if number else None
    known = before.true_index if before else None
    came = case.event if before is None else None if known is None else before.candidates[known].event
    if level.parent is not None and came is not None and words_of(level.parent) != words_of(came):
        found.append("parents_unlike_answer" if before else "parents_unlike_seed")
    if level.date is not None and case.date is not None and level.date < case.date:
        found.append("dates_before_seed")
    if before and level.date is not None and before.date is not None and level.date < before.date:
        found.append("dates_before_parent")
    return found


def _tells(text: str, events: Sequence[str], answer: int) -> bool:
    """Whether the answer shares a larger part of its words with `text` than any other candidate."""
    words = set(words_of(text))
    shares = []
    for event in events:
        own = set(words_of(event)) - _STOP
        shares.append(len(own & words) / max(len(own), 1))
    return shares[answer] > max(share for index, share in enumerate(shares) if index != answer)
