"""What an adapter does to a probe: the same direction, and a new one, on the same held-out dialogues."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from probeline import schema
from probeline.errors import ProbelineError
from probeline.files import (
    atomic_directory,
    open_parquet,
    write_json,
    write_manifest,
    write_parquet,
)
from probeline.probes.data import (
    SPLITS,
    ProbeData,
    limit_samples,
    read_data,
    require_enough,
    require_numbers,
)
from probeline.probes.detector import Detector, load_detector
from probeline.probes.evaluate import FEW_GAMES, FEW_OF_A_CLASS
from probeline.probes.fitting import complete_spec, fit_calibrated, one_thread, settings_of
from probeline.probes.methods import Array, Labels
from probeline.probes.metrics import Bootstrap, Metric, Ranking, bootstrap_games, compare, is_small
from probeline.probes.shift_figure import draw_shift

log = logging.getLogger(__name__)

SAME_FACTS = ("model", "weights_sha256", "hidden_size", "dtype", "store_dtype")
CLASSES = {1: "positive", 0: "negative"}


def evaluate_probe_shift(
    probe: Path,
    activations: list[Path],
    adapted: list[Path],
    dialogues: list[Path],
    trained_on: Sequence[Path] | None,
    output: Path,
    spec: dict[str, Any],
) -> None:
    """Score a probe on the model with an adapter and without, and write how the two differ.

    Figures are of the test games alone, without those that the adapter was trained on, as far as that is
    known. Beside the probe as it is, one of the same settings is fitted on the adapted activations of the
    same training games.

    Files: metrics.json, shift.parquet (schema.SHIFT), shift.png, shift.svg and manifest.json. Equal inputs
    give equal bytes.

    Args:
        probe: a probe's directory, trained on `activations`.
        activations: shards of the model's own activations.
        adapted: shards of those with the adapter on it, of the same dialogues.
        dialogues: shards of dialogues.
        trained_on: datasets with the games that the adapter was trained on; None where that is not known.
        output: directory to make or replace.
        spec: as `train_probe` takes it, and `adapter`, its name.

    Raises:
        ProbelineError: activations that do not belong together, or not enough data. Nothing is written then.
    """
    adapter = spec["adapter"]
    spec = complete_spec({key: value for key, value in spec.items() if key != "adapter"})
    with one_thread(f"compare probes for {spec['concept']} on {len(spec['layers'])} layers"):
        frozen = load_detector(probe)
        base, after = (_read(shards, dialogues, spec) for shards in (activations, adapted))
        _check_pair(base, after)
        known = set() if trained_on is None else _games(trained_on)
        kept = _unseen(base, known)
        left_out = len(base.samples) - int(kept.sum())
        base, after = base.where(kept), after.where(kept)
        require_enough(after, spec["concept"], spec["min_samples"])
        anew = fit_calibrated(after, spec, settings_of(spec["method"], spec, after.facts["parameters"]))
        scores = {
            "base": frozen.scores(base.values),
            "adapted": frozen.scores(after.values),
            "retrained": anew.scores(after.values),
        }
        result = _result(base, after, scores, frozen, anew, spec)
    result["adapter"] = {
        "known": trained_on is not None,
        "samples_left_out": left_out,
    }
    result["verdict"] = shift_verdict(result)
    _write(output, base, scores, result, spec | {"adapter": adapter, "probe": probe.name}, after.facts)
    log.info("%s", result["verdict"])


def _read(shards: list[Path], dialogues: list[Path], spec: dict[str, Any]) -> ProbeData:
    data = limit_samples(read_data(shards, dialogues, spec), spec["max_samples"], spec["seed"])
    require_numbers(data, spec["layers"])
    return data


def _check_pair(base: ProbeData, after: ProbeData) -> None:
    """Refuse activations that differ in more than the adapter."""
    for fact in SAME_FACTS:
        if base.facts[fact] != after.facts[fact]:
            raise ProbelineError(
                f"Only the adapter may differ: {fact} is {base.facts[fact]} without it, but "
                f"{after.facts[fact]} with it. Extract both with the same model and settings."
            )
    if base.facts["adapter_sha256"] is not None or after.facts["adapter_sha256"] is None:
        raise ProbelineError(
            "A probe shift compares activations without an adapter to some with one; these are not. Make "
            "both again."
        )
    if [row["sample"] for row in base.samples] != [row["sample"] for row in after.samples]:
        raise ProbelineError(
            "The activations with the adapter and without are not of the same samples. Make both again."
        )


def _games(datasets: Sequence[Path]) -> set[str]:
    """Content digests of the games that were trained or validated on."""
    found: set[str] = set()
    for dataset in datasets:
        rows = open_parquet(dataset / "games.parquet").read(columns=["content", "split"]).to_pylist()
        found |= {row["content"] for row in rows if row["split"] != "test"}
    return found


def _unseen(data: ProbeData, known: set[str]) -> npt.NDArray[np.bool_]:
    """Which samples [n] are kept: all but test samples of games that the adapter has seen."""
    seen = np.array([sample["content"] in known for sample in data.samples], dtype=bool)
    return ~(seen & data.inside("test"))


def _result(
    base: ProbeData,
    after: ProbeData,
    scores: dict[str, Array],
    frozen: Detector,
    anew: Detector,
    spec: dict[str, Any],
) -> dict[str, Any]:
    """Everything that is measured on the test samples."""
    test = base.inside("test")
    labels = base.labels[test]
    games = np.array([sample["game"] for sample in base.samples])[test]
    tested = {name: values[test] for name, values in scores.items()}
    bootstrap = bootstrap_games(games, labels, spec["bootstrap"], spec["seed"])
    change = tested["adapted"] - tested["base"]
    flipped = (tested["adapted"] >= frozen.threshold) != (tested["base"] >= frozen.threshold)
    moved = np.linalg.norm(after.values[test].astype(np.float64) - base.values[test], axis=-1)
    length = np.linalg.norm(base.values[test].astype(np.float64), axis=-1)
    return {
        "num_games": len(np.unique(games)),
        "num_interactions": len(labels),
        "num_positive": int(labels.sum()),
        "num_negative": int(len(labels) - labels.sum()),
        "auroc": {name: bootstrap.estimate(Ranking(labels, values).auroc) for name, values in tested.items()},
        "difference": _difference(bootstrap, labels, tested, "adapted", "base"),
        "difference_retrained": _difference(bootstrap, labels, tested, "retrained", "base"),
        "score_shift": {
            name: bootstrap.estimate(_mean_of(change, labels == label)) for label, name in CLASSES.items()
        },
        "flipped": {"share": float(flipped.mean()), "samples": int(flipped.sum())},
        "direction": _directions(frozen, anew, spec["layers"])
        | {"score_correlation": _correlation(tested["adapted"], tested["retrained"])},
        # How far the adapter moves the activations, in parts of their own length.
        "relative_change": dict(
            zip(map(str, spec["layers"]), (moved / length).mean(axis=0).tolist(), strict=True)
        ),
        "bootstrap": {
            "unit": "game",
            "resamples": spec["bootstrap"],
            "skipped_with_one_class": bootstrap.skipped,
        },
    }


def _difference(
    bootstrap: Bootstrap, labels: Labels, scores: dict[str, Array], of: str, to: str
) -> dict[str, Any]:
    """AUROC of the one minus that of the other, on the same resamples."""
    estimate: dict[str, Any] = compare(bootstrap, labels, scores[of], [scores[to]])["difference"]
    return estimate


def _mean_of(values: Array, inside: npt.NDArray[np.bool_]) -> Metric:
    """The mean over some samples, as a function of the samples' weights."""

    def mean(weights: Array) -> Array:
        with np.errstate(invalid="ignore"):
            quotient: Array = weights[:, inside] @ values[inside] / weights[:, inside].sum(axis=1)
        return quotient

    return mean


