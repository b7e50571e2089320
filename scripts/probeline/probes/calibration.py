"""From scores to decisions: the threshold and the calibrated probability, both from validation samples."""

import numpy as np

from probeline.errors import ProbelineError, near_misses
from probeline.probes.methods import Array, Labels

THRESHOLD_RULES = {
    "youden": "the largest true positive rate minus false positive rate",
    "f1": "the largest F1",
    "percentile": "a percentile of the negatives' scores: 90 lets 10 % of them pass",
}


def choose_threshold(labels: Labels, scores: Array, rule: str, percentile: float = 90) -> float:
    """The score from which on a sample counts as label 1.

    Args:
        labels: [n] of 0 and 1, both present.
        scores: [n].
        rule: key of THRESHOLD_RULES.
        percentile: of the negatives' scores, 0 to 100; for the rule of that name only.

    Raises:
        ProbelineError: an unknown rule.
    """
    if rule not in THRESHOLD_RULES:
        raise ProbelineError(f"Unknown threshold rule {rule!r}. {near_misses(rule, THRESHOLD_RULES)}")
    if rule == "percentile":
        return float(np.percentile(scores[labels == 0], percentile))
    levels, group = np.unique(scores, return_inverse=True)
    # Samples at or above each level, for levels in rising order.
    true = np.cumsum(np.bincount(group, weights=labels)[::-1])[::-1]
    false = np.cumsum(np.bincount(group, weights=1 - labels)[::-1])[::-1]
    positives, negatives = true[0], false[0]
    gain = true / positives - false / negatives if rule == "youden" else 2 * true / (true + false + positives)
    best = int(np.argmax(gain))
    # Halfway to the next lower score: new samples do not sit exactly on the old ones.
    return float(levels[best] if best == 0 else (levels[best - 1] + levels[best]) / 2)


def fit_platt(labels: Labels, scores: Array) -> tuple[float, float]:
    """Slope and intercept of the log odds of label 1 as a line of the score (Platt 1999).

    The targets are pulled in to (P + 1) / (P + 2) and 1 / (N + 2), P positives and N negatives, so that
    separable scores get a finite slope. Scores that run backwards get slope 0: the base rate for all.

    Args:
        labels: [n] of 0 and 1, both present.
        scores: [n].
    """
    from sklearn.linear_model import LogisticRegression

    positives = int(labels.sum())
    negatives = len(labels) - positives
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    # A soft target is one sample of each class with its share as weight.
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(
        np.concatenate([scores, scores])[:, None],
        np.repeat([1, 0], len(labels)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    slope = float(model.coef_[0, 0])
    if slope > 0:
        return slope, float(model.intercept_[0])
    rate = target.mean()
    return 0.0, float(np.log(rate / (1 - rate)))
