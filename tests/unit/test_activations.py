import logging
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from probeline.activations import engine as engine_module
from probeline.activations.engine import ActivationEngine, SpannedSequence
from probeline.activations.extract import extract_activations
from probeline.activations.precision import processor_has_bfloat16
from probeline.activations.store import read_activations
from probeline.errors import ProbelineError
from probeline.files import read_json, write_json
from tests.unit import tiny

CHATS = {
    name: messages
    for game, rounds in (("g1", 3), ("g2", 1), ("g3", 5))
    for name, messages in tiny.game_chats(game, rounds).items()
}
SETTINGS = {"layers": None, "dtype": "float32", "store_dtype": "float32", "threads": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.make_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def dialogues(tmp_path):
    return tiny.write_dialogues(tmp_path / "dialogues", CHATS)


def extract(dialogues, model, output, **changes):
    extract_activations(dialogues, model, output, **(SETTINGS | changes))
    return output


def by_sample(*shards):
    """Sample → the bytes of its means."""
    layers = read_json(shards[0] / "manifest.json")["layers"]
    stored = read_activations(shards, layers)
    return {sample: values.tobytes() for sample, values in zip(stored.samples, stored.values, strict=True)}


def excluded(shard):
    return read_json(shard / "manifest.json")["excluded"]


def random_sequence(length, *spans, seed=0):
    ids = np.random.default_rng(seed).integers(3, 512, length)
    return SpannedSequence(tuple(ids.tolist()), tuple(range(*span) for span in spans))


# The engine


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2", "gpt2"])
def test_layers_are_transformers_hidden_states(tmp_path, architecture):
    folder = tiny.make_model(tmp_path / architecture, architecture=architecture)
    reference = AutoModelForCausalLM.from_pretrained(folder).eval()
    last_block = next(
        module
        for module in reference.modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == 3
    )[-1]
    raw = []
    last_block.register_forward_hook(lambda *call: raw.append(call[2]))
    sequences = [random_sequence(40, (3, 9), (30, 40)), random_sequence(17, (0, 17), seed=1)]
    means = ActivationEngine(folder, [0, 1, 2, 3], "float32", 1, 4096, "cpu").game_means(sequences)
    row = 0
    for sequence in sequences:
        with torch.inference_mode():
            states = reference(torch.tensor([sequence.input_ids]), output_hidden_states=True).hidden_states
        # The last entry of transformers has the final norm applied: layer 3 is the last block's output.
        last = raw.pop()
        states = [*states[:3], last[0] if isinstance(last, tuple) else last]
        for span in sequence.spans:
            expected = torch.stack([state[0, span.start : span.stop].mean(0) for state in states])
            np.testing.assert_allclose(means[row], expected, rtol=1e-4, atol=1e-6)
            row += 1
    assert row == len(means)


def test_padding_changes_nothing_without_an_attention_mask(model):
    short, long = random_sequence(20, (5, 20)), random_sequence(90, (80, 90), seed=1)
    engine = ActivationEngine(model, [0, 1, 2, 3], "float32", 1, 4096, "cpu")
    together = engine.game_means([short, long])
    alone = np.concatenate([engine.game_means([short]), engine.game_means([long])])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)


def test_only_the_blocks_up_to_the_deepest_layer_run(model, monkeypatch):
    calls = []
    find = engine_module._decoder_blocks

    def count(loaded):
        blocks = find(loaded)
        for index, block in enumerate(blocks):
            block.register_forward_hook(lambda *_, index=index: calls.append(index))
        return blocks

    monkeypatch.setattr(engine_module, "_decoder_blocks", count)
    full = ActivationEngine(model, [0, 1, 2, 3], "float32", 1, 4096, "cpu").game_means(
        [random_sequence(9, (2, 9))]
    )
    assert calls == [0, 1, 2]
    calls.clear()
    part = ActivationEngine(model, [0, 2], "float32", 1, 4096, "cpu").game_means([random_sequence(9, (2, 9))])
    assert calls == [0, 1]
    assert np.array_equal(part, full[:, [0, 2]])


def test_equal_inputs_are_run_once_and_nothing_after_the_last_span(model):
    engine = ActivationEngine(model, [3], "float32", 1, 4096, "cpu")
    twice = [random_sequence(50, (5, 10)), random_sequence(50, (3, 10), (5, 10))]
    means = engine.game_means(twice)
    assert engine.tokens == 10
    assert np.array_equal(means[0], means[2])
    assert not np.array_equal(means[0], means[1])


