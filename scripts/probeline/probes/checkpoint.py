"""What a trainer has fitted, and its file: tensors and words in .safetensors, nothing that could be run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from probeline.errors import ProbelineError
from probeline.files import write_bytes
from probeline.probes.methods import Array, Head, split_over_layers
from probeline.probes.solver import Line
from probeline.probes.training_config import ProbeTrainingConfig

KIND = "probeline trainer"
TENSORS = ("directions", "bias", "scaler_mean", "scaler_scale", "score_mean", "score_scale")


@dataclass(frozen=True)
class LayerHead:
    """What was fitted on one layer.

    Attributes:
        direction: [width], in the standardised features.
        bias: of the log odds.
        mean: [width], what is subtracted from the features.
        scale: [width], what they are divided by.
        score_mean: mean of the training samples' log odds, with several layers; else 0.
        score_scale: their deviation, with several layers; else 1.
    """

    direction: Array
    bias: float
    mean: Array
    scale: Array
    score_mean: float = 0.0
    score_scale: float = 1.0

    def line(self) -> Line:
        """The log odds as a linear score of raw features."""
        return Line(self.mean, self.direction / self.scale, self.bias)

    def split(self, layers: int) -> list["LayerHead"]:
        """A head on several layers side by side as one for each: the mean of their log odds is its own."""
        heads = split_over_layers(Head(self.direction, self.bias), layers)
        means, scales = (values.reshape(layers, -1) for values in (self.mean, self.scale))
        return [
            LayerHead(head.direction, head.bias, mean, scale)
            for head, mean, scale in zip(heads, means, scales, strict=True)
        ]


@dataclass(frozen=True)
class Trained:
    """A trained probe.

    Its log odds are the mean of the layers' standardised ones, brought back to their mean scale and place.

    Attributes:
        directions: [layers, width], in the standardised features.
        bias: [layers].
        scaler_mean: [layers, width].
        scaler_scale: [layers, width].
        score_mean: [layers].
        score_scale: [layers].
        threshold: a probability.
        layers: the layers by name, where they are known.
    """

    directions: Array
    bias: Array
    scaler_mean: Array
    scaler_scale: Array
    score_mean: Array
    score_scale: Array
    threshold: float
    layers: list[int] | None

    @classmethod
    def of(cls, heads: Sequence[LayerHead], layers: list[int] | None) -> "Trained":
        """The probe of one head for each layer, not yet calibrated."""
        return cls(
            np.stack([head.direction for head in heads]),
            np.array([head.bias for head in heads]),
            np.stack([head.mean for head in heads]),
            np.stack([head.scale for head in heads]),
            np.array([head.score_mean for head in heads]),
            np.array([head.score_scale for head in heads]),
            0.5,
            layers,
        )

    @property
    def width(self) -> int:
        """Features of one layer."""
        return self.directions.shape[1]

    def line(self) -> Line:
        """The log odds as a linear score of raw features [layers * width]."""
        share = self.score_scale.mean() / (len(self.bias) * self.score_scale)
        weights = share[:, None] * self.directions / self.scaler_scale
        offset = float(share @ (self.bias - self.score_mean) + self.score_mean.mean())
        return Line(self.scaler_mean.ravel(), weights.ravel(), offset)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: the probe, and how it was trained."""

    trained: Trained
    backend: str
    config: ProbeTrainingConfig
    seed: int
    history: list[dict[str, Any]]


def save(
    path: Path,
    trained: Trained,
    backend: str,
    config: ProbeTrainingConfig,
    seed: int,
    history: list[dict[str, Any]],
) -> None:
    """Write a checkpoint, whole or not at all: equal probes, equal bytes."""
    from safetensors.numpy import save as to_bytes

    words = {
        "kind": KIND,
        "backend": backend,
        "config": config.to_dict(),
        "seed": seed,
        "threshold": trained.threshold,
        "layers": trained.layers,
        "history": history,
    }
    # One entry: safetensors writes several in any order.
    metadata = {"probe": orjson.dumps(words, option=orjson.OPT_SORT_KEYS).decode()}
    write_bytes(path, to_bytes({name: getattr(trained, name) for name in TENSORS}, metadata))


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing in it is run.

    Raises:
        ProbelineError: there is none, or it is something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            words = orjson.loads((file.metadata() or {})["probe"])
            tensors = {name: file.get_tensor(name).astype(np.float64) for name in TENSORS}
        if words["kind"] != KIND:
            raise ValueError(f"its kind is {words['kind']!r}")
        trained = Trained(**tensors, threshold=float(words["threshold"]), layers=words["layers"])
        _check(trained)
        config = ProbeTrainingConfig.from_dict(words["config"])
        return Checkpoint(trained, str(words["backend"]), config, int(words["seed"]), list(words["history"]))
    except FileNotFoundError as error:
        raise ProbelineError(f"{path} does not exist. Write it with save_checkpoint first.") from error
    except (SafetensorError, ValueError, TypeError, KeyError, OSError) as error:
        raise ProbelineError(f"{path} is no checkpoint of a probe trainer: {error}.") from error


def _check(trained: Trained) -> None:
    wide = {trained.directions.shape, trained.scaler_mean.shape, trained.scaler_scale.shape}
    short = {trained.bias.shape, trained.score_mean.shape, trained.score_scale.shape}
    if len(wide) != 1 or trained.directions.ndim != 2 or short != {trained.directions.shape[:1]}:
        raise ValueError("its tensors do not fit together")
    if not all(np.isfinite(getattr(trained, name)).all() for name in TENSORS):
        raise ValueError("its tensors hold NaN or infinite numbers")
    if not 0 <= trained.threshold <= 1:
        raise ValueError(f"its threshold is {trained.threshold}")
