"""Fitting a probe as its settings say, and calibrating it on the validation samples."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from probeline.errors import ProbelineError, near_misses
from probeline.probes.calibration import choose_threshold, fit_platt
from probeline.probes.data import ProbeData
from probeline.probes.detector import Detector, fit_detector
from probeline.probes.methods import METHODS, SETTINGS, Settings
from probeline.probes.trainer import recommend_backend

REQUIRED = ("concept", "method", "layers", "model")

DEFAULTS: dict[str, Any] = {
    "seed": 0,
    "threshold": "youden",
    "threshold_percentile": 90,
    "bootstrap": 1000,
    "min_samples": 20,
    "max_samples": None,
}
"""Settings of `train_probe` that every method shares, with their defaults."""

FEWER_LAYERS = (
    "Name fewer layers, set max_samples under evaluation in the config, or use a machine with more memory."
)


def complete_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec with every default filled in, and without `code`.

    The workflow names its code there, to run again when that changes; a probe does not depend on it.

    Raises:
        ProbelineError: an unknown method or key, or a required one is missing.
    """
    for key in REQUIRED:
        if key not in spec:
            raise ProbelineError(f"The probe's settings lack {key!r}.")
    if spec["method"] not in METHODS:
        raise ProbelineError(f"Unknown method {spec['method']!r}. {near_misses(spec['method'], METHODS)}")
    spec = {key: value for key, value in spec.items() if key != "code"}
    defaults = DEFAULTS | SETTINGS[spec["method"]]
    allowed = {*REQUIRED, *defaults}
    for key in spec.keys() - allowed:
        raise ProbelineError(
            f"A probe of method {spec['method']} has no setting {key!r}. {near_misses(key, allowed)}"
        )
    return defaults | spec


def settings_of(method: str, given: Mapping[str, Any], parameters: int) -> Settings:
    """The settings of a method, the backend `auto` replaced by the one that suits the model.

    Args:
        method: key of `methods.METHODS`.
        given: all of the method's settings; what else it holds does not count.
        parameters: of the model.
    """
    settings = {name: given[name] for name in SETTINGS[method]}
    if settings.get("backend") == "auto":
        settings["backend"] = recommend_backend(parameters / 1e9)
    return settings


@contextmanager
def one_thread(task: str, remedy: str = FEWER_LAYERS) -> Iterator[None]:
    """Compute on one thread, so that the bytes do not depend on the machine; too little memory ends in words.

    Args:
        task: what is done, for the error.
        remedy: what helps where the memory is too small, for the error.

    Raises:
        ProbelineError: the memory is used up.
    """
    from threadpoolctl import threadpool_limits

    for library in ("scipy.linalg", "sklearn.linear_model"):
        importlib.import_module(library)  # a limit on threads reaches only what is loaded already
    try:
        with threadpool_limits(limits=1):
            yield
    except MemoryError as error:
        raise ProbelineError(
            f"Not enough memory to {task}{f' ({error})' if str(error) else ''}. {remedy}"
        ) from error


def fit_calibrated(data: ProbeData, spec: dict[str, Any], settings: Settings) -> Detector:
    """Fit on the training samples; threshold and probabilities come from the validation samples.

    Args:
        data: samples of every split; those of the test split are not looked at.
        spec: complete, see `train_probe`.
        settings: of the method.
    """
    train, validation = data.inside("train"), data.inside("validation")
    labels = data.labels
    detector = fit_detector(
        spec["method"],
        spec["model"],
        spec["layers"],
        (data.values[train], labels[train]),
        (data.values[validation], labels[validation]),
        settings,
        spec["seed"],
    )
    scores = detector.scores(data.values[validation])
    slope, intercept = fit_platt(labels[validation], scores)
    threshold = choose_threshold(labels[validation], scores, spec["threshold"], spec["threshold_percentile"])
    return replace(detector, threshold=threshold, slope=slope, intercept=intercept)
