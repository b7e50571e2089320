"""Every layer by every method from stored activations: a layer is chosen without the test games."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from probeline import schema
from probeline.activations.store import read_activations
from probeline.errors import ProbelineError, near_misses
from probeline.files import MANIFEST, atomic_directory, read_json, write_json, write_manifest, write_parquet
from probeline.probes import baselines
from probeline.probes.cross_fit import Folds, cross_fit
from probeline.probes.data import ProbeData, limit_samples, read_data, read_sequences, require_numbers
from probeline.probes.fitting import one_thread, settings_of
from probeline.probes.folds import FoldedRanking, assign_folds
from probeline.probes.methods import METHODS, SETTINGS, Array, Settings
from probeline.probes.metrics import bootstrap_games
from probeline.probes.sweep_figure import draw_sweep
from probeline.progress import progress

log = logging.getLogger(__name__)

DEFAULTS: dict[str, Any] = {
    "layers": "all",
    "folds": 5,
    "by": "game",
    "seed": 0,
    "bootstrap": 1000,
    "min_samples": 20,
    "max_samples": None,
}
"""Settings of `sweep_probes` with their defaults; concept, model and methods have none."""

BLOCK_BYTES = 128e6  # activations that are read at a time; one layer where that is more
KEPT_TOGETHER = {"game": "content", "experiment": "experiment"}
LESS_MEMORY = (
    "A layer of all samples must fit several times: set max_samples under evaluation in the config, run with "
    "fewer --cores so that less is worked on side by side, or use a machine with more memory."
)

Found = tuple[float, Array]
"""An AUROC, and its values on the resamples."""


@dataclass(frozen=True)
class Samples:
    """The samples of the training and validation games, and the folds that they are dealt to.

    Attributes:
        rows: [n] rows of schema.SAMPLES, ordered by game and event.
        folds: held-out fold of each sample.
        ranking: AUROC within the folds.
        facts: how the activations were made, see `activations.store.Activations`.
        excluded: samples without activations, counted by reason.
    """

    rows: list[dict[str, Any]]
    folds: Folds
    ranking: FoldedRanking
    facts: dict[str, Any]
    excluded: dict[str, int]


def sweep_probes(
    activations: list[Path], dialogues: list[Path], output: Path, spec: dict[str, Any], workers: int = 1
) -> None:
    """Cross-validate every method on every layer over the training and validation games.

    Files: sweep.json (all figures and what would be chosen), sweep.parquet (schema.SWEEP), figure.svg,
    figure.png and manifest.json. The test games are not looked at: changing them changes no byte.

    Args:
        activations: shards of one concept's activations.
        dialogues: shards of the same concept's dialogues.
        output: directory to make or replace.
        spec: concept, model, methods (method → settings), and any of `DEFAULTS`: layers ("all" that are
            stored, or a list), folds, by (what is kept in one fold, game or experiment), seed, bootstrap
            (resamples), min_samples (fewest training samples of a fold) and max_samples (None for all).
        workers: layers worked on side by side; the result does not depend on it.

    Raises:
        ProbelineError: not enough data, activations that are no numbers or not of these dialogues, an
            unknown method or setting, or too little memory. Nothing is written then.
    """
    spec = complete_spec(spec)
    with one_thread(f"sweep {spec['concept']}", LESS_MEMORY), ThreadPoolExecutor(workers) as pool:
        samples = read_samples(activations, dialogues, spec)
        parameters = samples.facts["parameters"]
        methods = {name: used_settings(name, given, parameters) for name, given in spec["methods"].items()}
        spec |= {"methods": methods}
        texts = {
            name: pool.submit(scores, samples, dialogues)
            for name, scores in (("text_masked", _masked_text), ("text_input", _input_text))
        }
        found: dict[tuple[str, int], Found] = {}
        blocks = layer_blocks(activations, samples, _layers(activations, spec["layers"]))
        for layers, values in progress(blocks, "Sweeping", unit="block of layers"):
            fit = partial(_sweep_layer, spec=spec, samples=samples)
            columns = [values[:, i] for i in range(len(layers))]
            for layer, scores in zip(layers, pool.map(fit, columns), strict=True):
                found |= {(method, layer): score for method, score in scores.items()}
        result = _result(spec, samples, found, {name: text.result() for name, text in texts.items()})
    with atomic_directory(output) as draft:
        write_json(draft / "sweep.json", result)
        write_parquet(draft / "sweep.parquet", _table(result))
        draw_sweep(result, draft)
        headline = {key: result[key] for key in ("choice", "baselines", "note")}
        facts = {**spec, **samples.facts, "layers": result["layers"], "samples": result["samples"]}
        # The games of these splits were not looked at: the record does not name them.
        write_manifest(draft, "sweep", {**facts, "headline": headline, "unread_splits": ["test"]})
    log.info("%s", result["note"])


def complete_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec with every default filled in, and without `code`, on which a sweep does not depend."""
    spec = {key: value for key, value in spec.items() if key != "code"}
    allowed = {"concept", "model", "methods", *DEFAULTS}
    for key in spec.keys() - allowed:
        raise ProbelineError(f"A sweep has no setting {key!r}. {near_misses(key, allowed)}")
    for key in allowed - spec.keys() - DEFAULTS.keys():
        raise ProbelineError(f"The sweep's settings lack {key!r}.")
    for method, given in spec["methods"].items():
        if method not in METHODS:
            raise ProbelineError(f"Unknown method {method!r}. {near_misses(method, METHODS)}")
        for key in given.keys() - SETTINGS[method].keys():
            raise ProbelineError(
                f"Method {method} has no setting {key!r}. {near_misses(key, SETTINGS[method])}"
            )
    return DEFAULTS | spec


