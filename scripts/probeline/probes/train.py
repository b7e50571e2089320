"""From stored activations to a probe that was tested on games it never saw."""

import importlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from probeline import schema
from probeline.activations.store import read_activations
from probeline.digests import unit_interval
from probeline.errors import ProbelineError, near_misses
from probeline.files import (
    atomic_directory,
    open_parquet,
    read_json,
    write_json,
    write_manifest,
    write_parquet,
)
from probeline.probes.calibration import choose_threshold, fit_platt
from probeline.probes.controls import logged_scores, role_masked
from probeline.probes.detector import DETECTOR, Detector, fit_detector
from probeline.probes.evaluate import SPLITS, evaluate, verdict
from probeline.probes.methods import METHODS, SETTINGS, Array, Labels, Settings
from probeline.probes.stages import stages, suspect_rows
from probeline.probes.trainer import recommend_backend

log = logging.getLogger(__name__)

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

NOT_MASKED = "the input does not tell the actor's role, or role_masked is false for the concept"


@dataclass(frozen=True)
class ProbeData:
    """The samples of a concept with their activations, ordered by game and event.

    Attributes:
        samples: [n] rows of schema.SAMPLES.
        values: activations [n, layers, width].
        facts: how the activations were made, see `activations.store.Activations`.
        excluded: samples without activations, counted by reason.
    """

    samples: list[dict[str, Any]]
    values: npt.NDArray[np.floating[Any]]
    facts: dict[str, Any]
    excluded: dict[str, int]

    @property
    def labels(self) -> Labels:
        """Labels [n] of 0 and 1."""
        return np.array([sample["label"] for sample in self.samples], dtype=np.int8)

    def inside(self, split: str) -> npt.NDArray[np.bool_]:
        """Which samples [n] belong to a split."""
        return np.array([sample["split"] == split for sample in self.samples], dtype=bool)

    def where(self, kept: npt.NDArray[np.bool_]) -> "ProbeData":
        """The samples that a mask [n] keeps, in their order."""
        rows = np.flatnonzero(kept)
        return replace(self, samples=[self.samples[row] for row in rows], values=self.values[rows])


class _Masked(NamedTuple):
    """Shards of a concept that do not tell the actor's role; none where the input does not anyhow."""

    activations: list[Path]
    dialogues: list[Path]


def train_probe(
    activations: list[Path],
    dialogues: list[Path],
    quality: Path,
    output: Path,
    spec: dict[str, Any],
    role_masked_activations: Sequence[Path] = (),
    role_masked_dialogues: Sequence[Path] = (),
) -> None:
    """Fit a probe, test it on held-out games, and write it to a directory.

    Files: detector.pt (`Detector`), metrics.json (docs/evaluation.md), scores.parquet (schema.SCORES, every
    sample), suspects.parquet (schema.SUSPECTS) and manifest.json. Equal inputs give equal bytes, whatever
    the number of threads.

    Args:
        activations: shards of one concept's activations.
        dialogues: shards of the same concept's dialogues.
        quality: quality.json of the corpus.
        output: directory to make or replace.
        spec: concept, method, layers and model; the settings of the method in `methods.SETTINGS`; and any of
            `DEFAULTS`: seed, threshold (a rule of `calibration.THRESHOLD_RULES`), threshold_percentile,
            bootstrap (resamples), min_samples (fewest training samples) and max_samples (None for all).
        role_masked_activations: shards of the same concept's activations where the input does not tell the
            actor's role; none where it does not anyhow.
        role_masked_dialogues: the dialogues that those are of.

    Raises:
        ProbelineError: not enough data, activations that are no numbers or not of these dialogues, an
            unknown setting, or too little memory. Nothing is written then.
    """
    spec = complete_spec(spec)
    with one_thread(spec["concept"], spec["layers"]):
        masked = _Masked(list(role_masked_activations), list(role_masked_dialogues))
        _train(activations, dialogues, quality, output, spec, masked)


