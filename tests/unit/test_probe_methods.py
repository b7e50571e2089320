import numpy as np
import pytest

from probeline.errors import ProbelineError
from probeline.probes.calibration import choose_threshold, fit_platt
from probeline.probes.detector import fit_detector
from probeline.probes.methods import METHODS, Split, fit_head
from probeline.probes.metrics import auroc


def planted(samples, seed, positive_rate=0.5, width=64, layers=1, strength=2.0):
    """Noise of unit variance, and a known direction along which the classes lie `2 * strength` apart."""
    direction = np.random.default_rng(0).normal(size=(layers, width))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    random = np.random.default_rng(seed)
    labels = (random.random(samples) < positive_rate).astype(np.int8)
    values = random.normal(size=(samples, layers, width))
    values += strength * (2 * labels - 1)[:, None, None] * direction
    # Offsets and scales as different as those of a residual stream.
    values = values * np.geomspace(0.1, 100, width) + np.linspace(-50, 50, width)
    return values.astype(np.float32), labels


def scaled(values, labels):
    X = values[:, 0].astype(np.float64)
    return Split((X - X.mean(axis=0)) / X.std(axis=0), labels)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layers", [1, 3])
def test_finds_a_planted_direction(method, layers):
    train, validation = planted(600, 1, layers=layers), planted(200, 2, layers=layers)
    values, labels = planted(1000, 3, layers=layers)
    detector = fit_detector(method, "tiny", list(range(layers)), train, validation, {}, seed=0)
    assert auroc(labels, detector.scores(values)) >= 0.95


@pytest.mark.parametrize("method", METHODS)
def test_finds_it_with_5_percent_positives(method):
    train, validation = planted(1500, 1, 0.05), planted(500, 2, 0.05)
    values, labels = planted(2000, 3, 0.05)
    detector = fit_detector(method, "tiny", [0], train, validation, {}, seed=0)
    scores = detector.scores(values)
    assert auroc(labels, scores) >= 0.95
    if method == "lr":
        # Balanced weights: 0 lies between the classes; unweighted, the rare class is hardly ever chosen.
        raw = scores * detector.score_scale[0] + detector.score_mean[0]
        assert (raw[labels == 1] > 0).mean() > 0.8