def used_settings(method: str, given: Settings, parameters: int) -> Settings:
    """All settings that a method's scores depend on here, the backend as `train_probe` would choose it.

    Args:
        method: key of `methods.METHODS`.
        given: some of its settings.
        parameters: of the model.
    """
    settings = settings_of(method, SETTINGS[method] | given, parameters)
    del settings["ensemble"]  # one layer at a time
    # For the penalty l2, `cross_fit` has a solver of its own.
    if settings.get("penalty") == "l2":
        del settings["backend"]
    return settings


def _layers(activations: list[Path], wanted: Any) -> list[int]:
    """The layers to sweep: those given, or `all` that are stored."""
    return sorted(read_json(activations[0] / MANIFEST)["layers"] if wanted == "all" else wanted)


def read_samples(activations: list[Path], dialogues: list[Path], spec: dict[str, Any]) -> Samples:
    """The samples of all games but the test games, dealt to folds.

    Raises:
        ProbelineError: activations and dialogues do not belong together, or there is not enough data.
    """
    layer = _layers(activations, spec["layers"])[0]
    data = read_data(activations, dialogues, {**spec, "layers": [layer]}, ("train", "validation"))
    data = limit_samples(data, spec["max_samples"], spec["seed"])
    keys = [sample[KEPT_TOGETHER[spec["by"]]] for sample in data.samples]
    fold = assign_folds(keys, spec["folds"], spec["seed"])
    require_folds(data, fold, spec)
    # Where games are few, a fold may be empty.
    fold = np.unique(fold, return_inverse=True)[1].astype(np.int64)
    games = np.array([sample["game"] for sample in data.samples])
    bootstrap = bootstrap_games(games, data.labels, spec["bootstrap"], spec["seed"])
    ranking = FoldedRanking(fold, data.labels, bootstrap)
    return Samples(data.samples, Folds(fold, data.labels), ranking, data.facts, data.excluded)


def require_folds(data: ProbeData, fold: npt.NDArray[np.int64], spec: dict[str, Any]) -> None:
    """Refuse samples on which no layer can be chosen.

    Args:
        data: the samples of the training and validation games.
        fold: [n] fold of each sample.
        spec: its concept, folds, by and min_samples count.

    Raises:
        ProbelineError: a fold's training samples are too few or of one class, or no fold holds both classes.
    """
    labels = data.labels
    faults = []
    both = 0
    for number in np.unique(fold):
        training, held = labels[fold != number], labels[fold == number]
        both += len(np.unique(held)) == 2
        if len(training) < spec["min_samples"]:
            faults.append(
                f"{len(training)} samples are left to train on when fold {number} is held out, at least "
                f"{spec['min_samples']} are needed (evaluation.min_samples)"
            )
        elif len(np.unique(training)) < 2:
            faults.append(f"only one class is left to train on when fold {number} is held out")
    if not both:
        faults.append("no fold holds both classes")
    if not faults:
        return
    lines = [f"{'fold':<12}{'games':>8}{'positive':>10}{'negative':>10}"]
    for number in range(spec["folds"]):
        inside = fold == number
        games = {sample["game"] for sample, here in zip(data.samples, inside, strict=True) if here}
        positives = int(labels[inside].sum())
        lines.append(f"{number:<12}{len(games):>8}{positives:>10}{inside.sum() - positives:>10}")
    raise ProbelineError(
        f"Not enough data to sweep {spec['concept']}: {'; '.join(faults)}.\n"
        + "\n".join(f"  {line}" for line in lines)
        + f"\nEach {spec['by']} of the training and validation games lies in one fold (splits.by). "
        "Add games, set sweeps.folds or another seed, or let the concept take more event types (probes)."
    )


def layer_blocks(
    activations: list[Path], samples: Samples, layers: list[int]
) -> Iterator[tuple[list[int], npt.NDArray[np.float32]]]:
    """A few layers at a time with the samples' activations [n, layers, width], so that memory is bounded.

    Raises:
        ProbelineError: a layer was not extracted, or holds NaN or infinite numbers.
    """
    stored = sum(read_json(shard / MANIFEST)["samples"] for shard in activations)
    size = max(1, int(BLOCK_BYTES / (4 * stored * samples.facts["hidden_size"])))
    for start in range(0, len(layers), size):
        block = layers[start : start + size]
        read = read_activations(activations, block)
        rows = {sample: row for row, sample in enumerate(read.samples)}
        values = read.values[[rows[sample["sample"]] for sample in samples.rows]]
        require_numbers(ProbeData(samples.rows, values, {}, {}), block)
        yield block, values


