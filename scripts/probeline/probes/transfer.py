"""A probe trained on some games and tested on games of another kind: experiments, contexts, corpora."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from probeline import schema
from probeline.errors import ProbelineError
from probeline.experiments import NO_EXPERIMENT, fitting, misfit
from probeline.files import atomic_directory, write_json, write_manifest, write_parquet
from probeline.probes import baselines
from probeline.probes.data import (
    SPLITS,
    ProbeData,
    limit_samples,
    read_data,
    read_sequences,
    require_numbers,
)
from probeline.probes.detector import Detector
from probeline.probes.evaluate import TEXT_BASELINES, stronger_text, verdict
from probeline.probes.fitting import complete_spec, fit_calibrated, one_thread, settings_of
from probeline.probes.heatmap import draw_transfer
from probeline.probes.methods import Array
from probeline.probes.metrics import bootstrap_games, compare, is_small, metrics_of

log = logging.getLogger(__name__)

FORM = ("concept", "groups", "train", "test")
"""The keys that say what is transferred from where to where; the others are those of a probe."""

MOST_GROUPS = 40
LEAST_GAMES = 2  # below, there is no interval
SAME_FACTS = ("model", "weights_sha256", "adapter_sha256", "hidden_size")

Sequences = dict[str, list[dict[str, str]]]
Cell = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A row or a column of the matrix: the samples of a concept, or of some of its experiments.

    Attributes:
        data: samples of every split; their sequences are named after the concept, too.
        experiments: whose games they are.
    """

    name: str
    concept: str
    data: ProbeData
    experiments: list[str]


def evaluate_transfer(
    activations: Mapping[str, list[Path]],
    dialogues: Mapping[str, list[Path]],
    output: Path,
    spec: dict[str, Any],
) -> None:
    """Train a probe on each source, test it on the test games of each target, and write the matrix.

    For each pair, the probe is fitted on the source's training games, threshold and probabilities come from
    its validation games, and only the target's test games are scored, without those that the source was
    fitted or validated on. The text classifiers, which the probe is compared to, go the same way. A pair
    without enough samples has no number and says why.

    Files: metrics.json, transfer.parquet (schema.TRANSFER, a row per pair), transfer.png, transfer.svg and
    manifest.json. Equal inputs give equal bytes.

    Args:
        activations: concept → shards of its activations.
        dialogues: concept → shards of its dialogues.
        output: directory to make or replace.
        spec: `concept`, whose experiments are both sources and targets, with `groups` (name → shell patterns
            of experiments; without it, each experiment by itself); or `train` and `test`, lists of concepts.
            Beside that method, layers, model and the settings that `train_probe` takes.

    Raises:
        ProbelineError: no pair has enough samples, activations of different models, a pattern that no
            experiment fits, and whatever `train_probe` refuses. Nothing is written then.
    """
    form = {key: spec[key] for key in FORM if spec.get(key) is not None}
    names = [form["concept"]] if "concept" in form else list(dict.fromkeys(form["train"] + form["test"]))
    probe = complete_spec(
        {key: value for key, value in spec.items() if key not in FORM} | {"concept": names[0]}
    )
    with one_thread(f"train probes for {' and '.join(names)} on {len(probe['layers'])} layers"):
        _transfer(activations, dialogues, output, names, form, probe)


def _transfer(
    activations: Mapping[str, list[Path]],
    dialogues: Mapping[str, list[Path]],
    output: Path,
    names: list[str],
    form: dict[str, Any],
    probe: dict[str, Any],
) -> None:
    concepts: dict[str, Part] = {}
    samples: dict[str, dict[str, Any]] = {}
    sequences: Sequences = {}
    for name in names:
        data, samples[name] = _read_concept(activations[name], dialogues[name], probe | {"concept": name})
        concepts[name] = Part(name, name, data, _experiments(data))
        sequences |= {f"{name}:{key}": value for key, value in read_sequences(dialogues[name]).items()}
    facts = _common_facts(concepts)
    if "concept" in form:
        sources = targets = experiment_parts(concepts[names[0]], form.get("groups"))
        grouped = {experiment for part in sources for experiment in part.experiments}
        samples[names[0]]["in_no_group"] = sum(
            _experiment(sample) not in grouped for sample in concepts[names[0]].data.samples
        )
    else:
        sources, targets = [[concepts[name] for name in form[side]] for side in ("train", "test")]
    cells = [cell for source in sources for cell in _row(source, targets, sequences, probe)]
    _require_a_number(cells, sources, targets)
    counts = {part.name: _counts(part) for part in [*sources, *targets]}
    result = {"parts": counts, "samples": samples, "cells": cells, "verdict": matrix_verdict(cells)}
    probe = {key: value for key, value in probe.items() if key != "concept"}
    with atomic_directory(output) as draft:
        write_json(draft / "metrics.json", result)
        table = [table_row(cell) for cell in cells]
        write_parquet(draft / "transfer.parquet", schema.make_table(table, schema.TRANSFER))
        draw_transfer(table, _title(output.name, form, probe), draft)
        write_manifest(
            draft,
            "transfer",
            {
                **probe,
                **form,
                **facts,
                "samples": samples,
                "headline": {"cells": table, "verdict": result["verdict"]},
            },
        )
    log.info("%s", result["verdict"])


