"""The settings of the probe trainers, checked in words."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import wraps
from math import isfinite
from typing import Any, TypeVar

from probeline.errors import ProbelineError, near_misses

PENALTIES = ("l2", "l1")
ENSEMBLES = ("mean", "concat")
"""Several layers: a head for each, whose scores' mean counts; or one head on their features side by side."""
SKLEARN_SEED = 42


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_layers(value: Any) -> bool:
    if not isinstance(value, list | tuple) or not value:
        return False
    return all(isinstance(layer, int) and layer >= 0 for layer in value) and len(set(value)) == len(value)


_COUNT = (_is_count, "a whole number from 1")
_SWITCH = (lambda value: isinstance(value, bool), "true or false")
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "regularization": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "penalty": (lambda value: value in PENALTIES, "l2 or l1"),
    "max_iterations": _COUNT,
    "early_stopping": _SWITCH,
    "early_stopping_patience": _COUNT,
    "validation_split": (lambda value: _is_number(value) and 0 < value < 1, "a share between 0 and 1"),
    "learning_rate": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "batch_size": _COUNT,
    "use_mixed_precision": _SWITCH,
    "gradient_accumulation_steps": _COUNT,
    "threshold_percentile": (
        lambda value: _is_number(value) and 0 < value < 100,
        "a percentile between 0 and 100",
    ),
    "min_samples": (lambda value: _is_count(value) and value >= 2, "a whole number from 2"),
    "ensemble_layers": (
        lambda value: value is None or _is_layers(value),
        "none, or a list of layers such as [20, 21, 22], each once",
    ),
    "ensemble": (lambda value: value in ENSEMBLES, "mean or concat"),
    "device": (
        lambda value: isinstance(value, str) and (value in ("auto", "cpu") or value.split(":")[0] == "cuda"),
        "auto, cpu, cuda or cuda:0",
    ),
}


Config = TypeVar("Config")


def _require_known(cls: type[Any], keys: Iterable[Any]) -> None:
    names = [field.name for field in fields(cls)]
    for key in keys:
        if key not in names:
            raise ProbelineError(f"Unknown training setting {key!r}. {near_misses(str(key), names)}")


def _unknown_in_words(cls: type[Config]) -> type[Config]:
    """Let a dataclass refuse an unknown setting with its near misses, where Python's own words have none."""
    made: Callable[..., None] = vars(cls)["__init__"]

    @wraps(made)
    def checked(self: Config, *values: Any, **named: Any) -> None:
        _require_known(cls, named)
        made(self, *values, **named)

    type.__setattr__(cls, "__init__", checked)
    return cls


@_unknown_in_words
@dataclass(frozen=True)
class ProbeTrainingConfig:
    """How a probe is trained; one meaning in both backends.

    The objective is the class-balanced log loss, summed over the training samples, plus the penalty.

    Attributes:
        regularization: l2: half of it times the squared norm of the direction is added; l1: it times the sum
            of the absolute weights. The bias is free. C of scikit-learn is its inverse.
        penalty: `l2`, or `l1` for a direction with zeros.
        max_iterations: most epochs; an epoch is one pass over the data, seldom more.
        early_stopping: stop when neither the validation AUROC rises nor the validation loss falls, and keep
            the weights of the best epoch: of those whose AUROC is no more than 0.01 below the highest, that
            with the lowest loss. False: go to the optimum.
        early_stopping_patience: epochs with neither, until the stop.
        validation_split: the share of the samples that is held out where `fit` gets no validation samples.
        learning_rate: length of the first step that is tried, in the space of the standardised features; the
            line search finds the others itself.
        batch_size: most rows that are multiplied at once; gradients are summed over all batches, so that the
            result does not depend on it.
        use_mixed_precision: multiply in bfloat16 on a CUDA device; nothing elsewhere.
        gradient_accumulation_steps: pieces that a batch is multiplied in.
        threshold_percentile: of the negatives' validation scores, for the threshold rule `percentile`.
        min_samples: fewest samples that are trained on.
        ensemble_layers: layers that are trained on together, as `ensemble` says.
        ensemble: `mean`: a direction for each layer, the score is the mean of their standardised scores;
            `concat`: one direction over the layers' features side by side.
        device: `auto` (CUDA where there is one), `cpu`, `cuda`; of the torch backend.

    Raises:
        ProbelineError: an unknown setting, with its near misses, or a value that cannot be used, with what is
            expected.
    """

    regularization: float = 100.0
    penalty: str = "l2"
    max_iterations: int = 2000
    early_stopping: bool = True
    early_stopping_patience: int = 5
    validation_split: float = 0.2
    learning_rate: float = 0.001
    batch_size: int = 8192
    use_mixed_precision: bool = True
    gradient_accumulation_steps: int = 1
    threshold_percentile: float = 90
    min_samples: int = 100
    ensemble_layers: list[int] | None = None
    ensemble: str = "mean"
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, (is_valid, expected) in _RULES.items():
            value = getattr(self, name)
            if not is_valid(value):
                raise ProbelineError(f"{name} is {value!r}. Expected: {expected}.")

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, for `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ProbeTrainingConfig":
        """The settings of a mapping; what it lacks takes its default.

        Raises:
            ProbelineError: an unknown key, with its near misses, or a value that cannot be used.
        """
        _require_known(cls, values)
        return cls(**values)

    def to_sklearn_params(self) -> dict[str, Any]:
        """The same objective as parameters of `sklearn.linear_model.LogisticRegression`.

        From scikit-learn 1.8 on, `penalty` is spelled `l1_ratio`: 1 for l1, 0 for l2.
        """
        return {
            "C": 1 / self.regularization,
            "penalty": self.penalty,
            "max_iter": self.max_iterations,
            "random_state": SKLEARN_SEED,
            "solver": "liblinear" if self.penalty == "l1" else "lbfgs",
        }
