"""Training a linear probe on the activations of one layer, or of several: one interface, two backends.

scikit-learn serves models below 34 billion parameters, torch those from there on. Both minimise the same
objective over features that they standardise themselves.
"""

import logging
from abc import ABC, abstractmethod
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from probeline.errors import ProbelineError, near_misses
from probeline.probes import checkpoint
from probeline.probes.calibration import choose_threshold
from probeline.probes.checkpoint import Trained
from probeline.probes.methods import Array, Head, Labels, balanced, require_both_classes
from probeline.probes.metrics import auroc
from probeline.probes.solver import (
    Line,
    Problem,
    Targets,
    minimise,
    one_thread,
    standardise,
    sweep,
)
from probeline.probes.streaming import ActivationDataset, Block
from probeline.probes.training_config import SKLEARN_SEED, ProbeTrainingConfig

log = logging.getLogger(__name__)

BACKENDS = {"sklearn": "SklearnProbeTrainer", "torch": "TorchProbeTrainer"}
TORCH_FROM = 34.0
SPLIT_ATTEMPTS = 100


def recommend_backend(model_size_b: float, threshold_b: float = TORCH_FROM) -> str:
    """`sklearn` below a model size, `torch` from there on.

    Args:
        model_size_b: billions of parameters of the model whose activations are trained on.
        threshold_b: from how many on torch is used.

    Raises:
        ProbelineError: a size that is no number from 0.
    """
    for name, value in (("model_size_b", model_size_b), ("threshold_b", threshold_b)):
        if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= value < np.inf:
            raise ProbelineError(
                f"{name} is {value!r}. Expected: billions of parameters, for example 7 or 0.135."
            )
    return "sklearn" if model_size_b < threshold_b else "torch"


def create_probe_trainer(
    model_size_b: float,
    input_dim: int,
    config: ProbeTrainingConfig | None = None,
    force_backend: str | None = None,
    *,
    threshold_b: float = TORCH_FROM,
    seed: int = SKLEARN_SEED,
    standardised: bool = False,
) -> "ProbeTrainer":
    """The trainer that suits a model.

    Args:
        model_size_b: billions of parameters of the model.
        input_dim: width of one layer's activations.
        config: how to train; the defaults if None.
        force_backend: `sklearn` or `torch`, whatever the model's size.
        threshold_b: from how many billions of parameters on torch is used.
        seed: of the split that `fit` makes, and of scikit-learn.
        standardised: the features come standardised, and are taken as they are.

    Raises:
        ProbelineError: an unknown backend, or torch is needed and not installed.
    """
    backend = recommend_backend(model_size_b, threshold_b) if force_backend is None else force_backend
    if backend not in BACKENDS:
        raise ProbelineError(f"Unknown backend {backend!r}. {near_misses(backend, BACKENDS)}")
    if backend == "sklearn":
        from probeline.probes.sklearn_trainer import SklearnProbeTrainer

        return SklearnProbeTrainer(input_dim, config, seed, standardised)
    try:
        from probeline.probes.torch_trainer import TorchProbeTrainer
    except ImportError as error:
        raise ProbelineError(
            f"The torch backend needs torch, which cannot be imported here ({error}). Install it with "
            "`pip install torch`, or train with force_backend='sklearn': the objective is the same."
        ) from error
    return TorchProbeTrainer(input_dim, config, seed, standardised)


def get_backend_type(trainer: "ProbeTrainer") -> str:
    """Which backend a trainer is: `sklearn` or `torch`."""
    return trainer.backend