def _read_concept(
    activations: list[Path], dialogues: list[Path], spec: dict[str, Any]
) -> tuple[ProbeData, dict[str, Any]]:
    """Data as `train_probe` reads it, sequences named after the concept, and what was left out."""
    data = read_data(activations, dialogues, spec)
    available = len(data.samples)
    data = limit_samples(data, spec["max_samples"], spec["seed"])
    require_numbers(data, spec["layers"])
    # Two concepts may name different views of a game alike.
    own = [sample | {"sequence": f"{spec['concept']}:{sample['sequence']}"} for sample in data.samples]
    counts = {
        "used": len(data.samples),
        "excluded": data.excluded,
        "beyond_max_samples": available - len(data.samples),
    }
    log.info("%s: %d samples", spec["concept"], len(data.samples))
    return replace(data, samples=own), counts


def _common_facts(concepts: Mapping[str, Part]) -> dict[str, Any]:
    """How the activations were made, the same for all concepts."""
    first, *others = concepts.values()
    for other in others:
        for fact in SAME_FACTS:
            ours, theirs = first.data.facts[fact], other.data.facts[fact]
            if ours != theirs:
                raise ProbelineError(
                    f"A probe transfers between activations of one model only: {fact} is {ours} for "
                    f"{first.name}, but {theirs} for {other.name}. Extract both with the same model."
                )
    return {fact: first.data.facts[fact] for fact in SAME_FACTS}


def _experiment(sample: Mapping[str, Any]) -> str:
    return sample["experiment"] or NO_EXPERIMENT


def _experiments(data: ProbeData) -> list[str]:
    return sorted(set(map(_experiment, data.samples)))


def experiment_parts(whole: Part, groups: Mapping[str, Sequence[str]] | None) -> list[Part]:
    """The samples of a concept by groups of experiments.

    Args:
        whole: all samples of the concept.
        groups: name → shell patterns; an experiment may be in several groups, pairs of which are then no
            transfer. None for each by itself.

    Raises:
        ProbelineError: a pattern that no experiment fits, or a number of groups that makes no matrix.
    """
    if groups is None:
        members = {experiment: [experiment] for experiment in whole.experiments}
    else:
        members = {}
        for name, patterns in groups.items():
            found: set[str] = set()
            for pattern in patterns:
                fit = fitting(pattern, whole.experiments)
                if not fit:
                    raise ProbelineError(f"Group {name}: {misfit(whole.concept, pattern, whole.experiments)}")
                found |= fit
            members[name] = sorted(found)
    if not 2 <= len(members) <= MOST_GROUPS:
        raise ProbelineError(
            f"{whole.concept} has {len(members)} experiments or groups of them to transfer between; 2 to "
            f"{MOST_GROUPS} make a matrix. Experiments are the folders that games lie in: name groups of "
            "them (groups)."
        )
    experiments = np.array([_experiment(sample) for sample in whole.data.samples])
    return [
        Part(name, whole.concept, whole.data.where(np.isin(experiments, inside)), inside)
        for name, inside in members.items()
    ]


def _row(source: Part, targets: list[Part], sequences: Sequences, probe: dict[str, Any]) -> list[Cell]:
    """One source against all targets."""
    fitted = source.data.where(~source.data.inside("test"))
    known = {sample["content"] for sample in fitted.samples}
    tests = []
    for target in targets:
        test = target.data.where(target.data.inside("test"))
        unseen = np.array([sample["content"] not in known for sample in test.samples], dtype=bool)
        tests.append((test.where(unseen), int((~unseen).sum())))
    reason = _too_few_to_train(fitted, probe["min_samples"])
    reasons = [reason or _too_few_to_test(test) for test, _ in tests]
    cells = []
    for target, (test, seen), reason in zip(targets, tests, reasons, strict=True):
        sizes = _sizes(test.samples)
        cell = {"train": source.name, "test": target.name, "overlap": _overlap(source, target), **sizes}
        cell["seen_in_training"] = seen
        cells.append(cell | {"small": reason is None and is_small(sizes), "reason": reason})
    tested = [(cell, test) for cell, (test, _) in zip(cells, tests, strict=True) if cell["reason"] is None]
    if tested:
        settings = settings_of(probe["method"], probe, fitted.facts["parameters"])
        detector = fit_calibrated(fitted, probe | {"concept": source.concept}, settings)
        stronger, texts = text_scores(fitted, [test for _, test in tested], sequences)
        for (cell, test), rivals in zip(tested, texts, strict=True):
            cell |= cell_metrics(detector, test, rivals, stronger, probe)
        log.info("trained on %s: tested on %d targets", source.name, len(tested))
    return cells


