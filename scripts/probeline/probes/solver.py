"""The objective that all trainers share, and its minimum by L-BFGS in full passes over the rows.

The objective is the class-balanced log loss, summed over the training rows, plus regularization / 2 times the
squared norm of the direction (l2) or regularization times the sum of its absolute weights (l1); the bias is
free. It is convex, so that the minimum does not depend on the way there. A backend brings the products with a
block of rows, and nothing else.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from probeline.errors import ProbelineError
from probeline.probes.methods import Array, Labels, balanced, log_loss, scale_within
from probeline.probes.metrics import auroc
from probeline.probes.streaming import (
    BLOCK_BYTES,
    ActivationDataset,
    Block,
    cached_rows,
    centred,
)
from probeline.probes.training_config import ProbeTrainingConfig

log = logging.getLogger(__name__)

# Where a pass has lowered the loss by no more than this share of it, or the gradient, per sample, has become
# so small against the first one, the minimum is reached: float32 products carry no more.
SMALLEST_GAIN, SMALLEST_GRADIENT = 1e-10, 1e-5
# Validation AUROCs no further apart count as equal; then the lower loss decides. By AUROC alone, chance would
# pick one of the first epochs, whose probabilities all lie near one half. Of 0.002, 0.005, 0.01, 0.02 and the
# standard error, this one gave the best AUROC on new samples of correlated features, and on independent ones
# a far lower loss for 0.003 of AUROC.
EQUAL_AUROC = 0.01


class Line(NamedTuple):
    """A linear score of raw features: (x - mean) · weights + offset."""

    mean: Array
    weights: Array
    offset: float


class Targets(NamedTuple):
    """Labels of a block, and what each row weighs in the loss."""

    labels: Array
    weights: Array


Products = Callable[[Block, Line, Targets | None], tuple[Array, Array | None]]
"""Scores [n] of a block; with targets also the loss's gradient [features + 1], the offset's last."""


@dataclass(frozen=True)
class Problem:
    """The rows of one layer that a direction is fitted on.

    Attributes:
        rows: all rows, those of the validation too where they come from the same source.
        labels: [n] of 0 and 1.
        weights: [n] class-balanced with mean 1 over the training rows; 0 for rows that are held out.
        validation: rows of the validation where they are another source, else None.
        validation_labels: theirs; with no other source, those of the rows that are held out.
        mean: [width], what is subtracted from the features.
        scale: [width], what they are then divided by.
    """

    rows: ActivationDataset
    labels: Labels
    weights: Array
    validation: ActivationDataset | None
    validation_labels: Labels
    mean: Array
    scale: Array

    @property
    def trained(self) -> npt.NDArray[np.bool_]:
        """Which rows [n] are trained on."""
        return self.weights > 0


@dataclass
class Point:
    """The objective at one direction, after a pass over the rows.

    Attributes:
        theta: [width + 1] direction in the standardised features, and bias.
        scores: [n] of the rows.
        loss: class-balanced mean log loss of the training rows.
        gradient: [width + 1] of the loss.
    """

    theta: Array
    scores: Array
    loss: float
    gradient: Array


@dataclass
class _Limit:
    """The limit on BLAS's threads that is in force, and how many threads rely on it."""

    lock: Any = field(default_factory=Lock)
    users: int = 0
    of: Any = None


_limit = _Limit()


