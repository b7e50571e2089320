import copy
import inspect
import json
import pickle
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Timer

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from threadpoolctl import threadpool_info, threadpool_limits

from probeline.errors import ProbelineError
from probeline.lineage.code import code_closure
from probeline.probes import (
    ActivationDataset,
    LinearProbe,
    ProbeTrainer,
    ProbeTrainingConfig,
    TorchProbeTrainer,
    create_probe_trainer,
    get_backend_type,
    recommend_backend,
)
from probeline.probes.cross_fit import Folds, cross_fit
from probeline.probes.methods import Split, fit_head, standardisation
from probeline.probes.metrics import auroc
from probeline.probes.solver import one_thread, standardise
from probeline.probes.torch_trainer import _one_thread
from probeline.probes.train import train_probe
from tests.unit.test_train_probe import SPEC, make_corpus, read

SCRIPTS = Path(__file__).parents[2] / "scripts"
BACKENDS = ("sklearn", "torch")
both = pytest.mark.parametrize("backend", BACKENDS)
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def make(backend, width, *, cpu=True, **settings):
    if cpu:
        settings = {"device": "cpu"} | settings
    return create_probe_trainer(1, width, ProbeTrainingConfig(**settings), backend, seed=0)


def planted(samples, seed, width=24, shift=1.5, dtype=np.float32):
    """Two classes along one direction, offsets and scales as different as those of a residual stream."""
    direction = np.random.default_rng(99).normal(size=width)
    direction /= np.linalg.norm(direction)
    random = np.random.default_rng(seed)
    y = (random.random(samples) < 0.4).astype(np.int8)
    X = random.normal(size=(samples, width)) + shift * np.outer(2 * y - 1, direction)
    return (X * np.geomspace(0.1, 30, width) + np.linspace(-50, 50, width)).astype(dtype), y


# T01, T02


@pytest.mark.parametrize(
    ("size", "backend"), [(0.135, "sklearn"), (33.9, "sklearn"), (34, "torch"), (70, "torch")]
)
def test_the_models_size_decides_about_the_backend(size, backend):
    assert recommend_backend(size) == backend
    assert get_backend_type(create_probe_trainer(size, 8)) == backend


def test_a_backend_or_another_threshold_can_be_asked_for():
    assert create_probe_trainer(70, 8, force_backend="sklearn").get_backend_type() == "sklearn"
    assert create_probe_trainer(1, 8, force_backend="torch").get_backend_type() == "torch"
    assert recommend_backend(7, threshold_b=7) == "torch"
    assert get_backend_type(create_probe_trainer(40, 8, threshold_b=50)) == "sklearn"
    with pytest.raises(ProbelineError, match=r"Unknown backend 'pytorch'. Did you mean torch"):
        create_probe_trainer(1, 8, force_backend="pytorch")
    for size in (-1, float("nan")):
        with pytest.raises(ProbelineError, match="billions of parameters"):
            recommend_backend(size)
    with pytest.raises(ProbelineError, match="input_dim is 0"):
        create_probe_trainer(1, 0)


# T03


def test_defaults_are_those_that_users_know():
    assert ProbeTrainingConfig().to_dict() == {
        "regularization": 100,
        "penalty": "l2",
        "max_iterations": 2000,
        "early_stopping": True,
        "early_stopping_patience": 5,
        "validation_split": 0.2,
        "learning_rate": 0.001,
        "batch_size": 8192,
        "use_mixed_precision": True,
        "gradient_accumulation_steps": 1,
        "threshold_percentile": 90,
        "min_samples": 100,
        "ensemble_layers": None,
        "ensemble": "mean",
        "device": "auto",
    }


def test_settings_round_trip_and_translate():
    config = ProbeTrainingConfig(regularization=50, penalty="l1", ensemble_layers=[1, 2])
    assert ProbeTrainingConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.to_sklearn_params() == {
        "C": 0.02,
        "penalty": "l1",
        "max_iter": 2000,
        "random_state": 42,
        "solver": "liblinear",
    }
    assert ProbeTrainingConfig().to_sklearn_params()["solver"] == "lbfgs"
    with pytest.raises(
        ProbelineError, match=r"Unknown training setting 'regularisation'. Did you mean regularization"
    ):
        ProbeTrainingConfig.from_dict({"regularisation": 3})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("regularization", 0),
        ("regularization", "100"),
        ("regularization", float("inf")),
        ("penalty", "elasticnet"),
        ("max_iterations", 0),
        ("early_stopping", "yes"),
        ("early_stopping_patience", 1.5),
        ("validation_split", 1),
        ("learning_rate", -1),
        ("batch_size", True),
        ("gradient_accumulation_steps", 0),
        ("threshold_percentile", 100),
        ("min_samples", 1),
        ("ensemble_layers", [1, 1]),
        ("ensemble_layers", []),
        ("ensemble_layers", [[1], [2]]),
        ("device", "gpu"),
    ],
)
def test_every_value_is_checked_in_words(name, value):
    with pytest.raises(ProbelineError, match=rf"{name} is .*Expected: "):
        ProbeTrainingConfig(**{name: value})


# T04, T05, T06


