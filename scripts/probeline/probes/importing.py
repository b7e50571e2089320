"""Detectors of others, made ours: from a pickle or a file of torch's to `detector.pt` and a manifest."""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from probeline.digests import sha256_file
from probeline.errors import ProbelineError
from probeline.files import MANIFEST, atomic_directory, read_json, write_manifest
from probeline.probes.detector import (
    DETECTOR,
    MOST_LAYERS,
    Detector,
    build_detector,
    numbers,
    require_model_name,
)
from probeline.probes.methods import Array
from probeline.probes.plain_pickle import printable, read_plain, shown

KEYS = {
    "layers": "the layers, a whole number or several; not needed where directions is a dict",
    "directions": "[layers, width], or a list or a dict with one direction [width] per layer",
    "bias": "a number, one per layer, or a dict; 0 if absent",
    "normalize": "whether activations are standardised; if absent, they are where scaler_mean is given",
    "scaler_mean": "shaped as directions",
    "scaler_scale": "shaped as directions, above 0",
    "reg_coeff": "the coefficient that it was trained with; 0 if absent",
    "threshold": "scores from here on count as label 1; 0 if absent",
    "method": "lr, mms, cmms, lat or mlp; if absent, mlp with a hidden_weight, lr with a reg_coeff, else mms",
    "hidden_weight": "[layers, width, hidden] of an mlp; or [1, layers * width, hidden]",
    "hidden_bias": "[layers, hidden] of an mlp",
    "score_mean": "one per layer, taken from its score; 0 if absent",
    "score_scale": "one per layer, by which that is divided; 1 if absent",
    "calibration_slope": "of the log odds, per unit of score; 1 if absent",
    "calibration_intercept": "of the log odds; 0 if absent",
}
"""What an imported file may hold; other keys are named in the manifest and not used."""

MOST_KEYS = 1000
PROBES = ("results", "probes")


def import_detector(file: Path, model: str, output: Path, models: Path = Path("data/models")) -> Detector:
    """Read a detector that another program saved, without running anything in it, and write it as a probe.

    Files: detector.pt and manifest.json, as `train_probe` makes them, with `imported` and the digest of the
    source. The file names no weights: where the model lies in `models`, its digest is noted, and the probe
    then goes with that model only; else the manifest says null.

    Args:
        file: a dict with some of `KEYS`, saved by pickle.dump or by torch.save.
        model: name of the model whose activations it reads.
        output: a folder that does not exist yet.
        models: folder of the models, made by `fetch_model`.

    Raises:
        ProbelineError: the file holds anything but plain values (named), no detector, or one that does not
            fit the model. Nothing is written then.
    """
    # A link that leads nowhere does not exist, but would be replaced.
    if output.exists() or output.is_symlink():
        raise ProbelineError(f"{output} exists; name a folder that does not.")
    if output.absolute().parent.parts[-2:] == PROBES and re.fullmatch(r".+_l\d+(_\d+)*", output.name):
        raise ProbelineError(
            f"{output} has the form of a probe that the workflow makes, which would take it for its own. "
            "Name a folder that does not end in _l and numbers."
        )
    require_model_name(model)
    found, form = read_plain(file)
    try:
        detector = build_detector(detector_content(found, model))
    except ProbelineError as error:
        raise ProbelineError(f"{file} cannot be used as a detector: {error}") from error
    manifest = models / model / MANIFEST
    facts = read_json(manifest) if manifest.exists() else None
    if facts is not None:
        _require_fit(file, detector, model, facts)
    with atomic_directory(output) as draft:
        detector.save(draft / DETECTOR)
        write_manifest(
            draft,
            "probe",
            {
                "imported": True,
                "source": {
                    "sha256": sha256_file(file),
                    "format": form,
                    "keys_not_used": sorted(printable(str(key)) for key in found.keys() - KEYS.keys()),
                },
                "method": detector.method,
                "model": model,
                "layers": list(detector.layers),
                "hidden_size": detector.hidden_size,
                # The source names neither: these are of the model that lay there when it was imported.
                "weights_sha256": facts and facts["weights_sha256"],
                "adapter_sha256": None,
                "dtype": "float32",
                "threshold": detector.threshold,
                "threshold_rule": "imported" if "threshold" in found else None,
                "calibrated": "calibration_slope" in found,
            },
        )
    return detector


def _require_fit(file: Path, detector: Detector, model: str, facts: Mapping[str, Any]) -> None:
    if detector.hidden_size != facts["hidden_size"]:
        raise ProbelineError(
            f"{file} has directions of width {detector.hidden_size}, but {model} has a hidden size of "
            f"{facts['hidden_size']}. Name the model that it was trained on: --model."
        )
    if max(detector.layers) > facts["depth"]:
        raise ProbelineError(
            f"{file} reads layer {max(detector.layers)}, but {model} has layers 0 to {facts['depth']}."
        )


