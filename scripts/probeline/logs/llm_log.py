r"""The calls in an `llm_log.txt`: prompts, raw responses, and what the prompt says about the situation.

A call is a block

    ================ (80) ================
    [LLM Call for Player3] (villager)
    ================ (80) ================

    --- SYSTEM PROMPT ---
    ...
    --- USER PROMPT ---
    ...
    [Retry 1/5]                                 (any number)
    --- LLM RESPONSE ---                        (any number)
    ...
    --- METADATA ---                            (at most one: the probe's scores as JSON)

Prompts quote what players said, with its line breaks, so a player could say something that looks like a
block. Words that do are blanked out, at equal length, in a copy of the log that alone decides where blocks
begin and end.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from probeline.errors import ProbelineError
from probeline.logs.responses import Answer, answers

_HEADER = re.compile(
    r"^={80}\n\[LLM Call for ([^\n]+)\] \(([^\n]*)\)\n={80}\n(?=\s*--- (?:SYSTEM|USER) PROMPT ---\n)", re.M
)
_MARKER = re.compile(
    r"^(?:--- (SYSTEM PROMPT|USER PROMPT|LLM RESPONSE) ---"
    r"|--- (METADATA) ---(?=\n\{)"
    r"|\[(Retry) \d+/\d+\])(?:\n|$)",
    re.M,
)
_TURN = re.compile(r"^Turn:? (\d{1,6})\b", re.M)
_PHASE = re.compile(r"^Phase: (.*)$", re.M)
_CALLED = re.compile(r"DAY DISCUSSION \(Called Upon by (.+)\)")
_OPTIONS = re.compile(r"^Options: (.*)$", re.M)
_QUESTION = re.compile(r'\n[^\n]+? asks you: "((?s:.*?))"\nTask: ')
_STRUCTURE = re.compile(r"^(?:={80}|--- [A-Z ]+ ---|\[Retry \d|Phase: |Options: |Turn:? \d)", re.M)
_BEFORE_WORDS = (": ", ". ", '"')
"""What stands before words that a prompt quotes, and never before structure."""
_MOST_BLANKED = 500
MAX_CALLS = 20_000
"""A log with more calls (the largest real ones have a few hundred) is not that of one game."""


@dataclass(slots=True)
class Call:
    """One call of a player's language model.

    Attributes:
        index: position in the log, from 0.
        player: whose move it is.
        system: the system prompt.
        user: the user prompt.
        responses: the raw responses; the game used the last, if any.
        retries: how often the call was repeated.
        scored: the log holds the probe's scores of this call.
        readings: response and answer of each plausible reading; of the last response first.
        phase: what the prompt's last `Phase:` line says, e.g. `DAY VOTE`, or "".
        caller: who called on the player, in an answer to a question.
        question: the question to answer.
        turn: the game's turn by the prompt, or None where it does not say.
        options: the names that the prompt offers, or None where it offers none.
    """

    index: int
    player: str
    system: str
    user: str
    responses: list[str]
    retries: int
    scored: bool
    readings: list[tuple[str, Answer]]
    phase: str = ""
    caller: str | None = None
    question: str | None = None
    turn: int | None = None
    options: list[str] | None = None


def read_calls(text: str, words: Iterable[str] = ()) -> list[Call]:
    """The calls of a log, in order.

    Args:
        text: the whole log.
        words: everything that players said or thought in the game, as far as it is known from elsewhere.

    Raises:
        ProbelineError: the text holds no call, or absurdly many.
    """
    text = text.removeprefix("\ufeff")
    if _is_crlf(text):
        text = text.replace("\r\n", "\n")
    outline = _blank(text, words)
    headers = list(_HEADER.finditer(outline))
    if not headers:
        raise ProbelineError("it holds no block that starts with [LLM Call for …]")
    if len(headers) > MAX_CALLS:
        raise ProbelineError(f"it holds {len(headers)} calls, more than {MAX_CALLS}")
    ends = [header.start() for header in headers[1:]] + [len(text)]
    return [
        _read_call(text, outline, index, header, end)
        for index, (header, end) in enumerate(zip(headers, ends, strict=True))
    ]


def _is_crlf(text: str) -> bool:
    rule = text.find("=" * 80)
    return rule >= 0 and text.startswith("\r\n", rule + 80)


def _blank(text: str, words: Iterable[str]) -> str:
    suspicious = {word for word in words if "\n" in word and _STRUCTURE.search(word)}
    for word in sorted(suspicious, key=lambda word: (-len(word), word))[:_MOST_BLANKED]:
        for before in _BEFORE_WORDS:
            text = text.replace(before + word, before + "." * len(word))
    return text


def _read_call(text: str, outline: str, index: int, header: re.Match[str], end: int) -> Call:
    sections: dict[str, list[tuple[int, int]]] = {}
    marks = _in_order(_MARKER.finditer(outline, header.end(), end))
    for mark, stop in zip(marks, [mark.start() for mark in marks[1:]] + [end], strict=True):
        sections.setdefault(_kind(mark), []).append((mark.end(), _trim(text, mark.end(), stop)))
    system, user = (slice(*sections.get(kind, [(end, end)])[0]) for kind in ("SYSTEM PROMPT", "USER PROMPT"))
    responses = [text[start:stop] for start, stop in sections.get("LLM RESPONSE", [])]
    call = Call(
        index=index,
        player=header[1],
        system=text[system],
        user=text[user],
        responses=responses,
        retries=len(sections.get("Retry", [])),
        scored="METADATA" in sections,
        readings=[(response, answer) for response in reversed(responses) for answer in answers(response)],
    )
    _read_situation(call, outline[user])
    return call


def _kind(mark: re.Match[str]) -> str:
    return mark[1] or mark[2] or mark[3]


def _in_order(marks: Iterable[re.Match[str]]) -> list[re.Match[str]]:
    """The marks that stand where their kind belongs: one system prompt, one user prompt, then the rest."""
    kept: list[re.Match[str]] = []
    seen: set[str] = set()
    for mark in marks:
        kind = _kind(mark)
        misplaced = seen & {"USER PROMPT", kind} if kind.endswith("PROMPT") else "USER PROMPT" not in seen
        if not misplaced:
            kept.append(mark)
            seen.add(kind)
    return kept


def _trim(text: str, start: int, stop: int) -> int:
    """The end of a section without the line break and the blank line that the log puts after it."""
    for _ in range(2):
        if stop > start and text[stop - 1] == "\n":
            stop -= 1
    return stop


def _read_situation(call: Call, prompt: str) -> None:
    """Fill in what the user prompt says about the situation; `prompt` has players' words blanked out."""
    if turn := _TURN.search(prompt):
        call.turn = int(turn[1])
    phases = list(_PHASE.finditer(prompt))
    if not phases:
        return
    phase = phases[-1]
    call.phase = phase[1].strip()
    if called := _CALLED.fullmatch(call.phase):
        call.caller = called[1]
        if question := _QUESTION.match(call.user, phase.end()):
            call.question = question[1]
    if options := _OPTIONS.search(prompt, phase.end()):
        call.options = [name.strip() for name in options[1].split(",") if name.strip()]