def _overlap(source: Part, target: Part) -> bool:
    """Whether a number says nothing of transfer: both are, at least in part, the same kind of games."""
    same = source.concept == target.concept
    return same and (source.name == target.name or not set(source.experiments).isdisjoint(target.experiments))


def _too_few_to_train(fitted: ProbeData, least: int) -> str | None:
    counts = Counter((sample["split"], sample["label"]) for sample in fitted.samples)
    training = counts["train", 0] + counts["train", 1]
    faults = [f"{training} training samples, at least {least} are needed"] if training < least else []
    for split in ("train", "validation"):
        absent = [name for label, name in ((1, "positive"), (0, "negative")) if not counts[split, label]]
        if absent:
            faults.append(f"no {' and no '.join(absent)} sample in {split}")
    return f"not enough data to train: {'; '.join(faults)}" if faults else None


def _too_few_to_test(test: ProbeData) -> str | None:
    sizes = _sizes(test.samples)
    if sizes["num_games"] >= LEAST_GAMES and min(sizes["num_positive"], sizes["num_negative"]) > 0:
        return None
    return (
        f"not enough data to test: {_several(sizes['num_games'], 'game')} with "
        f"{_several(sizes['num_positive'], 'positive')} and {_several(sizes['num_negative'], 'negative')}, "
        f"at least {LEAST_GAMES} games and both classes are needed"
    )


def text_scores(
    fitted: ProbeData, tests: Sequence[ProbeData], sequences: Sequences
) -> tuple[str, list[dict[str, Array]]]:
    """The text classifier that is stronger on the source's validation samples, and the scores of both.

    Args:
        fitted: the source's samples of the splits train and validation.
        tests: each target's test samples.
        sequences: messages of each sequence.

    Returns:
        the name of a baseline; and of each target, name → scores [n] of its samples.
    """
    samples = [sample for data in (fitted, *tests) for sample in data.samples]
    rest = np.zeros(len(samples) - len(fitted.samples), dtype=bool)
    train = np.concatenate([fitted.inside("train"), rest])
    validation = np.concatenate([fitted.inside("validation"), rest])
    labels = np.array([sample["label"] for sample in samples], dtype=np.int8)
    masked = baselines.text_features([sample["text"] for sample in samples], train)
    whole = baselines.input_features(sequences, samples, train)
    scores = {
        "text_masked": baselines.classifier_scores(masked, labels, train, validation),
        "text_input": baselines.input_scores(whole, masked, labels, train, validation),
    }
    on_validation = {name: values[validation] for name, values in scores.items()}
    ends = np.cumsum([len(data.samples) for data in (fitted, *tests)])[:-1]
    parts = {name: np.split(values, ends)[1:] for name, values in scores.items()}
    tested = [{name: parts[name][i] for name in parts} for i in range(len(tests))]
    return stronger_text(labels[validation], on_validation), tested


def cell_metrics(
    detector: Detector, test: ProbeData, rivals: Mapping[str, Array], stronger: str, probe: dict[str, Any]
) -> Cell:
    """Metrics of a source's probe on a target's test samples, and how much better than the text it is.

    Args:
        detector: calibrated on the source.
        test: the target's test samples.
        rivals: scores [n] of the source's text classifiers.
        stronger: the one that the difference is told of.
        probe: its bootstrap and seed count.
    """
    labels = test.labels
    games = np.array([sample["game"] for sample in test.samples])
    scores = detector.scores(test.values)
    bootstrap = bootstrap_games(games, labels, probe["bootstrap"], probe["seed"])
    metrics = metrics_of(labels, scores, detector.probability(scores), detector.threshold)
    compared = {name: compare(bootstrap, labels, scores, [rival]) for name, rival in rivals.items()}
    cell = {
        "metrics": {name: bootstrap.estimate(metric) for name, metric in metrics.items()},
        "baselines": compared,
        "difference_to_text": {"baseline": stronger, **compared[stronger]["difference"]},
        "threshold": detector.threshold,
    }
    return cell | {"verdict": verdict(cell | _sizes(test.samples), None)}


