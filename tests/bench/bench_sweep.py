"""Our sweep of all layers beside a plain loop of scikit-learn: same activations, same folds, same pairs.

The loop is what a researcher would write: per layer and fold, standardise, fit, score, and take the AUROC.
Both sides end in the AUROC of every layer and method over the held-out folds; ours also in its interval over
games. They take turns, so that a noisy neighbour hits all alike. A number is the median of the rounds; the
spread, from the fastest round to the slowest, is what noise may have done to it. The activations are made up:
a covariance that falls off by a power law, a few huge dimensions, whole games that deviate, and a weak signal
that comes and goes over the layers. Nothing is read from disk.
"""

import argparse
import datetime
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from probeline.activations.machine import processor
from probeline.probes.cross_fit import Folds, cross_fit, plain_scores
from probeline.probes.folds import FoldedRanking, assign_folds
from probeline.probes.methods import draw_pairs
from probeline.probes.metrics import bootstrap_games
from tests.bench.figures import Lines, as_markdown, as_text

METHODS = ("lr", "mms", "lat")
FOLDS = 5
GAMES = 60
RESAMPLES = 1000
LOOP, LOOP_ALL = "loop of scikit-learn, one thread", "loop of scikit-learn, all threads"
OURS, OURS_ALL = "ours, one thread", "ours, a layer per core"
GOAL, CLOSE = 10, 0.001

Aurocs = dict[tuple[str, int], float]


@dataclass(frozen=True)
class Workload:
    """Activations [layers, samples, width] with their labels, games and folds."""

    values: np.ndarray
    labels: np.ndarray
    games: np.ndarray
    fold: np.ndarray


@dataclass
class Contender:
    """One way to sweep, and what it took."""

    run: Callable[[Workload], Aurocs]
    seconds: list[float] = field(default_factory=list)
    found: Aurocs = field(default_factory=dict)

    def median(self) -> float:
        return statistics.median(self.seconds)


def main() -> None:
    """Run the comparison, print the tables, and save them if asked to."""
    options = _options()
    cores = len(os.sched_getaffinity(0))
    workload = make_workload(options.layers, options.samples, options.width)
    contenders = {
        LOOP: Contender(partial(loop, threads=1)),
        LOOP_ALL: Contender(partial(loop, threads=cores)),
        OURS: Contender(partial(ours, workers=1)),
        OURS_ALL: Contender(partial(ours, workers=cores)),
    }
    with threadpool_limits(limits=1):
        product = product_aurocs(workload)
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", flush=True)
        for contender in contenders.values():
            started = time.perf_counter()
            contender.found = contender.run(workload)
            contender.seconds.append(time.perf_counter() - started)
    facts = [
        f"{options.layers} layers, {options.samples:,} samples of {GAMES} games, width {options.width}, "
        f"{FOLDS} folds, methods {', '.join(METHODS)}: {options.layers * FOLDS * len(METHODS)} fits",
        f"{options.rounds} rounds, {cores} cores",
    ]
    tables = [time_table(contenders), difference_table(contenders, product), goal_table(contenders, product)]
    print("\n\n".join(["\n".join(facts), *map(as_text, tables)]))
    if options.save:
        options.save.write_text(_page(facts, tables), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench_sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=31, help="(default: 31)")
    parser.add_argument("--samples", type=int, default=3900, help="(default: 3900)")
    parser.add_argument("--width", type=int, default=576, help="(default: 576)")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds (default: 3)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the tables here too, as Markdown")
    return parser.parse_args()