def _directions(frozen: Detector, anew: Detector, layers: Sequence[int]) -> dict[str, Any]:
    """The cosine between two probes' directions in the residual stream, whole and layer by layer."""
    pair = [residual_direction(detector) for detector in (frozen, anew)]
    if pair[0] is None or pair[1] is None:
        return {
            "cosine": None,
            "by_layer": None,
            "reason": "a probe with a hidden layer has no one direction",
        }
    by_layer = {str(layer): _cosine(pair[0][i], pair[1][i]) for i, layer in enumerate(layers)}
    return {"cosine": _cosine(pair[0].ravel(), pair[1].ravel()), "by_layer": by_layer}


def residual_direction(detector: Detector) -> Array | None:
    """The score's slope along each axis of the residual stream: [layers, width]; None for an mlp."""
    if any(head.hidden_weight is not None for head in detector.heads):
        return None
    scale = detector.scaler_scale.reshape(len(detector.heads), -1)
    parts = [head.direction / scale[i] / detector.score_scale[i] for i, head in enumerate(detector.heads)]
    direction: Array = np.concatenate(parts).reshape(detector.scaler_scale.shape)
    return direction


def _cosine(a: Array, b: Array) -> float | None:
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths > 0 else None


def _correlation(a: Array, b: Array) -> float | None:
    return _cosine(a - a.mean(), b - b.mean())


