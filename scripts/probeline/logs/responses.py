"""The action in a raw response of a language model, and where exactly it stands.

Responses are meant to be a JSON object with the keys `reasoning` and `action`, but may be fenced, followed
by more text, cut off, or have unescaped quotes. The span is found from the key, never by searching for the
text, which may occur in the reasoning too.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

_DECODER = json.JSONDecoder(strict=False)  # models put raw line breaks into strings
_SPACE = re.compile(r"\s*")
_COLON = re.compile(r"\s*:\s*")
_AFTER_MEMBER = re.compile(r"\s*(?:(,)\s*|\}|$)")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_LOOSE_END = re.compile(r'"(?=\s*(?:,\s*"|[}\]]|```|$))')
_MOST_OBJECTS, _MOST_KEYS, _MOST_QUOTES = 8, 3, 6
"""What is tried in one response: more of them only occur in nonsense."""
_LONGEST_BROKEN = 50_000
"""Characters of a response that is searched although it is not JSON; real ones stay below 10,000."""
_MOST_BRACKETS = 200


class Answer(NamedTuple):
    """One way to read a response.

    Attributes:
        action: the value of the key `action`, decoded.
        start: first character of that value; inside the quotes where it is a string.
        end: one past its last character.
        reasoning: the same for the key `reasoning`; None where there is none.
        reasoning_start: its first character.
        reasoning_end: one past its last character.
    """

    action: Any
    start: int
    end: int
    reasoning: Any = None
    reasoning_start: int | None = None
    reasoning_end: int | None = None


class _Value(NamedTuple):
    value: Any
    start: int
    end: int


def answers(response: str) -> Iterator[Answer]:
    """All plausible readings of a response, the most plausible first.

    Valid JSON objects come first, then what stands behind a key `action` in broken JSON, and the whole
    response last, if it holds no such key.
    """
    found: set[tuple[int, int]] = set()
    for answer in [*_strict(response), *_loose(response)]:
        if answer[1:3] not in found:
            found.add((answer.start, answer.end))
            yield answer
    if not found and (words := response.strip()):
        start = response.index(words)
        yield Answer(words, start, start + len(words))


def _strict(response: str) -> Iterator[Answer]:
    for start in _starts(response, "{"):
        members = dict(_members(response, start))
        if "action" in members:
            yield _answer(members["action"], members.get("reasoning"))


def _loose(response: str) -> Iterator[Answer]:
    if len(response) <= _LONGEST_BROKEN:
        for action in _loose_values(response, "action"):
            yield _answer(action, next(_loose_values(response, "reasoning"), None))


def clean(text: str) -> str:
    """`text` without lone surrogates, which JSON may hold but UTF-8 may not."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def squash(text: str) -> str:
    """`text` for comparison: runs of white space count as one space."""
    return " ".join(clean(text).split())


def spellings(action: Any) -> list[str]:
    """The texts that a game may have recorded for an action that it read as `action`."""
    if isinstance(action, str):
        return [squash(action)]
    return [squash(str(action)), squash(json.dumps(action)), squash(json.dumps(action, ensure_ascii=False))]


def as_text(action: Any) -> str:
    """The words of an action: itself where it is a string, else its JSON."""
    return clean(action if isinstance(action, str) else json.dumps(action, ensure_ascii=False))


def _answer(action: _Value, reasoning: _Value | None) -> Answer:
    if reasoning is None:
        return Answer(*action)
    return Answer(*action, *reasoning)


def _starts(text: str, sign: str) -> Iterator[int]:
    at = text.find(sign)
    for _ in range(_MOST_OBJECTS):
        if at < 0:
            return
        yield at
        at = text.find(sign, at + 1)


def _members(text: str, at: int) -> Iterator[tuple[str, _Value]]:
    """The members of the object that opens at `at`, up to where it stops being JSON."""
    at = _skip(text, at + 1)
    while at < len(text) and text[at] == '"':
        try:
            key, at = _DECODER.raw_decode(text, at)
            colon = _COLON.match(text, at)
            if colon is None:
                return
        except (ValueError, RecursionError):
            return
        value = next(_decoded(text, colon.end()), None)
        if value is None:
            return
        after = _AFTER_MEMBER.match(text, value.end + isinstance(value.value, str))
        if after is None:
            return  # an unescaped quote inside the value ended it too early
        yield key, value
        if after[1] is None:
            return
        at = after.end()


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _loose_values(text: str, key: str) -> Iterator[_Value]:
    """What may be the value of `key` in broken JSON; the last occurrence of the key first."""
    keys = list(re.finditer(rf"[\"']?\b{key}[\"']?\s*:\s*", text))
    for match in keys[: -_MOST_KEYS - 1 : -1]:
        yield from _loose_value(text, match.end())


def _loose_value(text: str, at: int) -> Iterator[_Value]:
    if text.startswith('"{', at):
        # The prompt's own example quotes an object without escaping its quotes; models copy that.
        yield from _decoded(text, at + 1)
    for value in _decoded(text, at):
        if _AFTER_MEMBER.match(text, value.end + isinstance(value.value, str)):
            yield value
    if text.startswith('"', at):
        for tries, quote in enumerate(_LOOSE_END.finditer(text, at + 1)):
            if tries == _MOST_QUOTES:
                return
            yield _Value(_unescape(text[at + 1 : quote.start()]), at + 1, quote.start())
        end = len(text.rstrip().rstrip("}`").rstrip().rstrip('"'))
        if end > at + 1:
            yield _Value(_unescape(text[at + 1 : end]), at + 1, end)
    else:
        line = re.compile(r"[^,}\n]*").match(text, at)
        if line and line.group().strip():
            yield _Value(line.group().strip().strip("'"), at, at + len(line.group().rstrip()))


def _decoded(text: str, at: int) -> Iterator[_Value]:
    try:
        value, end = _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return
    quoted = isinstance(value, str)
    if quoted or text.count("{", at, end) + text.count("[", at, end) <= _MOST_BRACKETS:
        yield _Value(value, at + quoted, end - quoted)


def _unescape(raw: str) -> str:
    """The text that `raw`, the inside of a JSON string with stray quotes, stands for."""
    if "\\" not in raw:
        return raw
    try:
        return str(_DECODER.decode('"' + re.sub(r'(?<!\\)"', r"\"", raw) + '"'))
    except ValueError:
        return raw
