"""Detectors of others become probes; what is more than a detector is refused, and never run."""

import _codecs
import collections
import copy
import functools
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probeline import cli
from probeline.errors import ProbelineError
from probeline.files import write_json
from probeline.probes import plain_pickle
from probeline.probes.detector import DETECTOR, build_detector, load_detector
from probeline.probes.importing import import_detector
from probeline.probes.score import Probe, model_folder
from probeline.probes.summary import run_summary
from tests.unit.test_detector import fitted
from tests.unit.tiny import make_model

LAYERS, WIDTH = [3, 5], 8
RANDOM = np.random.default_rng(0)
DIRECTIONS, MEAN = RANDOM.normal(size=(2, WIDTH)), RANDOM.normal(size=(2, WIDTH))
SCALE, BIAS = RANDOM.uniform(0.5, 2, size=(2, WIDTH)), np.array([0.5, -1.0])
VALUES = RANDOM.normal(size=(20, 2, WIDTH))
WHOLE = {
    "layers": LAYERS,
    "directions": DIRECTIONS,
    "bias": BIAS,
    "normalize": True,
    "scaler_mean": MEAN,
    "scaler_scale": SCALE,
    "reg_coeff": 1000.0,
    "threshold": 0.25,
}
SCORES = (((VALUES - MEAN) / SCALE * DIRECTIONS).sum(axis=2) + BIAS).mean(axis=1)
RAW = (VALUES * DIRECTIONS).sum(axis=2).mean(axis=1)


def tensors(content, dtype=torch.float64):
    return {
        key: torch.tensor(value, dtype=dtype) if isinstance(value, np.ndarray) else value
        for key, value in content.items()
    }


def saved(folder, content, how):
    """The content in a file of that kind."""
    file = folder / f"theirs.{'pkl' if how.startswith('pickle') else 'pt'}"
    if how.startswith("pickle"):
        file.write_bytes(pickle.dumps(content, protocol=int(how[6:])))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how == "torch")
    return file


def adopted(folder, content, how="pickle4", model="tiny"):
    import_detector(saved(folder, content, how), model, folder / "probe", folder / "models")
    return load_detector(folder / "probe")


def manifest_of(folder):
    return json.loads((folder / "probe" / "manifest.json").read_bytes())


KINDS = ["pickle0", "pickle1", "pickle2", "pickle3", "pickle4", "pickle5", "torch", "torch, legacy"]


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("content", [WHOLE, tensors(WHOLE)], ids=["arrays", "tensors"])
def test_every_kind_of_file_scores_as_its_numbers_say(tmp_path, how, content):
    detector = adopted(tmp_path, content, how)
    assert np.allclose(detector.scores(VALUES), SCORES, rtol=1e-12)
    assert (detector.layers, detector.method, detector.model) == ((3, 5), "lr", "tiny")
    assert (detector.threshold, detector.regularization) == (0.25, 1000)
    assert manifest_of(tmp_path)["source"]["format"] == (how if "torch" in how else "pickle")


@pytest.mark.parametrize(
    "changed",
    [
        {"directions": dict(zip(LAYERS, DIRECTIONS, strict=True))},
        {"directions": {str(layer): row[None] for layer, row in zip(LAYERS, DIRECTIONS, strict=True)}},
        {"directions": [torch.tensor(row) for row in DIRECTIONS], "bias": BIAS.tolist()},
        {"directions": tuple(map(list, DIRECTIONS.tolist())), "scaler_mean": list(MEAN)},
        {"bias": {5: np.float64(-1.0), 3: torch.tensor(0.5)}, "layers": np.array(LAYERS)},
        {"layers": torch.tensor(LAYERS), "threshold": np.float32(0.25), "reg_coeff": torch.tensor(1000)},
        {"normalize": np.bool_(True), "directions": np.asfortranarray(DIRECTIONS), "trained_by": ["someone"]},
        {"directions": torch.nn.Parameter(torch.tensor(DIRECTIONS))},
        {"directions": torch.tensor(np.stack([DIRECTIONS, DIRECTIONS], axis=2))[:, :, 1]},
        {"directions": DIRECTIONS.astype(">f8"), "bias": collections.OrderedDict({3: 0.5, 5: -1})},
    ],
)
def test_every_layout_scores_as_its_numbers_say(tmp_path, changed):
    for how in ("pickle2", "pickle5", "torch"):
        (tmp_path / how).mkdir()
        assert np.allclose(adopted(tmp_path / how, WHOLE | changed, how).scores(VALUES), SCORES, rtol=1e-12)