def test_separable_in_one_feature_among_thousands_of_noise():
    random = np.random.default_rng(0)

    def draw(samples):
        labels = np.repeat([0, 1], samples // 2).astype(np.int8)
        values = random.normal(size=(samples, 1, 4096)).astype(np.float32)
        values[:, 0, 0] = (2 * labels - 1) * (np.abs(random.normal(size=samples)) + 3)
        return values, labels

    train, validation, (values, labels) = draw(4000), draw(200), draw(1000)
    for method in ("lr", "mms"):
        detector = fit_detector(method, "tiny", [0], train, validation, {}, seed=0)
        assert auroc(labels, detector.scores(values)) >= 0.99


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_bits(method):
    train, validation = scaled(*planted(300, 1)), scaled(*planted(100, 2))
    first, second = (fit_head(method, train, validation, {}, seed=7) for _ in range(2))
    assert first.scores(validation.X).tobytes() == second.scores(validation.X).tobytes()


def test_lr_has_the_known_objective():
    """The gradient of the weighted log loss plus the l2 penalty vanishes at the solution."""
    train = scaled(*planted(400, 1, positive_rate=0.2, width=5))
    head = fit_head("lr", train, train, {"regularization": 3.0}, seed=0)
    weights = np.where(train.y == 1, 200 / train.y.sum(), 200 / (400 - train.y.sum()))
    residual = weights * (1 / (1 + np.exp(-head.scores(train.X))) - train.y)
    assert np.allclose(residual @ train.X + 3.0 * head.direction, 0, atol=0.05)
    assert abs(residual.sum()) < 0.05


def test_mms_is_the_difference_of_means():
    X = np.array([[0.0, 0.0], [0.0, 2.0], [4.0, 0.0], [4.0, 2.0]])
    split = Split(X, np.array([0, 0, 1, 1], dtype=np.int8))
    head = fit_head("mms", split, split, {}, seed=0)
    assert head.direction.tolist() == [4.0, 0.0]
    assert head.scores(X).tolist() == [-8.0, -8.0, 8.0, 8.0]


def test_cmms_discounts_directions_that_vary_within_the_classes():
    random = np.random.default_rng(0)
    labels = (np.arange(50_000) % 2).astype(np.int8)
    X = random.normal(size=(50_000, 2)) * [1.0, 10.0] + (2 * labels - 1)[:, None]
    split = Split(X, labels)
    head = fit_head("cmms", split, split, {}, seed=0)
    assert head.direction[0] / head.direction[1] == pytest.approx(100, rel=0.2)


def test_lat_takes_its_sign_from_the_training_samples():
    train = scaled(*planted(400, 1))
    flipped = Split(train.X, 1 - train.y)
    head, opposite = (fit_head("lat", split, split, {}, seed=0) for split in (train, flipped))
    assert auroc(train.y, head.scores(train.X)) > 0.9
    assert auroc(flipped.y, opposite.scores(train.X)) > 0.9


def test_mlp_keeps_the_best_epoch_and_solves_what_no_direction_can():
    random = np.random.default_rng(0)

    def draw(samples):
        X = random.normal(size=(samples, 4))
        return Split(X, (X[:, 0] * X[:, 1] > 0).astype(np.int8))

    train, validation, test = draw(1500), draw(500), draw(500)
    head = fit_head("mlp", train, validation, {"hidden": 16}, seed=0)
    assert head.hidden_weight.shape == (4, 16)
    assert auroc(test.y, head.scores(test.X)) > 0.95
    assert auroc(test.y, fit_head("lr", train, validation, {}, seed=0).scores(test.X)) < 0.65
    # Noise can only be memorised: the epoch that validates best is an early one, with small scores.
    noise = Split(random.normal(size=(60, 50)), random.permutation(np.repeat([0, 1], 30)).astype(np.int8))
    other = Split(random.normal(size=(60, 50)), noise.y)
    head = fit_head("mlp", noise, other, {}, seed=0)
    assert np.abs(head.scores(other.X)).mean() < 1


def test_constant_features_do_no_harm():
    values, labels = planted(300, 1)
    values[:, :, 3] = 17.0
    for method in METHODS:
        detector = fit_detector(method, "tiny", [0], (values, labels), (values, labels), {}, seed=0)
        assert detector.scaler_scale[0, 3] == 1
        assert auroc(labels, detector.scores(values)) > 0.95


def test_one_class_is_not_enough_data():
    values, labels = planted(50, 1)
    train, validation = scaled(values, np.ones_like(labels)), scaled(values, labels)
    with pytest.raises(
        ProbelineError, match="Not enough data: the training samples are 50 positives and 0 neg"
    ):
        fit_head("mms", train, validation, {}, seed=0)


def test_refuses_what_is_no_number():
    values, labels = planted(50, 1)
    split = scaled(values, labels)
    split.X[11, 5] = np.inf
    with pytest.raises(ProbelineError, match="row 11"):
        fit_head("mms", split, split, {}, seed=0)


def test_unknown_names_get_near_misses():
    split = scaled(*planted(50, 1))
    with pytest.raises(ProbelineError, match="Did you mean cmms or mms"):
        fit_head("cmmms", split, split, {}, seed=0)
    with pytest.raises(ProbelineError, match="Did you mean regularization"):
        fit_head("lr", split, split, {"regularisation": 1}, seed=0)


def test_threshold_rules_by_hand():
    labels = np.array([0, 0, 1, 0, 1, 1], dtype=np.int8)
    scores = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    # Youden: at 5 and at 3 the rates differ by 2/3; the lower one is taken, halfway to the score below it.
    assert choose_threshold(labels, scores, "youden") == 2.5
    # F1 at 3: 6/7, at 5: 4/5.
    assert choose_threshold(labels, scores, "f1") == 2.5
    assert choose_threshold(labels, scores, "percentile", 50) == 2.0
    with pytest.raises(ProbelineError, match="Did you mean youden"):
        choose_threshold(labels, scores, "yuden")


def test_threshold_with_ties_passes_equal_scores_together():
    labels = np.array([0, 1, 0, 1, 1], dtype=np.int8)
    scores = np.array([1.0, 1.0, 1.0, 2.0, 2.0])
    assert choose_threshold(labels, scores, "youden") == 1.5


def test_platt_finds_the_true_log_odds():
    random = np.random.default_rng(0)
    scores = random.normal(size=20_000)
    labels = (random.random(20_000) < 1 / (1 + np.exp(-(2 * scores - 1)))).astype(np.int8)
    slope, intercept = fit_platt(labels, scores)
    assert slope == pytest.approx(2, abs=0.1)
    assert intercept == pytest.approx(-1, abs=0.1)


def test_platt_stays_finite_on_separable_scores_and_flat_on_backward_ones():
    labels = np.array([0] * 5 + [1] * 5, dtype=np.int8)
    slope, _ = fit_platt(labels, np.linspace(-1, 1, 10))
    assert 0 < slope < 100
    assert fit_platt(labels, np.linspace(1, -1, 10)) == (0.0, pytest.approx(0.0))