@contextmanager
def one_thread(trained_for: str, layers: list[int]) -> Iterator[None]:
    """Fit on one thread, so that the bytes do not depend on the machine; too little memory ends in words.

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
            f"Not enough memory to train a probe for {trained_for} on {len(layers)} layers"
            f"{f' ({error})' if str(error) else ''}. Name fewer layers, set max_samples under evaluation in "
            "the config, or use a machine with more memory."
        ) from error


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


def settings_of(spec: dict[str, Any], parameters: int) -> Settings:
    """The settings of the spec's method, the backend `auto` replaced by the one that suits the model.

    Args:
        spec: complete, see `train_probe`.
        parameters: of the model.
    """
    settings = {name: spec[name] for name in SETTINGS[spec["method"]]}
    if settings.get("backend") == "auto":
        settings["backend"] = recommend_backend(parameters / 1e9)
    return settings


def _train(
    activations: list[Path],
    dialogues: list[Path],
    quality: Path,
    output: Path,
    spec: dict[str, Any],
    masked: _Masked,
) -> None:
    data = read_data(activations, dialogues, spec)
    available = {sample["sample"] for sample in data.samples}
    data = limit_samples(data, spec["max_samples"], spec["seed"])
    require_enough(data, spec["concept"], spec["min_samples"])
    require_numbers(data, spec["layers"])
    log.info(
        "%s: %d games, %d interactions, %d positive, %d negative",
        spec["concept"],
        len({sample["game"] for sample in data.samples}),
        len(data.samples),
        data.labels.sum(),
        len(data.labels) - data.labels.sum(),
    )
    settings = settings_of(spec, data.facts["parameters"])
    detector = fit_calibrated(data, spec, settings)
    scores = detector.scores(data.values)
    result = evaluate(
        detector,
        data.samples,
        data.values,
        scores,
        read_sequences(dialogues),
        settings,
        spec["bootstrap"],
        spec["seed"],
    )
    without_role = _without_role(detector, data, scores, masked, settings, available, spec)
    result |= {
        "role_masked": without_role or {"reason": NOT_MASKED},
        "logged": logged_scores(data.samples, scores, spec["bootstrap"], spec["seed"]),
        "stages": stages(data.samples, scores, spec["bootstrap"], spec["seed"]),
        "verdict": verdict(result["test"], without_role),
    }
    counts = {
        "used": len(data.samples),
        "excluded": data.excluded,
        "beyond_max_samples": len(available) - len(data.samples),
    }
    with atomic_directory(output) as draft:
        detector.save(draft / DETECTOR)
        write_parquet(draft / "scores.parquet", _score_table(data, detector, scores))
        suspects = schema.make_table(suspect_rows(data.samples, scores), schema.SUSPECTS)
        write_parquet(draft / "suspects.parquet", suspects)
        write_json(draft / "metrics.json", result | {"samples": counts})
        write_manifest(
            draft, "probe", _facts(data, detector, result, counts, read_json(quality), spec | settings)
        )
    log.info("%s", result["verdict"])


def _without_role(
    detector: Detector,
    data: ProbeData,
    scores: Array,
    masked: _Masked,
    settings: Settings,
    available: set[str],
    spec: dict[str, Any],
) -> dict[str, Any] | None:
    """What `role_masked` finds on the samples of `data`; None without masked dialogues."""
    if not masked.dialogues:
        return None
    twin = read_data(masked.activations, masked.dialogues, spec)
    require_numbers(twin, spec["layers"])
    used = {sample["sample"] for sample in data.samples}
    # Those that max_samples left out here are left out there.
    kept = [
        row
        for row, sample in enumerate(twin.samples)
        if sample["sample"] in used or sample["sample"] not in available
    ]
    return role_masked(
        detector,
        data.samples,
        scores,
        [twin.samples[row] for row in kept],
        twin.values[kept],
        read_sequences(masked.dialogues),
        settings,
        spec["bootstrap"],
        spec["seed"],
    )


def read_data(activations: list[Path], dialogues: list[Path], spec: dict[str, Any]) -> ProbeData:
    """Join the samples of the dialogues with their activations.

    Args:
        activations: shards of activations.
        dialogues: shards of dialogues.
        spec: its layers, model and concept count.

    Raises:
        ProbelineError: the two do not belong together, or a game is in two splits.
    """
    samples = {row["sample"]: row for row in _read_rows(dialogues, "samples.parquet")}
    stored = read_activations(activations, spec["layers"])
    if stored.facts["model"] != spec["model"]:
        raise ProbelineError(
            f"These are activations of the model {stored.facts['model']}, but the probe is for "
            f"{spec['model']}. Make the activations again, or name that model in the config."
        )
    rows = {sample: row for row, sample in enumerate(stored.samples)}
    reasons = {
        row["sample"]: row["reason"]
        for shard in activations
        for row in map(orjson.loads, (shard / "excluded.jsonl").read_bytes().splitlines())
    }
    strangers = (rows.keys() | reasons.keys()) ^ samples.keys()
    if strangers:
        raise ProbelineError(
            f"The activations of {spec['concept']} are not of these dialogues: {len(strangers)} samples are "
            f"in one only, for example {min(strangers)}. Make the activations again."
        )
    splits: dict[str, str] = {}
    for sample in samples.values():
        if splits.setdefault(sample["content"], sample["split"]) != sample["split"]:
            raise ProbelineError(
                f"Game {sample['game']} is in the splits {splits[sample['content']]} and {sample['split']}: "
                "its samples would be trained on and tested on. Make the dialogues again."
            )
    ordered = sorted(rows, key=lambda sample: (samples[sample]["game"], samples[sample]["event"], sample))
    return ProbeData(
        [samples[sample] for sample in ordered],
        stored.values[[rows[sample] for sample in ordered]],
        stored.facts,
        dict(sorted(Counter(reasons.values()).items())),
    )


def limit_samples(data: ProbeData, most: int | None, seed: int) -> ProbeData:
    """At most `most` samples, every split and class keeping its share (at least one sample).

    Which ones depends on the seed and each sample's id, so that new samples replace few.
    """
    if most is None or len(data.samples) <= most:
        return data
    groups: dict[tuple[str, int], list[int]] = {}
    for row, sample in enumerate(data.samples):
        groups.setdefault((sample["split"], sample["label"]), []).append(row)
    kept: list[int] = []
    for rows in groups.values():
        rows.sort(key=lambda row: unit_interval(f"sample:{seed}:{data.samples[row]['sample']}"))
        kept += rows[: max(1, len(rows) * most // len(data.samples))]
    kept.sort()
    return replace(data, samples=[data.samples[row] for row in kept], values=data.values[kept])


def require_enough(data: ProbeData, concept: str, least: int) -> None:
    """Refuse data on which a probe cannot be fitted, calibrated or tested.

    Args:
        data: all samples.
        concept: its name.
        least: fewest training samples.

    Raises:
        ProbelineError: a split lacks a class, or the training samples are too few; with counts and remedies.
    """
    counts = Counter((sample["split"], sample["label"]) for sample in data.samples)
    faults = []
    training = counts["train", 0] + counts["train", 1]
    if training < least:
        faults.append(f"{training} training samples, at least {least} are needed (evaluation.min_samples)")
    for split in SPLITS:
        absent = [name for label, name in ((1, "positive"), (0, "negative")) if not counts[split, label]]
        if absent:
            faults.append(f"no {' and no '.join(absent)} sample in {split}")
    if not faults:
        return
    lines = [f"{'split':<12}{'games':>8}{'positive':>10}{'negative':>10}"]
    for split in SPLITS:
        games = len({sample["game"] for sample in data.samples if sample["split"] == split})
        lines.append(f"{split:<12}{games:>8}{counts[split, 1]:>10}{counts[split, 0]:>10}")
    for reason, number in data.excluded.items():
        lines.append(f"left out before ({reason}): {number}")
    labels = {"true": 1, "false": 0}
    never = [name for name, label in labels.items() if not any(counts[split, label] for split in SPLITS)]
    remedy = (
        "Add games, give validation and test a larger share (splits), or let the concept take more event "
        "types or another context (probes)."
    )
    if never and data.samples:
        remedy = f"The label is never {never[0]}: look at probes.{concept}.label and at `probeline check`."
    raise ProbelineError(
        f"Not enough data for {concept}: {'; '.join(faults)}.\n"
        + "\n".join(f"  {line}" for line in lines)
        + f"\n{remedy}"
    )


def require_numbers(data: ProbeData, layers: list[int]) -> None:
    """Refuse activations with NaN or infinite entries.

    Raises:
        ProbelineError: there are some; the text names the first sample and layer.
    """
    finite = np.isfinite(data.values).all(axis=2)
    if finite.all():
        return
    row, layer = np.argwhere(~finite)[0]
    raise ProbelineError(
        f"The activations of {int((~finite.all(axis=1)).sum())} samples hold NaN or infinite numbers, the "
        f"first at sample {data.samples[row]['sample']}, layer {layers[layer]}. Float16 overflows at 65,504: "
        "set activations.store (or activations.dtype) to float32 and extract again."
    )


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


def _read_rows(shards: list[Path], name: str) -> list[dict[str, Any]]:
    return [row for shard in shards for row in open_parquet(shard / name).read().to_pylist()]


def read_sequences(dialogues: list[Path]) -> dict[str, list[dict[str, str]]]:
    """The messages of each sequence of some shards of dialogues, by its id."""
    return {row["sequence"]: row["messages"] for row in _read_rows(dialogues, "sequences.parquet")}


def _score_table(data: ProbeData, detector: Detector, scores: Array) -> Any:
    probabilities = detector.probability(scores)
    rows = [
        {
            **{name: sample[name] for name in ("sample", "game", "split", "label")},
            "score": score,
            "probability": probability,
        }
        for sample, score, probability in zip(
            data.samples, scores.tolist(), probabilities.tolist(), strict=True
        )
    ]
    return schema.make_table(rows, schema.SCORES)


def _facts(
    data: ProbeData,
    detector: Detector,
    result: dict[str, Any],
    counts: dict[str, Any],
    quality: dict[str, Any],
    spec: dict[str, Any],
) -> dict[str, Any]:
    test = result["test"]
    keys = ("num_games", "num_interactions", "num_positive", "num_negative")
    return {
        **spec,
        **data.facts,
        "threshold": detector.threshold,
        "threshold_rule": spec["threshold"],
        "samples": counts,
        "splits": {split: {key: result[split][key] for key in keys} for split in SPLITS},
        "quality": {name: value for name, value in quality.items() if isinstance(value, int | float)},
        "headline": {
            "auroc": test["metrics"]["auroc"],
            **{name: baseline["auroc"] for name, baseline in test["baselines"].items()},
            "shuffles": test["baselines"]["shuffled"]["repetitions"],
            "difference_to_text": test["difference_to_text"],
            "role_masked": result["role_masked"].get("auroc"),
            "logged": result["logged"]["logged_score"].get("test"),
            "verdict": result["verdict"],
        },
    }