def make_workload(layers: int, samples: int, width: int, seed: int = 0) -> Workload:
    """Made-up activations; standardised, their covariance falls off about as that of SmolLM2-135M's does."""
    random = np.random.default_rng(seed)
    game = np.sort(random.integers(GAMES, size=samples))
    labels = (random.random(samples) < 0.3 + 0.2 * random.random(GAMES)[game]).astype(np.int8)
    deviation = (np.arange(1, width + 1) ** -0.65).astype(np.float32)
    turned = np.linalg.qr(random.normal(size=(width, width)))[0].astype(np.float32)
    direction = turned[min(20, width - 1)] * deviation[min(20, width - 1)]
    scales = np.exp(random.normal(size=width)).astype(np.float32)
    scales[random.choice(width, 3, replace=False)] *= 100
    offsets = scales * random.normal(size=width).astype(np.float32) * 3
    stream = np.zeros((samples, width), dtype=np.float32)
    values = np.empty((layers, samples, width), dtype=np.float32)
    for layer in range(layers):
        # Each layer adds something to the stream; a part of it is common to the samples of a game.
        added = random.standard_normal((samples, width), dtype=np.float32)
        added += 0.4 * random.standard_normal((GAMES, width), dtype=np.float32)[game]
        stream = 0.9 * stream + 0.45 * (added * deviation) @ turned
        strength = 0.5 * np.exp(-(((layer - 0.65 * layers) / (0.2 * layers)) ** 2))
        signal = np.float32(strength) * (2 * labels - 1).astype(np.float32)
        values[layer] = (stream + signal[:, None] * direction) * scales + offsets
    fold = assign_folds([f"game{number}" for number in game], FOLDS, seed)
    return Workload(values, labels, game, fold)


def loop(workload: Workload, threads: int) -> Aurocs:
    """Fit after fit, each by what scikit-learn has for it."""
    found = {}
    with threadpool_limits(limits=threads):
        for layer, values in enumerate(workload.values):
            parts: dict[str, list[tuple[float, int]]] = {method: [] for method in METHODS}
            for number in range(FOLDS):
                held = workload.fold == number
                y, y_held = workload.labels[~held], workload.labels[held]
                X, X_held = _standardise(values[~held], y, values[held])
                pairs = int(y_held.sum()) * int((1 - y_held).sum())
                for method in METHODS:
                    parts[method].append((roc_auc_score(y_held, LOOP_FITS[method](X, y, X_held)), pairs))
            for method, results in parts.items():
                aurocs, weights = zip(*results, strict=True)
                found[method, layer] = float(np.average(aurocs, weights=weights))
    return found