def test_half_precision_is_read_as_it_is(tmp_path):
    content = tensors({"directions": DIRECTIONS}, torch.bfloat16) | {"layers": LAYERS}
    expected = content["directions"].double().numpy()
    assert np.array_equal(adopted(tmp_path, content, "torch").heads[0].direction, expected[0])


@pytest.mark.parametrize(
    ("content", "method"),
    [
        ({"layers": LAYERS, "directions": DIRECTIONS}, "mms"),
        ({"directions": dict(zip(LAYERS, DIRECTIONS, strict=True))}, "mms"),
        (WHOLE | {"normalize": False, "bias": 0, "threshold": None}, "lr"),
    ],
)
def test_without_a_scaler_activations_are_taken_as_they_are(tmp_path, content, method):
    detector = adopted(tmp_path, content)
    assert np.allclose(detector.scores(VALUES), RAW, rtol=1e-12)
    assert (detector.method, detector.threshold) == (method, 0)


def test_one_layer_in_short(tmp_path):
    content = {"layers": 3, "directions": DIRECTIONS[0].tolist(), "bias": [0.5]}
    scores = adopted(tmp_path, content).scores(VALUES[:, :1])
    assert np.allclose(scores, VALUES[:, 0] @ DIRECTIONS[0] + 0.5)


@pytest.mark.parametrize("method", ["lr", "mlp"])
def test_our_own_detector_comes_back_to_the_bit(tmp_path, method):
    detector, values = fitted(method)
    detector.save(tmp_path / "theirs.pt")
    import_detector(tmp_path / "theirs.pt", "tiny", tmp_path / "probe", tmp_path)
    assert load_detector(tmp_path / "probe").scores(values).tobytes() == detector.scores(values).tobytes()
    assert (tmp_path / "probe" / DETECTOR).read_bytes() == (tmp_path / "theirs.pt").read_bytes()


def test_the_manifest_says_where_it_comes_from_and_nothing_of_this_machine(tmp_path):
    adopted(tmp_path, WHOLE | {"note": "hello", 7: "x"})
    manifest = manifest_of(tmp_path)
    assert manifest["imported"] is True
    assert manifest["source"]["keys_not_used"] == ["7", "note"]
    assert manifest["weights_sha256"] is None
    assert (manifest["kind"], manifest["layers"], manifest["hidden_size"]) == ("probe", LAYERS, WIDTH)
    for file in (tmp_path / "probe").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()


def test_an_imported_probe_scores_text_with_the_model_that_was_named(tmp_path):
    model = make_model(tmp_path / "models" / "tiny")
    direction = np.random.default_rng(1).normal(size=32)
    file = saved(tmp_path, {"layers": [2], "directions": direction[None], "reg_coeff": 1.0}, "torch")
    import_detector(file, "tiny", tmp_path / "probe", tmp_path / "models")
    probe = Probe.load(tmp_path / "probe", model)
    score = probe.score_text("I vote for nobody.", return_token_scores=True)
    assert np.mean(score.token_scores) == pytest.approx(score.score, abs=1e-4)
    other = make_model(tmp_path / "models" / "other", seed=1)
    with pytest.raises(ProbelineError, match="other has other weights"):
        Probe.load(tmp_path / "probe", other)
    import_detector(file, "tiny", tmp_path / "alone", tmp_path / "nowhere")
    assert Probe.load(tmp_path / "alone", other).score_text("I vote for nobody.").score != score.score