class ProbeTrainer(ABC):
    """What both backends have in common: data, standardisation, history, threshold, prediction, checkpoint.

    Args:
        input_dim: width of one layer's activations.
        config: how to train; the defaults if None.
        seed: of the split that `fit` makes, and of scikit-learn.
        standardised: the features come standardised, and are taken as they are.

    Attributes:
        training_history: one entry for each epoch: epoch, passes (over the data, so far), train_loss and
            validation_loss (class-balanced mean log loss), validation_auroc, gradient_norm (largest entry of
            the objective's gradient, per sample); and layer with several layers. scikit-learn's own solver
            shows its last epoch only.
        trained: what was fitted, or None.
    """

    backend: ClassVar[str]

    def __init__(
        self,
        input_dim: int,
        config: ProbeTrainingConfig | None = None,
        seed: int = SKLEARN_SEED,
        standardised: bool = False,
    ) -> None:
        if isinstance(input_dim, bool) or not isinstance(input_dim, int) or input_dim < 1:
            raise ProbelineError(
                f"input_dim is {input_dim!r}. Expected: the width of one layer, such as 576."
            )
        self.input_dim = input_dim
        if config is not None and not isinstance(config, ProbeTrainingConfig):
            raise ProbelineError(
                f"config is of type {type(config).__name__}. Expected: a ProbeTrainingConfig; of a mapping, "
                "ProbeTrainingConfig.from_dict makes one."
            )
        self.config = ProbeTrainingConfig() if config is None else config
        self.seed = seed
        self.standardised = standardised
        self.training_history: list[dict[str, Any]] = []
        self.trained: Trained | None = None
        self._note = ""
        self.device = self._find_device()

    def get_backend_type(self) -> str:
        """`sklearn` or `torch`."""
        return self.backend

    def head(self) -> Head:
        """Direction and bias of the one layer that was trained on, in the standardised features."""
        trained = self._fitted()
        return Head(trained.directions[0], float(trained.bias[0]))

    @property
    def threshold(self) -> float:
        """Probability from which on `predict` says 1; Youden's on the validation samples after `fit`."""
        return self._fitted().threshold

    def fit(
        self,
        X: Any,
        y: Any,
        X_val: Any = None,
        y_val: Any = None,
        groups: Any = None,
    ) -> float:
        """Train, and choose the threshold on the validation samples.

        Args:
            X: training samples: an array [n, width] ([n, layers, width] with ensemble_layers), a list of
                paths, or an `ActivationDataset`, see there. What is on disk is streamed.
            y: labels [n] of 0 and 1.
            X_val: validation samples; without them, a share of X is held out with the seed.
            y_val: their labels.
            groups: [n] what must not be parted between training and validation, for example the game of each
                sample. Without groups, the share is drawn by label.

        Returns:
            AUROC on the validation samples.

        Raises:
            ProbelineError: too few samples, one class only, features that are no numbers or of another width,
                or validation samples of another layer.
        """
        self.trained = None
        rows, labels = self._open(X), _as_labels(y, "y")
        self._require(rows, labels, "training")
        if len(rows) < self.config.min_samples:
            raise ProbelineError(
                f"Not enough data: {len(rows)} samples, at least {self.config.min_samples} are needed. Add "
                "samples, or set min_samples lower and trust the result less."
            )
        validation = None
        if X_val is None:
            if y_val is not None:
                raise ProbelineError("There is y_val, but no X_val. Give both, or neither.")
            held_out = self._hold_out(labels, groups)
            validation_labels = labels[held_out]
        else:
            validation, validation_labels = self._open(X_val), _as_labels(y_val, "y_val")
            self._require(validation, validation_labels, "validation")
            _require_layers(validation, rows.layer, "the training samples are of")
            held_out = np.zeros(len(rows), dtype=bool)
        self.training_history = []
        data = rows, validation
        if self.config.ensemble == "concat":
            data = rows.side_by_side(), validation and validation.side_by_side()
        heads = [
            self._fit_layer(position, data[0], labels, held_out, data[1], validation_labels)
            for position in range(data[0].layers)
        ]
        if len(heads) < rows.layers:
            heads = heads[0].split(rows.layers)
        trained = Trained.of(heads, rows.layer)
        source = rows if validation is None else validation
        scores = self._sweep(source, trained.line())
        if validation is None:
            scores = scores[held_out]
        self.trained = replace(trained, threshold=self._choose(validation_labels, scores, "youden"))
        self._say_what_was_done()
        return auroc(validation_labels, scores)

    def fit_from_arrays(self, X_train: Any, y_train: Any, X_val: Any, y_val: Any, layer: int) -> float:
        """`fit` on the activations of one layer, whose number is kept with the probe.

        Args:
            X_train: training samples [n, width].
            y_train: labels [n].
            X_val: validation samples [m, width].
            y_val: labels [m].
            layer: the layer that they are of.
        """
        train, validation = (ActivationDataset(X, layer=layer) for X in (X_train, X_val))
        return self.fit(train, y_train, validation, y_val)

    def predict_proba(self, X: Any) -> Array:
        """Probabilities [n] of label 1, were both classes equally frequent.

        Args:
            X: samples, as for `fit`; of folders of activations, the layers that were trained on are read.

        Raises:
            ProbelineError: nothing was trained yet, or the samples have another width or layer.
        """
        from scipy.special import expit

        probabilities: Array = expit(self._scores(X))
        return probabilities

    def predict(self, X: Any, threshold: float | None = None) -> Labels:
        """Labels [n] of 0 and 1.

        Args:
            X: samples, as for `fit`.
            threshold: probability from which on it is 1; the stored one if None.
        """
        least = self.threshold if threshold is None else threshold
        return (self.predict_proba(X) >= least).astype(np.int8)

    def calibrate_threshold(self, X: Any, y: Any, rule: str = "youden") -> float:
        """Choose the stored threshold anew.

        Args:
            X: samples that were not trained on.
            y: their labels [n].
            rule: `youden`, `f1`, or `percentile` of the negatives' probabilities (`threshold_percentile`).

        Returns:
            The threshold, a probability.

        Raises:
            ProbelineError: an unknown rule, or one class only.
        """
        labels = _as_labels(y, "y")
        scores = self._scores(X)
        if len(scores) != len(labels):
            raise ProbelineError(f"There are {len(scores)} samples, but {len(labels)} labels.")
        require_both_classes("given", labels)
        self.trained = replace(self._fitted(), threshold=self._choose(labels, scores, rule))
        return self.threshold

    def save_checkpoint(self, path: str | Path) -> None:
        """Write the probe, its settings and history to a .safetensors file: tensors and words, no code.

        Raises:
            ProbelineError: nothing was trained yet.
        """
        checkpoint.save(
            Path(path), self._fitted(), self.backend, self.config, self.seed, self.training_history
        )

    def load_checkpoint(self, path: str | Path) -> None:
        """Take up what `save_checkpoint` wrote, of either backend; nothing in the file is run.

        The settings become those it was trained with, but for the device.

        Raises:
            ProbelineError: no such file, no checkpoint, or one of another width.
        """
        found = checkpoint.load(Path(path))
        if found.trained.width != self.input_dim:
            raise ProbelineError(
                f"{path} is of a probe for {found.trained.width} features, but this trainer has "
                f"{self.input_dim}. Make the trainer with input_dim={found.trained.width}."
            )
        self.config = replace(found.config, device=self.config.device)
        self.trained, self.seed, self.training_history = found.trained, found.seed, found.history

    def _find_device(self) -> Any:
        """Where products are computed."""
        return "cpu"

    @abstractmethod
    def _products(self, block: Block, line: Line, targets: Targets | None) -> tuple[Array, Array | None]:
        """See `solver.Products`."""

    def _solve(self, problem: Problem) -> tuple[Array, list[dict[str, Any]]]:
        """Direction and bias in one array, and the epochs' history."""
        with one_thread():
            return minimise(problem, self.config, self._products)

    def _sweep(self, rows: ActivationDataset, line: Line) -> Array:
        """Scores [n] of all rows."""
        with one_thread():
            return sweep(rows, line, self._products, self.config)[0]

    def _say_what_was_done(self) -> None:
        """Report, once, what the backend had to do otherwise than asked."""
        if self._note:
            log.warning("%s", self._note)
            self._note = ""

    def _fit_layer(
        self,
        position: int,
        rows: ActivationDataset,
        labels: Labels,
        held_out: npt.NDArray[np.bool_],
        validation: ActivationDataset | None,
        validation_labels: Labels,
    ) -> checkpoint.LayerHead:
        layer = rows.one_layer(position)
        mean, scale = np.zeros(layer.width), np.ones(layer.width)
        if not self.standardised:
            mean, scale = standardise(layer, labels, ~held_out)
        problem = Problem(
            layer,
            labels,
            balanced(labels, ~held_out),
            None if validation is None else validation.one_layer(position),
            validation_labels,
            mean,
            scale,
        )
        theta, history = self._solve(problem)
        if self.config.penalty == "l1" and not theta[:-1].any():
            log.warning(
                "All weights are zero, so every sample gets the same score: lower the regularization, which "
                "is %g.",
                self.config.regularization,
            )
        names = {} if rows.layers == 1 else {"layer": (rows.layer or range(rows.layers))[position]}
        self.training_history += [names | entry for entry in history]
        head = checkpoint.LayerHead(theta[:-1], float(theta[-1]), mean, scale)
        if rows.layers == 1:
            return head
        # What other layers' scores are weighed against.
        scores = self._sweep(layer, head.line())[~held_out]
        return replace(head, score_mean=float(scores.mean()), score_scale=float(scores.std()) or 1.0)

    def _open(self, X: Any) -> ActivationDataset:
        """The samples, checked for their shape."""
        known = self.trained.layers if self.trained else None
        rows = (
            X
            if isinstance(X, ActivationDataset)
            else ActivationDataset(X, layer=self.config.ensemble_layers or known)
        )
        wanted = self.config.ensemble_layers
        if rows.width != self.input_dim:
            raise ProbelineError(
                f"The samples have {rows.width} features, but the trainer is for {self.input_dim}."
            )
        if rows.layers != (len(wanted) if wanted else 1):
            raise ProbelineError(
                f"The samples hold {rows.layers} layers, but "
                + (f"ensemble_layers is {wanted}." if wanted else "one is trained on.")
                + " Expected [samples, width], or [samples, layers, width] with ensemble_layers."
            )
        _require_layers(rows, wanted, "ensemble_layers is")
        _require_layers(rows, known, "the probe was trained on")
        return rows

    def _require(self, rows: ActivationDataset, labels: Labels, name: str) -> None:
        if len(rows) != len(labels):
            raise ProbelineError(f"There are {len(rows)} {name} samples, but {len(labels)} labels.")
        require_both_classes(name, labels)

    def _hold_out(self, labels: Labels, groups: Any) -> npt.NDArray[np.bool_]:
        """Which samples [n] are for validation: whole groups, or a share of each label."""
        from sklearn.model_selection import GroupShuffleSplit, StratifiedShuffleSplit

        share, codes = self.config.validation_split, None
        if groups is None:
            splits = StratifiedShuffleSplit(1, test_size=share, random_state=self.seed)
        else:
            splits = GroupShuffleSplit(SPLIT_ATTEMPTS, test_size=share, random_state=self.seed)
            codes = _as_groups(groups, len(labels))
        try:
            for _, chosen in splits.split(labels, labels, codes):
                held_out = np.zeros(len(labels), dtype=bool)
                held_out[chosen] = True
                if all(0 < labels[part].sum() < part.sum() for part in (held_out, ~held_out)):
                    return held_out
        except ValueError as error:
            raise ProbelineError(
                f"No validation samples can be held out: {error} Give X_val and y_val, or more samples."
            ) from error
        raise ProbelineError(
            f"Not enough data: with {share:g} of the groups held out, no draw left both labels on both "
            "sides. Give X_val and y_val, or more groups."
        )

    def _choose(self, labels: Labels, scores: Array, rule: str) -> float:
        from scipy.special import expit

        return float(expit(choose_threshold(labels, scores, rule, self.config.threshold_percentile)))

    def _scores(self, X: Any) -> Array:
        scores = self._sweep(self._open(X), self._line())
        self._say_what_was_done()
        return scores

    def _line(self) -> Line:
        return self._fitted().line()

    def _fitted(self) -> Trained:
        if self.trained is None:
            raise ProbelineError("The probe is not trained yet: call fit or load_checkpoint first.")
        return self.trained


