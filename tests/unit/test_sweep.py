import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from probeline import schema
from probeline.digests import split_of
from probeline.errors import ProbelineError
from probeline.probes import cross_fit, sweep
from probeline.probes.cross_fit import Folds, plain_scores
from probeline.probes.folds import FoldedRanking, assign_folds
from probeline.probes.methods import METHODS
from probeline.probes.metrics import bootstrap_games
from probeline.probes.summary import sweep_summary
from probeline.probes.sweep import sweep_probes
from tests.unit.test_train_probe import FRACTIONS, make_corpus
from tests.unit.tiny import contents

SPEC = {"concept": "trust", "model": "tiny", "methods": {"lr": {}, "mms": {}, "lat": {}}, "bootstrap": 200}


@pytest.fixture(autouse=True)
def one_thread():
    with threadpool_limits(limits=1):
        yield


def run(root, spec=SPEC, output="sweep", **corpus):
    activations, dialogues, _ = make_corpus(root, **corpus)
    sweep_probes(activations, dialogues, root / output, spec)
    return json.loads((root / output / "sweep.json").read_bytes())


def residual_stream(samples=1200, games=40, width=96, signal=0.3, positive_rate=0.3, seed=0):
    """Values with a falling spectrum, offsets and scales far apart, and constant features; labels; folds."""
    random = np.random.default_rng(seed)
    game = np.sort(random.integers(games, size=samples))
    labels = (random.random(samples) < positive_rate).astype(np.int8)
    turned = np.linalg.qr(random.normal(size=(width, width)))[0]
    values = (random.normal(size=(samples, width)) * np.arange(1, width + 1) ** -0.6) @ turned
    values += signal * (2 * labels - 1)[:, None] * turned[3]
    values = values * np.geomspace(0.01, 1000, width) + random.normal(size=width) * 300
    fold = assign_folds([f"game{number}" for number in game], 5, 0)
    values[:, 7] = 5.0
    values[:, 8] = np.where(fold == 2, random.normal(size=samples), 5.0)  # constant where fold 2 is held out
    values[:, 9] = np.where(labels == 1, 1.0, -1.0) + 0.001 * random.normal(size=samples)
    values[:, 10] = 0.0
    values[11, 10] = 40.0  # one sample alone
    return values.astype(np.float32), labels, fold


def standardised(fold, scores):
    """Each fold's scores have a zero and a unit of their own."""
    parts = {number: scores[fold == number] for number in np.unique(fold)}
    mean = np.array([parts[number].mean() for number in fold])
    return (scores - mean) / np.array([parts[number].std() for number in fold])


def by_fold(labels, fold, scores):
    return [roc_auc_score(labels[fold == number], scores[fold == number]) for number in np.unique(fold)]


@pytest.mark.parametrize("method", ["lr", "mms", "lat"])
@pytest.mark.parametrize("width", [96, 700])
@pytest.mark.parametrize("telling", [True, False])
def test_scores_are_those_of_a_detector_fitted_fold_by_fold(method, width, telling):
    values, labels, fold = residual_stream(width=width, samples=1200 if width == 96 else 400)
    if not telling:
        values[:, 9] = 0.0
    folds = Folds(fold, labels)
    fast = cross_fit.cross_fit({method: {}}, values, folds, seed=3)[method]
    slow = plain_scores(method, values, folds, {}, seed=3)
    apart = np.abs(standardised(fold, fast) - standardised(fold, slow))  # scikit-learn stops early, too
    assert apart.max() < 0.05
    assert apart.mean() < 0.005
    assert np.allclose(by_fold(labels, fold, fast), by_fold(labels, fold, slow), atol=1e-3)


def test_lr_is_nearer_to_the_optimum_than_scikit_learns_default(monkeypatch):
    values, labels, fold = residual_stream()
    values[:, 9] = 0.0
    folds = Folds(fold, labels)
    found = standardised(fold, cross_fit.cross_fit({"lr": {}}, values, folds, seed=0)["lr"])
    default = standardised(fold, plain_scores("lr", values, folds, {}, seed=0))
    monkeypatch.setattr(cross_fit, "LR_TOLERANCE", 1e-11)
    exact = standardised(fold, cross_fit.cross_fit({"lr": {}}, values, folds, seed=0)["lr"])
    assert np.abs(found - exact).mean() < max(np.abs(default - exact).mean(), 1e-3)