def test_a_detector_that_does_not_fit_the_model_is_refused(tmp_path):
    write_json(
        tmp_path / "models/tiny/manifest.json",
        {"hidden_size": 16, "depth": 4, "weights_sha256": "0" * 64},
    )
    with pytest.raises(ProbelineError, match="directions of width 8, but tiny has a hidden size of 16"):
        adopted(tmp_path, WHOLE)
    content = {"layers": LAYERS, "directions": np.ones((2, 16))}
    with pytest.raises(ProbelineError, match="reads layer 5, but tiny has layers 0 to 4"):
        adopted(tmp_path, content)
    assert not (tmp_path / "probe").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "no dict, but list"),
        ({}, r"no 'directions' \(an empty dict; its keys are to be layers, directions"),
        ({"layers": [3], "direction": [1.0]}, r"\(but layers, direction; is direction meant for it\?\)"),
        ({"layers": [3], "w": [1.0]}, r"no 'directions' \(but layers, w\)"),
        ({"directions": DIRECTIONS}, "does not name its 'layers'"),
        (WHOLE | {"layers": [3]}, r"'directions' has the shape \[2, 8\]; with 1 layers"),
        (WHOLE | {"layers": [3, 3]}, "stands there once"),
        (WHOLE | {"layers": [3, -1]}, "counts from 0"),
        (WHOLE | {"layers": [3, 5.5]}, "not whole numbers"),
        (WHOLE | {"layers": "all"}, "'layers' are 'all', not whole numbers"),
        (WHOLE | {"directions": DIRECTIONS * np.nan}, "'directions' holds NaN or infinite"),
        (WHOLE | {"bias": [np.inf, 0]}, "'bias' holds NaN or infinite"),
        (WHOLE | {"threshold": float("nan")}, "'threshold' holds NaN"),
        (WHOLE | {"scaler_mean": MEAN[:, :4]}, r"'scaler_mean' has the shape|'scaler_scale' has the shape"),
        (WHOLE | {"scaler_scale": SCALE * 0}, "above 0"),
        (WHOLE | {"scaler_scale": None}, "no 'scaler_scale'"),
        (WHOLE | {"directions": {3: DIRECTIONS[0]}}, "is of the layers 3, not of"),
        (WHOLE | {"directions": [DIRECTIONS[0], [1.0]]}, "not an array of numbers"),
        (WHOLE | {"directions": "many"}, "not an array of numbers"),
        (WHOLE | {"threshold": "high"}, "'threshold' is 'high', not a number"),
        (WHOLE | {"method": "lrr"}, "Did you mean lr"),
        (WHOLE | {"method": "mlp"}, "an mlp has a 'hidden_weight'"),
        (WHOLE | {"method": ["lr"]}, "its method is"),
        (WHOLE | {"layers": [1e300, 5]}, r"'layers' are \[1e\+300, 5\], not whole numbers"),
        (WHOLE | {"layers": [3, 1001]}, "to 1000 at most"),
        (WHOLE | {"layers": []}, "not a list of whole numbers|has the shape"),
        (WHOLE | {"directions": [list(map(str, row)) for row in DIRECTIONS]}, "not an array of numbers"),
        (WHOLE | {"threshold": "0.5"}, "'threshold' is '0.5', not a number"),
    ],
)
def test_what_is_no_detector_is_refused_in_words(tmp_path, content, words):
    with pytest.raises(ProbelineError, match=words):
        adopted(tmp_path, content)
    assert not (tmp_path / "probe").exists()


class Evil:
    """Pickled as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call

    def __call__(self):
        """What is pickled as a function is to look like one."""


def touch(canary):
    return f"open({str(canary)!r}, 'w').close()"


ATTACKS = {
    "posix.system": lambda canary: Evil(os.system, f"touch {canary}"),
    ".eval": lambda canary: Evil(eval, touch(canary)),
    ".exec": lambda canary: Evil(exec, touch(canary)),
    ".Popen": lambda canary: Evil(subprocess.Popen, ["touch", str(canary)]),
    ".getattr": lambda canary: Evil(Evil(getattr, Evil(__import__, "os"), "system"), f"touch {canary}"),
    "functools.partial": lambda canary: Evil(functools.partial(os.system, f"touch {canary}")),
    "io.open": lambda canary: Evil(open, str(canary), "w"),
    "pickle.loads": lambda canary: Evil(pickle.loads, pickle.dumps(Evil(os.system, f"touch {canary}"))),
    "torch.serialization.load": lambda canary: Evil(torch.load, str(canary)),
    "LogisticRegression": lambda canary: LogisticRegression(),
    "an array of the type 'O8'": lambda canary: np.array([1, None], dtype=object),
    "matrix": lambda canary: np.array([[1.0]]).view(np.matrix),
    "complex": lambda canary: 1j,
    "numpy.ndarray": lambda canary: np.ndarray,
}
"""The name that is to be said, and what is put into the file."""
INERT = {
    *("torch.serialization.load", "LogisticRegression", "an array of the type 'O8'"),
    *("matrix", "complex", "numpy.ndarray"),
}
"""Those that run nothing of the attacker's, and are refused for what they are."""
OTHER_NAMES = {
    ".getattr": "__import__",  # the inner of two calls may be seen first
    "an array of the type 'O8'": "posix.system",
    "LogisticRegression": "copy_reg._reconstructor",  # how protocol 0 writes every object
    "matrix": "a subclass of numpy.ndarray",
}