def _sweep_layer(values: npt.NDArray[np.float32], spec: dict[str, Any], samples: Samples) -> dict[str, Found]:
    methods: dict[str, Settings] = spec["methods"]
    scores = cross_fit(methods, values, samples.folds, spec["seed"])
    return {method: samples.ranking.auroc(scores[method]) for method in methods}


def _masked_text(samples: Samples, dialogues: list[Path]) -> dict[str, Any]:
    texts = [sample["text"] for sample in samples.rows]
    return _best_text([baselines.text_features(texts, train) for train in samples.folds.train.T], samples)


def _input_text(samples: Samples, dialogues: list[Path]) -> dict[str, Any]:
    from scipy.sparse import hstack

    texts = [sample["text"] for sample in samples.rows]
    counts = baselines.input_counts(read_sequences(dialogues), samples.rows)
    # As in `baselines.input_scores`: the whole input, and apart from it which text is masked.
    features = [
        hstack(
            [baselines.weighted_counts(counts, train), baselines.text_features(texts, train)], format="csr"
        )
        for train in samples.folds.train.T
    ]
    return _best_text(features, samples)


def _best_text(features: list[Any], samples: Samples) -> dict[str, Any]:
    """AUROC of the penalty that does best in these very folds: if anything, this choice favours the text.

    Args:
        features: of each fold [n, anything], vocabulary and weights from its training samples.
        samples: their labels and folds.
    """
    folds = samples.folds
    best: dict[str, Any] = {}
    for inverse_penalty in baselines.INVERSE_PENALTIES:
        scores = [
            baselines.fitted_scores(features[number], folds.labels, folds.train[:, number], inverse_penalty)
            for number in range(folds.count)
        ]
        found = samples.ranking.auroc(folds.held_out(np.column_stack(scores)))
        if not best or found[0] > best["found"][0]:
            best = {"found": found, "inverse_penalty": inverse_penalty}
    return best


def _result(
    spec: dict[str, Any],
    samples: Samples,
    found: dict[tuple[str, int], Found],
    texts: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """All that sweep.json says."""
    estimate = samples.ranking.estimate
    layers = sorted({layer for _, layer in found})
    stronger = max(texts, key=lambda name: texts[name]["found"][0])
    choice = {}
    for method in spec["methods"]:
        best = max(layers, key=lambda layer: found[method, layer][0])
        difference = estimate(_difference(found[method, best], texts[stronger]["found"]))
        choice[method] = {
            "layer": best,
            "auroc": estimate(found[method, best]),
            "difference_to_text": {"baseline": stronger, **difference},
            "not_told_apart": [
                layer
                for layer in layers
                if (estimate(_difference(found[method, best], found[method, layer]))["low"] or 0) <= 0
            ],
            "probe": f"results/probes/{spec['concept']}_{method}_l{best}",
        }
    return {
        "concept": spec["concept"],
        "model": spec["model"],
        "methods": spec["methods"],
        "layers": layers,
        "rows": [
            {"method": method, "layer": layer, "auroc": estimate(found[method, layer])}
            for method in spec["methods"]
            for layer in layers
        ],
        "baselines": {
            name: {"auroc": estimate(text["found"]), "inverse_penalty": text["inverse_penalty"]}
            for name, text in texts.items()
        },
        "choice": choice,
        "folds": _fold_counts(samples),
        "samples": {"used": len(samples.rows), "excluded": samples.excluded},
        "note": _note(choice, len(layers)),
    }


def _difference(first: Found, second: Found) -> Found:
    return first[0] - second[0], first[1] - second[1]


def _fold_counts(samples: Samples) -> list[dict[str, int]]:
    """Games and samples of each class that were held out together."""
    fold, labels = samples.folds.fold, samples.folds.labels
    games = np.array([row["game"] for row in samples.rows])
    return [
        {
            "games": len(np.unique(games[fold == number])),
            "positive": int((labels[fold == number] == 1).sum()),
            "negative": int((labels[fold == number] == 0).sum()),
        }
        for number in range(samples.folds.count)
    ]


def _note(choice: dict[str, Any], layers: int) -> str:
    """What the figures may be used for, and how the choice is tested."""
    best = max(choice.values(), key=lambda chosen: chosen["auroc"]["value"])
    return (
        "The test games were not used: every AUROC is of training and validation games, each scored by a fit "
        f"without it. The best of {layers * len(choice)} looks better than it is, for having been picked; "
        f"test the choice on the test games with: snakemake --cores 4 {best['probe']}"
    )


def _table(result: dict[str, Any]) -> Any:
    folds = sum(fold["positive"] > 0 and fold["negative"] > 0 for fold in result["folds"])
    rows = [
        {
            "method": row["method"],
            "layer": row["layer"],
            "auroc": row["auroc"]["value"],
            "low": row["auroc"]["low"],
            "high": row["auroc"]["high"],
            "folds": folds,
        }
        for row in result["rows"]
    ]
    return schema.make_table(rows, schema.SWEEP)
