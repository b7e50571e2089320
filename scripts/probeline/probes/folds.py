"""Folds of whole games, and the AUROC within them: what a layer and a method are chosen by."""

from typing import Any

import numpy as np
import numpy.typing as npt

from probeline.digests import unit_interval
from probeline.probes.methods import Array, Labels
from probeline.probes.metrics import Bootstrap


def assign_folds(keys: list[str], count: int, seed: int) -> npt.NDArray[np.int64]:
    """The fold of each sample [n], from its key alone: adding games never moves another.

    Args:
        keys: what is kept together: the digest of a game's content, or the name of its experiment.
        count: of the folds; some may stay empty where keys are few.
        seed: another seed draws other folds.
    """
    fold = {key: int(unit_interval(f"fold:{seed}:{key}") * count) for key in set(keys)}
    return np.array([fold[key] for key in keys], dtype=np.int64)


class FoldedRanking:
    """AUROC over all pairs of a positive and a negative sample of the same fold, ties counting half.

    Scores of two folds come from two fits and are not compared: that the base rates of the held-out and of
    the training games run against each other would move such pairs without any signal.

    Args:
        fold: [n] fold of each sample.
        labels: [n] of 0 and 1.
        bootstrap: resamples of the games of these samples.
    """

    def __init__(self, fold: npt.NDArray[np.int64], labels: Labels, bootstrap: Bootstrap) -> None:
        self._bootstrap = bootstrap
        self._folds = []
        for number in np.unique(fold):
            rows = np.flatnonzero(fold == number)
            games, local = np.unique(bootstrap.game[rows], return_inverse=True)
            member = (local[:, None] == np.arange(len(games))).astype(np.float64)
            positive = labels[rows] == 1
            self._folds.append((rows, games, member * positive[:, None], member * ~positive[:, None]))
        self._pairs = self._over_resamples(
            [np.outer(p.sum(axis=0), q.sum(axis=0)) for *_, p, q in self._folds]
        )

    def auroc(self, scores: Array) -> tuple[float, Array]:
        """The AUROC of scores [n], and that of every resample; NaN where no fold holds both classes.

        How often the positives of one game beat the negatives of another is counted once. On a resample, such
        a pair of games counts as often as both were drawn.
        """
        wins = self._over_resamples([self._wins(scores[rows], p, q) for rows, _, p, q in self._folds])
        found = np.full(len(wins), np.nan)
        np.divide(wins, self._pairs, out=found, where=self._pairs > 0)
        return float(found[0]), found[1:]

    def estimate(self, found: tuple[float, Array]) -> dict[str, Any]:
        """Value and interval of what `auroc` gives, or of the difference of two such."""
        return self._bootstrap.interval(*found)

    def _wins(self, scores: Array, positive: Array, negative: Array) -> Array:
        """[games, games]: in how many pairs a positive sample of one game beats a negative one of another."""
        order = np.argsort(scores, kind="stable")
        below = np.cumsum(negative[order], axis=0)
        # Of the negatives with the same score, half count.
        first_of_ties = np.append(True, np.diff(scores[order]) != 0)
        through = below[np.append(np.flatnonzero(first_of_ties)[1:], len(order)) - 1]
        before = np.vstack([np.zeros(below.shape[1]), through[:-1]])
        beaten = ((through + before) / 2)[np.cumsum(first_of_ties) - 1]
        counts: Array = positive[order].T @ beaten
        return counts

    def _over_resamples(self, tables: list[Array]) -> Array:
        """Sums of the folds' tables [games, games], of the samples themselves and of every resample."""
        counts = np.vstack([np.ones(self._bootstrap.counts.shape[1]), self._bootstrap.counts])
        total = np.zeros(len(counts))
        for (_, games, _, _), table in zip(self._folds, tables, strict=True):
            drawn = counts[:, games]
            total += ((drawn @ table) * drawn).sum(axis=1)
        return total