def refusal(folder, file):
    """The words with which the command line refuses a file; nothing is made."""
    done = cli.main(["import-detector", str(file), "--model", "tiny", "--output", str(folder / "probe")])
    assert done == 1
    assert not (folder / "probe").exists()


@pytest.mark.parametrize("how", ["pickle0", "pickle2", "pickle4", "torch", "torch, legacy"])
@pytest.mark.parametrize("name", ATTACKS)
def test_code_in_a_file_is_refused_by_name_and_not_run(tmp_path, capsys, name, how):
    canary = tmp_path / "canary"
    file = saved(tmp_path, WHOLE | {"bias": ATTACKS[name](canary)}, how)
    refusal(tmp_path, file)
    words = capsys.readouterr().err
    assert not canary.exists()
    assert "was refused, and nothing in it was run" in words
    assert name in words or OTHER_NAMES.get(name, name) in words


LOAD_ALL = """
import os, pickle, torch
from pathlib import Path
for file in sorted(Path().glob("*.p[kt]*")):
    try:
        torch.load(file, weights_only=False) if file.suffix == ".pt" else pickle.loads(file.read_bytes())
    except Exception as error:
        print(file, error)
try:
    while True:
        os.wait()
except ChildProcessError:
    pass
"""


def test_the_same_code_does_run_where_a_pickle_is_trusted(tmp_path):
    """Else the canaries of these tests would prove nothing."""
    for name in ATTACKS.keys() - INERT:
        for how in ("pickle0", "pickle2", "pickle4", "torch", "torch, legacy"):
            stem = f"{name}-{how}".replace(" ", "")
            file = saved(tmp_path, {"bias": ATTACKS[name](tmp_path / f"{stem}.fired")}, how)
            file.rename(tmp_path / f"{stem}{file.suffix}")
    for number, content in enumerate(tensors_with_code(tmp_path / "inner{}.fired")):
        saved(tmp_path, content, "pickle4").rename(tmp_path / f"inner{number}.pkl")
    for number, name in enumerate(HAND_WRITTEN_CODE):
        program = HAND_WRITTEN[name].replace(b"canary", b"%d.fire" % number)
        (tmp_path / f"{number}.pkl").write_bytes(program)
    expected = {file.stem for file in tmp_path.iterdir()}
    subprocess.run([sys.executable, "-c", LOAD_ALL], cwd=tmp_path, check=True, capture_output=True)
    assert {file.stem for file in tmp_path.glob("*.fir*")} == expected