def test_order_of_a_games_sequences_changes_no_bit(model):
    engine = ActivationEngine(model, [1, 3], "bfloat16", 1, 100, "cpu")
    sequences = [random_sequence(10 + 7 * seed, (5, 10), seed=seed) for seed in range(6)]
    forward = engine.game_means(sequences)
    backward = engine.game_means(reversed(sequences))
    assert np.array_equal(forward, backward[::-1])


def test_a_model_that_lacks_weights_is_refused(tmp_path, model):
    partial = tmp_path / "partial"
    shutil.copytree(model, partial)
    weights = load_file(partial / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ProbelineError, match=r"lacks weights \(layers\.1\.mlp\.up_proj\.weight"):
        ActivationEngine(partial, [0, 1], "float32", 1, 4096, "cpu")


def test_no_batch_exceeds_the_token_budget():
    units = [((1,) * length, []) for length in (50, 40, 40, 30, 10, 10, 10)]
    batches = list(engine_module._batches(units, 80))
    assert [len(batch) for batch in batches] == [1, 2, 2, 2]
    assert [unit for batch in batches for unit in batch] == units
    assert all(len(batch) * len(batch[0][0]) <= 80 for batch in batches)


def test_out_of_gpu_memory_halves_the_batches_of_that_game(model, monkeypatch, caplog):
    engine = ActivationEngine(model, [2], "float32", 1, 4096, "cpu")
    sequences = [random_sequence(32, (5, 32), seed=seed) for seed in range(4)]
    expected = engine.game_means(sequences)
    run, sizes = engine._run, []

    def small_memory(batch, means):
        sizes.append(len(batch))
        if len(batch) * 32 > limit:
            raise torch.OutOfMemoryError
        run(batch, means)

    monkeypatch.setattr(engine, "_run", small_memory)
    limit = 64
    np.testing.assert_allclose(engine.game_means(sequences), expected, rtol=1e-4, atol=1e-6)
    assert sizes[-2:] == [2, 2]
    assert "out of memory" in caplog.text
    assert engine.smallest_token_budget == 64
    engine.game_means(sequences[:1])
    assert sizes[-1] == 1
    limit = 16
    with pytest.raises(ProbelineError, match="does not hold one sequence of 32 tokens"):
        engine.game_means(sequences)


def test_batches_are_not_made_smaller_when_a_single_sequence_does_not_fit(model, monkeypatch):
    engine = ActivationEngine(model, [2], "float32", 1, 4096, "cpu")
    sequences = [random_sequence(length, (5, length), seed=length) for length in (64, 10, 9, 8)]
    sizes = []

    def no_memory(batch, means):
        sizes.append((len(batch), len(batch[0][0])))
        raise torch.OutOfMemoryError

    monkeypatch.setattr(engine, "_run", no_memory)
    with pytest.raises(ProbelineError, match="does not hold one sequence of 64 tokens"):
        engine.game_means(sequences)
    # Budgets that would give the same batches are passed over, and none is tried below one sequence.
    assert sizes == [(4, 64), (2, 64), (1, 64)]


def on_cuda(model, budget=300, dtype="float32"):
    return ActivationEngine(model, [0, 1, 2, 3], dtype, 1, budget, "cuda")


GAMES = [
    [
        random_sequence(12 + 9 * seed, (3, 10), (8, 12 + 9 * seed), seed=seed + 10 * game)
        for seed in range(count)
    ]
    for game, count in enumerate((4, 1, 6))
]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.gpu
@needs_cuda
def test_cuda_agrees_with_the_processor(model):
    processor = ActivationEngine(model, [0, 1, 2, 3], "float32", 1, 300, "cpu")
    gpu = on_cuda(model)
    assert processor.device_name == "cpu"
    assert gpu.device_name == torch.cuda.get_device_name()
    for game in GAMES:
        np.testing.assert_allclose(gpu.game_means(game), processor.game_means(game), rtol=1e-3, atol=1e-5)
    assert gpu.tokens == processor.tokens


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adding_a_game_changes_no_bit_on_cuda(model, dtype):
    alone = on_cuda(model, dtype=dtype).game_means(GAMES[2])
    engine = on_cuda(model, dtype=dtype)
    after_others = [engine.game_means(game) for game in GAMES][2]
    assert np.isfinite(alone).all()
    assert after_others.tobytes() == alone.tobytes()


