"""What a judge answers, read strictly: a number that was not meant as a score must never become a reward."""

import json
import math
import re
from typing import Any

MOST_CHARACTERS = 20_000
"""Of an answer; what is longer is no answer to what was asked."""
MOST_OF_RUBRIC = 4000

_FENCED = re.compile(r"\A```(?:json)?[ \t]*\n(.*?)\n?```\Z", re.DOTALL | re.IGNORECASE)


class NoAnswerError(Exception):
    """No usable answer.

    Attributes:
        reason: in few words, to be counted by.
        again: whether asking again may help.
        after: seconds that the judge asks to wait before.
    """

    def __init__(self, reason: str, again: bool = True, after: float = 0.0, says: str = "") -> None:
        super().__init__(f"{reason}: {says}" if says else reason)
        self.reason = reason
        self.again = again
        self.after = after


def parse_score(text: str) -> float:
    """The score in `{"score": x}`, x a number from 0 to 1, alone or in a code fence.

    Raises:
        NoAnswerError: anything else: "8/10", prose, further keys or objects, a text, true, NaN, 1.2.
    """
    score = _only_value(text, "score")
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise NoAnswerError("score is no number")
    if not math.isfinite(score) or not 0 <= score <= 1:
        raise NoAnswerError("score is not in 0..1")
    return float(score)


def parse_rubric(text: str) -> str:
    """The rubric in `{"rubric": text}`, alone or in a code fence.

    Raises:
        NoAnswerError: anything else, or a text that is empty or endless.
    """
    rubric = _only_value(text, "rubric")
    if not isinstance(rubric, str) or not rubric.strip():
        raise NoAnswerError("rubric is no text")
    if len(rubric) > MOST_OF_RUBRIC:
        raise NoAnswerError("rubric is too long")
    # Half of a surrogate pair cannot be written down.
    return rubric.strip().encode("utf-8", "replace").decode()


def _only_value(text: str, key: str) -> Any:
    """The value in a JSON object of this one key."""
    text = text.strip()
    if not text:
        raise NoAnswerError("empty answer")
    if len(text) > MOST_CHARACTERS:
        raise NoAnswerError("answer is too long")
    fenced = _FENCED.match(text)
    try:
        pairs = json.loads(fenced[1] if fenced else text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        raise NoAnswerError("answer is no JSON") from None
    if not isinstance(pairs, _Pairs) or [name for name, _ in pairs] != [key]:
        raise NoAnswerError(f'answer is not {{"{key}": ...}}')
    return pairs[0][1]


class _Pairs(list[tuple[str, Any]]):
    """A JSON object, told apart from a list, with keys that stand there twice."""