HAND_WRITTEN_CODE = ("INST", "a name out of the memo")
HAND_WRITTEN = {
    "INST": b"(S'touch canary'\nios\nsystem\n.",
    "a name out of the memo": (
        b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93\x8c\x0ctouch canary\x85R."
    ),
    "a dotted name": b"\x80\x04\x8c\x0acollections\x8c\x1eOrderedDict.__init__.__globals__\x93.",
    "a state for a function": b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00xK\x01sb.",
    "a state for a type": b"cnumpy\ndtype\n(S'f8'\ntR(dS'x'\nI1\nsb.",
    "an argument for OrderedDict": b"ccollections\nOrderedDict\n((lI1\natR.",
    "another encoding": b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.",
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent id": b"Pos.system\n.",
    "bytes larger than the file": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "a bytearray larger than the file": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
    "a huge memo": b"\x80\x02]r\xff\xff\xff\x7f.",
    "a huge frame": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.",
    "deep tuples as a key": b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.",
    "deep lists": b"\x80\x02" + b"]" * 10_000 + b"a" * 9_999 + b".",
    "a list of itself": b"\x80\x02]q\x00h\x00a.",
    "an array that its bytes do not fill": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(L1000000000000L\ntcnumpy\ndtype\n(S'f8'\ntRI00\nc_codecs\nencode\n(S'12345678'\ntRtb."
    ),
    "a set": b"\x80\x04\x8f(K\x01\x90.",
    "a huge number": b"\x80\x02\x8b" + struct.pack("<i", 100_000) + b"\x01" * 100_000 + b".",
    "steering characters": b"cos\n\x1b[2Jsystem\n.",
    "nothing": b"",
    "words": b"no pickle at all",
    "JSON": b'{"directions": [1, 2]}',
    "an archive": b"PK\x03\x04 not really",
    "half a file of torch's": plain_pickle.LEGACY + b"\x80\x02",
}


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_hand_written_pickles_are_refused_in_words(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.pkl").write_bytes(HAND_WRITTEN[name])
    refusal(tmp_path, tmp_path / "theirs.pkl")
    words = capsys.readouterr().err
    assert "nothing in it was run" in words.lower()
    assert "\x1b" not in words
    assert not (tmp_path / "canary").exists()


def test_lists_that_double_are_refused_before_they_are_written_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plain_pickle, "MOST_OPCODES", 10_000)
    nested = b"".join(b"](h\x00h\x00eq\x00" for _ in range(18))
    (tmp_path / "theirs.pkl").write_bytes(b"\x80\x02]q\x00" + nested + b".")
    refusal(tmp_path, tmp_path / "theirs.pkl")
    assert "more or larger parts" in capsys.readouterr().err


def test_truncated_files_are_refused_in_words(tmp_path, capsys):
    for how in ("pickle4", "torch", "torch, legacy"):
        file = saved(tmp_path, tensors(WHOLE), how)
        whole = file.read_bytes()
        for share in (0.2, 0.6, 0.98):
            file.write_bytes(whole[: int(len(whole) * share)])
            refusal(tmp_path, file)
            assert "nothing in it was run" in capsys.readouterr().err.lower()


def test_a_tensor_inside_a_pickle_is_a_file_of_its_own_and_no_way_in(tmp_path, capsys):
    """Tensors in a plain pickle are bytes that torch loads: their program is looked at, too."""
    words = ("posix.system", "posix.system", "bytes that torch.save did not write")
    for content, word in zip(tensors_with_code(tmp_path / "canary{}"), words, strict=True):
        refusal(tmp_path, saved(tmp_path, WHOLE | content, "pickle4"))
        assert word in capsys.readouterr().err
    assert not list(tmp_path.glob("canary*"))


def tensors_with_code(canary):
    """Three tensors in a pickle, with a program in the bytes of each; `{}` in the path is their number."""
    inner = []
    for number, zipped in enumerate((True, False)):
        file = io.BytesIO()
        program = Evil(os.system, f"touch {str(canary).format(number)}")
        torch.save(program, file, _use_new_zipfile_serialization=zipped)
        inner.append(file.getvalue())
    inner.append(pickle.dumps(Evil(eval, touch(str(canary).format(2))), protocol=2))
    return [{"bias": Evil(torch.storage._load_from_bytes, data)} for data in inner]


def doubled(end, times=24):
    """A pickle of a tuple that holds itself twice, and so on, and what is done with it; it has few bytes."""
    twice = {"memo": b"".join(b"q\x000h\x00h\x00\x86" for _ in range(times)), "dup": b"2\x86" * times}
    return [b"\x80\x02})" + steps + end for steps in twice.values()]


TEXT = "x" * 100_000
SMALL_FILES = {
    "a shared text": ({"directions": DIRECTIONS, "layers": LAYERS, "method": [TEXT] * 2000}, "larger parts"),
    "a shared text as a layer": ({"directions": DIRECTIONS, "layers": [[TEXT] * 200] * 10}, "larger parts"),
    "a long text": ({"directions": DIRECTIONS, "layers": TEXT}, "not whole numbers"),
    "a long method": ({"directions": DIRECTIONS, "layers": LAYERS, "method": TEXT}, "its method is 'xx"),
    "a method of many": (
        {"directions": DIRECTIONS, "layers": LAYERS, "method": [TEXT] * 100},
        "its method is",
    ),
    "a long threshold": (WHOLE | {"threshold": [TEXT] * 100}, "not a number"),
    "many keys": (WHOLE | dict.fromkeys(range(2000)), "2008 keys"),
    "many layers": ({"directions": np.ones((1001, 1)), "layers": list(range(1001))}, "names 1001 layers"),
    "an expanded tensor": (WHOLE | {"bias": torch.ones(1).expand(2**21)}, "larger parts"),
    "a shared array": (WHOLE | {"bias": [np.ones(2**16)] * 40}, "larger parts"),
    "an empty array of any width": (
        {"layers": [3], "directions": np.ones((1, 1)), "hidden_weight": torch.ones(1, 10**15, 0)},
        "none of length 0",
    ),
}


@pytest.mark.parametrize("how", ["pickle4", "torch"])
@pytest.mark.parametrize("name", SMALL_FILES)
def test_a_small_file_is_refused_before_it_grows(tmp_path, capsys, name, how):
    content, words = SMALL_FILES[name]
    refusal(tmp_path, saved(tmp_path, content, how))
    said = capsys.readouterr().err
    assert words in said
    assert len(said) < 1000 + len(str(tmp_path))


def test_a_key_of_shared_tuples_is_refused_before_it_is_hashed(tmp_path, capsys):
    for program in [*doubled(b"K\x01s."), *doubled(b"K\x01s.", 10), *doubled(b"K\x01\x86Rs.")]:
        (tmp_path / "theirs.pkl").write_bytes(program)
        refusal(tmp_path, tmp_path / "theirs.pkl")
        assert "more or larger parts" in capsys.readouterr().err


def test_a_list_that_grows_where_it_lies_is_refused(tmp_path, capsys):
    """The size of what holds it would be wrong."""
    (tmp_path / "theirs.pkl").write_bytes(b"\x80\x02]q\x00]h\x00a" + b"h\x00K\x01a0.")
    refusal(tmp_path, tmp_path / "theirs.pkl")
    assert "grows after it was put into another" in capsys.readouterr().err


def test_a_text_as_a_length_is_refused_before_it_is_multiplied(tmp_path, capsys):
    storage = torch.ones(4).storage()
    for size, stride in (((2**20,), ("ab",)), ((2**64,), (1,)), ((-1,), (1,))):
        content = WHOLE | {"bias": Evil(torch._utils._rebuild_tensor_v2, storage, 0, size, stride, False, {})}
        refusal(tmp_path, saved(tmp_path, content, "pickle4"))
        assert "not made of whole numbers" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["pickle2", "torch", "torch, legacy"])
def test_the_functions_that_torch_calls_itself_take_no_other_arguments(tmp_path, capsys, how):
    """Some codecs take hours for a short text, and the dict would hash whatever it is given."""
    for call, words in (
        (Evil(_codecs.encode, "text", "punycode"), "_codecs.encode for something else"),
        (Evil(collections.OrderedDict, [("a", 1)]), "OrderedDict with arguments"),
    ):
        refusal(tmp_path, saved(tmp_path, WHOLE | {"bias": call}, how))
        assert words in capsys.readouterr().err


def repacked(source, target, change):
    """An archive with other entries."""
    with zipfile.ZipFile(source) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in change(entries):
            archive.writestr(name, content)


def test_the_program_of_an_archive_is_looked_at_under_any_name(tmp_path, capsys):
    """Torch finds DATA.PKL where it looks for data.pkl."""
    torch.save(WHOLE | {"bias": Evil(os.system, "true")}, tmp_path / "source.pt")

    def upper(entries):
        return [(name.replace("data.pkl", "DATA.PKL"), content) for name, content in entries]

    def twice(entries):
        return entries + [(f"other/{name.rpartition('/')[2]}", content) for name, content in entries]

    def none(entries):
        return [entry for entry in entries if not entry[0].endswith("data.pkl")]

    for change, words in ((upper, "posix.system"), (twice, "data.pkl 2 times"), (none, "data.pkl 0 times")):
        repacked(tmp_path / "source.pt", tmp_path / "theirs.pt", change)
        refusal(tmp_path, tmp_path / "theirs.pt")
        assert words in capsys.readouterr().err


def test_torch_reads_the_files_of_an_archive_that_were_looked_at(tmp_path):
    """Two lists of contents, of which Python reads the last one and torch the one that the end points to."""
    faces = []
    for reader in ("torch's", "Python's"):
        torch.save({"reader": f"{reader:8}"}, tmp_path / "theirs.pt")
        faces.append((tmp_path / "theirs.pt").read_bytes())
    first, second = faces
    end = second.rindex(b"PK\x05\x06")
    size, offset = struct.unpack("<II", second[end + 12 : end + 20])
    (tmp_path / "theirs.pt").write_bytes(first + second[: offset + size] + second[end:])
    assert torch.load(tmp_path / "theirs.pt")["reader"] == "torch's "
    assert plain_pickle.read_plain(tmp_path / "theirs.pt")[0]["reader"] == "Python's"


def test_an_archive_whose_parts_overlap_is_refused_before_it_is_unpacked(tmp_path, capsys):
    repacked(saved(tmp_path, WHOLE, "torch"), tmp_path / "bomb.pt", lambda entries: entries)
    with zipfile.ZipFile(tmp_path / "bomb.pt", "a") as archive:
        archive.writestr("archive/data/9", b"x" * 10_000)
        for number in range(10, 100):
            entry = copy.copy(archive.infolist()[-1])
            entry.filename = f"archive/data/{number}"
            archive.filelist.append(entry)
    refusal(tmp_path, tmp_path / "bomb.pt")
    assert "larger than the file" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["org/name", "../..", "..", "", "a\\b", "a\udcff", "x" * 101])