@pytest.mark.parametrize("regularization", [0.5, 5000])
def test_the_methods_settings_count(regularization):
    values, labels, fold = residual_stream()
    values[:, 9] = 0.0
    folds, settings = Folds(fold, labels), {"regularization": regularization}
    fast = cross_fit.cross_fit({"lr": settings}, values, folds, seed=0)["lr"]
    slow = plain_scores("lr", values, folds, settings, seed=0)
    assert np.allclose(by_fold(labels, fold, fast), by_fold(labels, fold, slow), atol=1e-3)
    default = cross_fit.cross_fit({"lr": {}}, values, folds, seed=0)["lr"]
    assert np.abs(standardised(fold, fast) - standardised(fold, default)).max() > 0.1


def test_auroc_counts_pairs_within_folds_also_on_resamples():
    random = np.random.default_rng(0)
    games, fold = np.repeat(np.arange(12), 9), np.repeat(np.arange(12) % 4, 9)
    labels = (random.random(108) < 0.4).astype(np.int8)
    labels[fold == 3] = 0  # holds no pair
    scores = np.round(random.normal(size=108) + labels + 10.0 * fold, 1)  # ties, and folds far apart

    def by_hand(rows):
        wins = pairs = 0.0
        for number in range(3):
            inside = rows[fold[rows] == number]
            weight = labels[inside].sum() * (1 - labels[inside]).sum()
            if weight:
                wins += weight * roc_auc_score(labels[inside], scores[inside])
                pairs += weight
        return wins / pairs

    bootstrap = bootstrap_games(games, labels, 20, seed=1)
    value, resampled = FoldedRanking(fold, labels, bootstrap).auroc(scores)
    assert value == pytest.approx(by_hand(np.arange(108)))
    for counts, found in zip(bootstrap.counts.astype(int), resampled, strict=True):
        assert found == pytest.approx(by_hand(np.repeat(np.arange(108), counts[games])))


def test_a_games_fold_is_its_own():
    keys = [f"content-{number}" for number in range(500) for _ in range(3)]
    fold = assign_folds(keys, 5, 0)
    assert (fold.reshape(500, 3) == fold[::3, None]).all()
    assert np.bincount(fold).min() > 150
    assert (assign_folds(keys[:30], 5, 0) == fold[:30]).all()
    assert (assign_folds(keys, 5, 1) != fold).any()


@pytest.mark.parametrize("by", ["game", "experiment"])
def test_what_is_kept_together_is_never_on_both_sides(tmp_path, by):
    def spread(sample, values):
        number = int(sample["content"].split("-")[1])
        sample["experiment"] = f"experiment-{number % 12}"
        if number % 10 == 9:  # a renamed copy
            sample["content"], sample["split"] = "content-0", "train"
        if number == 0:
            sample["split"] = "train"

    activations, dialogues, _ = make_corpus(tmp_path, edit=spread)
    samples = sweep.read_samples(activations, dialogues, sweep.complete_spec(SPEC | {"by": by}))
    assert {row["split"] for row in samples.rows} == {"train", "validation"}
    key = "content" if by == "game" else "experiment"
    together = {}
    for row, fold in zip(samples.rows, samples.folds.fold, strict=True):
        assert together.setdefault(row[key], fold) == fold
    assert len(set(together.values())) == samples.folds.count > 2


