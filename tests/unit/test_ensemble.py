"""Several layers in one probe: the mean of a score for each, or one direction on all side by side."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf

from probeline.errors import ProbelineError
from probeline.probes import ActivationDataset, ProbeTrainingConfig, create_probe_trainer
from probeline.probes.detector import DETECTOR, build_detector, fit_detector, load_detector
from probeline.probes.importing import import_detector
from probeline.probes.methods import METHODS, _through_shrunk_covariance
from probeline.probes.metrics import auroc
from tests.unit.test_probe_methods import planted

CONCAT = {"ensemble": "concat"}
BACKENDS = ("sklearn", "torch")
NOISE = 3.0


def halves(samples, seed, width=16):
    """Two layers with the same noise in one feature each, which hides the label until it is subtracted."""
    random = np.random.default_rng(seed)
    y = (random.random(samples) < 0.5).astype(np.int8)
    values = random.normal(size=(samples, 2, width))
    noise = NOISE * random.normal(size=samples)
    values[:, 0, 0] = noise + 0.7 * (2 * y - 1)
    values[:, 1, 0] = -noise + 0.7 * (2 * y - 1)
    # Layers as different as those of a residual stream.
    return (values * np.array([1, 50])[:, None] + [[3], [-200]]).astype(np.float32), y


def fitted(method, values, labels, settings, layers=None):
    layers = list(range(values.shape[1])) if layers is None else layers
    return fit_detector(method, "tiny", layers, (values, labels), (values, labels), settings, seed=0)


@pytest.mark.parametrize("method", METHODS)
def test_one_layer_is_the_same_either_way(method):
    values, labels = planted(300, 1)
    found = [fitted(method, values, labels, {"ensemble": ensemble}) for ensemble in ("mean", "concat")]
    assert found[0].scores(values).tobytes() == found[1].scores(values).tobytes()


# lat and mms do not see which noise the layers share.
@pytest.mark.parametrize("method", ["lr", "cmms", "mlp"])
def test_a_signal_that_lies_half_in_each_of_two_layers(method):
    values, labels = halves(700, 1)
    tested, expected = halves(1500, 2)
    reached = {
        ensemble: auroc(expected, fitted(method, values, labels, {"ensemble": ensemble}).scores(tested))
        for ensemble in ("mean", "concat")
    }
    # The mean of the layers' scores cancels the noise, too, where both weigh it alike; no more than that.
    assert reached["concat"] >= 0.9
    assert reached["concat"] >= reached["mean"] - 0.01


@pytest.mark.parametrize("method", METHODS)
def test_an_independent_signal_in_each_layer_is_found_side_by_side(method):
    values, labels = planted(400, 1, layers=3, width=24)
    tested, expected = planted(1000, 2, layers=3, width=24)
    assert auroc(expected, fitted(method, values, labels, CONCAT).scores(tested)) >= 0.95


def test_layers_that_share_their_noise_are_worth_more_side_by_side():
    """One layer holds signal and noise, the other the noise alone: nothing alone, it cleans the first."""
    random = np.random.default_rng(0)
    y = np.tile([0, 1], 1000).astype(np.int8)
    values = random.normal(size=(2000, 2, 8))
    noise = random.normal(size=2000)
    values[:, 0, 0], values[:, 1, 0] = noise + y, noise
    train, test = slice(0, 1000), slice(1000, None)
    for method in ("lr", "cmms"):
        mean, concat = (
            auroc(y[test], fitted(method, values[train], y[train], settings).scores(values[test]))
            for settings in ({}, CONCAT)
        )
        assert concat > 0.95
        assert mean < 0.85


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("order", [[3, 5, 9], [9, 3, 5]])
def test_it_is_saved_loaded_and_imported_to_the_bit(method, order, tmp_path):
    values, labels = planted(300, 1, layers=3, width=10)
    detector = replace(fitted(method, values, labels, CONCAT, order), threshold=0.25, slope=2.0)
    detector.save(tmp_path / DETECTOR)
    content = torch.load(tmp_path / DETECTOR, weights_only=True)
    assert content["layers"] == order
    assert content["directions"].shape == ((1, 64) if method == "mlp" else (3, 10))
    assert content["scaler_mean"].shape == (3, 10)
    (tmp_path / "models").mkdir()
    import_detector(tmp_path / DETECTOR, "tiny", tmp_path / "imported", tmp_path / "models")
    for folder in (tmp_path, tmp_path / "imported"):
        loaded = load_detector(folder)
        assert loaded.scores(values).tobytes() == detector.scores(values).tobytes()
        assert (loaded.hidden_size, loaded.layers, loaded.threshold) == (10, tuple(order), 0.25)


def test_the_score_is_that_of_one_direction_over_all_layers():
    values, labels = planted(300, 1, layers=3, width=10)
    detector = fitted("mms", values, labels, CONCAT)
    flat = (values.astype(np.float64) - detector.scaler_mean) / detector.scaler_scale
    direction = np.stack([head.direction for head in detector.heads]) / 3
    joint = flat.reshape(300, 30) @ direction.ravel()
    whole = flat.reshape(300, 30)
    between = whole[labels == 1].mean(axis=0) - whole[labels == 0].mean(axis=0)
    assert np.allclose(direction.ravel(), between)
    assert np.allclose(detector.scores(values), (joint - joint.mean()) / joint.std())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_weight": [[1.0], [1.0, 2.0]]}, "'hidden_weight' is a list, not numbers"),
        ({"hidden_weight": np.ones((1, 29, 64))}, r"'hidden_weight' has the shape \[1, 29, 64\]"),
        ({"bias": np.ones(3)}, r"'bias' has the shape \[3\], not \[1\]"),
        ({"score_scale": np.ones(3)}, r"'score_scale' has the shape \[3\], not \[1\]"),
    ],
)
def test_a_damaged_one_is_refused_in_words(changes, words, tmp_path):
    values, labels = planted(200, 1, layers=3, width=10)
    fitted("mlp", values, labels, CONCAT).save(tmp_path / DETECTOR)
    content = torch.load(tmp_path / DETECTOR, weights_only=True)
    arrays = {key: np.asarray(value) if torch.is_tensor(value) else value for key, value in content.items()}
    with pytest.raises(ProbelineError, match=words):
        build_detector(arrays | changes)


def test_an_unknown_ensemble_is_refused_with_its_near_miss():
    values, labels = planted(200, 1, layers=2)
    with pytest.raises(ProbelineError, match=r"ensemble is 'concate'. Did you mean concat\?"):
        fitted("lr", values, labels, {"ensemble": "concate"})
    with pytest.raises(ProbelineError, match=r"ensemble is 'stack'\. Expected: mean or concat"):
        ProbeTrainingConfig(ensemble="stack")


@pytest.mark.parametrize("samples", [40, 199])
@pytest.mark.parametrize("constant", [False, True])
def test_with_few_samples_the_shrunk_covariance_is_never_formed(samples, constant):
    random = np.random.default_rng(samples)
    X = random.normal(size=(samples, 200)) @ random.normal(size=(200, 200))
    if constant:
        X[:, :20] = 0
    X -= X.mean(axis=0)
    difference = random.normal(size=200)
    covariance, _ = ledoit_wolf(X, assume_centered=True)
    covariance[np.diag_indices(200)] += 1e-6 * np.trace(covariance) / 200
    expected = np.linalg.solve(covariance, difference)
    assert np.allclose(_through_shrunk_covariance(X, difference), expected, rtol=1e-8, atol=1e-10)


def test_many_layers_need_no_memory_for_all_their_pairs_of_features():
    """The covariance of 33 layers of 4,096 features would take 146 GB."""
    values, labels = planted(60, 1, layers=33, width=4096)
    detector = fitted("cmms", values, labels, CONCAT)
    assert auroc(labels, detector.scores(values)) == 1


def make(backend, **settings):
    config = ProbeTrainingConfig(**{"device": "cpu", "early_stopping": False, "min_samples": 20} | settings)
    return create_probe_trainer(1, 10, config, backend, seed=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_the_trainer_fits_one_direction_streamed_or_not(backend, early_stopping, tmp_path):
    X, y = halves(900, 3, width=10)
    np.save(tmp_path / "x.npy", X[:600])
    settings = {"early_stopping": early_stopping, "ensemble_layers": [20, 21], "ensemble": "concat"}
    trainer, streamed = make(backend, **settings), make(backend, **settings)
    value = trainer.fit(X[:600], y[:600])
    # Arrays without early stopping go to scikit-learn's own solver, which ends elsewhere in its tolerance.
    assert streamed.fit([tmp_path / "x.npy"], y[:600]) == pytest.approx(value, abs=0.01)
    found = trainer.predict_proba(X[600:])
    assert np.allclose(streamed.predict_proba(X[600:]), found, atol=2e-2)
    mean = make(backend, **settings | {"ensemble": "mean"})
    mean.fit(X[:600], y[:600])
    assert auroc(y[600:], found) >= auroc(y[600:], mean.predict_proba(X[600:])) - 0.01
    assert auroc(y[600:], found) > 0.9
    assert trainer.trained.directions.shape == (2, 10)
    trainer.save_checkpoint(tmp_path / "probe.safetensors")
    again = make(backend)
    again.load_checkpoint(tmp_path / "probe.safetensors")
    assert again.config.ensemble == "concat"
    assert np.array_equal(again.predict_proba(X[600:]), found)
    with pytest.raises(ProbelineError, match=r"of the layers \[21, 20\]"):
        trainer.predict_proba(ActivationDataset(X[600:], layer=[21, 20]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_trainer_and_the_workflow_fit_the_same_direction(backend):
    X, y = halves(600, 3, width=10)
    trainer = make(backend, ensemble_layers=[20, 21], ensemble="concat")
    trainer.fit(X, y, X, y)
    ours = fitted("lr", X, y, CONCAT | {"backend": backend}, [20, 21])
    theirs = np.log(trainer.predict_proba(X) / (1 - trainer.predict_proba(X)))
    assert np.corrcoef(ours.scores(X), theirs)[0, 1] > 0.9999