def _standardise(train: np.ndarray, y: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    train = train.astype(np.float64)
    within = train - np.stack([train[y == label].mean(axis=0) for label in (0, 1)])[y]
    mean, scale = train.mean(axis=0), within.std(axis=0)
    return (train - mean) / scale, (held - mean) / scale


def _fit_lr(X: np.ndarray, y: np.ndarray, X_held: np.ndarray) -> np.ndarray:
    return (
        LogisticRegression(C=1 / 100, class_weight="balanced", max_iter=2000)
        .fit(X, y)
        .decision_function(X_held)
    )


def _fit_mms(X: np.ndarray, y: np.ndarray, X_held: np.ndarray) -> np.ndarray:
    return X_held @ (X[y == 1].mean(axis=0) - X[y == 0].mean(axis=0))


def _fit_lat(X: np.ndarray, y: np.ndarray, X_held: np.ndarray) -> np.ndarray:
    first, second, order = draw_pairs(y, 0)
    direction = (
        PCA(n_components=1, random_state=0).fit((X[first] - X[second]) * order[:, None]).components_[0]
    )
    return X_held @ direction * np.sign(direction @ (X[y == 1].mean(axis=0) - X[y == 0].mean(axis=0)))


LOOP_FITS = {"lr": _fit_lr, "mms": _fit_mms, "lat": _fit_lat}


def ours(workload: Workload, workers: int) -> Aurocs:
    """As `sweep_probes` does it, with the intervals."""
    folds = Folds(workload.fold, workload.labels)
    bootstrap = bootstrap_games(workload.games, workload.labels, RESAMPLES, 0)
    ranking = FoldedRanking(workload.fold, workload.labels, bootstrap)

    def sweep_layer(values: np.ndarray) -> dict[str, float]:
        scores = cross_fit({method: {} for method in METHODS}, values, folds, 0)
        estimates = {method: ranking.estimate(ranking.auroc(scores[method])) for method in METHODS}
        return {method: estimate["value"] for method, estimate in estimates.items()}

    with threadpool_limits(limits=1), ThreadPoolExecutor(workers) as pool:
        found = enumerate(pool.map(sweep_layer, workload.values))
        return {(method, layer): value for layer, values in found for method, value in values.items()}


def product_aurocs(workload: Workload) -> Aurocs:
    """By the fits of `train_probe`, fold by fold: what the sweep stands for. Not timed."""
    folds = Folds(workload.fold, workload.labels)
    ranking = FoldedRanking(
        workload.fold, workload.labels, bootstrap_games(workload.games, workload.labels, 1, 0)
    )
    return {
        (method, layer): ranking.auroc(plain_scores(method, values, folds, {}, 0))[0]
        for layer, values in enumerate(workload.values)
        for method in METHODS
    }


def time_table(contenders: dict[str, Contender]) -> Lines:
    lines = [["contender", "seconds", "spread", "to the loop, one thread", "to the loop, all threads"]]
    for name, contender in contenders.items():
        median = contender.median()
        lines.append(
            [
                name,
                f"{median:.2f}",
                f"{(max(contender.seconds) - min(contender.seconds)) / median:.0%}",
                f"{contenders[LOOP].median() / median:.2f}x",
                f"{contenders[LOOP_ALL].median() / median:.2f}x",
            ]
        )
    return lines


def difference_table(contenders: dict[str, Contender], product: Aurocs) -> Lines:
    """The largest difference of a layer's AUROC, by method."""
    lines = [
        [
            "method",
            "AUROC, lowest layer",
            "AUROC, highest layer",
            "ours to the loop",
            "ours to train_probe's fits",
        ]
    ]
    for method in METHODS:
        found = [value for (name, _), value in contenders[OURS].found.items() if name == method]
        lines.append(
            [
                method,
                f"{min(found):.3f}",
                f"{max(found):.3f}",
                f"{_difference(contenders[OURS].found, contenders[LOOP].found, method):.5f}",
                f"{_difference(contenders[OURS].found, product, method):.5f}",
            ]
        )
    return lines


def goal_table(contenders: dict[str, Contender], product: Aurocs) -> Lines:
    one = contenders[LOOP].median() / contenders[OURS].median()
    best = min(contenders[LOOP].median(), contenders[LOOP_ALL].median()) / contenders[OURS_ALL].median()
    far = max(_difference(contenders[OURS].found, product, method) for method in METHODS)
    return [
        ["what is asked", "goal", "measured", "verdict"],
        ["one thread, to the loop on one thread", f">= {GOAL}x", f"{one:.2f}x", _verdict(one >= GOAL)],
        ["all cores, to the faster loop", f">= {GOAL}x", f"{best:.2f}x", _verdict(best >= GOAL)],
        ["AUROC, to train_probe's fits", f"<= {CLOSE}", f"{far:.5f}", _verdict(far <= CLOSE)],
    ]


def _difference(first: Aurocs, second: Aurocs, method: str) -> float:
    return max(abs(value - second[key]) for key, value in first.items() if key[0] == method)


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _page(facts: list[str], tables: list[Lines]) -> str:
    """The tables as a page of the documentation, with what they were measured on."""
    versions = ", ".join(f"{package} {version(package)}" for package in ("scikit-learn", "scipy", "numpy"))
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return "\n\n".join(
        [
            "# The sweep beside scikit-learn",
            f"Written by `make bench` on {today}, on {processor()}, with {versions}.",
            (__doc__ or "").strip(),
            "\n".join(f"- {fact}" for fact in facts),
            *map(as_markdown, tables),
            "",
        ]
    )


if __name__ == "__main__":
    main()
