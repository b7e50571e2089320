"""Whether the answer of a question can be told without understanding it.

Each picker chooses one candidate by a rule that knows nothing of the world. Where it is right more often than
chance, so that chance lies below its 95 % interval (Wilson, over levels), something gives the answer away. A
choice between k equal candidates counts as 1/k right. One picker is trained: it learns the words and the
length of true candidates from the levels of other events. Likeness is the cosine of TF-IDF vectors over parts
of words of 3 to 5 characters, so that a paraphrase in other forms of the same words is found.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from math import sqrt
from typing import Any, NamedTuple

from probeline.digests import unit_interval

MOST_LEVELS = 2000
"""Levels that are judged; of more, as many are drawn by a hash of their candidates."""
MOST_CHARACTERS = 10_000
MOST_OF_A_CANDIDATE = 300
"""Of a text and of a candidate, the first that are read."""
FOLDS = 5
"""Parts of the events; the trained picker judges each part after learning from the others."""
Z95 = 1.959963984540054


class Question(NamedTuple):
    """A level: its candidates, the position of the answer, the texts that may give it away, and its event."""

    candidates: list[str]
    answer: int
    path_end: str
    research: str
    prompt: str
    event: str


def leak_report(before: Sequence[Question], after: Sequence[Question]) -> dict[str, Any]:
    """What each picker gets right on the logged levels and on those of the dataset.

    `longest`, `most_digits` and `trained_on_wording` compare the candidates with nothing: they show whether
    true candidates are written differently from false ones.

    Returns:
        `before` and `after`: picker → levels, levels_with_text (that it has something to compare with),
        right, rate, low, high, chance (mean of 1 / candidates), above_chance.
    """
    return {"before": _pickers(_drawn(before)), "after": _pickers(_drawn(after))}


def _drawn(questions: Sequence[Question]) -> list[Question]:
    return sorted(questions, key=lambda one: unit_interval("\n".join(sorted(one.candidates))))[:MOST_LEVELS]


def _pickers(questions: list[Question]) -> dict[str, Any]:
    texts = {
        "closest_to_path_end": [one.path_end for one in questions],
        "closest_to_research": [one.research for one in questions],
        "closest_to_prompt": [one.prompt for one in questions],
    }
    scores: dict[str, list[Sequence[float]]] = {
        "index_0": [[float(index == 0) for index in range(len(one.candidates))] for one in questions],
        **_likeness(questions, texts),
        "longest": [[float(len(candidate)) for candidate in one.candidates] for one in questions],
        "most_digits": [
            [float(sum(map(str.isdigit, candidate))) for candidate in one.candidates] for one in questions
        ],
        "trained_on_wording": _trained(questions),
    }
    with_text = {picker: sum(map(bool, own)) for picker, own in texts.items()}
    return {
        picker: {**_figures(questions, own), "levels_with_text": with_text.get(picker, len(questions))}
        for picker, own in scores.items()
    }


def _likeness(questions: list[Question], texts: Mapping[str, list[str]]) -> dict[str, list[Sequence[float]]]:
    """For each kind of text, for each question, the likeness of its candidates to the text."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    likeness: dict[str, list[Sequence[float]]] = {
        kind: [[0.0] * len(one.candidates) for one in questions] for kind in texts
    }
    if not questions:
        return likeness
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    candidates = vectorizer.fit_transform(_candidates(questions))
    holders = [number for number, one in enumerate(questions) for _ in one.candidates]
    for kind, own in texts.items():
        if any(text.strip() for text in own):
            shown = vectorizer.transform([text[:MOST_CHARACTERS] for text in own])
            products = candidates.multiply(shown[holders]).sum(axis=1).A1.tolist()
            likeness[kind] = _by_question(questions, products)
    return likeness


def _trained(questions: list[Question]) -> list[Sequence[float]]:
    """For each candidate how much its words and length are those of true ones of other events."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.preprocessing import FunctionTransformer

    texts = np.array(_candidates(questions), dtype=object)
    true = np.array([index == one.answer for one in questions for index in range(len(one.candidates))])
    events = sorted({one.event for one in questions}, key=unit_interval)
    fold = {event: number % FOLDS for number, event in enumerate(events)}
    folds = np.array([fold[one.event] for one in questions for _ in one.candidates])
    scores = np.zeros(len(texts))
    for number in range(min(FOLDS, len(events)) if len(events) > 1 else 0):
        held_out = folds == number
        model = make_pipeline(
            make_union(
                TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]"),
                FunctionTransformer(lambda texts: [[len(text) / 100] for text in texts]),
            ),
            LogisticRegression(C=10, class_weight="balanced", max_iter=1000),
        ).fit(texts[~held_out], true[~held_out])
        scores[held_out] = model.decision_function(texts[held_out]).round(9)
    return _by_question(questions, scores.tolist())


def _candidates(questions: list[Question]) -> list[str]:
    """The candidates of all questions, as much of each as is read."""
    return [candidate[:MOST_OF_A_CANDIDATE] for one in questions for candidate in one.candidates]


def _by_question(questions: list[Question], scores: list[float]) -> list[Sequence[float]]:
    """The scores of all candidates, parted by question."""
    rest = iter(scores)
    return [list(islice(rest, len(one.candidates))) for one in questions]


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