def test_the_test_games_are_not_looked_at(tmp_path):
    def spoil(sample, values):
        if sample["split"] == "test":
            values[:] = np.nan
            sample["label"] = int(sample["event"] % 2)
            sample["text"] = "spoilt " * sample["event"]

    def too_long(sample):
        number = int(sample["content"].split("-")[1])
        return sample["event"] == (number + 1 if sample["split"] == "test" else 3)

    result = run(tmp_path / "a", excluded=[3])
    run(tmp_path / "b", edit=spoil, unread=too_long)
    assert contents(tmp_path / "a" / "sweep") == contents(tmp_path / "b" / "sweep")
    games = sum(split_of(f"content-{number}", FRACTIONS, 0) != "test" for number in range(40))
    assert result["samples"] == {"used": games * 11, "excluded": {"too long": games}}


def test_the_planted_layer_is_chosen(tmp_path):
    def plant(sample, values):
        values[1] += 0.25 * (2 * sample["label"] - 1)

    methods = {method: {} for method in METHODS}
    result = run(tmp_path, SPEC | {"methods": methods}, strength=0, games=60, edit=plant)
    for method in ("lr", "mms", "cmms", "mlp"):
        assert result["choice"][method]["layer"] == 2
        assert result["choice"][method]["probe"] == f"results/probes/trust_{method}_l2"
        assert result["choice"][method]["not_told_apart"] == [2]
        assert result["choice"][method]["difference_to_text"]["low"] > 0
        assert result["choice"][method]["auroc"]["low"] > 0.6
    assert [row["layer"] for row in result["rows"]] == [1, 2, 3] * 5
    rows = pq.read_table(tmp_path / "sweep" / "sweep.parquet").to_pylist()
    assert [(row["method"], row["layer"], row["auroc"], row["low"]) for row in rows] == [
        (row["method"], row["layer"], row["auroc"]["value"], row["auroc"]["low"]) for row in result["rows"]
    ]
    assert rows[0].keys() == {name for name, _, _ in schema.SWEEP}
    best = result["choice"]["lr"]["auroc"]
    summary = sweep_summary(tmp_path / "sweep")
    assert "lr, best at layer 2" in summary
    assert f"{best['value']:.3f}  ({best['low']:.3f} to {best['high']:.3f})" in summary
    assert "The test games were not used" in summary


def test_pure_noise_stays_at_chance_at_every_layer(tmp_path):
    result = run(tmp_path, strength=0, games=80)
    for row in result["rows"]:
        assert row["auroc"]["low"] < 0.5 < row["auroc"]["high"]


def test_base_rates_that_differ_between_games_give_nothing_away(tmp_path):
    """Compared across folds, noise would seem to tell something: what is held out is missing in training."""

    def one_sided(sample, values):
        number = int(sample["content"].split("-")[1])
        sample["label"] = int((sample["event"] + number) % 12 < (1 if number % 2 else 11))

    result = run(tmp_path, strength=0, games=80, edit=one_sided)
    assert np.mean([row["auroc"]["value"] for row in result["rows"]]) == pytest.approx(0.5, abs=0.03)


def test_a_label_told_by_the_text_is_the_texts_merit(tmp_path):
    result = run(tmp_path, strength=0.3, told_by_text=True)
    for baseline in ("text_masked", "text_input"):
        assert result["baselines"][baseline]["auroc"]["value"] > 0.99
    assert result["choice"]["lr"]["difference_to_text"]["high"] < 0


def test_same_bytes_in_other_shards_and_blocks(tmp_path, monkeypatch):
    run(tmp_path / "a", shards=2)
    run(tmp_path / "b", shards=5)
    monkeypatch.setattr(sweep, "BLOCK_BYTES", 1)
    run(tmp_path / "c")
    made = contents(tmp_path / "a" / "sweep")
    assert set(made) == {"sweep.json", "sweep.parquet", "figure.svg", "figure.png", "manifest.json"}
    assert made == contents(tmp_path / "b" / "sweep") == contents(tmp_path / "c" / "sweep")