def test_a_model_is_a_name_and_no_path(tmp_path, capsys, model):
    file = saved(tmp_path, WHOLE, "pickle4")
    arguments = ["import-detector", str(file), "--model", model, "--output", str(tmp_path / "probe")]
    assert cli.main(arguments) == 1
    assert "is no name of a model" in capsys.readouterr().err
    assert not (tmp_path / "probe").exists()
    with pytest.raises(ProbelineError, match="is no name of a model"):
        model_folder({"model": model}, None)


def test_a_link_is_not_replaced_by_a_probe(tmp_path, capsys):
    (tmp_path / "probe").symlink_to(tmp_path / "nowhere")
    file = saved(tmp_path, WHOLE, "pickle4")
    arguments = ["import-detector", str(file), "--model", "tiny", "--output", str(tmp_path / "probe")]
    assert cli.main(arguments) == 1
    assert "exists; name a folder that does not" in capsys.readouterr().err
    assert (tmp_path / "probe").is_symlink()


def test_only_regular_files_are_opened(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / DETECTOR).symlink_to("/dev/zero")
    for file in (tmp_path / "pipe", tmp_path / DETECTOR, tmp_path):
        refusal(tmp_path, file)
        assert "is not a regular file" in capsys.readouterr().err
    with pytest.raises(ProbelineError, match="is not a regular file"):
        load_detector(tmp_path)


