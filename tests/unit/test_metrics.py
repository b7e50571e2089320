import numpy as np
import pytest
from sklearn import metrics as reference

from probeline.probes.metrics import Ranking, auroc, bootstrap_games, metrics_of

LABELS = np.array([1, 0, 1, 1, 0, 0, 0, 1], dtype=np.int8)
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.6, 0.4, 0.3, 0.2])


def point(metric, n):
    return float(metric(np.ones((1, n)))[0])


def draws(samples, seed, step=0.01):
    random = np.random.default_rng(seed)
    labels = (random.random(samples) < 0.3).astype(np.int8)
    scores = np.round((labels + random.normal(size=samples)) / step) * step  # with ties
    return labels, scores


def test_by_hand():
    # Of the 16 pairs, 0.9 wins 4, 0.7 wins 3, 0.6 wins 2 and ties 1, 0.2 wins none: 9.5.
    assert auroc(LABELS, SCORES) == 9.5 / 16
    probabilities = np.array([0.95, 0.85, 0.75, 0.65, 0.65, 0.45, 0.35, 0.25])
    found = {
        name: point(metric, 8) for name, metric in metrics_of(LABELS, SCORES, probabilities, 0.6).items()
    }
    assert found["auprc"] == pytest.approx((1 + 2 / 3 + 3 / 5 + 4 / 8) / 4)
    assert found["recall_at_1_percent_fpr"] == 1 / 4
    assert found["f1"] == 2 * 3 / (2 * 3 + 2 + 1)
    assert found["accuracy"] == 5 / 8
    errors = [0.05, -0.85, 0.25, 0.35, -0.65, -0.45, -0.35, 0.75]
    assert found["brier"] == pytest.approx(np.mean(np.square(errors)))
    # Every sample has a bin of its own but the two at 0.65, whose errors partly cancel.
    assert found["ece"] == pytest.approx((0.05 + 0.85 + 0.25 + 0.3 + 0.45 + 0.35 + 0.75) / 8)


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed):
    labels, scores = draws(500, seed, step=0.25)
    ranking = Ranking(labels, scores)
    assert point(ranking.auroc, 500) == pytest.approx(reference.roc_auc_score(labels, scores))
    assert point(ranking.auprc, 500) == pytest.approx(reference.average_precision_score(labels, scores))
    false, true, _ = reference.roc_curve(labels, scores, drop_intermediate=False)
    assert point(ranking.recall_at_low_fpr, 500) == pytest.approx(true[false <= 0.01].max())


def test_weights_are_repetitions():
    labels, scores = draws(60, 1, step=0.25)
    probabilities = 1 / (1 + np.exp(-scores))
    times = np.random.default_rng(0).integers(0, 4, size=60)
    repeated = [np.repeat(array, times) for array in (labels, scores, probabilities)]
    for (name, metric), other in zip(
        metrics_of(labels, scores, probabilities, 0.5).items(),
        metrics_of(*repeated, 0.5).values(),
        strict=True,
    ):
        assert metric(times[None].astype(float))[0] == pytest.approx(point(other, times.sum())), name


def test_one_class_is_undefined_and_says_so():
    labels = np.ones(4, dtype=np.int8)
    assert np.isnan(auroc(labels, np.arange(4.0)))
    bootstrap = bootstrap_games(np.array(list("aabb")), labels, 100, seed=0)
    assert bootstrap.skipped == 100
    assert bootstrap.estimate(Ranking(labels, np.arange(4.0)).auroc) == {
        "value": None,
        "low": None,
        "high": None,
        "reason": "only one class is present",
    }


def test_one_game_has_no_interval():
    labels = np.array([0, 1], dtype=np.int8)
    estimate = bootstrap_games(np.array(["a", "a"]), labels, 100, seed=0).estimate(
        Ranking(labels, SCORES[:2]).auroc
    )
    assert estimate == {"value": 0.0, "low": None, "high": None, "reason": "an interval needs two games"}


def test_resamples_of_two_games_by_hand():
    # Game a alone has an AUROC of 1, game b alone of 0, both together 0.5: drawn 1 : 1 : 2 times.
    labels = np.array([1, 0, 1, 0], dtype=np.int8)
    bootstrap = bootstrap_games(np.array(list("aabb")), labels, 4000, seed=0)
    values = bootstrap.values(Ranking(labels, np.array([4.0, 3.0, 1.0, 2.0])).auroc)
    found, times = np.unique(values, return_counts=True)
    assert found.tolist() == [0.0, 0.5, 1.0]
    assert times / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_resamples_with_one_class_are_skipped_and_counted():
    # A resample misses the only game with positives with probability 1/4.
    labels = np.array([1, 0, 0, 0], dtype=np.int8)
    bootstrap = bootstrap_games(np.array(list("aabb")), labels, 4000, seed=0)
    assert bootstrap.skipped / 4000 == pytest.approx(0.25, abs=0.03)
    assert len(bootstrap.counts) + bootstrap.skipped == 4000


def test_games_not_samples_are_drawn():
    # 20 games of 50 equal samples: as uncertain as 20 samples, not as 1,000.
    random = np.random.default_rng(0)
    labels, scores = np.tile([0, 1], 10).astype(np.int8), random.normal(size=20)
    few = bootstrap_games(np.arange(20), labels, 1000, seed=0).estimate(Ranking(labels, scores).auroc)
    labels, scores = np.repeat(labels, 50), np.repeat(scores, 50)
    many = bootstrap_games(np.repeat(np.arange(20), 50), labels, 1000, seed=0)
    assert many.estimate(Ranking(labels, scores).auroc) == pytest.approx(few)


def test_interval_covers_the_truth_as_often_as_it_says():
    covered = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        games = np.repeat(np.arange(40), 10)
        labels = (random.random(400) < 0.5).astype(np.int8)
        estimate = bootstrap_games(games, labels, 300, seed).estimate(
            Ranking(labels, random.normal(size=400)).auroc
        )
        covered += estimate["low"] <= 0.5 <= estimate["high"]
    assert covered >= 52


def test_blocks_do_not_change_the_values(monkeypatch):
    labels, scores = draws(3000, 0)
    bootstrap = bootstrap_games(
        np.arange(3000) // 10, labels, 1500, seed=0
    )  # 4.5 million weights: several blocks
    ranking = Ranking(labels, scores)
    whole = ranking.auroc(bootstrap.counts[:, bootstrap.game])
    assert np.array_equal(bootstrap.values(ranking.auroc), whole)
