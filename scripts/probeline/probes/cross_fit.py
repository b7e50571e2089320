"""Out-of-fold scores of one layer, all folds fitted together.

The folds' training samples are nearly the same, so what one fit needs serves all of them: the activations
are copied once (float32, divided by their deviation), a fold's own standardisation is folded into its
weights, and every step multiplies the layer with the directions of all folds at once. Within a fold, samples
rank as by `detector.fit_detector` up to rounding and to where an iteration stops: AUROCs within 0.001, mostly
0.0001. The scores of two folds have their own zero and unit.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from probeline.errors import ProbelineError
from probeline.probes.detector import fit_detector
from probeline.probes.methods import SETTINGS, Array, Labels, Settings, draw_pairs, require_both_classes

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

SKETCHED_ROWS = (
    1024  # samples that the shared curvature is taken from: more cost more than the steps they save
)
MEMORY = 12  # steps that the curvature is corrected by
MAX_STEPS = 500
SMALL_VARIANCE = 1e-3  # of a fold's training samples, in units of the variance of all
LR_TOLERANCE = 1e-7  # loss per sample that is left: less than what scikit-learn's default leaves
LAT_TOLERANCE = 1e-4  # residual over the eigenvalue: moves an AUROC by 1e-5; single precision ends at 1e-6


class Folds:
    """Which samples are held out together, and all that follows from labels and folds alone.

    Args:
        fold: [n] the fold of each sample, numbers from 0 without gaps.
        labels: [n] of 0 and 1.

    Raises:
        ProbelineError: a fold leaves one class only for training.
    """

    def __init__(self, fold: npt.NDArray[np.int64], labels: Labels) -> None:
        self.fold, self.labels = fold, labels
        self._pairs: dict[int, list[Any]] = {}
        self.count = int(fold.max()) + 1
        self.train: Mask = fold[:, None] != np.arange(self.count)
        for number in range(self.count):
            require_both_classes(f"training (all but fold {number})", labels[self.train[:, number]])

    @cached_property
    def groups(self) -> Floats:
        """[2 · folds, n]: 1 where a sample is of that fold and class; row 2 f + label."""
        group = 2 * self.fold + self.labels
        return (group == np.arange(2 * self.count)[:, None]).astype(np.float32)

    @cached_property
    def train_counts(self) -> Array:
        """[folds, 2] training samples of each class."""
        return self.over_training(self.groups.sum(axis=1, dtype=np.float64)[:, None])[:, :, 0]

    @cached_property
    def weights(self) -> Floats:
        """[n, folds] under which both classes weigh the same in training; 0 where a sample is held out."""
        of_class = self.train_counts.sum(axis=1, keepdims=True) / (2 * self.train_counts)
        return np.where(self.train, of_class[:, self.labels].T, 0).astype(np.float32)

    def following(self, number: int) -> int:
        """The next fold that holds both classes.

        Raises:
            ProbelineError: there is none that leaves both classes for training.
        """
        for step in range(1, self.count):
            other = (number + step) % self.count
            rest = (self.fold != number) & (self.fold != other)
            if all(np.unique(self.labels[rows]).size == 2 for rows in (self.fold == other, rest)):
                return other
        raise ProbelineError(
            "Not enough data for the mlp: besides the held-out games it needs others to tell it when to "
            "stop, and others to train on, with both classes. Add games, or leave it out of sweeps.methods."
        )

    def over_training(self, sums: Array) -> Array:
        """From sums over groups [2 · folds, k] to sums over each fold's training samples [folds, 2, k]."""
        blocks = sums.reshape(self.count, 2, -1)
        # Added up, not taken from the total: what is held out may be larger than all the rest.
        return np.stack([np.delete(blocks, number, axis=0).sum(axis=0) for number in range(self.count)])

    def held_out(self, scores: npt.NDArray[Any]) -> Array:
        """From scores [n, folds] to those [n] of the fold that did not train on the sample."""
        return scores[np.arange(len(scores)), self.fold].astype(np.float64)

    def pairs(self, seed: int) -> list[Any]:
        """Of each fold, the sum of (e_i - e_j)(e_i - e_j)' over lat's random pairs (i, j): sparse [n, n]."""
        if seed not in self._pairs:
            self._pairs[seed] = [self._laplacian(number, seed) for number in range(self.count)]
        return self._pairs[seed]

    def _laplacian(self, number: int, seed: int) -> Any:
        from scipy.sparse import csr_matrix

        rows = np.flatnonzero(self.train[:, number])
        first, second, _ = draw_pairs(self.labels[rows], seed)
        i, j = rows[first], rows[second]
        places = np.concatenate([i, j, i, j]), np.concatenate([i, j, j, i])
        signs = np.repeat(np.array([1, 1, -1, -1], dtype=np.float32), len(i))
        return csr_matrix((signs, places), shape=(len(self.labels), len(self.labels)))


