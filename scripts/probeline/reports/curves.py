"""The curves behind a probe's figures: ROC with a band, and reliability, from the scores of test games."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from probeline.bootstrap import LEVEL, Array, Bootstrap
from probeline.probes.metrics import CALIBRATION_BINS

GRID = np.linspace(0, 1, 101)
"""False positive rates that the band is drawn at."""


@dataclass(frozen=True)
class Curve:
    """A receiver operating characteristic.

    Attributes:
        false: [points] false positive rates of the curve itself, from 0 to 1.
        true: [points] true positive rates.
        low: [101] at the rates of `GRID`, the lower end of the 95 % interval; empty where there is none.
        high: [101] its upper end.
    """

    false: Array
    true: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Bin:
    """Samples whose probabilities are close to each other.

    Attributes:
        middle: of the bin.
        count: of the samples.
        mean: of their probabilities.
        share: of them with label 1.
        low: lower end of the share's 95 % interval; NaN where there is none: where all have one label or
            are of one game, resamples cannot but agree.
        high: its upper end.
    """

    middle: float
    count: int
    mean: float
    share: float
    low: float
    high: float


def roc(bootstrap: Bootstrap, labels: Array, scores: Array) -> Curve:
    """The curve of all samples, and a band from resamples of whole games, point by point.

    Args:
        bootstrap: of the samples' games.
        labels: [n] of 0 and 1, both present.
        scores: [n]; equal scores are passed together.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)

    def passed(weights: Array) -> tuple[Array, Array]:
        ordered = weights[:, order]
        true = np.cumsum(ordered * labels[order], axis=1)[:, last_of_ties]
        false = np.cumsum(ordered * (1 - labels[order]), axis=1)[:, last_of_ties]
        return _from_nothing(false), _from_nothing(true)

    def on_grid(weights: Array) -> Array:
        rows = zip(*passed(weights), strict=True)
        return np.array([_at_rates(false, true) for false, true in rows])

    false, true = (rates[0] for rates in passed(np.ones((1, len(labels)))))
    resampled = bootstrap.values(on_grid)
    if bootstrap.counts.shape[1] < 2 or not len(resampled):
        return Curve(*_corners(false, true), np.zeros(0), np.zeros(0))
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Curve(*_corners(false, true), low, high)


def reliability(bootstrap: Bootstrap, labels: Array, probabilities: Array) -> list[Bin]:
    """How often label 1 is true among samples of about the same probability, in the bins of the ECE.

    Args:
        bootstrap: of the samples' games.
        labels: [n] of 0 and 1.
        probabilities: [n] of label 1.
    """
    places = np.minimum((probabilities * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    bins = []
    for place in range(CALIBRATION_BINS):
        inside = (places == place).astype(np.float64)
        if not inside.any():
            continue
        resampled = bootstrap.values(partial(_share, inside=inside, labels=labels))
        defined = resampled[np.isfinite(resampled)]
        chosen = inside.astype(bool)
        several = all(len(np.unique(of[chosen])) > 1 for of in (bootstrap.game, labels))
        enough = several and len(defined)
        ends = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if enough else (np.nan, np.nan)
        bins.append(
            Bin(
                (place + 0.5) / CALIBRATION_BINS,
                int(inside.sum()),
                float(probabilities[chosen].mean()),
                float(labels[chosen].mean()),
                float(ends[0]),
                float(ends[1]),
            )
        )
    return bins


def _share(weights: Array, inside: Array, labels: Array) -> Array:
    samples = weights @ inside
    result = np.full(len(weights), np.nan)
    np.divide(weights @ (inside * labels), samples, out=result, where=samples > 0)
    return result


def _from_nothing(counts: Array) -> Array:
    """Rates [resamples, distinct scores + 1] of counts that begin before the first sample."""
    whole = np.maximum(counts[:, -1:], 1e-300)
    return np.concatenate([np.zeros((len(counts), 1)), counts / whole], axis=1)


def _at_rates(false: Array, true: Array) -> Array:
    """The curve at the rates of `GRID`; where it rises straight up, its upper end."""
    last = np.append(np.flatnonzero(np.diff(false) > 0), len(false) - 1)
    return np.interp(GRID, false[last], true[last])


def _corners(false: Array, true: Array) -> tuple[Array, Array]:
    """The points where the curve turns: those between say nothing."""
    turns = np.abs(np.diff(false[:-1]) * np.diff(true[1:]) - np.diff(false[1:]) * np.diff(true[:-1])) > 1e-12
    kept = np.concatenate([[True], turns, [True]]) if len(false) > 2 else np.ones(len(false), bool)
    return false[kept], true[kept]