@dataclass
class Descent:
    """What L-BFGS has seen so far: the last point, the history, and the best epoch.

    Args:
        problem: what is fitted.
        config: how.
        products: of the backend.
    """

    problem: Problem
    config: ProbeTrainingConfig
    products: Products
    passes: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: Array | None = None
    last: Point | None = None
    _highest: float = -np.inf
    _best_value: float = -np.inf
    _best_loss: float = np.inf
    _lowest: float = np.inf
    _stale: int = 0

    def at(self, theta: Array) -> Point:
        """The objective at `theta`: one pass, unless it is where the last pass was."""
        if self.last is None or not np.array_equal(theta, self.last.theta):
            problem = self.problem
            weights = theta[:-1] / problem.scale
            line = Line(problem.mean, weights, float(theta[-1]))
            targets = Targets(problem.labels.astype(np.float64), problem.weights)
            scores, gradient = sweep(problem.rows, line, self.products, self.config, targets)
            assert gradient is not None
            gradient[:-1] /= problem.scale
            total = problem.weights.sum()
            loss = log_loss(scores, problem.labels, problem.weights)
            self.passes += 1
            self.last = Point(theta.copy(), scores, loss, gradient / total)
        return self.last

    def note(self, theta: Array, gradient: float) -> bool:
        """Enter an epoch into the history; whether to stop.

        Args:
            theta: where it ended.
            gradient: largest entry of the objective's gradient, per sample.
        """
        point, problem = self.at(theta), self.problem
        scores = validation_scores(problem, theta, point.scores, self.products, self.config)
        loss = log_loss(scores, problem.validation_labels, balanced(problem.validation_labels))
        value = auroc(problem.validation_labels, scores)
        self.history.append(
            {
                "epoch": len(self.history) + 1,
                "passes": self.passes,
                "train_loss": point.loss,
                "validation_loss": loss,
                "validation_auroc": value,
                "gradient_norm": gradient,
            }
        )
        log.debug("epoch %(epoch)d: loss %(train_loss).4f, AUROC %(validation_auroc).4f", self.history[-1])
        # Where AUROC falls but the loss still does, too, the first epochs' AUROC was chance: it goes on.
        self._stale = 0 if value > self._highest or loss < self._lowest else self._stale + 1
        self._highest, self._lowest = max(self._highest, value), min(self._lowest, loss)
        enough = self._highest - EQUAL_AUROC
        better = value >= enough and (loss < self._best_loss or self._best_value < enough)
        if better or not self.config.early_stopping:
            self._best_value, self._best_loss, self.best = value, loss, theta.copy()
        return self.config.early_stopping and self._stale >= self.config.early_stopping_patience


def minimise(
    problem: Problem, config: ProbeTrainingConfig, products: Products
) -> tuple[Array, list[dict[str, Any]]]:
    """The direction [width] and bias, in one array, that minimise the objective; and the epochs' history.

    With early stopping they are those of the epoch with the best validation AUROC, and of equally good ones
    (`EQUAL_AUROC`) of that with the lowest validation loss; it stops when neither has improved for a while.
    """
    from scipy.optimize import minimize

    descent = Descent(problem, config, products)
    width, samples = problem.rows.width, problem.weights.sum()
    penalty = config.regularization / samples
    start = np.zeros(width + 1)
    first = np.abs(descent.at(start).gradient)
    l1 = config.penalty == "l1"
    # For l1 the direction is the difference of two that are never negative: a bound that holds is exactly 0.
    # The unit of the variables makes the first step that is tried as long as the learning rate.
    unit = config.learning_rate
    if l1:
        unit = float(np.sqrt(unit / (np.linalg.norm(descent.at(start).gradient) or 1.0)))

    def split(variables: Array) -> Array:
        if not l1:
            return variables * unit
        return np.append(variables[:width] - variables[width:-1], variables[-1]) * unit

    def objective(variables: Array) -> tuple[float, Array]:
        point = descent.at(split(variables))
        slope = point.gradient.copy()
        if l1:
            parts = variables[:-1] * unit
            slopes = np.concatenate([slope[:-1] + penalty, penalty - slope[:-1], slope[-1:]])
            return point.loss + penalty * float(parts.sum()), slopes * unit
        direction = point.theta[:-1]
        slope[:-1] += penalty * direction
        return point.loss + penalty / 2 * float(direction @ direction), slope * unit

    def after_epoch(intermediate_result: Any) -> None:
        variables = intermediate_result.x
        slopes = objective(variables)[1] / unit
        if l1:  # what a bound holds back does not count
            held = (variables[:-1] <= 0) & (slopes[:-1] > 0)
            slopes[:-1][held] = 0
        if descent.note(split(variables), float(np.abs(slopes).max())):
            raise StopIteration

    count = 2 * width + 1 if l1 else width + 1
    minimize(
        objective,
        np.zeros(count),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * (count - 1) + [(None, None)] if l1 else None,
        callback=after_epoch,
        options={
            "maxiter": config.max_iterations,
            "maxfun": 20 * config.max_iterations,
            "maxcor": 20,
            "ftol": SMALLEST_GAIN,
            "gtol": SMALLEST_GRADIENT * float(first.max()) * unit,
        },
    )
    if descent.best is None:  # not one epoch: the start is the minimum
        descent.note(start, float(first[-1]))
    assert descent.best is not None
    return descent.best, descent.history


def validation_scores(
    problem: Problem, theta: Array, scores: Array, products: Products, config: ProbeTrainingConfig
) -> Array:
    """Scores of the validation rows: those of `scores` [n], or of a pass over their own source."""
    if problem.validation is None:
        return scores[~problem.trained]
    line = Line(problem.mean, theta[:-1] / problem.scale, float(theta[-1]))
    return sweep(problem.validation, line, products, config, name="validation ")[0]


