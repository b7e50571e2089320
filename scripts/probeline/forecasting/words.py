"""What tells two events apart whatever their embeddings say: numbers, and negations."""

import re
from functools import lru_cache

_WORD = re.compile(r"[\w%$€.,-]*\w[%]?")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NOT = re.compile(r"n['\u2019]t\b|\bcannot\b")
_ARTICLES = frozenset(("a", "an", "the"))
_NEGATIONS = frozenset(("no", "not", "never", "none", "neither", "nor", "without", "nobody", "nothing"))
_COUNTED = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_COUNTS = {word: str(number) for number, word in enumerate(_COUNTED, 2)}


@lru_cache(4096)
def words_of(text: str) -> frozenset[str]:
    """The words of a text without articles, whatever their case, order and punctuation."""
    return frozenset(_WORD.findall(_NOT.sub(" not", text.casefold()))) - _ARTICLES


def told_apart(first: str, second: str) -> bool:
    """Whether two texts differ in their numbers, or in whether they negate something."""
    one, other = words_of(first), words_of(second)
    return bool(one & _NEGATIONS) != bool(other & _NEGATIONS) or _numbers(one) != _numbers(other)


def _numbers(words: frozenset[str]) -> set[str]:
    """The numbers in words, `1,000` as 1000 and `nine percent` as 9."""
    counted = (_COUNTS.get(word, word) for word in words)
    return {number.replace(",", "") for word in counted for number in _NUMBER.findall(word)}