def test_a_probe_that_was_imported_during_a_run_is_not_summarised(tmp_path):
    file = saved(tmp_path, WHOLE, "pickle4")
    import_detector(file, "tiny", tmp_path / "results/probes/theirs", tmp_path)
    assert run_summary(tmp_path / "results", 0) == ""


def test_tensors_that_claim_more_than_they_hold_are_refused(tmp_path, capsys):
    expanded = torch.ones(1).expand(10**9)
    for how in ("pickle4", "torch"):
        refusal(tmp_path, saved(tmp_path, WHOLE | {"bias": expanded}, how))
        assert "larger parts than a detector can have" in capsys.readouterr().err
    storage = torch.ones(4).storage()
    beyond = Evil(torch._utils._rebuild_tensor_v2, storage, 0, (10**6,), (1,), False, {})
    refusal(tmp_path, saved(tmp_path, WHOLE | {"bias": beyond}, "pickle4"))
    assert "reaches beyond its storage" in capsys.readouterr().err


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path, capsys):
    torch.save(WHOLE, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as source,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    refusal(tmp_path, tmp_path / "bomb.pt")
    assert "compressed archive" in capsys.readouterr().err


def test_a_file_that_is_too_large_is_not_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plain_pickle, "MOST_BYTES", 100)
    refusal(tmp_path, saved(tmp_path, WHOLE, "pickle4"))
    assert "larger than" in capsys.readouterr().err


def test_the_constructors_are_not_changed_by_a_pickle():
    made = plain_pickle.NAMES["collections.OrderedDict"]
    with pytest.raises(ProbelineError, match="to change a function"):
        made.__setstate__({"_make": print})
    assert not hasattr(made, "__dict__")


