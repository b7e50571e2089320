"""Metrics of a probe on samples it never saw, with intervals from a bootstrap over games.

Every metric is a function of sample weights [resamples, n]: weights of one give the metric itself, and the
number of times that a sample's game was drawn gives its value on a resample. So all resamples are computed
together, and two probes are compared on the same resamples.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from probeline.bootstrap import Array, Bootstrap, Labels, Metric, draw_games

MAX_FALSE_POSITIVE_RATE = 0.01
CALIBRATION_BINS = 10
FEWEST_GAMES, FEWEST_OF_A_CLASS = 5, 5  # below, a bootstrap over games is no guide


def is_small(counts: Mapping[str, Any]) -> bool:
    """Whether these are too few games, or samples of a class, to draw a conclusion from."""
    fewest = min(counts["num_positive"], counts["num_negative"])
    return bool(counts["num_games"] < FEWEST_GAMES or fewest < FEWEST_OF_A_CLASS)


class Ranking:
    """Weighted counts of positives and negatives from the highest score down.

    Args:
        labels: [n] of 0 and 1.
        scores: [n]; equal scores are passed together, as the definitions of the curves ask.
    """

    def __init__(self, labels: Labels, scores: Array) -> None:
        self._order = np.argsort(-scores, kind="stable")
        self._labels = labels[self._order].astype(np.float64)
        ordered = scores[self._order]
        self._last_of_ties = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)

    def _counts(self, weights: Array) -> tuple[Array, Array]:
        """True and false positives [resamples, distinct scores] at each falling threshold."""
        ordered = weights[:, self._order]
        true = np.cumsum(ordered * self._labels, axis=1)
        passed = np.cumsum(ordered, axis=1)
        return true[:, self._last_of_ties], (passed - true)[:, self._last_of_ties]

    def auroc(self, weights: Array) -> Array:
        """Area under the receiver operating characteristic: P(positive above negative), ties half."""
        true, false = self._counts(weights)
        steps = np.diff(false, prepend=0)
        heights = true - np.diff(true, prepend=0) / 2
        return _ratio((steps * heights).sum(axis=1), true[:, -1] * false[:, -1])

    def auprc(self, weights: Array) -> Array:
        """Average precision: the precision at each threshold, weighted by the recall that it adds."""
        true, false = self._counts(weights)
        precision = true / np.maximum(true + false, 1e-300)
        return _ratio((np.diff(true, prepend=0) * precision).sum(axis=1), true[:, -1])

    def recall_at_low_fpr(self, weights: Array) -> Array:
        """The largest recall at a false positive rate of at most MAX_FALSE_POSITIVE_RATE."""
        true, false = self._counts(weights)
        allowed = false <= MAX_FALSE_POSITIVE_RATE * false[:, -1:]
        return _ratio(np.where(allowed, true, 0).max(axis=1), true[:, -1])


def metrics_of(labels: Labels, scores: Array, probabilities: Array, threshold: float) -> dict[str, Metric]:
    """The metrics that every probe is reported with, by name.

    Args:
        labels: [n] of 0 and 1.
        scores: [n]: larger means label 1.
        probabilities: [n], calibrated probabilities of label 1, for `brier` and `ece`.
        threshold: scores from here on count as label 1, for `f1` and `accuracy`.
    """
    ranking = Ranking(labels, scores)
    y = labels.astype(np.float64)
    predicted = (scores >= threshold).astype(np.float64)
    bins = np.minimum((probabilities * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    in_bin = (bins[:, None] == np.arange(CALIBRATION_BINS)).astype(np.float64)

    def f1(weights: Array) -> Array:
        return _ratio(2 * weights @ (predicted * y), weights @ (predicted + y))

    def accuracy(weights: Array) -> Array:
        return _mean(weights, (predicted == y).astype(np.float64))

    def brier(weights: Array) -> Array:
        return _mean(weights, (probabilities - y) ** 2)

    def ece(weights: Array) -> Array:
        """Expected calibration error over bins of equal width (Guo et al. 2017)."""
        gaps = np.abs(weights @ ((probabilities - y)[:, None] * in_bin))
        return _ratio(gaps.sum(axis=1), weights.sum(axis=1))

    return {
        "auroc": ranking.auroc,
        "auprc": ranking.auprc,
        "recall_at_1_percent_fpr": ranking.recall_at_low_fpr,
        "f1": f1,
        "accuracy": accuracy,
        "brier": brier,
        "ece": ece,
    }


def auroc(labels: Labels, scores: Array) -> float:
    """Area under the receiver operating characteristic of all samples; NaN with one class only."""
    return float(Ranking(labels, scores).auroc(np.ones((1, len(labels))))[0])


def bootstrap_games(games: npt.NDArray[Any], labels: Labels, resamples: int, seed: int) -> Bootstrap:
    """Draw resamples of the games.

    Args:
        games: [n] game of each sample.
        labels: [n] of 0 and 1.
        resamples: number of draws.
        seed: of the draws.
    """
    names, game = np.unique(games, return_inverse=True)
    counts = draw_games(len(names), resamples, seed)
    positives = counts @ np.bincount(game, weights=labels)
    negatives = counts @ np.bincount(game, weights=1 - labels)
    both = (positives > 0) & (negatives > 0)
    return Bootstrap(game, counts[both], int(resamples - both.sum()))


def over_games(per_game: dict[str, Array], resamples: int, seed: int) -> dict[str, dict[str, Any]]:
    """Means over games, each with its interval, all on the same resamples.

    Args:
        per_game: name → one value per game, the same games in each, at least one.
        resamples: number of draws.
        seed: of the draws.
    """
    games = len(next(iter(per_game.values())))
    bootstrap = Bootstrap(np.arange(games), draw_games(games, resamples, seed), 0)
    return {
        name: bootstrap.interval(float(values.mean()), bootstrap.counts @ values / games)
        for name, values in per_game.items()
    }


def auroc_within_games(labels: Labels, scores: Array, games: npt.NDArray[Any]) -> Array:
    """The AUROC of each game that has both classes, in the order of the games' names.

    Args:
        labels: [n] of 0 and 1.
        scores: [n].
        games: [n] game of each sample.
    """
    members = [games == game for game in np.unique(games)]
    found = [auroc(labels[inside], scores[inside]) for inside in members]
    return np.array([value for value in found if np.isfinite(value)])


def compare(bootstrap: Bootstrap, labels: Labels, probe: Array, rivals: list[Array]) -> dict[str, Any]:
    """AUROC of a rival (the mean over its repetitions), and by how much the probe exceeds it.

    Args:
        bootstrap: of the samples' games.
        labels: [n] of 0 and 1.
        probe: [n] scores of the probe.
        rivals: the rival's scores [n], one array per repetition.

    Returns:
        `auroc` and `difference` (probe minus rival, on the same resamples), each with its interval; and
        `repetitions`, the rival's AUROCs, if there are several.
    """
    ones = np.ones((1, len(labels)))
    probe_ranking = Ranking(labels, probe)
    rankings = [Ranking(labels, rival) for rival in rivals]
    values = [float(ranking.auroc(ones)[0]) for ranking in rankings]
    resampled = np.mean([bootstrap.values(ranking.auroc) for ranking in rankings], axis=0)
    value = float(np.mean(values))
    comparison = {
        "auroc": bootstrap.interval(value, resampled),
        "difference": bootstrap.interval(
            float(probe_ranking.auroc(ones)[0]) - value, bootstrap.values(probe_ranking.auroc) - resampled
        ),
    }
    return comparison | ({"repetitions": values} if len(values) > 1 else {})


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Element by element; NaN where the denominator is 0."""
    result = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def _mean(weights: Array, values: Array) -> Array:
    return _ratio(weights @ values, weights.sum(axis=1))
