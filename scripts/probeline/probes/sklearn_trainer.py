"""The trainer for models that a processor is enough for: scikit-learn, and numpy for what is on disk."""

from contextlib import nullcontext
from threading import Lock

import numpy as np
import numpy.typing as npt

from probeline.probes.methods import Array
from probeline.probes.solver import Descent, Line, Problem, Targets, one_thread
from probeline.probes.streaming import Block, cached_rows, centred
from probeline.probes.trainer import ProbeTrainer

# liblinear takes the bias for one more weight and penalises it: by a thousandth, in these units.
INTERCEPT_SCALING = 1000.0
# liblinear draws from one random generator for the whole process, which each fit seeds anew: one at a time.
LIBLINEAR = Lock()


class SklearnProbeTrainer(ProbeTrainer):
    """Trains with L-BFGS, in products of numpy.

    Arrays in memory without early stopping go to scikit-learn's `LogisticRegression`, which is faster.

    Args: see `ProbeTrainer`.
    """

    backend = "sklearn"

    def _solve(self, problem: Problem) -> tuple[Array, list[dict[str, object]]]:
        if self.config.early_stopping or not problem.rows.in_memory:
            return super()._solve(problem)
        from sklearn.linear_model import LogisticRegression

        parameters = self.config.to_sklearn_params() | {"random_state": self.seed}
        l1 = parameters.pop("penalty") == "l1"
        descent = Descent(problem, self.config, self._products)
        if self.standardised:  # nobody has looked at the numbers yet
            descent.at(np.zeros(problem.rows.width + 1))
        model = LogisticRegression(
            **parameters,
            l1_ratio=float(l1),
            class_weight="balanced",
            intercept_scaling=INTERCEPT_SCALING if l1 else 1,
        )
        with one_thread(), LIBLINEAR if l1 else nullcontext():
            model.fit(_standardised(problem), problem.labels[problem.trained])
        theta = np.append(model.coef_[0], model.intercept_[0]).astype(np.float64)
        return theta, self._only_epoch(descent, theta, int(model.n_iter_[0]))

    def _only_epoch(self, descent: Descent, theta: Array, iterations: int) -> list[dict[str, object]]:
        """The history of a solver that shows its last epoch only."""
        with one_thread():
            gradient = descent.at(theta).gradient.copy()
        strength = self.config.regularization / descent.problem.weights.sum()
        direction = theta[:-1]
        if self.config.penalty == "l2":
            gradient[:-1] += strength * direction
        else:
            pulled = np.maximum(np.abs(gradient[:-1]) - strength, 0)
            gradient[:-1] = np.where(direction, gradient[:-1] + strength * np.sign(direction), pulled)
        descent.note(theta, float(np.abs(gradient).max()))
        return [descent.history[0] | {"epoch": iterations}]

    def _products(self, block: Block, line: Line, targets: Targets | None) -> tuple[Array, Array | None]:
        from scipy.special import expit

        dtype = np.dtype(np.float64 if block.dtype == np.float64 else np.float32)
        mean, weights = line.mean.astype(dtype), line.weights.astype(dtype)
        chunk = cached_rows(len(weights))
        buffer = np.empty((min(chunk, len(block)), len(weights)), dtype)
        scores, gradient = np.empty(len(block)), np.zeros(len(weights) + 1)
        for start in range(0, len(block), chunk):
            part = slice(start, start + chunk)
            rows = centred(block[part], mean, buffer)
            scores[part] = rows @ weights
            scores[part] += line.offset
            if targets is not None:
                residual = targets.weights[part] * (expit(scores[part]) - targets.labels[part])
                gradient[:-1] += residual.astype(dtype) @ rows
                gradient[-1] += residual.sum()
        return scores, None if targets is None else gradient


def _standardised(problem: Problem) -> npt.NDArray[np.floating]:
    """The training rows, standardised, in their own precision."""
    rows = problem.rows.array()
    if not problem.trained.all():
        rows = rows[problem.trained]
    if not problem.mean.any() and (problem.scale == 1).all():
        return rows
    dtype = problem.rows.precision
    scaled = np.subtract(rows, problem.mean, dtype=dtype, casting="same_kind")
    scaled /= problem.scale.astype(dtype)
    return scaled