@dataclass(frozen=True)
class Layer:
    """One layer's activations, and how each fold standardises them.

    A fold's standardised features are (X - mean) / scale; they are never formed.

    Attributes:
        X: [n, width] activations, shifted and divided so that float32 loses nothing.
        mean: [folds, width] of the training samples.
        scale: [folds, width] deviation within the classes, see `methods.standardisation`; infinite where a
            feature is constant.
        class_means: [folds, 2, width] standardised means of the training samples of each class.
    """

    X: Floats
    mean: Array
    scale: Array
    class_means: Array
    folds: Folds

    @cached_property
    def sketch(self) -> Floats:
        """[at most SKETCHED_ROWS, width] evenly spread samples, roughly standardised and class-balanced.

        Times its own transpose, it stands for the curvature that all folds share.
        """
        step = -(-len(self.X) // SKETCHED_ROWS)
        rows = slice(None, None, step)
        balance = np.sqrt(self.folds.weights[rows].mean(axis=1, keepdims=True) * step)
        centred = (self.X[rows] - self.mean.mean(axis=0)) / self.scale.mean(axis=0)
        return (centred * balance).astype(np.float32)

    @cached_property
    def gram(self) -> Floats:
        """The sketch's products of features [width, width], or of samples where these are fewer."""
        sketch = self.sketch
        return sketch.T @ sketch if sketch.shape[0] >= sketch.shape[1] else sketch @ sketch.T

    def project(self, directions: Array) -> Floats:
        """Scores [n, folds] along each fold's direction [folds, width] over its standardised features."""
        inner = directions / self.scale
        offset = _dot(inner, self.mean).astype(np.float32)
        return (self.X @ _widened(inner.T))[:, : len(inner)] - offset

    def collect(self, weights: Floats) -> Array:
        """Sums [folds, width] of each fold's standardised features, weighted by [n, folds]."""
        total = weights.sum(axis=0, dtype=np.float64)
        sums = (self.X.T @ _widened(weights))[:, : len(total)].T
        return (sums - self.mean * total[:, None]) / self.scale


def _widened(columns: npt.NDArray[np.floating[Any]]) -> Floats:
    """The columns [k, folds] and columns of zeros: products with 8 columns take less time than with 5."""
    rows, count = columns.shape
    padded = np.zeros((rows, -(-count // 8) * 8), dtype=np.float32)
    padded[:, :count] = columns
    return padded


def prepare(values: npt.NDArray[np.floating[Any]], folds: Folds) -> Layer:
    """Shift and scale a layer once for all folds, and find how each fold standardises it.

    Args:
        values: activations [n, width], finite.
        folds: of the same samples.
    """
    centre = values.mean(axis=0, dtype=np.float64)
    X = values.astype(np.float32) - centre.astype(np.float32)
    unit = np.sqrt(np.einsum("ij,ij->j", X, X).astype(np.float64) / len(X))
    unit = np.where(unit > 0, unit, 1)
    X /= unit.astype(np.float32)
    counts = folds.train_counts[:, :, None]
    share = counts / counts.sum(axis=1, keepdims=True)
    class_means = folds.over_training((folds.groups @ X).astype(np.float64)) / counts
    squares = folds.over_training((folds.groups @ (X * X)).astype(np.float64)).sum(axis=1)
    mean = (share * class_means).sum(axis=1)
    variance = squares / counts.sum(axis=1) - mean**2
    # Where nearly all that a feature varies is held out, rounding would be too large a part of the rest.
    for number, feature in np.argwhere(variance < SMALL_VARIANCE):
        values_left = X[folds.train[:, number], feature].astype(np.float64)
        labels_left = folds.labels[folds.train[:, number]]
        class_means[number, :, feature] = [values_left[labels_left == label].mean() for label in (0, 1)]
        mean[number, feature] = values_left.mean()
        variance[number, feature] = values_left.var() if np.ptp(values_left) > 0 else 0
    between = share.prod(axis=1) * np.diff(class_means, axis=1)[:, 0] ** 2
    scale = np.sqrt(np.maximum(variance - between, variance / 1e4))
    # A constant feature gets no weight by any of the methods.
    scale = np.where(variance > 0, scale, np.inf)
    return Layer(X, mean, scale, (class_means - mean[:, None]) / scale[:, None], folds)


def lr_scores(layer: Layer, regularization: float) -> Array:
    """Out-of-fold scores [n] of `methods.fit_lr`.

    L-BFGS (Nocedal and Wright, algorithm 7.5) on all folds at once. It starts from the shared curvature
    instead of from a multiple of the identity: a quarter of the sketch's, which is the loss's at 0.
    """
    folds = layer.folds
    against = (1 - 2 * folds.labels[:, None]).astype(np.float32)  # a positive score is wrong for label 0
    precondition = _inverse(layer, regularization)
    width = layer.X.shape[1]
    samples = folds.train_counts.sum(axis=1)

    def evaluate(point: Array) -> tuple[Array, Array, Floats]:
        """Loss [folds], gradient [folds, width + 1] (the intercept's last), and scores [n, folds]."""
        direction, bias = point[:, :width], point[:, width]
        scores = layer.project(direction) + bias.astype(np.float32)
        wrong = scores * against
        small = np.exp(-np.abs(wrong))
        losses = (np.maximum(wrong, 0) + np.log1p(small)) * folds.weights
        residual = np.where(wrong >= 0, 1, small) / (1 + small) * against * folds.weights
        slope = layer.collect(residual) + regularization * direction
        loss = losses.sum(axis=0, dtype=np.float64) + regularization / 2 * _dot(direction, direction)
        return loss, np.column_stack([slope, residual.sum(axis=0, dtype=np.float64)]), scores

    point = np.zeros((folds.count, width + 1))
    loss, gradient, scores = evaluate(point)
    history: list[tuple[Array, Array]] = []
    for _ in range(MAX_STEPS):
        step = -_two_loops(gradient, history, precondition)
        gain = -_dot(step, gradient)
        active = gain > 2 * LR_TOLERANCE * samples
        if not active.any():
            break
        size = np.where(active, 1.0, 0.0)
        while True:
            moved = point + size[:, None] * step
            new_loss, new_gradient, new_scores = evaluate(moved)
            # What is left is below the rounding of the loss: such a step is taken as it is.
            worse = new_loss > loss - 1e-4 * size * gain + 1e-7 * samples
            if not worse.any():
                break
            size = np.where(worse, size / 2, size)
        history = [*history[1 - MEMORY :], (moved - point, new_gradient - gradient)]
        point, loss, gradient, scores = moved, new_loss, new_gradient, new_scores
    return folds.held_out(scores)


def _two_loops(gradient: Array, history: list[tuple[Array, Array]], precondition: Any) -> Array:
    """The inverse curvature, as the last steps and changes of the gradient tell it, times the gradient."""
    direction, recalled = gradient, []
    for step, change in reversed(history):
        curvature = _dot(step, change)
        # A fold that has stopped moving, or moved less than rounding shows, says nothing.
        inverse = np.where(curvature > 0, 1 / np.where(curvature > 0, curvature, 1), 0)
        alpha = inverse * _dot(step, direction)
        direction = direction - alpha[:, None] * change
        recalled.append((step, change, inverse, alpha))
    direction = precondition(direction)
    for step, change, inverse, alpha in reversed(recalled):
        beta = inverse * _dot(change, direction)
        direction = direction + (alpha - beta)[:, None] * step
    return direction


def _inverse(layer: Layer, regularization: float) -> Any:
    """A function that divides [folds, width + 1] by the shared curvature of the regularised loss."""
    from scipy.linalg import cho_factor, cho_solve

    sketch, gram = layer.sketch, layer.gram / 4
    narrow = len(gram) == sketch.shape[1]
    gram[np.diag_indices_from(gram)] += np.float32(regularization)
    factor = cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
    intercept = layer.folds.weights.sum(axis=0, dtype=np.float64) / 4

    def divide(vectors: Array) -> Array:
        inner = vectors[:, :-1].T.astype(np.float32)
        if narrow:
            solved = cho_solve(factor, inner, check_finite=False)
        else:
            # Woodbury: the curvature is a multiple of the identity but for as many directions as samples.
            solved = cho_solve(factor, sketch @ inner, check_finite=False)
            solved = (inner - sketch.T @ solved / 4) / np.float32(regularization)
        return np.column_stack([solved.T.astype(np.float64), vectors[:, -1] / intercept])

    return divide


def _dot(first: Array, second: Array) -> Array:
    """Row by row [folds] of two arrays [folds, k]."""
    return np.einsum("ij,ij->i", first, second)


def mms_scores(layer: Layer) -> Array:
    """Out-of-fold scores [n] of `methods.fit_mms`."""
    return layer.folds.held_out(layer.project(np.diff(layer.class_means, axis=1)[:, 0]))


def lat_scores(layer: Layer, pairs: list[Any]) -> Array:
    """Out-of-fold scores [n] of `methods.fit_lat`.

    Lanczos's iteration, each fold on its own differences of pairs, started from the first component that the
    sketch shows. Differences are never formed: X' (sum of (e_i - e_j)(e_i - e_j)') X has their products.

    Args:
        layer: the activations.
        pairs: `Folds.pairs`.
    """
    folds = layer.folds

    def multiply(directions: Array) -> Array:
        projected = layer.project(directions)
        differences = [matrix @ column for matrix, column in zip(pairs, projected.T, strict=True)]
        return layer.collect(np.column_stack(differences))

    basis = np.repeat(_first_component(layer)[None, None], folds.count, axis=0)  # [folds, steps, width]
    images = np.zeros((folds.count, 0, basis.shape[2]))
    for _ in range(min(MAX_STEPS, *layer.X.shape)):
        image = multiply(basis[:, -1])
        images = np.concatenate([images, image[:, None]], axis=1)
        projected = images @ basis.transpose(0, 2, 1)
        values, vectors = np.linalg.eigh((projected + projected.transpose(0, 2, 1)) / 2)
        value, combination = values[:, -1], vectors[:, None, :, -1]
        direction = (combination @ basis)[:, 0]
        residual = np.linalg.norm((combination @ images)[:, 0] - value[:, None] * direction, axis=1)
        if (residual <= LAT_TOLERANCE * value).all():
            break
        # Twice, because rounding leaves a part of what it takes away.
        for _ in range(2):
            image = image - ((image[:, None] @ basis.transpose(0, 2, 1)) @ basis)[:, 0]
        length = np.linalg.norm(image, axis=1, keepdims=True)
        basis = np.concatenate([basis, (image / np.where(length > 0, length, 1))[:, None]], axis=1)
    shift = np.diff(layer.class_means, axis=1)[:, 0]
    sign = np.where(_dot(direction, shift) >= 0, 1.0, -1.0)
    return folds.held_out(layer.project(sign[:, None] * direction))


def _first_component(layer: Layer) -> Array:
    """Unit vector [width]: about the largest eigenvector of the sketch's products of features."""
    sketch, gram = layer.sketch, layer.gram
    narrow = len(gram) == sketch.shape[1]
    vector = np.ones(len(gram), dtype=np.float32)
    for _ in range(20):
        vector = gram @ vector
        vector /= np.linalg.norm(vector) or 1
    vector = (vector if narrow else sketch.T @ vector).astype(np.float64)
    length = np.linalg.norm(vector)
    return vector / length if length > 0 else np.full(len(vector), len(vector) ** -0.5)


def plain_scores(
    method: str, values: npt.NDArray[np.floating[Any]], folds: Folds, settings: Settings, seed: int
) -> Array:
    """Out-of-fold scores [n] by `fit_detector`, fold after fold: of any method, as slow as that is.

    The next fold tells the mlp when to stop, and is not trained on.

    Args:
        method: key of `methods.METHODS`.
        values: activations [n, width].
        folds: of the same samples.
        settings: of the method.
        seed: of everything random.
    """
    scores = np.zeros(len(values))
    for number in range(folds.count):
        train, held = folds.train[:, number], folds.fold == number
        stop = train
        if method == "mlp":
            stop = folds.fold == folds.following(number)
            train = train & ~stop
        parts = [(values[part, None], folds.labels[part]) for part in (train, stop)]
        detector = fit_detector(method, "", [0], parts[0], parts[1], settings, seed)
        scores[held] = detector.scores(values[held, None])
    return scores


def cross_fit(
    methods: dict[str, Settings], values: npt.NDArray[np.floating[Any]], folds: Folds, seed: int
) -> dict[str, Array]:
    """Out-of-fold scores [n] of several methods on one layer.

    Args:
        methods: method → its settings; absent ones take their default.
        values: activations [n, width].
        folds: of the same samples.
        seed: of everything random.

    Raises:
        ProbelineError: a method cannot be fitted in a fold.
    """
    layer = prepare(values, folds)
    scores = {}
    for method, given in methods.items():
        settings = SETTINGS[method] | given
        if method == "lr" and settings["penalty"] == "l2":
            scores[method] = lr_scores(layer, settings["regularization"])
        elif method == "mms":
            scores[method] = mms_scores(layer)
        elif method == "lat":
            scores[method] = lat_scores(layer, folds.pairs(seed))
        else:
            scores[method] = plain_scores(method, values, folds, settings, seed)
    return scores
