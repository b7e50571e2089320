"""From stored activations to a probe that was tested on games it never saw."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from probeline import schema
from probeline.activations.store import read_reveals
from probeline.files import atomic_directory, read_json, write_json, write_manifest, write_parquet
from probeline.probes.controls import logged_scores, role_masked
from probeline.probes.data import (
    SPLITS,
    ProbeData,
    limit_samples,
    read_data,
    read_sequences,
    require_enough,
    require_numbers,
)
from probeline.probes.detector import DETECTOR, Detector
from probeline.probes.evaluate import evaluate, verdict
from probeline.probes.fitting import complete_spec, fit_calibrated, one_thread, settings_of
from probeline.probes.methods import Array, Settings
from probeline.probes.stages import stages, suspect_rows

log = logging.getLogger(__name__)

NOT_MASKED = "the input does not tell the actor's role, or role_masked is false for the concept"


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
            `fitting.DEFAULTS`: seed, threshold (a rule of `calibration.THRESHOLD_RULES`),
            threshold_percentile, bootstrap (resamples), min_samples (fewest training samples) and max_samples
            (None for all).
        role_masked_activations: shards of the same concept's activations where the input does not tell the
            actor's role; none where it does not anyhow.
        role_masked_dialogues: the dialogues that those are of.

    Raises:
        ProbelineError: not enough data, activations that are no numbers or not of these dialogues, an
            unknown setting, or too little memory. Nothing is written then.
    """
    spec = complete_spec(spec)
    with one_thread(f"train a probe for {spec['concept']} on {len(spec['layers'])} layers"):
        masked = _Masked(list(role_masked_activations), list(role_masked_dialogues))
        _train(activations, dialogues, quality, output, spec, masked)


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
    settings = settings_of(spec["method"], spec, data.facts["parameters"])
    detector = fit_calibrated(data, spec, settings)
    scores = detector.scores(data.values)
    told = read_reveals(activations, spec["layers"])
    # Read by the finished detector alone: what tells a role is no sample.
    revealed = dict(zip(told.players, detector.scores(told.values).tolist(), strict=True))
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
        "stages": stages(data.samples, scores, revealed, spec["bootstrap"], spec["seed"]),
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
        suspects = schema.make_table(suspect_rows(data.samples, scores, revealed), schema.SUSPECTS)
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