def sweep(
    rows: ActivationDataset,
    line: Line,
    products: Products,
    config: ProbeTrainingConfig,
    targets: Targets | None = None,
    name: str = "",
) -> tuple[Array, Array | None]:
    """One pass: scores [n] of all rows; with targets also the sum of the gradients [features + 1].

    Args:
        rows: of one layer or several.
        line: what scores them.
        products: of the backend.
        config: how many rows are taken at once.
        targets: of all rows, for the gradients.
        name: of the rows, for the error: `validation ` or nothing.

    Raises:
        ProbelineError: a row that is no numbers.
    """
    scores = np.empty(len(rows))
    total = None if targets is None else np.zeros(rows.features + 1)
    with np.errstate(over="ignore", invalid="ignore"):
        for start, block in rows.blocks(block_rows(rows, config)):
            part = slice(start, start + len(block))
            inside = None if targets is None else Targets(targets.labels[part], targets.weights[part])
            scores[part], gradient = products(block, line, inside)
            if not np.isfinite(scores[part]).all():
                raise not_numbers(start + int(np.flatnonzero(~np.isfinite(scores[part]))[0]), name)
            if total is not None and gradient is not None:
                total += gradient
    return scores, total


@contextmanager
def one_thread() -> Iterator[None]:
    """Let BLAS compute in one thread: sums do not depend on the number of cores then.

    It is no loss where the rows come from disk: one core multiplies several times as fast as they come. The
    limit is the whole process's: of several threads that fit at once, the first sets it, the last lifts it.
    """
    from threadpoolctl import threadpool_limits

    with _limit.lock:
        if not _limit.users:
            _limit.of = threadpool_limits(limits=1, user_api="blas")
        _limit.users += 1
    try:
        yield
    finally:
        with _limit.lock:
            _limit.users -= 1
            if not _limit.users:
                _limit.of.restore_original_limits()


def block_rows(rows: ActivationDataset, config: ProbeTrainingConfig) -> int:
    """How many rows are taken at once: a piece of a batch, and not more than a bounded number of bytes."""
    piece = -(-config.batch_size // config.gradient_accumulation_steps)
    return max(1, min(piece, BLOCK_BYTES // (rows.features * 2)))


def standardise(
    rows: ActivationDataset, labels: Labels, trained: npt.NDArray[np.bool_]
) -> tuple[Array, Array]:
    """`methods.standardisation` of rows that need not fit into memory, in one pass.

    Sums are kept for each class in float64, of features shifted by a mean of the first rows, so that large
    offsets do not drown what varies.

    Args:
        rows: of one layer.
        labels: [n] of 0 and 1.
        trained: [n] which rows count.

    Returns:
        mean [width] and scale [width].

    Raises:
        ProbelineError: a row that is no numbers.
    """
    width, dtype = rows.width, rows.precision
    chunk = cached_rows(width)
    buffer = np.empty((chunk, width), dtype)
    shift = np.zeros(width, dtype)
    # Row 0 counts label 0 among the training rows, row 1 label 1.
    members = np.stack([(labels == label) & trained for label in (0, 1)]).astype(dtype)
    sums, squares = np.zeros((2, width)), np.zeros(width)
    with one_thread(), np.errstate(over="ignore", invalid="ignore"):
        for start, block in rows.blocks(max(1, BLOCK_BYTES // (2 * width))):
            if start == 0:
                shift = block[:chunk].mean(axis=0, dtype=np.float64).astype(dtype)
            for first in range(0, len(block), chunk):
                part = centred(block[first : first + chunk], shift, buffer)
                counted = members[:, start + first : start + first + len(part)]
                sums += counted @ part
                np.square(part, out=part)
                squares += counted.sum(axis=0) @ part
            if not (np.isfinite(sums).all() and np.isfinite(squares).all()):
                _refuse(start, block)
    counts = members.sum(axis=1, dtype=np.float64)
    offset = sums.sum(axis=0) / counts.sum()
    whole = np.sqrt(np.maximum(squares / counts.sum() - offset**2, 0))
    mean = shift + offset
    scale = scale_within(whole, shift + sums / counts[:, None], counts)
    scale = np.where(whole <= 1e-12 * np.abs(mean), 1.0, scale)
    return mean, scale


def _refuse(start: int, block: Block) -> None:
    wrong = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if not len(wrong):
        raise ProbelineError("The features are too large to be squared in float32. Scale them down.")
    raise not_numbers(start + int(wrong[0]))


def not_numbers(row: int, name: str = "") -> ProbelineError:
    """What is said of a row with NaN or infinite features."""
    return ProbelineError(
        f"The features of {name}row {row} are NaN or infinite. Float16 overflows at 65,504: store "
        "activations in float32, or leave that sample out."
    )