@pytest.mark.gpu
@needs_cuda
def test_a_shard_made_on_cuda_says_so_and_does_not_mix_with_the_processors(
    tmp_path, dialogues, model, monkeypatch
):
    gpu = extract(dialogues, model, tmp_path / "gpu")
    assert read_json(gpu / "manifest.json")["device"] == torch.cuda.get_device_name()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    processor = extract(dialogues, model, tmp_path / "cpu")
    with pytest.raises(ProbelineError, match="device is cpu in"):
        read_activations([gpu, processor], [0])


# A shard


def test_a_shard_is_complete_and_repeats_byte_for_byte(tmp_path, dialogues, model, caplog):
    caplog.set_level(logging.INFO)
    first = extract(dialogues, model, tmp_path / "first")
    second = extract(dialogues, model, tmp_path / "second")
    assert {file.name: file.read_bytes() for file in first.iterdir()} == {
        file.name: file.read_bytes() for file in second.iterdir()
    }
    index = pq.read_table(first / "index.parquet").to_pylist()
    samples = pq.read_table(dialogues / "samples.parquet", columns=["sample"])["sample"].to_pylist()
    assert [row["sample"] for row in index] == samples
    mean = load_file(first / "activations.safetensors")["mean"]
    assert mean.shape == (18, 4, 32)
    assert mean.dtype == np.float32
    manifest = read_json(first / "manifest.json")
    facts = {"kind": "activations", "model": "llama", "layers": [0, 1, 2, 3], "hidden_size": 32}
    facts |= {"dtype": "float32", "store_dtype": "float32", "samples": 18, "games": 3, "excluded": {}}
    facts |= {"threads": 1, "token_budget": 2048, "smallest_token_budget": 2048}
    facts["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    assert facts.items() <= manifest.items()
    assert str(tmp_path) not in (first / "manifest.json").read_text()
    assert f"18 samples of 3 games: {manifest['tokens']} tokens" in caplog.text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adding_removing_and_permuting_games_changes_no_bit_of_a_sample(tmp_path, dialogues, model, dtype):
    settings = {"dtype": dtype, "token_budget": 300}
    everything = by_sample(extract(dialogues, model, tmp_path / "all", **settings))
    more = dict(reversed(CHATS.items())) | tiny.game_chats("g0", 4) | tiny.game_chats("g9", 2)
    more_dialogues = tiny.write_dialogues(tmp_path / "more-dialogues", more)
    permuted = by_sample(extract(more_dialogues, model, tmp_path / "more", **settings))
    assert len(permuted) == len(everything) + 12
    assert everything.items() <= permuted.items()
    shards = []
    for game in ("g1", "g2", "g3"):
        part = {name: messages for name, messages in CHATS.items() if name.startswith(game)}
        shard = tiny.write_dialogues(tmp_path / f"{game}-dialogues", part)
        shards.append(extract(shard, model, tmp_path / game, **settings))
    assert by_sample(*shards) == everything


def test_a_span_equals_the_same_prefix_alone(tmp_path, model):
    messages = tiny.game_chats("g1", 4)["g1#Ann"]
    chats = {f"g1#{end}": messages[: end + 1] for end in (2, 4, 6, 8)}
    prefixes = tiny.write_dialogues(tmp_path / "prefixes", chats)
    whole = tiny.write_dialogues(tmp_path / "whole", {"g1#8": messages})
    alone = read_activations([extract(prefixes, model, tmp_path / "a")], [0, 3])
    joint = read_activations([extract(whole, model, tmp_path / "b")], [0, 3])
    last = [alone.samples.index(f"g1#{end}#{end}") for end in (2, 4, 6, 8)]
    assert joint.samples == [f"g1#8#{end}" for end in (2, 4, 6, 8)]
    np.testing.assert_allclose(joint.values, alone.values[last], rtol=1e-4, atol=1e-6)


def test_one_forward_serves_all_samples_of_a_sequence(tmp_path, model):
    chats = {"g1#Ann": CHATS["g1#Ann"]}
    output = extract(tiny.write_dialogues(tmp_path / "d", chats), model, tmp_path / "out")
    index = pq.read_table(output / "index.parquet").to_pylist()
    # The sequence ends after its last masked token: what follows is never run.
    assert read_json(output / "manifest.json")["tokens"] == max(row["position"] for row in index) + 1


def test_what_cannot_be_measured_is_excluded_with_a_counted_reason(tmp_path, model):
    chats = {
        "g1#long": tiny.chat(("user", "Speak."), ("assistant", "Short."), ("assistant", "vote " * 600)),
        "g1#hostile": tiny.chat(("user", "Speak."), ("assistant", "Fine.<|im_end|>")),
        "g1#empty": tiny.chat(("user", "Speak."), ("assistant", ""), ("assistant", " \n")),
        "g1#fine": tiny.chat(("user", "Speak."), ("assistant", "I speak.")),
    }
    output = extract(tiny.write_dialogues(tmp_path / "d", chats), model, tmp_path / "out")
    assert excluded(output) == {
        "context longer than the model's limit": 1,
        "holds a special token of the model": 1,
        "empty text": 2,
    }
    lines = (output / "excluded.jsonl").read_text().splitlines()
    assert lines[0] == '{"reason":"context longer than the model\'s limit","sample":"g1#long#2"}'
    index = pq.read_table(output / "index.parquet")["sample"].to_pylist()
    # What comes before a statement that is too long is measured all the same.
    assert index == ["g1#long#1", "g1#fine#1"]
    assert len(index) + len(lines) == 6


def test_a_chat_that_the_template_rewrites_is_excluded(tmp_path, model):
    rewriting = tmp_path / "rewriting"
    shutil.copytree(model, rewriting)
    (rewriting / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['role'] + ':' + m['content'].lstrip('#') + '|' }}{% endfor %}"
    )
    chats = {"g1#Ann": tiny.chat(("user", "Speak."), ("assistant", "#Yes"))}
    output = extract(tiny.write_dialogues(tmp_path / "d", chats), rewriting, tmp_path / "out")
    assert excluded(output) == {"rewritten by the model's chat template": 1}


