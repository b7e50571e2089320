"""The five ways to find a direction that tells label 1 from label 0 in one layer's activations.

Each takes standardised features and returns a `Head`: plain arrays that score new features. All work in
float64 and draw random numbers from the given seed only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from probeline.errors import ProbelineError, near_misses

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]
Settings = dict[str, Any]

SETTINGS: dict[str, Settings] = {
    "lr": {"ensemble": "mean", "regularization": 100.0, "penalty": "l2", "backend": "auto"},
    "mms": {"ensemble": "mean"},
    "cmms": {"ensemble": "mean"},
    "lat": {"ensemble": "mean"},
    "mlp": {"ensemble": "mean", "hidden": 64},
}
"""The settings of each method, with their defaults."""

EPOCHS, PATIENCE = 200, 10


@dataclass(frozen=True)
class Head:
    """A direction in the features, or in a hidden layer over them.

    Attributes:
        direction: [features], or [hidden] where there is a hidden layer.
        bias: added to the projection; 0 lies between the classes.
        hidden_weight: [features, hidden] of the hidden layer (ReLU), or None.
        hidden_bias: [hidden], or None.
    """

    direction: Array
    bias: float
    hidden_weight: Array | None = None
    hidden_bias: Array | None = None

    def scores(self, X: Array) -> Array:
        """Scores [n] of standardised features [n, features]: larger means label 1."""
        if self.hidden_weight is not None and self.hidden_bias is not None:
            X = np.maximum(X @ self.hidden_weight + self.hidden_bias, 0)
        scores: Array = X @ self.direction + self.bias
        return scores


def split_over_layers(head: Head, layers: int) -> list[Head]:
    """A direction [layers * width] as one head per layer, whose scores have the whole one's for their mean.

    So each is the direction's part in its layer, times the number of layers; the bias is that of the whole.
    """
    parts = layers * head.direction.reshape(layers, -1)
    return [Head(part, head.bias) for part in parts]


@dataclass(frozen=True)
class Split:
    """Features [n, width], standardised, with their labels [n] of 0 and 1."""

    X: Array
    y: Labels

    def means(self) -> tuple[Array, Array]:
        """The mean features of label 0 and of label 1."""
        return self.X[self.y == 0].mean(axis=0), self.X[self.y == 1].mean(axis=0)


def standardisation(X: Array, y: Labels) -> tuple[Array, Array]:
    """What is subtracted from each feature and what it is divided by: mean and deviation within the classes.

    The deviation within the classes (pooled, as in diagonal discriminant analysis) instead of the whole one:
    by the whole one, a feature that tells the classes apart is shrunk for doing so, and a few good features
    drown in thousands of others. Where the classes differ little, the two are the same.

    Args:
        X: features [n, features].
        y: labels [n] of 0 and 1, both present.

    Returns:
        mean [features]; scale [features], 1 for a constant feature, and at least a hundredth of the whole
        deviation.
    """
    whole = X.std(axis=0)
    means = np.stack([X[y == label].mean(axis=0) for label in (0, 1)])
    # A constant's deviation is not 0 but what rounding leaves of it.
    constant = whole <= 1e-12 * np.abs(X).max(axis=0)
    return X.mean(axis=0), np.where(constant, 1.0, scale_within(whole, means, np.bincount(y)))


def scale_within(whole: Array, means: Array, counts: npt.NDArray[Any]) -> Array:
    """What `standardisation` divides by, from sums alone; 0 for a constant feature.

    Args:
        whole: [features] deviation over all samples.
        means: [2, features] mean of each class.
        counts: [2] samples of each class.
    """
    shares = counts / counts.sum()
    within = np.sqrt(np.maximum(whole**2 - np.prod(shares) * np.diff(means, axis=0)[0] ** 2, 0))
    scale: Array = np.maximum(within, whole / 100)
    return scale


def fit_lr(train: Split, validation: Split, settings: Settings, seed: int) -> Head:
    """Logistic regression with both classes weighing the same, by the trainer of `probeline.probes`.

    Minimises the weighted log loss summed over the samples plus regularization / 2 times the squared norm of
    the direction (C = 1 / regularization in scikit-learn); with the penalty l1, plus regularization times the
    sum of its absolute weights. Backend `auto` is scikit-learn here, where the model's size is not known. No
    early stopping: it goes to the optimum, and the validation samples are left to the calibration.
    """
    from probeline.probes.trainer import create_probe_trainer
    from probeline.probes.training_config import ProbeTrainingConfig

    config = ProbeTrainingConfig(
        regularization=settings["regularization"],
        penalty=settings["penalty"],
        early_stopping=False,
        min_samples=2,
        # Not what the machine happens to have: the same inputs give the same bytes anywhere.
        device="cpu",
        use_mixed_precision=False,
    )
    backend = None if settings["backend"] == "auto" else settings["backend"]
    trainer = create_probe_trainer(0, train.X.shape[1], config, backend, seed=seed, standardised=True)
    trainer.fit(train.X, train.y, validation.X, validation.y)
    return trainer.head()


def fit_mms(train: Split, validation: Split, settings: Settings, seed: int) -> Head:
    """Mass-mean shift: the difference of the class means (Marks and Tegmark 2023)."""
    negative, positive = train.means()
    return _halfway(positive - negative, negative, positive)


def fit_cmms(train: Split, validation: Split, settings: Settings, seed: int) -> Head:
    """The difference of the class means through the inverse of the covariance within the classes.

    The covariance is shrunk towards a multiple of the identity by the amount of Ledoit and Wolf (2004),
    so that it can be inverted with fewer samples than features. It is never larger than the samples
    themselves: with fewer of these than features, their products with each other say the same.
    """
    from sklearn.covariance import ledoit_wolf

    negative, positive = train.means()
    centred = train.X - np.where(train.y[:, None] == 1, positive, negative)
    if len(centred) < centred.shape[1]:
        direction = _through_shrunk_covariance(centred, positive - negative)
        return _halfway(direction, negative, positive)
    covariance, _ = ledoit_wolf(centred, assume_centered=True)
    # Constant features leave zeros in the diagonal where the shrinkage comes out as 0.
    covariance[np.diag_indices_from(covariance)] += 1e-6 * (np.trace(covariance) / len(covariance) or 1.0)
    return _halfway(np.linalg.solve(covariance, positive - negative), negative, positive)


def _through_shrunk_covariance(centred: Array, difference: Array) -> Array:
    """What `fit_cmms` solves, without the covariance: products of samples [n, n] instead of features.

    With X = `centred`, the covariance is ridge · 1 + share · X'X, which Woodbury's identity inverts. The
    shrinkage is that of scikit-learn's `ledoit_wolf`, its sums over pairs of features taken from X X'.
    """
    samples, features = centred.shape
    gram = centred @ centred.T
    norms = np.diag(gram)
    mean = norms.sum() / (samples * features)
    squared = (gram**2).sum() / samples**2
    spread = squared - features * mean**2  # of the covariance around the multiple of the identity
    noise = min(((norms**2).sum() / samples - squared) / samples, spread)
    shrinkage = noise / spread if noise > 0 else 0.0
    share, ridge = (1 - shrinkage) / samples, shrinkage * mean + 1e-6 * (mean or 1.0)
    gram *= share
    gram[np.diag_indices_from(gram)] += ridge
    inner = np.linalg.solve(gram, centred @ difference)
    direction: Array = (difference - share * (inner @ centred)) / ridge
    return direction


def fit_lat(train: Split, validation: Split, settings: Settings, seed: int) -> Head:
    """Linear artificial tomography: the first principal component of differences of random pairs.

    A pair is one sample of each class in random order, as many pairs as samples (Zou et al. 2023). The
    component has no sign of its own: the training means set it.
    """
    from scipy.sparse.linalg import svds

    first, second, order = draw_pairs(train.y, seed)
    differences = (train.X[first] - train.X[second]) * order[:, None]
    negative, positive = train.means()
    # The start of the iteration is fixed: the default is drawn from the process's own randomness.
    start = np.ones(min(differences.shape)) / np.sqrt(min(differences.shape))
    direction = svds(differences, k=1, v0=start)[2][0]
    sign = 1.0 if direction @ (positive - negative) >= 0 else -1.0
    return _halfway(sign * direction, negative, positive)


def draw_pairs(y: Labels, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Array]:
    """As many random pairs as samples: rows [n] of label 1, rows [n] of label 0, and their order [n], ±1."""
    random = np.random.default_rng(seed)
    first = random.choice(np.flatnonzero(y == 1), len(y))
    second = random.choice(np.flatnonzero(y == 0), len(y))
    return first, second, random.choice([-1.0, 1.0], len(y))


def fit_mlp(train: Split, validation: Split, settings: Settings, seed: int) -> Head:
    """One hidden layer of rectified units, trained with Adam on the class-balanced log loss.

    Stops when the validation loss has not fallen for some epochs, and keeps the best epoch's weights.
    """
    from sklearn.neural_network import MLPClassifier

    network = MLPClassifier(
        (settings["hidden"],), alpha=0.01, random_state=seed, batch_size=min(64, len(train.y))
    )
    weights, validation_weights = balanced(train.y), balanced(validation.y)
    best, best_loss, stale = None, np.inf, 0
    for _ in range(EPOCHS):
        network.partial_fit(train.X, train.y, sample_weight=weights, classes=[0, 1])
        head = Head(
            network.coefs_[1][:, 0].copy(),
            float(network.intercepts_[1][0]),
            network.coefs_[0].copy(),
            network.intercepts_[0].copy(),
        )
        loss = log_loss(head.scores(validation.X), validation.y, validation_weights)
        if loss < best_loss:
            best, best_loss, stale = head, loss, 0
        else:
            stale += 1
        if stale == PATIENCE:
            break
    if best is None:
        raise ProbelineError("The mlp diverged: its validation loss was never a number. Use another method.")
    return best


METHODS: dict[str, Callable[[Split, Split, Settings, int], Head]] = {
    "lr": fit_lr,
    "mms": fit_mms,
    "cmms": fit_cmms,
    "lat": fit_lat,
    "mlp": fit_mlp,
}


def fit_head(method: str, train: Split, validation: Split, settings: Settings, seed: int) -> Head:
    """Fit one layer by the method of that name.

    Args:
        method: a key of METHODS.
        train: what is fitted on.
        validation: only the mlp looks at it, to know when to stop.
        settings: those in SETTINGS[method]; absent ones take their default.
        seed: of everything random.

    Raises:
        ProbelineError: unknown method or setting, one class only, or features that are no numbers.
    """
    if method not in METHODS:
        raise ProbelineError(f"Unknown method {method!r}. {near_misses(method, METHODS)}")
    for name in settings.keys() - SETTINGS[method].keys():
        raise ProbelineError(
            f"Method {method} has no setting {name!r}. {near_misses(name, SETTINGS[method])}"
        )
    for name, split in (("training", train), ("validation", validation)):
        require_both_classes(name, split.y)
        if not np.isfinite(split.X).all():
            row = int(np.flatnonzero(~np.isfinite(split.X).all(axis=1))[0])
            raise ProbelineError(f"The {name} features of row {row} are NaN or infinite.")
    return METHODS[method](train, validation, SETTINGS[method] | settings, seed)


def require_both_classes(name: str, y: Labels) -> None:
    """Refuse samples of one class only.

    Args:
        name: of the samples, for the error.
        y: labels [n] of 0 and 1.

    Raises:
        ProbelineError: with both counts.
    """
    positives = int(y.sum())
    if positives in (0, len(y)):
        raise ProbelineError(
            f"Not enough data: the {name} samples are {positives} positives and {len(y) - positives} "
            "negatives; a probe needs both classes."
        )


def _halfway(direction: Array, negative: Array, positive: Array) -> Head:
    return Head(direction, -float(direction @ (negative + positive)) / 2)


def balanced(y: Labels, trained: npt.NDArray[np.bool_] | None = None) -> Array:
    """Weights [n] under which both classes weigh the same, with mean 1; 0 for rows not trained on."""
    inside = np.ones(len(y), dtype=bool) if trained is None else trained
    counts = np.bincount(y[inside], minlength=2)
    weights: Array = np.where(inside, (inside.sum() / (2 * counts))[y], 0.0)
    return weights


def log_loss(scores: Array, y: Labels, weights: Array) -> float:
    """Weighted mean of the log loss of scores [n], which are log odds."""
    return float(np.average(np.logaddexp(0, scores) - y * scores, weights=weights))
