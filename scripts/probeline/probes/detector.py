"""A trained probe: what it is made of, how it scores, and its file `detector.pt`."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from probeline.errors import ProbelineError, near_misses
from probeline.files import write_bytes
from probeline.probes.methods import (
    METHODS,
    SETTINGS,
    Array,
    Head,
    Labels,
    Settings,
    Split,
    fit_head,
    require_both_classes,
    split_over_layers,
    standardisation,
)
from probeline.probes.plain_pickle import read_plain, shown
from probeline.probes.training_config import ENSEMBLES

DETECTOR = "detector.pt"
MOST_LAYERS = 1000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""How models are named: their folders lie side by side."""


@dataclass(frozen=True)
class Detector:
    """One head per layer over standardised activations; the score is the mean of the layers' scores.

    A layer's scores are standardised (mean and deviation of the training scores), so that layers with larger
    activations do not outvote the others, and a score counts deviations from the training mean.

    A direction over several layers side by side is such heads, too, see `split_over_layers`. An mlp over them
    is not: it is a single head [layers * width, hidden].

    Attributes:
        method: key of `methods.METHODS`.
        model: name of the model whose activations it reads.
        layers: the layers, in the order of the arrays below. L is the residual stream after L decoder
            blocks: transformers' `hidden_states[L]`, except that its last entry lies behind the final norm
            and the last layer here lies before it.
        scaler_mean: [layers, width] mean of the training activations.
        scaler_scale: [layers, width] their deviation within the classes, see `methods.standardisation`.
        heads: one per layer, or a single one over all layers side by side.
        score_mean: [heads] mean of the head's training scores.
        score_scale: [heads] their standard deviation.
        regularization: the coefficient that it was trained with; 0 where the method has none.
        threshold: scores from here on count as label 1.
        slope: of the calibrated log odds, per unit of score.
        intercept: of the calibrated log odds.
    """

    method: str
    model: str
    layers: tuple[int, ...]
    scaler_mean: Array
    scaler_scale: Array
    heads: tuple[Head, ...]
    score_mean: Array
    score_scale: Array
    regularization: float
    threshold: float = 0.0
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream that it reads."""
        return self.scaler_mean.shape[1]

    def require_width(self, width: int, model: str) -> None:
        """Refuse a model with another hidden size.

        Raises:
            ProbelineError: names both models and both sizes.
        """
        if width != self.hidden_size:
            raise ProbelineError(
                f"The probe was trained on {self.model} with a hidden size of {self.hidden_size}, but "
                f"{model} has {width}. Use the model that it was trained on."
            )

    def scores(self, values: npt.NDArray[np.floating[Any]], model: str | None = None) -> Array:
        """Scores [n] of activations [n, layers, width]: larger means label 1.

        Args:
            values: activations of `self.layers`, in that order.
            model: whose activations they are, for the error.

        Raises:
            ProbelineError: another width or number of layers than the probe was trained on, or a score that
                is no finite number.
        """
        _, layers, width = values.shape
        self.require_width(width, model or "the given model")
        if layers != len(self.layers):
            raise ProbelineError(
                f"The probe reads the layers {', '.join(map(str, self.layers))}, but activations of {layers} "
                "came."
            )
        count = len(self.heads)
        parts = values.reshape(len(values), count, -1)
        mean, scale = (scaler.reshape(count, -1) for scaler in (self.scaler_mean, self.scaler_scale))
        total = np.zeros(len(values))
        with np.errstate(over="ignore", invalid="ignore"):
            for i, head in enumerate(self.heads):
                scaled = (parts[:, i].astype(np.float64) - mean[i]) / scale[i]
                total += (head.scores(scaled) - self.score_mean[i]) / self.score_scale[i]
        if not np.isfinite(total).all():
            raise ProbelineError(
                "A score is NaN or infinite: the probe's numbers are far too large for these activations, or "
                "the activations are none themselves. Train or import the probe anew."
            )
        return total / count

    def probability(self, scores: Array) -> Array:
        """Calibrated probability [n] of label 1 for scores [n]."""
        probability: Array = np.exp(-np.logaddexp(0, -(self.slope * scores + self.intercept)))
        return probability

    def save(self, path: Path) -> None:
        """Write the detector as tensors and plain values: equal detectors, equal bytes."""
        import torch

        def stack(arrays: list[Array]) -> torch.Tensor:
            return torch.from_numpy(np.stack(arrays))

        content: dict[str, Any] = {
            "method": self.method,
            "model": self.model,
            "hidden_size": self.hidden_size,
            "layers": list(self.layers),
            "directions": stack([head.direction for head in self.heads]),
            "bias": torch.tensor([head.bias for head in self.heads], dtype=torch.float64),
            "normalize": True,
            "scaler_mean": torch.from_numpy(self.scaler_mean),
            "scaler_scale": torch.from_numpy(self.scaler_scale),
            "score_mean": torch.from_numpy(self.score_mean),
            "score_scale": torch.from_numpy(self.score_scale),
            "reg_coeff": self.regularization,
            "threshold": self.threshold,
            "calibration_slope": self.slope,
            "calibration_intercept": self.intercept,
        }
        hidden = [(head.hidden_weight, head.hidden_bias) for head in self.heads]
        if self.method == "mlp":
            content["hidden_weight"] = stack([weight for weight, _ in hidden if weight is not None])
            content["hidden_bias"] = stack([bias for _, bias in hidden if bias is not None])
        # Saved to a file, the archive would carry the file's name.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_bytes(path, buffer.getvalue())


def load_detector(directory: Path) -> Detector:
    """The detector in a probe's directory; no code of the file is run.

    Raises:
        ProbelineError: there is none, it is damaged, or it holds anything but tensors and plain values.
    """
    path = directory / DETECTOR
    try:
        content, _ = read_plain(path)
        if not isinstance(content, dict):
            raise ProbelineError(f"{path} holds a {type(content).__name__}.")
    except FileNotFoundError as error:
        raise ProbelineError(
            f"{path} does not exist. Make the probe first, for example: snakemake --cores 4 {directory}"
        ) from error
    except ProbelineError as error:
        raise ProbelineError(f"This is no detector of tensors and plain values: {error}") from error
    try:
        return build_detector(content)
    except ProbelineError as error:
        raise ProbelineError(f"{path} is not a detector of this version: {error}") from error


def build_detector(content: Mapping[str, Any]) -> Detector:
    """A detector from what `Detector.save` writes, tensors as arrays, every shape and number looked at.

    Args:
        content: L layers of width W; with `hidden_weight` [L, W, H] and `hidden_bias` [L, H], the directions
            are [L, H], else [L, W]. Where one hidden layer reads all of them, its `hidden_weight` is
            [1, L * W, H], and all else but the scaler has the length 1, too.

    Raises:
        ProbelineError: what is missing, of another shape or type, or not a finite number.
    """
    method, layers = _required(content, "method"), _required(content, "layers")
    model = _required(content, "model")
    if not isinstance(method, str) or method not in METHODS:
        near = method if isinstance(method, str) and len(method) <= 100 else ""
        raise ProbelineError(f"its method is {shown(method)}. {near_misses(near, METHODS)}")
    require_model_name(model)
    if (method == "mlp") != ("hidden_weight" in content):
        raise ProbelineError("an mlp has a 'hidden_weight', and no other method does.")
    if not isinstance(layers, list) or not layers or not all(type(layer) is int for layer in layers):
        raise ProbelineError(f"its layers are {shown(layers)}, not a list of whole numbers.")
    if len(set(layers)) < len(layers) or min(layers) < 0 or max(layers) > MOST_LAYERS:
        raise ProbelineError(
            f"its layers are {shown(layers)}; each counts from 0, to {MOST_LAYERS} at most, and stands there "
            "once."
        )
    mean = _finite_array(content, "scaler_mean", (len(layers), None))
    shape = mean.shape
    scale = _finite_array(content, "scaler_scale", shape)
    if "hidden_weight" in content and len(_finite_array(content, "hidden_weight", (None, None, None))) == 1:
        shape = (1, mean.size)
    score_scale = _finite_array(content, "score_scale", shape[:1])
    if scale.min() <= 0 or score_scale.min() <= 0:
        raise ProbelineError("its scaler_scale and score_scale are to be above 0.")
    weights: Sequence[Array | None] = [None] * shape[0]
    biases = weights
    width: int | None = shape[1]
    if "hidden_weight" in content:
        weights = list(_finite_array(content, "hidden_weight", (*shape, None)))
        width = np.shape(content["hidden_weight"])[2]
        biases = list(_finite_array(content, "hidden_bias", (shape[0], width)))
    directions = _finite_array(content, "directions", (shape[0], width))
    bias = _finite_array(content, "bias", shape[:1])
    score_mean = _finite_array(content, "score_mean", shape[:1])
    names = ("reg_coeff", "threshold", "calibration_slope", "calibration_intercept")
    regularization, threshold, slope, intercept = (float(_finite_array(content, name, ())) for name in names)
    heads = zip(directions, bias.tolist(), weights, biases, strict=True)
    return Detector(
        method=method,
        model=model,
        layers=tuple(layers),
        scaler_mean=mean,
        scaler_scale=scale,
        heads=tuple(Head(*head) for head in heads),
        score_mean=score_mean,
        score_scale=score_scale,
        regularization=regularization,
        threshold=threshold,
        slope=slope,
        intercept=intercept,
    )


def require_model_name(model: Any) -> None:
    """Refuse what cannot be the name of a model's folder, or would lead out of where the models lie.

    Raises:
        ProbelineError: says which characters a name has.
    """
    if not isinstance(model, str) or not NAME.fullmatch(model):
        raise ProbelineError(
            f"{shown(model)} is no name of a model: letters, digits, points, hyphens and underscores, "
            "without a folder before it, for example smollm2-135m."
        )


def numbers(value: Any) -> Array:
    """Numbers, or lists or arrays of them, as float64; a text is none, even one of digits.

    Raises:
        TypeError, ValueError: there are none, or not in rows of the same length.
    """
    if _holds_text(value):
        raise TypeError("a text")
    array: Array = np.asarray(value, dtype=np.float64)
    return array


def _holds_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list | tuple) and any(map(_holds_text, value)))


def _required(content: Mapping[str, Any], name: str) -> Any:
    if name not in content:
        raise ProbelineError(f"{name!r} is missing.")
    return content[name]


def _finite_array(content: Mapping[str, Any], name: str, shape: tuple[int | None, ...]) -> Array:
    """An entry as float64 of a shape, where None stands for any length but 0."""
    value = _required(content, name)
    try:
        array = numbers(value)
    except (TypeError, ValueError):
        raise ProbelineError(f"{name!r} is a {type(value).__name__}, not numbers.") from None
    fits = array.ndim == len(shape) and all(
        length == wanted or (wanted is None and length > 0)
        for length, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise ProbelineError(f"{name!r} has the shape {list(array.shape)}, not [{wanted}].")
    if not np.isfinite(array).all():
        raise ProbelineError(f"{name!r} holds NaN or infinite numbers.")
    return array


def fit_detector(
    method: str,
    model: str,
    layers: list[int],
    train: tuple[npt.NDArray[np.floating[Any]], Labels],
    validation: tuple[npt.NDArray[np.floating[Any]], Labels],
    settings: Settings,
    seed: int,
) -> Detector:
    """Fit a detector, not yet calibrated.

    Args:
        method: key of `methods.METHODS`.
        model: name of the model whose activations these are.
        layers: the layers of the activations, in their order.
        train: activations [n, layers, width] and labels [n].
        validation: the same for the samples that tell the mlp when to stop.
        settings: of the method; with the ensemble `concat`, one head is fitted on all layers side by side.
        seed: of everything random.

    Raises:
        ProbelineError: an unknown ensemble; and see `methods.fit_head`.
    """
    (X, y), (X_validation, y_validation) = train, validation
    require_both_classes("training", y)
    ensemble = (SETTINGS.get(method, {}) | settings).get("ensemble")
    if method in METHODS and ensemble not in ENSEMBLES:
        raise ProbelineError(f"ensemble is {ensemble!r}. {near_misses(str(ensemble), ENSEMBLES)}")
    if ensemble == "concat":
        X, X_validation = (values.reshape(len(values), 1, -1) for values in (X, X_validation))
    means, scales, heads, score_means, score_scales = [], [], [], [], []
    for i in range(X.shape[1]):
        raw = X[:, i].astype(np.float64)
        mean, scale = standardisation(raw, y)
        scaled = Split((raw - mean) / scale, y)
        scaled_validation = Split((X_validation[:, i].astype(np.float64) - mean) / scale, y_validation)
        head = fit_head(method, scaled, scaled_validation, settings, seed)
        scores = head.scores(scaled.X)
        means.append(mean)
        scales.append(scale)
        heads.append(head)
        score_means.append(scores.mean())
        score_scales.append(scores.std() or 1.0)
    if heads[0].hidden_weight is None and len(heads) < len(layers):
        heads = split_over_layers(heads[0], len(layers))
        score_means, score_scales = score_means * len(layers), score_scales * len(layers)
    return Detector(
        method=method,
        model=model,
        layers=tuple(layers),
        scaler_mean=np.stack(means).reshape(len(layers), -1),
        scaler_scale=np.stack(scales).reshape(len(layers), -1),
        heads=tuple(heads),
        score_mean=np.array(score_means),
        score_scale=np.array(score_scales),
        regularization=float((SETTINGS[method] | settings).get("regularization", 0.0)),
    )


def reads_all_layers(detector: Detector) -> bool:
    """Whether a single head reads several layers side by side."""
    return len(detector.heads) < len(detector.layers)