@pytest.mark.parametrize("mask", [(99, 0, 1), (2, 0, 10**6), (2, 5, 3)])
def test_a_mask_outside_its_chat_is_a_defect_of_the_shard(tmp_path, model, mask):
    shard = tiny.write_dialogues(tmp_path / "d", {"g1#Ann": CHATS["g1#Ann"]}, {"statement-7": mask})
    with pytest.raises(ProbelineError, match="mask of sample statement-7 lies outside sequence g1#Ann"):
        extract(shard, model, tmp_path / "out")


def test_a_layer_that_the_model_lacks_is_refused_before_anything_is_loaded(tmp_path, dialogues, model):
    only_manifest = tmp_path / "llama"
    only_manifest.mkdir()
    shutil.copy(model / "manifest.json", only_manifest)
    with pytest.raises(ProbelineError, match=r"model llama has no layer 4, 9\. Its depth is 3"):
        extract(dialogues, only_manifest, tmp_path / "out", layers=[9, 1, 4])
    with pytest.raises(ProbelineError, match="none given"):
        extract(dialogues, only_manifest, tmp_path / "out", layers=[])
    assert not (tmp_path / "out").exists()


def test_float16_that_would_overflow_is_refused(tmp_path, dialogues, model, monkeypatch):
    half = extract(dialogues, model, tmp_path / "half", store_dtype="float16")
    assert load_file(half / "activations.safetensors")["mean"].dtype == np.float16
    measure = ActivationEngine.game_means
    monkeypatch.setattr(ActivationEngine, "game_means", lambda self, game: 1e9 * measure(self, game))
    with pytest.raises(ProbelineError, match=r"game g1 .*activations\.store: set it to float32"):
        extract(dialogues, model, tmp_path / "out", store_dtype="float16")
    assert not (tmp_path / "out").exists()


def test_an_empty_shard_is_written_without_torch(tmp_path, model):
    empty = tiny.write_dialogues(tmp_path / "d", {})
    code = """
import sys
from pathlib import Path
from probeline.activations.extract import extract_activations
from probeline.activations.store import read_activations
dialogues, model, output = map(Path, sys.argv[1:])
extract_activations(dialogues, model, output, [1, 3], "float32", "float16", 1)
print(read_activations([output], [3]).values.shape, "torch" in sys.modules)
"""
    command = [sys.executable, "-c", code, empty, model, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(0, 1, 32) False"
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "activations.safetensors",
        "excluded.jsonl",
        "index.parquet",
        "manifest.json",
    ]