@both
def test_fit_gives_the_auroc_of_the_validation_samples(backend):
    train, (X, y) = planted(800, 1), planted(400, 2)
    trainer = make(backend, 24)
    value = trainer.fit(*train, X, y)
    probabilities = trainer.predict_proba(X)
    assert probabilities.shape == (400,)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert value == auroc(y, probabilities) > 0.95
    assert trainer.predict(X).tolist() == (probabilities >= trainer.threshold).tolist()
    assert trainer.predict(X, threshold=1.1).sum() == 0
    assert trainer.predict(X, threshold=0).sum() == 400
    # Balanced classes: one half lies between them, although 60 % are negative.
    assert abs((probabilities[y == 1] > 0.5).mean() - (probabilities[y == 0] < 0.5).mean()) < 0.05


@both
def test_without_validation_samples_a_share_is_held_out_with_the_seed(backend):
    X, y = planted(600, 1, shift=0.6)
    values = [make(backend, 24).fit(X, y) for _ in range(2)]
    assert values[0] == values[1] > 0.8
    other = create_probe_trainer(1, 24, ProbeTrainingConfig(device="cpu"), backend, seed=1)
    assert other.fit(X, y) != values[0]


@both
def test_groups_are_not_parted(backend):
    """Every sample twice, labels by chance: who has seen the copy knows the label."""
    random = np.random.default_rng(0)
    X = np.repeat(random.normal(size=(150, 300)), 2, axis=0)
    y = np.repeat(random.integers(0, 2, 150), 2)
    settings = {"regularization": 0.1, "early_stopping": False}
    assert make(backend, 300, **settings).fit(X, y) > 0.9
    assert make(backend, 300, **settings).fit(X, y, groups=np.repeat(np.arange(150), 2)) < 0.75


def test_backends_have_one_interface():
    trainers = [make(backend, 4) for backend in BACKENDS]
    names = [
        *("fit", "fit_from_arrays", "predict", "predict_proba", "calibrate_threshold", "get_backend_type"),
        *("save_checkpoint", "load_checkpoint"),
    ]
    for name in names:
        first, second = (getattr(trainer, name) for trainer in trainers)
        assert inspect.signature(first) == inspect.signature(second)
        assert not inspect.iscoroutinefunction(first)
    for trainer in trainers:
        assert isinstance(trainer, ProbeTrainer)
        with pytest.raises(ProbelineError, match="not trained yet"):
            trainer.predict_proba(np.zeros((1, 4)))


@both
def test_arrays_of_one_layer_keep_its_number(backend, tmp_path):
    train, validation = planted(300, 1), planted(200, 2)
    trainer = make(backend, 24)
    assert trainer.fit_from_arrays(*train, *validation, layer=22) > 0.9
    trainer.save_checkpoint(tmp_path / "probe.safetensors")
    other = make(backend, 24)
    other.load_checkpoint(tmp_path / "probe.safetensors")
    assert other.trained.layers == [22]


# T07, T08, T17


def test_the_best_epochs_weights_are_restored():
    """Hardly penalised and with more features than samples, later epochs only memorise."""
    (X, y), (X_val, y_val) = (correlated(samples, samples, 0.5, 200) for samples in (120, 300))
    settings = {"regularization": 1e-4, "early_stopping_patience": 3}
    trainer = make("torch", 200, **settings)
    value = trainer.fit(X, y, X_val, y_val)
    values = [entry["validation_auroc"] for entry in trainer.training_history]
    losses = [entry["validation_loss"] for entry in trainer.training_history]
    best = min(
        (number for number in range(len(values)) if values[number] >= max(values) - 0.01),
        key=losses.__getitem__,
    )
    assert value == auroc(y_val, trainer.predict_proba(X_val)) == values[best]
    assert max(values[-3:]) <= max(values[:-3])
    assert min(losses[-3:]) >= min(losses[:-3])
    full = make("torch", 200, **settings, early_stopping=False)
    last = full.fit(X, y, X_val, y_val)
    assert len(full.training_history) > len(values)
    assert last == full.training_history[-1]["validation_auroc"] == auroc(y_val, full.predict_proba(X_val))
    assert last < value


@both
def test_history_names_what_happened_in_every_epoch(backend):
    trainer = make(backend, 24, early_stopping=False)
    trainer.fit(*planted(400, 1), *planted(200, 2))
    keys = {"epoch", "passes", "train_loss", "validation_loss", "validation_auroc", "gradient_norm"}
    assert all(entry.keys() == keys for entry in trainer.training_history)
    last = trainer.training_history[-1]
    assert last["gradient_norm"] < 1e-3
    if backend == "torch":
        losses = [entry["train_loss"] for entry in trainer.training_history]
        assert losses[-1] < 0.5 * losses[0]
        assert [entry["epoch"] for entry in trainer.training_history] == list(range(1, len(losses) + 1))
        assert last["passes"] >= len(losses)


def correlated(samples, seed, positive_rate, width=576, signal=0.1):
    """A weak signal in one direction of features with a falling spectrum."""
    turned = np.linalg.qr(np.random.default_rng(99).normal(size=(width, width)))[0]
    random = np.random.default_rng(seed)
    y = (random.random(samples) < positive_rate).astype(np.int8)
    X = (random.normal(size=(samples, width)) * np.arange(1, width + 1) ** -0.6) @ turned
    X += signal * (2 * y - 1)[:, None] * turned[30]
    return (X * np.geomspace(0.1, 30, width) + np.linspace(-50, 50, width)).astype(np.float32), y