def _as_labels(y: Any, name: str) -> Labels:
    labels = np.asarray(y)
    if labels.ndim != 1 or labels.dtype.kind not in "iufb" or not np.isin(labels, (0, 1)).all():
        raise ProbelineError(
            f"{name} is {labels.dtype} of shape {list(labels.shape)}. Expected labels of 0 and 1, one for "
            "each sample."
        )
    return labels.astype(np.int8)


def _as_groups(groups: Any, samples: int) -> npt.NDArray[np.int64]:
    """The groups [n], numbered."""
    # As objects: numpy would turn what is missing among words into a word.
    names = groups if isinstance(groups, np.ndarray) else np.asarray(groups, dtype=object)
    if names.shape != (samples,):
        raise ProbelineError(
            f"There are {samples} samples, but {' by '.join(map(str, names.shape)) or 1} groups. Name one "
            "for each, in one dimension."
        )
    missing = [name is None or name != name for name in names.tolist()]
    if any(missing):
        raise ProbelineError(
            f"The group of sample {missing.index(True)} is missing. Name one for each, such as its game."
        )
    try:
        return np.unique(names, return_inverse=True)[1].astype(np.int64)
    except TypeError as error:
        raise ProbelineError("groups mixes words and numbers. Name all groups in one way.") from error


def _require_layers(rows: ActivationDataset, layers: list[int] | None, owner: str) -> None:
    """Refuse samples that are known to be of other layers than what they are used with."""
    if rows.layer and layers and list(rows.layer) != list(layers):
        raise ProbelineError(
            f"These samples are of the layers {list(rows.layer)}, but {owner} {list(layers)}. Give "
            "activations of the same layers."
        )