def _sizes(samples: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    positive = sum(sample["label"] for sample in samples)
    return {
        "num_games": len({sample["game"] for sample in samples}),
        "num_interactions": len(samples),
        "num_positive": positive,
        "num_negative": len(samples) - positive,
    }


def _counts(part: Part) -> dict[str, Any]:
    splits = {
        split: _sizes([sample for sample in part.data.samples if sample["split"] == split])
        for split in SPLITS
    }
    return {"concept": part.concept, "experiments": part.experiments, "splits": splits}


def table_row(cell: Cell) -> dict[str, Any]:
    """A cell as a row of schema.TRANSFER."""
    row: dict[str, Any] = {name: None for name, _, _ in schema.TRANSFER}
    row |= {name: cell[name] for name in row if name in cell}
    if cell["reason"] is None:
        better = cell["difference_to_text"]["baseline"]
        row |= _columns("auroc", cell["metrics"]["auroc"])
        row |= _columns("text", cell["baselines"][better]["auroc"]) | {"text_baseline": better}
        row |= _columns("difference", cell["difference_to_text"])
        row |= {name: cell["metrics"][name]["value"] for name in ("auprc", "f1", "accuracy", "brier", "ece")}
    return row


def _columns(name: str, estimate: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: estimate["value"], f"{name}_low": estimate["low"], f"{name}_high": estimate["high"]}


def _require_a_number(cells: Sequence[Cell], sources: Sequence[Part], targets: Sequence[Part]) -> None:
    if any(cell["reason"] is None for cell in cells):
        return
    parts = {part.name: part for part in (*sources, *targets)}
    width = max(20, *map(len, parts)) + 2
    lines = [f"{'games (positive, negative)':<{width}}" + "".join(f"{split:>22}" for split in SPLITS)]
    for part in parts.values():
        splits = [_counts(part)["splits"][split] for split in SPLITS]
        sizes = [f"{size['num_games']} ({size['num_positive']}, {size['num_negative']})" for size in splits]
        lines.append(f"{part.name:<{width}}" + "".join(f"{size:>22}" for size in sizes))
    lines += [f"{cell['train']} to {cell['test']}: {cell['reason']}." for cell in cells[:3]]
    raise ProbelineError(
        "Not enough data for any pair.\n"
        + "\n".join(f"  {line}" for line in lines)
        + "\nAdd games, give validation and test a larger share (splits), or put experiments together "
        "(groups)."
    )


def matrix_verdict(cells: Sequence[Cell]) -> str:
    """Says in words how far the probes carry over.

    Args:
        cells: of the matrix; those on the diagonal and others that overlap are no transfer.
    """
    crossing = [cell for cell in cells if not cell["overlap"]]
    overlapping = sum(cell["overlap"] and cell["train"] != cell["test"] for cell in cells)
    numbers = [cell for cell in crossing if cell["reason"] is None and not cell["small"]]
    left_out = [
        f"{_several(count, 'pair')} {why}"
        for count, why in (
            (sum(cell["small"] for cell in crossing), "with too few test games or samples for a verdict"),
            (sum(cell["reason"] is not None for cell in crossing), "without enough data for a number"),
            (overlapping, "of groups that share experiments, which is no transfer"),
        )
        if count
    ]
    if not numbers:
        return f"No verdict on transfer: {'; '.join(left_out) or 'no pair of different games'}."
    above = [cell for cell in numbers if (cell["metrics"]["auroc"]["low"] or 0) > 0.5]
    better = [
        cell
        for cell in above
        if all((cell["baselines"][name]["difference"]["low"] or 0) > 0 for name in TEXT_BASELINES)
    ]
    sentence = (
        f"Trained on one and tested on another, the probe is above chance in {len(above)} of "
        f"{_several(len(numbers), 'pair')}, and in {len(better)} of them it beats both text classifiers that "
        "were trained on the same games (95 % intervals over games, not corrected for the number of pairs)"
    )
    return "; ".join([sentence, *left_out]) + "."


def _several(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _title(name: str, form: Mapping[str, Any], probe: Mapping[str, Any]) -> str:
    layers = ", ".join(map(str, probe["layers"]))
    what = f"{form['concept']}, " if "concept" in form else ""
    on = f"layer{'s' * (len(probe['layers']) > 1)} {layers} of {probe['model']}"
    return f"{name}\n{what}{probe['method']} on {on}"


def by_concept(manifests: Iterable[str]) -> dict[str, list[Path]]:
    """Concept → its shards, from the paths `…/<concept>/<shard>/manifest.json`."""
    shards: dict[str, list[Path]] = {}
    for manifest in manifests:
        shard = Path(manifest).parent
        shards.setdefault(shard.parent.name, []).append(shard)
    return shards