def test_same_bytes_at_any_thread_count(tmp_path):
    corpus = make_corpus(tmp_path, games=60, per_game=20, width=256)
    code = (
        "import sys, json; from pathlib import Path; from probeline.probes.sweep import sweep_probes;"
        "a, d, o, s, w = json.loads(sys.argv[1]);"
        "sweep_probes([Path(x) for x in a], [Path(x) for x in d], Path(o), s, w)"
    )
    for threads in ("1", "4"):
        output = tmp_path / threads
        shards = [list(map(str, corpus[0])), list(map(str, corpus[1]))]
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = os.environ | dict.fromkeys(names, threads)
        arguments = json.dumps([*shards, str(output), SPEC, int(threads)])
        subprocess.run([sys.executable, "-c", code, arguments], env=environment, check=True)
    assert contents(tmp_path / "1") == contents(tmp_path / "4")


def test_one_layers_figures_do_not_depend_on_what_else_is_swept(tmp_path):
    whole = run(tmp_path)
    part = run(tmp_path, SPEC | {"layers": [3], "methods": {"lr": {}}}, output="part")
    assert part["rows"] == [row for row in whole["rows"] if (row["method"], row["layer"]) == ("lr", 3)]


def test_not_enough_data_is_refused_with_the_folds_and_nothing_is_written(tmp_path):
    def one_class(sample, values):
        sample["label"] = 0

    with pytest.raises(ProbelineError) as caught:
        run(tmp_path / "a", edit=one_class)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(
        "Not enough data to sweep trust: only one class is left to train on when fold 0"
    )
    assert lines[1].split() == ["fold", "games", "positive", "negative"]
    assert sum(int(line.split()[1]) for line in lines[2:7]) < 40
    assert not (tmp_path / "a" / "sweep").exists()
    with pytest.raises(ProbelineError, match=r"0 samples are left to train on when fold \d is held out"):
        run(tmp_path / "b", SPEC | {"by": "experiment"})  # there is one only
    with pytest.raises(ProbelineError, match="at least 5000 are needed"):
        run(tmp_path / "c", SPEC | {"min_samples": 5000})
    with pytest.raises(ProbelineError, match="no fold holds both classes"):
        run(tmp_path / "d", games=0)


def test_bad_numbers_name_sample_and_layer(tmp_path):
    def spoil(sample, values):
        if sample["sample"] == "lab/game7#3":
            sample["split"] = "train"
            values[2, 5] = np.inf
        if sample["game"] == "lab/game7":
            sample["split"] = "train"

    with pytest.raises(ProbelineError, match=r"sample lab/game7#3, layer 3"):
        run(tmp_path, edit=spoil)


def test_unknown_names_get_near_misses(tmp_path):
    with pytest.raises(ProbelineError, match="Did you mean lr"):
        run(tmp_path, SPEC | {"methods": {"lrr": {}}})
    with pytest.raises(ProbelineError, match="Did you mean folds"):
        run(tmp_path, SPEC | {"fold": 3})
    with pytest.raises(ProbelineError, match="no activations of layer 9"):
        run(tmp_path, SPEC | {"layers": [9]})
    with pytest.raises(ProbelineError, match="Did you mean regularization"):
        run(tmp_path, SPEC | {"methods": {"lr": {"regularisation": 3}}})


def test_the_backend_counts_only_where_it_is_used(tmp_path, monkeypatch):
    for name, backend in (("a", "sklearn"), ("b", "torch")):
        run(tmp_path / name, SPEC | {"methods": {"lr": {"backend": backend}}})
    assert contents(tmp_path / "a" / "sweep") == contents(tmp_path / "b" / "sweep")
    l1 = {"methods": {"lr": {"penalty": "l1"}}, "layers": [2]}
    assert run(tmp_path / "small", SPEC | l1)["methods"]["lr"]["backend"] == "sklearn"
    assert sweep.used_settings("lr", l1["methods"]["lr"], 70 * 10**9)["backend"] == "torch"


def test_too_little_memory_comes_with_advice(tmp_path, monkeypatch):
    def exhausted(*arguments):
        raise MemoryError("Unable to allocate 3 TiB")

    monkeypatch.setattr(sweep, "cross_fit", exhausted)
    with pytest.raises(ProbelineError, match=r"memory to sweep trust \(.* 3 TiB\).* max_samples .* --cores"):
        run(tmp_path)
    assert not (tmp_path / "sweep").exists()
