"""The reward of a forecast: how right, how decided and how varied its outcomes are."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from probeline.forecasting.matching import match
from probeline.forecasting.trees import Outcome, normalised, parse_outcomes
from probeline.forecasting.words import told_apart, words_of

CALIBRATION, SHARPNESS, DIVERSITY = 0.4, 0.3, 0.3
"""Shares of the reward."""
ENOUGH = 4
"""Different outcomes from which on an answer is varied enough."""
SAME_WORDS, SAME_MEANING = 0.8, 0.95
"""Share of common words, and cosine, from which on two outcomes are near-duplicates."""


@dataclass(frozen=True, slots=True)
class TreeReward:
    """The reward of one completion, each part from 0 to 1.

    Attributes:
        total: 0.4 calibration + 0.3 sharpness + 0.3 diversity; 0 for what could not be read.
        calibration: probability of the outcomes that are what happened.
        sharpness: 1 / (1 + entropy of the probabilities in nats).
        diversity: different outcomes / 4, at most 1.
        parsed: whether the completion could be read; what could not is to be counted.
    """

    total: float
    calibration: float
    sharpness: float
    diversity: float
    parsed: bool


def tree_reward(
    completion: str, actual: Sequence[str], similarity: Callable[[str, str], float] | None = None
) -> TreeReward:
    """Reward a completion that forecasts outcomes; their probabilities are first made to sum to 1.

    Those of an answer that was cut off are not scaled up.

    Args:
        completion: what the model said.
        actual: what happened, one or more events.
        similarity: cosine of two texts' embeddings; without it, what happened is found by its words alone.
    """
    outcomes = parse_outcomes(completion)
    if not outcomes:
        return TreeReward(0.0, 0.0, 0.0, 0.0, parsed=False)
    # What is given no chance is not forecast, and makes no answer more varied.
    shares = [outcome for outcome in normalised(outcomes) if outcome.probability > 0]
    calibration = _calibration(shares, actual, similarity)
    given = [outcome.probability for outcome in shares]
    # What an answer that was cut off leaves is not won by what stands there: it is one outcome more.
    rest = 0.0 if outcomes.complete else 1 - math.fsum(given)
    entropy = -math.fsum(share * math.log(share) for share in [*given, rest] if share > 0)
    sharpness = 1 / (1 + max(0.0, entropy))
    diversity = min(len(different([outcome.event for outcome in shares], similarity)) / ENOUGH, 1.0)
    total = CALIBRATION * calibration + SHARPNESS * sharpness + DIVERSITY * diversity
    return TreeReward(total, calibration, sharpness, diversity, parsed=True)


def different(events: Sequence[str], similarity: Callable[[str, str], float] | None = None) -> list[str]:
    """The events without near-duplicates of earlier ones.

    Two are near-duplicates if they have the same words but for articles, case, order and punctuation; if one
    has but a few words more; or if their meaning is all but the same. Numbers and negations tell apart.

    Args:
        events: in words.
        similarity: cosine of two texts' embeddings; without it, words alone decide.
    """
    kept: list[str] = []
    for event in events:
        if not any(_near(event, other, similarity) for other in kept):
            kept.append(event)
    return kept


def _near(first: str, second: str, similarity: Callable[[str, str], float] | None) -> bool:
    one, other = words_of(first), words_of(second)
    if one == other:
        return bool(one) or first == second
    if told_apart(first, second):
        return False
    # One word in another's place may be its opposite: more words are no harm, other ones are.
    nested = one <= other or other <= one
    if nested and len(one & other) / len(one | other) >= SAME_WORDS:
        return True
    return similarity is not None and similarity(first, second) >= SAME_MEANING


def _calibration(
    outcomes: Sequence[Outcome], actual: Sequence[str], similarity: Callable[[str, str], float] | None
) -> float:
    """The probability of all outcomes that are something that happened, each counted once."""
    matches = [match(outcomes, event, similarity or _unlike) for event in actual]
    places = {found.place for found in matches if found.place is not None}
    return min(1.0, math.fsum(outcomes[place].probability for place in places))


def _unlike(first: str, second: str) -> float:
    return -1.0