def shift_verdict(result: dict[str, Any]) -> str:
    """Says in words what became of the probe.

    Args:
        result: what is in metrics.json.
    """
    before, after = (result["auroc"][name] for name in ("base", "adapted"))
    sizes = (
        f"{result['num_games']} held-out games ({result['num_positive']} positives, "
        f"{result['num_negative']} negatives)"
    )
    figures = f"AUROC {before['value']:.3f} without the adapter, {after['value']:.3f} with it"
    difference = result["difference"]
    if is_small(result) or difference["low"] is None:
        sentence = f"No verdict: {sizes} are too few for one; {figures}."
    else:
        moved = (
            "does better with the adapter"
            if difference["low"] > 0
            else "does worse with the adapter"
            if difference["high"] < 0
            else "does as well with the adapter as without, as far as can be told"
        )
        sentence = (
            f"On {sizes} the probe {moved}: {figures}, a difference of {difference['value']:+.3f} "
            f"({difference['low']:+.3f} to {difference['high']:+.3f})."
        )
        if before["low"] is not None and before["low"] <= 0.5:
            sentence += " Without it the probe cannot be told from chance: there was little to lose."
    cosine = result["direction"]["cosine"]
    sentence += f" Trained anew with it, a probe reaches {result['auroc']['retrained']['value']:.3f}"
    sentence += "." if cosine is None else f", its direction at a cosine of {cosine:.3f} to the old one."
    if not result["adapter"]["known"]:
        sentence += " No record says which games the adapter was trained on: these may be among them."
    elif result["adapter"]["samples_left_out"]:
        count = result["adapter"]["samples_left_out"]
        samples, games = ("sample was", "its game") if count == 1 else ("samples were", "their games")
        sentence += f" {count} test {samples} left out, because the adapter was trained on {games}."
    few = min(result["num_positive"], result["num_negative"]) < FEW_OF_A_CLASS
    if (few or result["num_games"] < FEW_GAMES) and not is_small(result):
        sentence += " Caution: the test side is small, so another draw of games could say otherwise."
    return sentence


def _write(
    output: Path,
    base: ProbeData,
    scores: dict[str, Array],
    result: dict[str, Any],
    spec: dict[str, Any],
    facts: dict[str, Any],
) -> None:
    columns = ("sample", "game", "content", "split", "label")
    rows = [
        {name: sample[name] for name in columns} | {name: float(scores[name][row]) for name in scores}
        for row, sample in enumerate(base.samples)
    ]
    with atomic_directory(output) as draft:
        write_json(draft / "metrics.json", result)
        write_parquet(draft / "shift.parquet", schema.make_table(rows, schema.SHIFT))
        tested = [row for row in rows if row["split"] == SPLITS[-1]]
        draw_shift(result, tested, f"{spec['probe']} with {Path(spec['adapter']).name}", draft)
        headline = {name: result[name] for name in ("auroc", "difference", "direction", "verdict")}
        sizes = {name: result[name] for name in ("num_games", "num_interactions")}
        # Not where a folder lies: that differs from machine to machine.
        named = {"adapter": Path(spec["adapter"]).name}
        write_manifest(draft, "probe-shift", {**spec, **named, **facts, **sizes, "headline": headline})