@pytest.mark.parametrize("penalty", ["l2", "l1"])
@pytest.mark.parametrize("positive_rate", [0.5, 0.15])
def test_backends_agree_at_the_defaults_in_memory_and_from_disk(penalty, positive_rate, tmp_path):
    """Both stop at the same epoch, before the optimum, and are better on new samples than there."""
    X, y = correlated(2000, 1, positive_rate)
    test, labels = correlated(2000, 2, positive_rate)
    np.save(tmp_path / "x.npy", X)
    settings = {"penalty": penalty, "regularization": 100 if penalty == "l2" else 10}
    found = []
    for backend in BACKENDS:
        for source in (X, [tmp_path / "x.npy"]):
            trainer = make(backend, 576, **settings)
            trainer.fit(source, y)
            found.append(trainer.predict_proba(test))
    values = [auroc(labels, probabilities) for probabilities in found]
    assert max(values) - min(values) < 0.01
    assert np.ptp(found, axis=0).max() < 0.05
    optimum = make("sklearn", 576, **settings, early_stopping=False)
    optimum.fit(X, y)
    assert min(values) > auroc(labels, optimum.predict_proba(test)) - 0.01
    # Not at one of the first epochs, where all probabilities lie near one half.
    assert found[0].min() < 0.1 < 0.9 < found[0].max()


def test_few_iterations_are_few():
    trainer = make("torch", 24, max_iterations=3)
    trainer.fit(*planted(400, 1))
    assert len(trainer.training_history) == 3


# T10, T14, T15, T16


