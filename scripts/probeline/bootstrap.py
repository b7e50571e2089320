"""Intervals from a bootstrap over groups that belong together: games, events, dialogues."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

LEVEL = 0.95

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]
Metric = Callable[[Array], Array]
"""From sample weights [resamples, n] to one value per resample; NaN where it is undefined."""


@dataclass(frozen=True)
class Bootstrap:
    """Resamples of whole games, drawn with replacement: the samples of one game are not independent.

    Attributes:
        game: [n] index of each sample's game.
        counts: [kept resamples, games] how often each game was drawn.
        skipped: resamples left out because only one class was in them.
    """

    game: npt.NDArray[np.int64]
    counts: Array
    skipped: int

    def values(self, metric: Metric) -> Array:
        """The metric on every kept resample, in blocks of bounded memory."""
        block = max(1, 1_000_000 // len(self.game))
        pieces = [
            metric(self.counts[start : start + block][:, self.game])
            for start in range(0, len(self.counts), block)
        ]
        return np.concatenate(pieces) if pieces else np.zeros(0)

    def estimate(self, metric: Metric) -> dict[str, Any]:
        """The metric with its interval, as `interval` gives it."""
        return self.interval(float(metric(np.ones((1, len(self.game))))[0]), self.values(metric))

    def interval(self, value: float, resampled: Array) -> dict[str, Any]:
        """`value`, `low` and `high` (percentiles of the resamples); null, with `reason`, where undefined."""
        defined = resampled[np.isfinite(resampled)]
        if not np.isfinite(value):
            return {"value": None, "low": None, "high": None, "reason": "only one class is present"}
        if self.counts.shape[1] < 2:
            return {"value": value, "low": None, "high": None, "reason": "an interval needs two games"}
        if not len(defined):
            return {"value": value, "low": None, "high": None, "reason": "no resample held both classes"}
        low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return {"value": value, "low": float(low), "high": float(high)}


def draw_games(games: int, resamples: int, seed: int) -> Array:
    """How often each of so many games is drawn: [resamples, games], as many draws in each as games."""
    counts = np.random.default_rng(seed).multinomial(games, np.full(games, 1 / games), size=resamples)
    return counts.astype(np.float64)
