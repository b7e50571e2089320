"""Which of a model's outcomes is what happened: the same words, the same meaning, or what a judge says."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from probeline.forecasting.trees import Outcome, normalised
from probeline.forecasting.words import told_apart

EXACT, SEMANTIC, JUDGED, NONE, FAILED = "exact", "semantic", "judged", "none", "failed"
KINDS = (EXACT, SEMANTIC, JUDGED, NONE)
"""How an outcome was matched; `failed` is no match and no miss, as the judge has not answered."""
LEAST_SIMILARITY = 0.9
"""From here on a cosine counts as the same meaning; opposites reach .85, and swapped roles more."""
LEAST_JUDGED = 0.5
"""From here on a judge's score counts as a match."""
LEAST_PROBABILITY = 0.001
"""What has no match is taken to have been given this much."""

Similarity = Callable[[str, str], float]
"""Cosine of two texts' embeddings."""
MatchJudge = Callable[[str, Sequence[str]], Sequence[float | None]]
"""From what happened and events to how surely each event is the same, 0 to 1; None where it failed."""


@dataclass(frozen=True, slots=True)
class Match:
    """Where what happened stands in an answer.

    Attributes:
        kind: one of KINDS, or FAILED.
        place: of the outcome; None without one.
        similarity: the highest cosine, where it was computed.
    """

    kind: str
    place: int | None = None
    similarity: float | None = None


def match(
    outcomes: Sequence[Outcome],
    actual: str,
    similarity: Similarity,
    judge: MatchJudge | None = None,
    least: float = LEAST_SIMILARITY,
) -> Match:
    """Find what happened among outcomes: first by its words, then by its meaning, then by a judge.

    An outcome with other numbers, or that negates where the other does not, has another meaning, however high
    its cosine. Opposites ("raises", "cuts") and swapped roles can still be taken for the same.

    Args:
        outcomes: of an answer; none for one that could not be read.
        actual: what happened.
        similarity: of two texts.
        judge: asked where no outcome is similar enough; None for no judge.
        least: cosine from which on a meaning is the same.
    """
    if not outcomes:
        return Match(NONE)
    words = _plain(actual)
    for place, outcome in enumerate(outcomes):
        if _plain(outcome.event) == words:
            return Match(EXACT, place)
    similar = [similarity(outcome.event, actual) for outcome in outcomes]
    alike = [place for place, outcome in enumerate(outcomes) if not told_apart(outcome.event, actual)]
    closest = max(alike, key=similar.__getitem__, default=None)
    if closest is not None and similar[closest] >= least:
        return Match(SEMANTIC, closest, similar[closest])
    highest = max(similar)
    if judge is None:
        return Match(NONE, None, highest)
    scores = judge(actual, [outcome.event for outcome in outcomes])
    place = max(range(len(scores)), key=lambda place: -1.0 if (score := scores[place]) is None else score)
    surest = scores[place]
    if surest is not None and surest >= LEAST_JUDGED:
        return Match(JUDGED, place, highest)
    return Match(FAILED if None in scores else NONE, None, highest)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


@dataclass(frozen=True, slots=True)
class Forecast:
    """A model's forecast, held against what happened.

    Attributes:
        id: of the question.
        group: what is resampled together: the event that the question is of.
        depth: of the question, from 1.
        outcomes: of the answer, normalised; none where it could not be read.
        match: of what happened.
        complete: whether those are all outcomes of the answer, see `trees.Outcomes`.
    """

    id: str
    group: str
    depth: int
    outcomes: tuple[Outcome, ...]
    match: Match
    complete: bool = True

    @property
    def probability(self) -> float:
        """What was given to what happened, LEAST_PROBABILITY at least."""
        given = 0.0 if self.match.place is None else self.outcomes[self.match.place].probability
        return max(given, LEAST_PROBABILITY)

    @property
    def brier(self) -> float:
        """Sum of (p - y)² over all outcomes and what happened: 0 is perfect, a uniform answer of 4 is .75.

        An answer that could not be read counts 2, as one that is sure of something that did not happen. What
        an incomplete one leaves of the probability counts as one outcome that did not happen, either.
        """
        if not self.outcomes:
            return 2.0
        missed = float(self.match.place is None)
        if not self.complete:
            missed += (1 - math.fsum(outcome.probability for outcome in self.outcomes)) ** 2
        return missed + sum(
            (outcome.probability - (place == self.match.place)) ** 2
            for place, outcome in enumerate(self.outcomes)
        )


def judge_forecast(
    identity: str,
    group: str,
    depth: int,
    outcomes: Sequence[Outcome] | None,
    actual: str,
    similarity: Similarity,
    judge: MatchJudge | None = None,
    least: float = LEAST_SIMILARITY,
) -> Forecast:
    """An answer held against what happened; the arguments are those of `match` and `Forecast`.

    Args:
        identity: of the question.
        group: that it belongs to.
        depth: of the question.
        outcomes: of `parse_outcomes`; None for an answer that could not be read.
        actual: what happened.
        similarity: of two texts.
        judge: or None.
        least: cosine from which on a meaning is the same.
    """
    shares = normalised(outcomes or [])
    found = match(shares, actual, similarity, judge, least)
    return Forecast(identity, group, depth, tuple(shares), found, shares.complete)