def test_the_command_line_makes_a_probe_and_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = saved(tmp_path, WHOLE, "pickle4")
    arguments = ["import-detector", str(file), "--model", "tiny", "--output", "probe"]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert "probe: lr on layers 3, 5 of tiny, width 8" in said
    assert "data/models/tiny is not there" in said
    assert cli.main(arguments) == 1
    assert "probe exists" in capsys.readouterr().err
    assert cli.main(["import-detector", "nowhere.pkl", "--model", "tiny", "--output", "other"]) == 1
    assert "nowhere.pkl: No such file" in capsys.readouterr().err


def damaged(folder, **changes):
    detector, _ = fitted("lr")
    detector.save(folder / DETECTOR)
    content = torch.load(folder / DETECTOR, weights_only=True)
    torch.save(
        {key: value for key, value in (content | changes).items() if value is not None}, folder / DETECTOR
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threshold": None}, "'threshold' is missing"),
        ({"threshold": "high"}, "'threshold' is a str, not numbers"),
        ({"directions": torch.zeros(2, 5)}, r"'directions' has the shape \[2, 5\], not \[2, 12\]"),
        ({"directions": torch.full((2, 12), torch.nan)}, "'directions' holds NaN"),
        ({"scaler_mean": 3}, r"'scaler_mean' has the shape \[\], not \[2, any\]"),
        ({"scaler_scale": torch.zeros(2, 12)}, "above 0"),
        ({"layers": 3}, "its layers are 3"),
        ({"layers": ["3", "5"]}, "its layers are"),
        ({"method": "lrr"}, "Did you mean lr"),
        ({"model": 5}, "5 is no name of a model"),
        ({"bias": torch.zeros(2).to_sparse()}, "_rebuild_sparse_tensor"),
        ({"bias": torch.zeros(2, dtype=torch.complex64)}, "torch.ComplexFloatStorage"),
    ],
)
def test_a_hostile_or_damaged_detector_is_refused_in_words(tmp_path, changes, words):
    damaged(tmp_path, **changes)
    with pytest.raises(ProbelineError, match=words):
        load_detector(tmp_path)


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_a_probe_whose_detector_was_replaced_is_refused_in_words(tmp_path, name):
    (tmp_path / DETECTOR).write_bytes(HAND_WRITTEN[name])
    with pytest.raises(ProbelineError, match=DETECTOR):
        load_detector(tmp_path)


def test_truncated_detectors_are_refused_in_words(tmp_path):
    fitted("lr")[0].save(tmp_path / DETECTOR)
    whole = (tmp_path / DETECTOR).read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / DETECTOR).write_bytes(whole[:length])
        with pytest.raises(ProbelineError, match=DETECTOR):
            load_detector(tmp_path)


def test_build_detector_takes_what_save_writes():
    detector, values = fitted("mms")
    content = {
        "method": "mms",
        "model": "tiny",
        "layers": [3, 5],
        "directions": np.stack([head.direction for head in detector.heads]),
        "bias": [head.bias for head in detector.heads],
        "scaler_mean": detector.scaler_mean,
        "scaler_scale": detector.scaler_scale,
        "score_mean": detector.score_mean,
        "score_scale": detector.score_scale,
        "reg_coeff": 0,
        "threshold": 0.25,
        "calibration_slope": 2.0,
        "calibration_intercept": -0.5,
    }
    assert np.array_equal(build_detector(content).scores(values), detector.scores(values))


def test_nothing_of_sklearn_is_imported_by_an_import(tmp_path):
    """A pickle that names a module must not even have it imported."""
    saved(tmp_path, {"directions": LogisticRegression()}, "pickle4")
    code = (
        "import sys; from pathlib import Path; from probeline.probes.plain_pickle import read_plain\n"
        "try: read_plain(Path(sys.argv[1]))\n"
        "except Exception as error: print(error)\n"
        "print('sklearn' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "theirs.pkl")], capture_output=True, text=True, check=True
    )
    assert "LogisticRegression" in done.stdout
    assert done.stdout.strip().endswith("False")


def test_an_imported_probe_does_not_pass_for_one_of_the_workflow(tmp_path):
    with pytest.raises(ProbelineError, match="form of a probe that the workflow makes"):
        import_detector(tmp_path / "any.pkl", "tiny", tmp_path / "results/probes/trust_lr_l22")
