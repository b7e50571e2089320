import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from probeline.errors import ProbelineError
from probeline.probes.detector import DETECTOR, Detector, fit_detector, load_detector
from probeline.probes.methods import METHODS, Head


def fitted(method, layers=(3, 5), width=12):
    random = np.random.default_rng(0)
    labels = np.tile([0, 1], 100).astype(np.int8)
    values = random.normal(size=(200, len(layers), width)).astype(np.float32) + labels[:, None, None]
    detector = fit_detector(method, "tiny", list(layers), (values, labels), (values, labels), {}, seed=0)
    return replace(detector, threshold=0.25, slope=2.0, intercept=-0.5), values


@pytest.mark.parametrize("method", METHODS)
def test_round_trip_scores_the_same_bits(method, tmp_path):
    detector, values = fitted(method)
    detector.save(tmp_path / DETECTOR)
    loaded = load_detector(tmp_path)
    assert loaded.scores(values).tobytes() == detector.scores(values).tobytes()
    for name in (
        "method",
        "model",
        "layers",
        "hidden_size",
        "threshold",
        "slope",
        "intercept",
        "regularization",
    ):
        assert getattr(loaded, name) == getattr(detector, name)


@pytest.mark.parametrize("method", METHODS)
def test_file_holds_tensors_and_plain_values_only(method, tmp_path):
    fitted(method)[0].save(tmp_path / DETECTOR)
    content = torch.load(tmp_path / DETECTOR, weights_only=True)
    assert {
        "layers",
        "directions",
        "bias",
        "scaler_mean",
        "scaler_scale",
        "normalize",
        "reg_coeff",
        "threshold",
        "model",
        "hidden_size",
    } <= content.keys()
    assert content["layers"] == [3, 5]
    assert content["hidden_size"] == 12
    assert content["scaler_mean"].shape == (2, 12)
    assert content["reg_coeff"] == (100.0 if method == "lr" else 0.0)
    assert content["directions"].shape == (2, 64 if method == "mlp" else 12)


@pytest.mark.parametrize("method", ["lr", "mlp"])
def test_equal_detectors_equal_bytes_under_any_name(method, tmp_path):
    for name in ("a.pt", "another.pt"):
        fitted(method)[0].save(tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()


def test_another_process_reads_the_same_scores(tmp_path):
    detector, values = fitted("lr")
    detector.save(tmp_path / DETECTOR)
    np.save(tmp_path / "values.npy", values)
    code = (
        "import sys, numpy as np; from pathlib import Path;"
        "from probeline.probes.detector import load_detector;"
        "folder = Path(sys.argv[1]); scores = load_detector(folder).scores(np.load(folder / 'values.npy'));"
        "print(scores.tobytes().hex())"
    )
    shown = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == detector.scores(values).tobytes().hex()


def test_scores_do_not_depend_on_the_batch():
    detector, values = fitted("mlp")
    one_by_one = np.concatenate([detector.scores(values[i : i + 1]) for i in range(len(values))])
    assert np.allclose(detector.scores(values), one_by_one, atol=1e-9)


def test_score_is_the_mean_of_standardised_layer_scores():
    detector, values = fitted("mms")
    parts = []
    for i in range(2):
        one = Detector(
            method="mms",
            model="tiny",
            layers=detector.layers[i : i + 1],
            scaler_mean=detector.scaler_mean[i : i + 1],
            scaler_scale=detector.scaler_scale[i : i + 1],
            heads=detector.heads[i : i + 1],
            score_mean=detector.score_mean[i : i + 1],
            score_scale=detector.score_scale[i : i + 1],
            regularization=0.0,
        )
        parts.append(one.scores(values[:, i : i + 1]))
        assert parts[-1].mean() == pytest.approx(0)
        assert parts[-1].std() == pytest.approx(1)
    assert np.allclose(detector.scores(values), (parts[0] + parts[1]) / 2)


def test_by_hand():
    detector = Detector(
        method="mms",
        model="tiny",
        layers=(1,),
        scaler_mean=np.array([[1.0, 2.0]]),
        scaler_scale=np.array([[2.0, 1.0]]),
        heads=(Head(np.array([3.0, -1.0]), 0.5),),
        score_mean=np.array([0.5]),
        score_scale=np.array([2.0]),
        regularization=0.0,
        slope=2.0,
        intercept=-1.0,
    )
    # ((5 - 1) / 2 * 3 - (1 - 2) + 0.5 - 0.5) / 2
    scores = detector.scores(np.array([[[5.0, 1.0]]]))
    assert scores.tolist() == [3.5]
    assert detector.probability(scores).tolist() == pytest.approx([1 / (1 + np.exp(-6))])
    assert detector.probability(np.array([-1e6, 1e6])).tolist() == [0.0, 1.0]


def test_another_hidden_size_names_both_models_and_sizes():
    detector, values = fitted("mms")
    with pytest.raises(ProbelineError, match=r"on tiny with a hidden size of 12, but large has 11"):
        detector.scores(values[:, :, :11], "large")
    with pytest.raises(ProbelineError, match=r"reads the layers 3, 5, but activations of 1 came"):
        detector.scores(values[:, :1])


def test_scores_that_are_no_numbers_are_refused():
    detector, values = fitted("mms")
    huge = replace(detector, heads=tuple(Head(head.direction * 1e308, 0.0) for head in detector.heads))
    for one, activations in ((huge, values), (detector, values * np.float32(np.nan))):
        with pytest.raises(ProbelineError, match="A score is NaN or infinite"):
            one.scores(activations)


class Malicious:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return Path.touch, (self.victim,)


@pytest.mark.parametrize("zipped", [True, False])
def test_refuses_a_file_with_code_without_running_it(tmp_path, zipped):
    content = {"directions": Malicious(tmp_path / "victim")}
    if zipped:
        torch.save(content, tmp_path / DETECTOR)
    else:
        (tmp_path / DETECTOR).write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ProbelineError, match="no detector of tensors and plain values"):
        load_detector(tmp_path)
    assert not (tmp_path / "victim").exists()


def test_missing_or_foreign_files_are_explained(tmp_path):
    with pytest.raises(ProbelineError, match="does not exist"):
        load_detector(tmp_path)
    (tmp_path / DETECTOR).write_bytes(b"no archive")
    with pytest.raises(ProbelineError, match="no detector"):
        load_detector(tmp_path)
    torch.save({"method": "lr", "layers": [1]}, tmp_path / DETECTOR)
    with pytest.raises(ProbelineError, match="model' is missing"):
        load_detector(tmp_path)