# A limit on the size of files makes the kernel refuse the write, as a full disk does, on any machine.
WRITES_TOO_MUCH = """
import resource, signal, sys
from pathlib import Path
from probeline.activations.extract import extract_activations
from probeline.errors import ProbelineError
dialogues, model, output = map(Path, sys.argv[1:])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))
try:
    extract_activations(dialogues, model, output, None, "float32", "float32", 1)
except ProbelineError as error:
    print(error)
"""


def test_a_full_disk_is_said_in_words_and_leaves_nothing(tmp_path, dialogues, model):
    command = [sys.executable, "-c", WRITES_TOO_MUCH, dialogues, model, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "The disk is full" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["dialogues"]


# Reading back


def test_reading_gives_the_layers_asked_for_in_that_order(tmp_path, dialogues, model):
    shard = extract(dialogues, model, tmp_path / "out", store_dtype="float16")
    empty = extract(
        tiny.write_dialogues(tmp_path / "d", {}), model, tmp_path / "empty", store_dtype="float16"
    )
    mean = load_file(shard / "activations.safetensors")["mean"]
    stored = read_activations([empty, shard], [3, 1])
    assert np.array_equal(stored.values, mean[:, [3, 1]].astype(np.float32))
    assert stored.values.dtype == np.float32
    assert stored.games == [sample.split("#")[0] for sample in stored.samples]
    assert stored.facts["model"] == "llama"


def test_a_layer_that_was_not_extracted_is_named(tmp_path, dialogues, model):
    shard = extract(dialogues, model, tmp_path / "out", layers=[2, 0])
    with pytest.raises(ProbelineError, match=r"layer 1, 3, only of 0, 2\. .*activations\.layers"):
        read_activations([shard], [0, 1, 3])


@pytest.mark.parametrize(
    ("fact", "one", "other"),
    [("dtype", "float32", "bfloat16"), ("threads", 1, 2), ("token_budget", 2048, 64)],
)
def test_shards_that_disagree_are_refused(tmp_path, dialogues, model, fact, one, other):
    empty = extract(tiny.write_dialogues(tmp_path / "d", {}), model, tmp_path / "empty", **{fact: other})
    shards = [extract(dialogues, model, tmp_path / str(value), **{fact: value}) for value in (one, other)]
    with pytest.raises(ProbelineError, match=rf"{fact} is {other} in .*{other}, but {one} in"):
        read_activations(shards, [0])
    with pytest.raises(ProbelineError, match=rf"{fact} is {other} in .*empty, but {one} in"):
        read_activations([empty, shards[0]], [0])


def test_shards_of_different_devices_are_refused_but_empty_ones_have_none(tmp_path, dialogues, model):
    shard = extract(dialogues, model, tmp_path / "out")
    empty = extract(tiny.write_dialogues(tmp_path / "d", {}), model, tmp_path / "empty")
    assert read_json(empty / "manifest.json")["device"] is None
    device = read_json(shard / "manifest.json")["device"]
    for shards in ([empty, shard], [shard, empty]):
        assert read_activations(shards, [0]).facts["device"] == device
    assert read_activations([empty], [0]).facts["device"] is None
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(shard, elsewhere)
    write_json(elsewhere / "manifest.json", read_json(shard / "manifest.json") | {"device": "NVIDIA H200"})
    with pytest.raises(ProbelineError, match=rf"device is NVIDIA H200 in .*elsewhere, but {device} in .*out"):
        read_activations([empty, shard, elsewhere], [0])


def test_damaged_shards_are_named(tmp_path, dialogues, model):
    shard = extract(dialogues, model, tmp_path / "out")
    other = extract(tiny.write_dialogues(tmp_path / "d", tiny.game_chats("g7", 1)), model, tmp_path / "other")
    shutil.copy(other / "index.parquet", shard / "index.parquet")
    with pytest.raises(ProbelineError, match=r"holds 18 samples, but its index\.parquet 2"):
        read_activations([shard], [0])
    (shard / "activations.safetensors").write_bytes(b"\0" * 4)
    with pytest.raises(ProbelineError, match="is damaged"):
        read_activations([shard], [0])


def test_bfloat16_is_read_from_the_processors_flags(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\n")
    assert processor_has_bfloat16(cpuinfo)
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx512f\nbugs\t: amx_bf16\n")
    assert not processor_has_bfloat16(cpuinfo)
    assert not processor_has_bfloat16(tmp_path / "absent")
