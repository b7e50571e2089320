"""Whether the answer of a question can be told without understanding it.

Each picker chooses one candidate by a rule that knows nothing of the world. Where it is right more often than
chance, so that chance lies below its 95 % interval (Wilson, over levels), something gives the answer away. A
choice between k equal candidates counts as 1/k right. Likeness is the cosine of TF-IDF vectors over parts of
words of 3 to 5 characters, so that a paraphrase in other forms of the same words is found.
"""

from collections.abc import Sequence
from math import sqrt
from typing import Any, NamedTuple

from probeline.digests import unit_interval

MOST_LEVELS = 2000
"""Levels that are judged; of more, as many are drawn by a hash of their candidates."""
Z95 = 1.959963984540054


class Question(NamedTuple):
    """A level: its candidates, the position of the answer, and the texts that may give it away."""

    candidates: list[str]
    answer: int
    path_end: str
    research: str
    prompt: str


def leak_report(before: Sequence[Question], after: Sequence[Question]) -> dict[str, Any]:
    """What each picker gets right on the logged levels and on those of the dataset.

    `longest` reads no text: it shows whether true candidates are written differently from false ones.

    Returns:
        `before` and `after`: picker → levels, levels_with_text (that it has something to compare with),
        right, rate, low, high, chance (mean of 1 / candidates), above_chance.
    """
    return {"before": _pickers(_drawn(before)), "after": _pickers(_drawn(after))}


def _drawn(questions: Sequence[Question]) -> list[Question]:
    return sorted(questions, key=lambda one: unit_interval("\n".join(sorted(one.candidates))))[:MOST_LEVELS]


def _pickers(questions: list[Question]) -> dict[str, Any]:
    scores: dict[str, list[Sequence[float]]] = {
        "index_0": [[float(index == 0) for index in range(len(one.candidates))] for one in questions],
        "closest_to_path_end": _likeness(questions, [one.path_end for one in questions]),
        "closest_to_research": _likeness(questions, [one.research for one in questions]),
        "closest_to_prompt": _likeness(questions, [one.prompt for one in questions]),
        "longest": [[float(len(candidate)) for candidate in one.candidates] for one in questions],
    }
    texts = {
        "closest_to_path_end": sum(bool(one.path_end) for one in questions),
        "closest_to_research": sum(bool(one.research) for one in questions),
        "closest_to_prompt": sum(bool(one.prompt) for one in questions),
    }
    return {
        picker: {**_figures(questions, own), "levels_with_text": texts.get(picker, len(questions))}
        for picker, own in scores.items()
    }


def _likeness(questions: list[Question], texts: list[str]) -> list[Sequence[float]]:
    """For each question the likeness of its candidates to the text."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not any(text.strip() for text in texts):
        return [[0.0] * len(one.candidates) for one in questions]
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    candidates = vectorizer.fit_transform([candidate for one in questions for candidate in one.candidates])
    holders = [number for number, one in enumerate(questions) for _ in one.candidates]
    products = candidates.multiply(vectorizer.transform(texts)[holders]).sum(axis=1).A1.tolist()
    likeness: list[Sequence[float]] = []
    for one in questions:
        likeness.append(products[: len(one.candidates)])
        products = products[len(one.candidates) :]
    return likeness


def _figures(questions: list[Question], scores: list[Sequence[float]]) -> dict[str, Any]:
    right = chance = 0.0
    for one, own in zip(questions, scores, strict=True):
        best = [index for index, score in enumerate(own) if score >= max(own) - 1e-12]
        right += (one.answer in best) / len(best)
        chance += 1 / len(own)
    count = len(questions)
    if not count:
        return {"levels": 0, "right": 0.0, "rate": None, "low": None, "high": None, "above_chance": None}
    rate, chance = right / count, chance / count
    middle, spread = rate + Z95**2 / (2 * count), sqrt(rate * (1 - rate) / count + (Z95 / count / 2) ** 2)
    low, high = ((middle + sign * Z95 * spread) / (1 + Z95**2 / count) for sign in (-1, 1))
    return {
        "levels": count,
        "right": round(right, 3),
        "rate": round(rate, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "chance": round(chance, 4),
        "above_chance": low > chance,
    }