def detector_content(found: Any, model: str) -> dict[str, Any]:
    """What a file of others says, in the form that `build_detector` takes.

    Args:
        found: plain values, see `KEYS`.
        model: whose activations it reads.

    Raises:
        ProbelineError: no dict, keys are missing or contradict each other, or lists of different lengths.
    """
    if not isinstance(found, dict) or "directions" not in found:
        raise ProbelineError(f"it holds no 'directions' ({_without_directions(found)}).")
    if len(found) > MOST_KEYS:
        raise ProbelineError(f"it has {len(found)} keys; a detector has {MOST_KEYS} at most.")
    directions, mlp = found["directions"], "hidden_weight" in found
    layers = _layers(found.get("layers", _keyed_layers(directions)))
    # One hidden layer that reads all layers has one entry in all.
    weight = found.get("hidden_weight")
    parts = layers[:1] if isinstance(weight, np.ndarray) and weight.shape[:1] == (1,) else layers
    shaped = _per_layer("directions", directions, parts, 1)
    content = {
        "method": found.get("method", "mlp" if mlp else "lr" if "reg_coeff" in found else "mms"),
        "model": model,
        "layers": layers,
        "directions": shaped,
        "bias": _per_layer("bias", found.get("bias", 0.0), parts, 0),
        "reg_coeff": _number(found, "reg_coeff", 0.0),
        "threshold": _number(found, "threshold", 0.0),
        "calibration_slope": _number(found, "calibration_slope", 1.0),
        "calibration_intercept": _number(found, "calibration_intercept", 0.0),
        "score_mean": _per_layer("score_mean", found.get("score_mean", 0.0), parts, 0),
        "score_scale": _per_layer("score_scale", found.get("score_scale", 1.0), parts, 0),
    }
    if mlp:
        content["hidden_weight"] = _per_layer("hidden_weight", found["hidden_weight"], parts, 2)
        content["hidden_bias"] = _per_layer("hidden_bias", found.get("hidden_bias"), parts, 1)
    width = content["hidden_weight"].shape[1] * len(parts) // len(layers) if mlp else shaped.shape[1]
    if _number(found, "normalize", float(found.get("scaler_mean") is not None)):
        for name in ("scaler_mean", "scaler_scale"):
            if found.get(name) is None:
                raise ProbelineError(f"it standardises activations (normalize), but has no {name!r}.")
            content[name] = _per_layer(name, found[name], layers, 1)
    else:
        content["scaler_mean"] = np.zeros((len(layers), width))
        content["scaler_scale"] = np.ones((len(layers), width))
    return content


def _without_directions(found: Any) -> str:
    """What a file holds instead, and which of its keys may be meant for it."""
    if not isinstance(found, dict):
        return f"no dict, but {type(found).__name__}; its keys are to be {', '.join(KEYS)}"
    if not found:
        return f"an empty dict; its keys are to be {', '.join(KEYS)}"
    short = [str(key) for key in islice(found, 20) if len(str(key)) < 40]
    near = get_close_matches("directions", short, n=1)
    return f"but {_joined(found)}" + (f"; is {printable(near[0])} meant for it?" if near else "")


def _keyed_layers(directions: Any) -> list[Any] | None:
    """The keys of a dict; whole numbers that are written as texts become numbers."""
    if not isinstance(directions, dict):
        return None
    return [
        int(key) if isinstance(key, str) and len(key) < 10 and key.isascii() and key.isdecimal() else key
        for key in directions
    ]


def _layers(value: Any) -> list[int]:
    """Layers given as a number, as a list or array, or as the keys of a dict."""
    if value is None:
        raise ProbelineError("it does not name its 'layers'.")
    try:
        layers = numbers(value).ravel()
        if not (np.abs(layers) < 2**31).all() or (layers % 1).any():
            raise ValueError
    except (TypeError, ValueError):
        raise ProbelineError(f"its 'layers' are {shown(value)}, not whole numbers.") from None
    if len(layers) > MOST_LAYERS:
        raise ProbelineError(f"it names {len(layers)} layers; a detector has {MOST_LAYERS} at most.")
    return [int(layer) for layer in layers]


def _per_layer(name: str, value: Any, layers: Sequence[int], rank: int) -> Array:
    """An entry as [layers, ...] with `rank` axes per layer, however it was laid out."""
    if isinstance(value, dict):
        keyed = {str(key): entry for key, entry in value.items()}
        if keyed.keys() != set(map(str, layers)):
            raise ProbelineError(f"{name!r} is of the layers {_joined(keyed)}, not of {_joined(layers)}.")
        value = [keyed[str(layer)] for layer in layers]
    try:
        if isinstance(value, list) and len(value) == len(layers) > 0 and np.ndim(value[0]) > rank:
            # One direction per layer, each as a row or a column.
            value = [np.squeeze(entry) for entry in value]
        array = numbers(value)
    except (TypeError, ValueError):
        raise ProbelineError(f"{name!r} is not an array of numbers with an entry per layer.") from None
    if array.ndim == rank and (rank == 0 or len(layers) == 1):
        array = np.stack([array] * len(layers))
    if array.ndim != rank + 1 or len(array) != len(layers) or 0 in array.shape:
        raise ProbelineError(
            f"{name!r} has the shape {list(array.shape)}; with {len(layers)} layers it is to have {rank + 1} "
            f"axes, the first of length {len(layers)}, and none of length 0."
        )
    return array


def _number(found: Mapping[str, Any], name: str, absent: float) -> float:
    value = found.get(name)
    try:
        return absent if value is None else float(numbers(value).reshape(()))
    except (TypeError, ValueError):
        raise ProbelineError(f"{name!r} is {shown(value)}, not a number.") from None


def _joined(names: Iterable[Any]) -> str:
    """The first of the names, for an error."""
    return printable(", ".join(map(str, islice(names, 20))))