@pytest.mark.parametrize("backend", ["torch", "sklearn"])
@pytest.mark.parametrize("pieces", [{"batch_size": 7}, {"batch_size": 64, "gradient_accumulation_steps": 4}])
def test_batches_and_their_pieces_change_nothing(backend, pieces, tmp_path):
    X, y = planted(500, 1)
    np.save(tmp_path / "x.npy", X)
    whole, parts = make(backend, 24), make(backend, 24, **pieces)
    for trainer in (whole, parts):
        trainer.fit([tmp_path / "x.npy"], y)
    assert np.allclose(whole.predict_proba(X), parts.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("penalty", ["l2", "l1"])
@pytest.mark.parametrize("regularization", [1, 30])
def test_backends_minimise_the_same_objective(penalty, regularization):
    X, y = planted(600, 1, shift=0.5)
    settings = {"penalty": penalty, "regularization": regularization, "early_stopping": False}
    trainers = [make(backend, 24, **settings) for backend in BACKENDS]
    for trainer in trainers:
        trainer.fit(X, y, *planted(300, 2))
    first, second = (trainer.trained for trainer in trainers)
    assert np.allclose(first.directions, second.directions, atol=2e-3)
    assert np.allclose(first.bias, second.bias, atol=2e-3)
    test, labels = planted(2000, 3, shift=0.5)
    values = [auroc(labels, trainer.predict_proba(test)) for trainer in trainers]
    assert abs(values[0] - values[1]) < 0.01


@both
def test_more_regularization_makes_smaller_weights(backend):
    X, y = planted(400, 1)
    norms = []
    for regularization in (1, 100, 10_000):
        trainer = make(backend, 24, regularization=regularization, early_stopping=False)
        trainer.fit(X, y)
        norms.append(np.linalg.norm(trainer.trained.directions))
    assert norms[0] > norms[1] > norms[2]


@both
@pytest.mark.parametrize("stored", [False, True])
def test_l1_sets_weights_to_zero(backend, stored, tmp_path):
    random = np.random.default_rng(0)
    y = (np.arange(600) % 2).astype(np.int8)
    X = random.normal(size=(600, 40)).astype(np.float32)
    X[:, :2] += (2 * y - 1)[:, None]
    np.save(tmp_path / "x.npy", X)
    trainer = make(backend, 40, penalty="l1", regularization=50, early_stopping=False)
    value = trainer.fit([tmp_path / "x.npy"] if stored else X, y)
    weights = trainer.trained.directions[0]
    assert value > 0.9
    assert (weights[:2] > 0.1).all()
    assert (weights[2:] == 0).sum() > 30


@both
def test_separable_in_one_feature_among_thousands_of_noise(backend):
    """The reference's torch trainer, with Adam and the inverse penalty, reached 0.65 to 0.72 here."""
    random = np.random.default_rng(0)

    def draw(samples):
        y = np.repeat([0, 1], samples // 2).astype(np.int8)
        X = random.standard_normal((samples, 4097), dtype=np.float32)
        X[:, 0] = (2 * y - 1) * (np.abs(X[:, 0]) + 3)
        return X, y

    trainer = make(backend, 4097)
    trainer.fit(*draw(4000))
    X, y = draw(1000)
    assert auroc(y, trainer.predict_proba(X)) >= 0.99


# T11


def store(folder, X, kind):
    """The rows in two parts on disk, as `fit` takes them."""
    cut = len(X) // 3
    paths = []
    for number, part in enumerate((X[:cut], X[cut:])):
        if kind == "npy":
            paths.append(folder / f"{number}.npy")
            np.save(paths[-1], part)
        else:
            paths.append(folder / f"{number}.safetensors")
            save_file({"activations": part}, paths[-1])
    return paths


@both
@pytest.mark.parametrize("kind", ["npy", "safetensors"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_streamed_equals_what_is_in_memory(backend, kind, dtype, tmp_path):
    X, y = planted(900, 1, shift=0.6, dtype=dtype)
    paths = store(tmp_path, X, kind)
    memory, disk = (make(backend, 24, batch_size=100, early_stopping=False) for _ in range(2))
    assert memory.fit(X, y) == pytest.approx(disk.fit(paths, y), abs=1e-3)
    assert np.allclose(memory.predict_proba(X), disk.predict_proba(paths), atol=2e-3)
    assert np.allclose(disk.predict_proba(X), disk.predict_proba(list(map(str, paths))), atol=1e-6)


@both
def test_shards_of_activations_are_streamed(backend, tmp_path):
    shards, _, _ = make_corpus(tmp_path, games=30, shards=3)
    from probeline.activations.store import read_activations

    stored = read_activations(shards, [2])
    y = (np.arange(len(stored.samples)) % 2).astype(np.int8)
    X = stored.values[:, 0]
    memory, disk = (make(backend, 16, early_stopping=False) for _ in range(2))
    memory.fit(X, y)
    disk.fit(ActivationDataset(shards, layer=2), y)
    assert np.allclose(memory.predict_proba(X), disk.predict_proba(shards), atol=1e-3)
    with pytest.raises(ProbelineError, match=r"holds the layers 1, 2, 3. Name those"):
        make(backend, 16).fit(shards, y)
    with pytest.raises(ProbelineError, match=r"holds no activations of layer 7, only of 1, 2, 3"):
        ActivationDataset(shards, layer=7)


def test_a_dataset_gives_rows_lazily_and_suits_torch(tmp_path):
    X, y = planted(50, 1, dtype=np.float16)
    dataset = ActivationDataset(store(tmp_path, X, "npy"), y)
    assert len(dataset) == 50
    assert (dataset.layers, dataset.width) == (1, 24)
    for index in (0, 16, 17, 49, -1):
        features, label = dataset[index]
        assert features.tolist() == X[index].tolist()
        assert label == y[index]
    with pytest.raises(IndexError):
        dataset[50]
    batches = list(torch.utils.data.DataLoader(dataset, batch_size=20))
    assert torch.cat([rows for rows, _ in batches]).numpy().tolist() == X.tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_standardisation_in_one_pass_is_the_definition(dtype, tmp_path):
    random = np.random.default_rng(0)
    y = (random.random(5000) < 0.3).astype(np.int8)
    X = random.normal(size=(5000, 6))
    X[:, 0] += 5 * y  # told by the class
    X[:, 1] = 17.3  # constant
    X[:, 2] = X[:, 2] * 0.1 + 300  # a large offset
    X[:, 3] = 1e-3 * X[:, 3] + y  # hardly any deviation within the classes
    X[:50, 4] = 2000  # outliers, first of all
    X = X.astype(dtype)
    np.save(tmp_path / "x.npy", X)
    held_out = random.random(5000) < 0.2
    mean, scale = standardise(ActivationDataset(tmp_path / "x.npy"), y, ~held_out)
    expected = standardisation(X[~held_out].astype(np.float64), y[~held_out])
    assert np.allclose(mean, expected[0], rtol=1e-5, atol=1e-5)
    assert np.allclose(scale, expected[1], rtol=2e-4)
    assert scale[1] == 1


def test_memory_is_bounded_for_fit_and_predict(tmp_path):
    """A file of 246 MB; what the process needs beyond its libraries is a few blocks of 32 MB."""
    rows, width = 30_000, 4096
    y = (np.arange(rows) % 2).astype(np.int8)
    noise = np.random.default_rng(0).standard_normal((1000, width), dtype=np.float32).astype(np.float16)
    shape = (rows, width)
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        for start in range(0, rows, 1000):
            noise[:, 0] = 2 * y[start : start + 1000]
            file.write(noise.tobytes())
    np.save(tmp_path / "y.npy", y)
    code = (
        "import resource, sys, numpy as np\n"
        "from probeline.probes import ProbeTrainingConfig, create_probe_trainer\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "make = lambda width: create_probe_trainer(\n"
        "    1, width, ProbeTrainingConfig(max_iterations=2, device='cpu'), sys.argv[1])\n"
        "y = np.load('y.npy')\n"
        "small = make(8); small.fit(np.random.default_rng(0).normal(size=(len(y), 8)), y)\n"
        "before = peak(); trainer = make(4096)\n"
        "value = trainer.fit(['x.npy'], y); found = trainer.predict_proba('x.npy')\n"
        "print(value, len(found), peak() - before)\n"
    )
    for backend in BACKENDS:
        shown = subprocess.run(
            [sys.executable, "-c", code, backend], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        value, count, growth = map(float, shown.stdout.split())
        assert value > 0.99
        assert count == rows
        assert growth < 130


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_bytes(b"\x93NUMPY nonsense"), "is no .npy file"),
        (lambda path: np.save(path, np.arange(5.0)), r"array of shape \[5\]"),
        (lambda path: np.save(path, np.zeros((5, 4), complex)), "holds complex128"),
        (lambda path: np.save(path, np.asfortranarray(np.zeros((5, 4)))), "column by column"),
        (lambda path: np.save(path, np.array([[None]]), allow_pickle=True), "holds object"),
        (lambda path: np.save(path, np.zeros((5, 7))), "have 7 features, but the trainer is for 4"),
    ],
)
def test_files_of_another_kind_are_refused_in_words(tmp_path, write, words):
    write(tmp_path / "x.npy")
    with pytest.raises(ProbelineError, match=words):
        make("sklearn", 4).fit([tmp_path / "x.npy"], np.arange(5) % 2)


def test_damaged_and_ambiguous_safetensors_are_refused_in_words(tmp_path):
    path = tmp_path / "x.safetensors"
    X = np.zeros((50, 4), np.float32)
    save_file({"a": X, "b": X}, path)
    with pytest.raises(ProbelineError, match=r"several tensors. Name one.*Allowed: a, b"):
        ActivationDataset(path)
    assert len(ActivationDataset(path, tensor="b")) == 50
    with pytest.raises(ProbelineError, match="holds no tensor 'c'"):
        ActivationDataset(path, tensor="c")
    path.write_bytes(path.read_bytes()[:-100])
    assert len(ActivationDataset(path, tensor="a")) == 50
    with pytest.raises(ProbelineError, match="was cut off"):
        ActivationDataset(path, tensor="b")
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(ProbelineError, match=r"no .safetensors file"):
        ActivationDataset(path)


# T12


@both
def test_another_process_predicts_the_same(backend, tmp_path):
    X, y = planted(400, 1)
    trainer = make(backend, 24, penalty="l1", regularization=3)
    trainer.fit(X, y)
    trainer.calibrate_threshold(*planted(300, 2), rule="f1")
    trainer.save_checkpoint(tmp_path / "probe.safetensors")
    np.save(tmp_path / "x.npy", X)
    code = (
        "import json, sys, numpy as np\n"
        "from probeline.probes import create_probe_trainer\n"
        "trainer = create_probe_trainer(1, 24, force_backend=sys.argv[1])\n"
        "trainer.load_checkpoint('probe.safetensors')\n"
        "found = trainer.predict_proba(np.load('x.npy')).tolist()\n"
        "print(json.dumps([found, trainer.threshold, trainer.config.penalty, trainer.training_history]))\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, backend], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    probabilities, threshold, penalty, history = json.loads(shown.stdout)
    assert np.allclose(probabilities, trainer.predict_proba(X), rtol=1e-5)
    assert (threshold, penalty, history) == (trainer.threshold, "l1", trainer.training_history)


def test_checkpoints_repeat_byte_for_byte_and_serve_both_backends(tmp_path):
    X, y = planted(400, 1)
    for name in ("a", "b"):
        trainer = make("sklearn", 24)
        trainer.fit(X, y)
        trainer.save_checkpoint(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    other = make("torch", 24)
    other.load_checkpoint(tmp_path / "a")
    assert np.allclose(other.predict_proba(X), trainer.predict_proba(X), rtol=1e-5)
    with pytest.raises(ProbelineError, match=r"is of a probe for 24 features, but this trainer has 23"):
        make("torch", 23).load_checkpoint(tmp_path / "a")


class Malicious:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return Path.touch, (self.victim,)


def test_what_is_no_checkpoint_is_refused_and_never_run(tmp_path):
    trainer = make("sklearn", 4)
    with pytest.raises(ProbelineError, match="does not exist"):
        trainer.load_checkpoint(tmp_path / "absent")
    (tmp_path / "code").write_bytes(pickle.dumps(Malicious(tmp_path / "victim")))
    save_file({"directions": np.zeros((1, 4))}, tmp_path / "foreign")
    for name in ("code", "foreign"):
        with pytest.raises(ProbelineError, match="is no checkpoint of a probe trainer"):
            trainer.load_checkpoint(tmp_path / name)
    assert not (tmp_path / "victim").exists()


# T13, T23, P20


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_a_warning_and_the_processor():
    with pytest.warns(UserWarning, match="no CUDA device"):
        trainer = make("torch", 24, device="cuda")
    assert trainer.fit(*planted(300, 1)) > 0.9


def test_without_torch_the_error_says_what_to_do():
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError('No module named torch')\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import numpy as np; from probeline.probes import create_probe_trainer\n"
        "X = np.random.default_rng(0).normal(size=(200, 3)); y = X[:, 0] > 0\n"
        "print(create_probe_trainer(7, 3).fit(X, y) > 0.9)\n"
        "create_probe_trainer(70, 3)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.stdout == "True\n"
    assert "pip install torch" in shown.stderr
    assert "force_backend='sklearn'" in shown.stderr


class SmallMemory(TorchProbeTrainer):
    """A device whose memory holds so many rows."""

    holds = 60

    def _multiply(self, block, line, targets):
        if len(block) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._multiply(block, line, targets)


def test_out_of_memory_halves_the_batch_and_says_so(caplog):
    X, y = planted(500, 1)
    config = ProbeTrainingConfig(device="cpu")
    whole, small = TorchProbeTrainer(24, config, 0), SmallMemory(24, config, 0)
    assert whole.fit(X, y) == pytest.approx(small.fit(X, y), abs=1e-3)
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "did not hold a batch of 8192 rows: it went on with 31" in said
    assert np.allclose(whole.predict_proba(X), small.predict_proba(X), atol=1e-4)
    small.holds = 0
    with pytest.raises(ProbelineError, match="does not hold a single row"):
        small.predict_proba(X)


# T18


@both
def test_data_that_cannot_be_trained_on_is_refused_in_words(backend, tmp_path):
    X, y = planted(200, 1)

    def refused(words, *arguments, **settings):
        with pytest.raises(ProbelineError, match=words):
            make(backend, 24, **settings).fit(*arguments)

    refused("Not enough data: 99 samples, at least 100", X[:99], y[:99])
    refused("training samples are 200 positives and 0 negatives", X, np.ones(200))
    refused("validation samples are 0 positives and 9 negatives", X, y, X[:9], np.zeros(9))
    refused("200 training samples, but 199 labels", X, y[1:])
    refused("Expected labels of 0 and 1", X, y + 1)
    refused(r"X is float32 of shape \[200\]", X[:, 0], y)
    refused("hold 2 layers, but one is trained on", np.stack([X, X], axis=1), y)
    for value in (np.nan, np.inf, -np.inf):
        for dtype in (np.float16, np.float32, np.float64):
            broken = X.astype(dtype)
            broken[123, 5] = value
            refused("row 123 are NaN or infinite", broken, y)
    np.save(tmp_path / "x.npy", broken.astype(np.float16))
    refused("row 123 are NaN or infinite", [tmp_path / "x.npy"], y)
    trainer = make(backend, 24)
    trainer.fit(X, y)
    with pytest.raises(ProbelineError, match="row 123 are NaN or infinite"):
        trainer.predict_proba([tmp_path / "x.npy"])
    with pytest.raises(ProbelineError, match="have 23 features, but the trainer is for 24"):
        trainer.predict_proba(X[:, 1:])


@both
@pytest.mark.parametrize("early_stopping", [True, False])
def test_bad_numbers_are_named_wherever_they_are(backend, early_stopping):
    (X, y), (X_val, y_val) = planted(200, 1), planted(100, 2)
    X_val[17, 3] = np.nan
    with pytest.raises(ProbelineError, match="features of validation row 17 are NaN or infinite"):
        make(backend, 24, early_stopping=early_stopping).fit(X, y, X_val, y_val)
    config = ProbeTrainingConfig(device="cpu", early_stopping=early_stopping)
    X[123, 5] = np.inf
    with pytest.raises(ProbelineError, match="features of row 123 are NaN or infinite"):
        create_probe_trainer(1, 24, config, backend, standardised=True).fit(X, y)


@both
def test_no_samples_have_no_probabilities(backend, tmp_path):
    X, y = planted(200, 1)
    trainer = make(backend, 24)
    trainer.fit(X, y)
    np.save(tmp_path / "x.npy", X[:0])
    for nothing in (X[:0], [tmp_path / "x.npy"]):
        assert trainer.predict_proba(nothing).shape == trainer.predict(nothing).shape == (0,)
    with pytest.raises(ProbelineError, match=r"shape \[0\]"):
        trainer.predict_proba([])


def test_arguments_of_another_kind_are_refused_in_words():
    X, y = planted(200, 1)
    for size in ("7b", None, True):
        with pytest.raises(ProbelineError, match=r"model_size_b is .*billions of parameters"):
            recommend_backend(size)
    with pytest.raises(ProbelineError, match=r"threshold_b is '34'"):
        recommend_backend(7, threshold_b="34")
    assert recommend_backend(np.float32(7)) == "sklearn"
    for config in ({}, {"penalty": "l1"}):
        with pytest.raises(ProbelineError, match=r"config is of type dict. .*from_dict"):
            create_probe_trainer(1, 24, config)
    with pytest.raises(ProbelineError, match="y_val, but no X_val"):
        make("sklearn", 24).fit(X, y, y_val=y)


def test_groups_that_cannot_be_split_are_refused_in_words():
    X, y = planted(200, 1)
    with pytest.raises(ProbelineError, match="no draw left both labels on both sides"):
        make("sklearn", 24).fit(X, y, groups=y)
    with pytest.raises(ProbelineError, match="200 samples, but 3 groups"):
        make("sklearn", 24).fit(X, y, groups=[1, 2, 3])
    games = [f"game{number // 10}" for number in range(200)]
    for missing in (None, float("nan")):
        with pytest.raises(ProbelineError, match="group of sample 7 is missing"):
            make("sklearn", 24).fit(X, y, groups=[*games[:7], missing, *games[8:]])
    with pytest.raises(ProbelineError, match="mixes words and numbers"):
        make("sklearn", 24).fit(X, y, groups=[*games[:7], 3, *games[8:]])


# T19, T20


@both
def test_the_stored_threshold_follows_a_rule(backend):
    (X, y), (X_val, y_val) = planted(600, 1, shift=0.5), planted(400, 2, shift=0.5)
    trainer = make(backend, 24, threshold_percentile=75)
    trainer.fit(X, y, X_val, y_val)
    odds = trainer.predict_proba(X_val)

    def youden(threshold):
        return (odds[y_val == 1] >= threshold).mean() - (odds[y_val == 0] >= threshold).mean()

    assert youden(trainer.threshold) == pytest.approx(max(youden(level) for level in odds))
    assert trainer.calibrate_threshold(X_val, y_val, "percentile") == trainer.threshold
    assert (trainer.predict(X_val)[y_val == 0] == 1).mean() == pytest.approx(0.25, abs=0.01)
    chosen = {
        rule: trainer.calibrate_threshold(X_val, y_val, rule) for rule in ("youden", "f1", "percentile")
    }
    assert len(set(chosen.values())) == 3
    with pytest.raises(ProbelineError, match="Did you mean youden"):
        trainer.calibrate_threshold(X_val, y_val, "yuden")


def test_a_mistyped_setting_gets_its_near_miss_and_the_signature_stays():
    with pytest.raises(ProbelineError, match=r"setting 'regularisation'. Did you mean regularization\?"):
        ProbeTrainingConfig(regularisation=3)
    assert "regularization: float = 100.0" in str(inspect.signature(ProbeTrainingConfig))
    assert ProbeTrainingConfig(50).regularization == 50
    config = ProbeTrainingConfig(penalty="l1")
    assert copy.deepcopy(config) == config


@both
@pytest.mark.parametrize("stored", [False, True])
def test_several_layers_score_together(backend, stored, tmp_path):
    y = (np.random.default_rng(5).random(900) < 0.5).astype(np.int8)
    random = np.random.default_rng(0)
    X = random.normal(size=(900, 3, 10)).astype(np.float32)
    X[:, :, 0] += (y[:, None] - 0.5) * [1, 1, 2]
    X *= np.array([1, 10, 100], np.float32)[:, None]
    np.save(tmp_path / "x.npy", X[:600])
    trainer = make(backend, 10, ensemble_layers=[20, 21, 22], early_stopping=False)
    value = trainer.fit([tmp_path / "x.npy"] if stored else X[:600], y[:600])
    assert value > 0.8
    assert {entry["layer"] for entry in trainer.training_history} == {20, 21, 22}
    found = trainer.predict_proba(X[600:])
    singles = []
    for position in range(3):
        single = make(backend, 10, early_stopping=False)
        single.fit(X[:600, position], y[:600])
        singles.append(auroc(y[600:], single.predict_proba(X[600:, position])))
    assert auroc(y[600:], found) > max(singles)
    trained = trainer.trained
    scores = ((X[600:] - trained.scaler_mean) / trained.scaler_scale * trained.directions).sum(
        axis=2
    ) + trained.bias
    expected = ((scores - trained.score_mean) / trained.score_scale).mean(axis=1)
    assert np.array_equal(np.argsort(np.argsort(expected))[:50], np.argsort(np.argsort(found))[:50])
    trainer.save_checkpoint(tmp_path / "probe")
    other = make(backend, 10)
    other.load_checkpoint(tmp_path / "probe")
    assert np.allclose(other.predict_proba(X[600:]), found)
    with pytest.raises(ProbelineError, match="names 3 layers, but the rows hold 2"):
        trainer.predict_proba(X[:, :2])


def test_activations_of_another_layer_are_refused():
    (X, y), (X_val, y_val) = planted(300, 1), planted(200, 2)
    trainer = make("sklearn", 24)
    trainer.fit_from_arrays(X, y, X_val, y_val, layer=22)
    assert np.array_equal(trainer.predict_proba(ActivationDataset(X, layer=22)), trainer.predict_proba(X))
    words = r"of the layers \[3\], but the probe was trained on \[22\]"
    with pytest.raises(ProbelineError, match=words):
        trainer.predict_proba(ActivationDataset(X, layer=3))
    with pytest.raises(ProbelineError, match=words):
        trainer.calibrate_threshold(ActivationDataset(X, layer=3), y)
    with pytest.raises(ProbelineError, match=r"of the layers \[5\], but the training samples are of \[22\]"):
        trainer.fit(ActivationDataset(X, layer=22), y, ActivationDataset(X_val, layer=5), y_val)
    both_layers = ActivationDataset(np.stack([X, X], axis=1), layer=[2, 1])
    with pytest.raises(ProbelineError, match=r"of the layers \[2, 1\], but ensemble_layers is \[1, 2\]"):
        make("sklearn", 24, ensemble_layers=[1, 2]).fit(both_layers, y)


@both
@pytest.mark.parametrize("early_stopping", [True, False])
def test_weights_that_are_all_zero_are_said(backend, early_stopping, caplog):
    X, y = planted(300, 1)
    make(backend, 24, penalty="l1", regularization=1, early_stopping=early_stopping).fit(X, y)
    assert not caplog.records
    make(backend, 24, penalty="l1", regularization=1e4, early_stopping=early_stopping).fit(X, y)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "All weights are zero" in said
    assert "lower the regularization, which is 10000" in said


# Several at once


@pytest.mark.parametrize("backend", BACKENDS)
def test_l1_in_several_threads_gives_the_bytes_of_one(backend):
    random = np.random.default_rng(0)
    settings = {"lr": {"penalty": "l1", "regularization": 3, "backend": backend}}
    layers = []
    for seed in range(4):
        values, y = planted(240, seed, width=40, shift=0.3)
        layers.append((values, Folds(random.permutation(240) % 3, y)))

    def scores(layer):
        return cross_fit(settings, *layer, seed=0)["lr"].tobytes()

    serial = [scores(layer) for layer in layers]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(scores, layers)) == serial


def test_a_fit_beside_another_leaves_torchs_threads_as_they_were():
    entered, leave = Event(), Event()
    X, y = planted(300, 1)
    make("torch", 24).fit(X, y)  # what is imported first takes longer than the wait below
    before = torch.get_num_threads()

    def hold():
        with _one_thread():
            entered.set()
            leave.wait()

    def fit():
        torch.set_num_threads(2)  # each thread begins with what OMP_NUM_THREADS says
        make("torch", 24).fit(X, y)
        return torch.get_num_threads()

    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(2) as pool:
            pool.submit(hold)
            entered.wait()
            beside = pool.submit(fit)
            Timer(0.3, leave.set).start()
            assert beside.result() == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_limit_on_threads_lasts_as_long_as_somebody_fits():
    def counts():
        return {facts["num_threads"] for facts in threadpool_info() if facts["user_api"] == "blas"}

    with threadpool_limits(limits=2, user_api="blas"):
        first, second = one_thread(), one_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert counts() == {1}
        second.__exit__(None, None, None)
        assert counts() == {2}


def test_the_workflows_probes_do_not_depend_on_the_machines_devices(monkeypatch):
    X, y = planted(200, 1)
    split = Split((X - X.mean(axis=0)) / X.std(axis=0), y)
    expected = fit_head("lr", split, split, {"backend": "torch"}, seed=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = fit_head("lr", split, split, {"backend": "torch"}, seed=0)
    assert found.direction.tobytes() == expected.direction.tobytes()


def test_a_trained_probe_is_a_torch_module():
    X, y = planted(300, 1)
    trainer = make("torch", 24)
    trainer.fit(X, y)
    probe = trainer.probe()
    assert isinstance(probe, LinearProbe)
    assert np.allclose(probe(torch.from_numpy(X)).sigmoid().numpy(), trainer.predict_proba(X), atol=1e-5)


# T22: the workflow trains through this library


def test_the_workflow_chooses_the_backend_by_the_models_size(tmp_path):
    shards, dialogues, quality = make_corpus(tmp_path, games=60)
    found = {}
    for name, parameters, settings in (
        ("small", 135_000_000, {}),
        ("large", 70_000_000_000, {}),
        ("forced", 70_000_000_000, {"backend": "sklearn"}),
        ("sparse", 1000, {"penalty": "l1", "regularization": 60}),
    ):
        for shard in shards:
            manifest = json.loads((shard / "manifest.json").read_text())
            (shard / "manifest.json").write_text(json.dumps(manifest | {"parameters": parameters}))
        train_probe(shards, dialogues, quality, tmp_path / name, SPEC | settings)
        found[name] = read(tmp_path / name, "manifest.json")
        assert found[name]["parameters"] == parameters
    assert [found[name]["backend"] for name in found] == ["sklearn", "torch", "sklearn", "sklearn"]
    values = {name: facts["headline"]["auroc"]["value"] for name, facts in found.items()}
    assert values["small"] == values["forced"] == pytest.approx(values["large"], abs=0.01)
    directions = torch.load(tmp_path / "sparse" / "detector.pt", weights_only=True)["directions"]
    assert (directions == 0).any()
    assert (directions != 0).any()
    with pytest.raises(ProbelineError, match=r"Unknown backend 'scikit'"):
        train_probe(shards, dialogues, quality, tmp_path / "wrong", SPEC | {"backend": "scikit"})


def test_activations_of_an_older_version_are_explained(tmp_path):
    shards, dialogues, quality = make_corpus(tmp_path)
    manifest = json.loads((shards[0] / "manifest.json").read_text())
    del manifest["parameters"]
    (shards[0] / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ProbelineError, match="does not say parameters: another version"):
        train_probe(shards, dialogues, quality, tmp_path / "probe", SPEC)


def test_the_examples_of_the_docs_run(tmp_path, monkeypatch):
    text = (SCRIPTS.parent / "docs/training.md").read_text()
    blocks = [part.partition("```")[0] for part in text.split("```python\n")[1:]]
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    for number, block in enumerate(blocks):
        Path(f"{number}.py").write_text(block)
        runpy.run_path(f"{number}.py")
    assert (tmp_path / "probe.safetensors").exists()


def test_parts_of_the_package_do_not_depend_on_the_trainers(tmp_path):
    sources = tmp_path / "scripts"
    shutil.copytree(SCRIPTS / "probeline", sources / "probeline")
    (sources / "show_probe.py").write_text("from probeline.probes.summary import probe_summary\n")
    files = code_closure(sources / "show_probe.py", sources)
    assert "scripts/probeline/probes/__init__.py" in files
    assert not [file for file in files if "train" in file or "streaming" in file]
    import probeline.probes

    assert set(probeline.probes.__all__) <= set(dir(probeline.probes))
    assert not hasattr(probeline.probes, "NoSuchTrainer")
    stub = (SCRIPTS / "probeline/probes/__init__.pyi").read_text()
    assert all(f"{name} as {name}\n" in stub for name in probeline.probes.__all__)


# GPU


@gpu
@pytest.mark.gpu
def test_mixed_precision_leaves_scores_as_they_are(tmp_path):
    X, y = planted(500, 1, shift=0.4)
    trainer = make("torch", 24, device="cuda", use_mixed_precision=True)
    trainer.fit(X, y)
    trainer.save_checkpoint(tmp_path / "probe")
    other = make("torch", 24)
    other.load_checkpoint(tmp_path / "probe")
    assert np.allclose(trainer.predict_proba(X), other.predict_proba(X), atol=1e-5)


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("mixed", [False, True])
def test_devices_agree(mixed):
    train, (X, y) = planted(2000, 1, shift=0.4), planted(2000, 2, shift=0.4)
    trainers = [
        make("torch", 24, device=device, use_mixed_precision=mixed, early_stopping=False)
        for device in ("cpu", "cuda")
    ]
    values = []
    for trainer in trainers:
        trainer.fit(*train)
        values.append(auroc(y, trainer.predict_proba(X)))
    assert abs(values[0] - values[1]) < 0.01
