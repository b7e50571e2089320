import logging
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from probeline.activations import extract as extract_module
from probeline.activations.engine import ActivationEngine
from probeline.activations.extract import Settings, Workplace, extract_activations
from probeline.activations.machine import may_have_cuda, processor, processor_has_bfloat16
from probeline.activations.reuse import remove_orphans
from probeline.activations.store import read_activations, read_reveals, read_tokens
from probeline.errors import ProbelineError
from probeline.files import read_json, write_json
from probeline.models.fetch import fetch_model
from tests.unit import tiny

CHATS = {
    name: messages
    for game, rounds in (("g1", 3), ("g2", 1), ("g3", 5))
    for name, messages in tiny.game_chats(game, rounds).items()
}
SETTINGS = Settings(layers=None, dtype="float32", store_dtype="float32", threads=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.make_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def dialogues(tmp_path):
    return tiny.write_dialogues(tmp_path / "dialogues", CHATS)


def extract(dialogues, model, output, **changes):
    extract_activations([dialogues], model, output, replace(SETTINGS, **changes))
    return output


def by_sample(*shards):
    """Sample → the bytes of its means, and of its tokens where they are kept."""
    layers = read_json(shards[0] / "manifest.json")["layers"]
    stored = read_activations(shards, layers)
    found = {sample: values.tobytes() for sample, values in zip(stored.samples, stored.values, strict=True)}
    for shard in shards:
        for layer in read_json(shard / "manifest.json")["token_layers"]:
            kept = read_tokens(shard, layer)
            parts = np.split(kept.values, np.cumsum(kept.counts)[:-1])
            for sample, values in zip(kept.samples, parts, strict=True):
                found[sample] += values.tobytes()
    return found


def excluded(shard):
    return read_json(shard / "manifest.json")["excluded"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
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
    facts |= {
        "token_layers": [],
        "adapter_sha256": None,
        "threads": 1,
        "token_budget": 2048,
        "smallest_token_budget": 2048,
    }
    facts["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    assert facts.items() <= manifest.items()
    assert str(tmp_path) not in (first / "manifest.json").read_text()
    assert f"3 of 3 games went through the model: {manifest['tokens']} tokens" in caplog.text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adding_removing_and_permuting_games_changes_no_bit_of_a_sample(tmp_path, dialogues, model, dtype):
    settings = {"dtype": dtype, "token_budget": 300, "token_layers": (1, 3)}
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
        "g1#long": tiny.chat(("user", "Speak."), ("assistant", "Short."), ("assistant", "vote " * 10_000)),
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


def test_a_mask_without_a_token_is_excluded(tmp_path, model):
    """As with a tokenizer that drops some characters."""
    dropping = tmp_path / "dropping"
    shutil.copytree(model, dropping)
    tokenizer = read_json(dropping / "tokenizer.json")
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "~"}, "content": ""}
    write_json(dropping / "tokenizer.json", tokenizer)
    chats = {"g1#Ann": tiny.chat(("user", "Speak."), ("assistant", "~~~"), ("assistant", "I ~ speak."))}
    output = extract(tiny.write_dialogues(tmp_path / "d", chats), dropping, tmp_path / "out")
    assert excluded(output) == {"no token in the mask": 1}
    assert pq.read_table(output / "index.parquet")["sample"].to_pylist() == ["g1#Ann#2"]


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


def test_float16_that_would_overflow_is_refused(tmp_path, dialogues, model):
    half = extract(dialogues, model, tmp_path / "half", store_dtype="float16")
    assert load_file(half / "activations.safetensors")["mean"].dtype == np.float16
    loud = tmp_path / "loud"
    shutil.copytree(model, loud)
    weights = load_file(loud / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"] * 1e9
    save_file(weights, loud / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ProbelineError, match=r"game g1 .*activations\.store: set it to float32"):
        extract(dialogues, loud, tmp_path / "out", store_dtype="float16")
    assert not (tmp_path / "out").exists()


def test_several_shards_of_dialogues_make_one_of_activations(tmp_path, dialogues, model):
    whole = extract(dialogues, model, tmp_path / "whole")
    parts = []
    for game in ("g1", "g2", "g3"):
        chats = {name: messages for name, messages in CHATS.items() if name.startswith(game)}
        parts.append(tiny.write_dialogues(tmp_path / f"{game}-dialogues", chats))
    extract_activations(parts, model, tmp_path / "joined", SETTINGS)
    for name in ("activations.safetensors", "index.parquet", "manifest.json"):
        assert (tmp_path / "joined" / name).read_bytes() == (whole / name).read_bytes()


def test_tokens_are_stored_for_the_layers_asked_for(tmp_path, dialogues, model):
    shard = extract(dialogues, model, tmp_path / "out", token_layers=(3, 1))
    index = pq.read_table(shard / "index.parquet").to_pylist()
    means = read_activations([shard], [1, 3])
    for column, layer in enumerate((1, 3)):
        stored = read_tokens(shard, layer)
        assert stored.samples == means.samples
        assert stored.counts.tolist() == [row["tokens"] for row in index]
        begins = np.cumsum([0, *stored.counts[:-1]])
        averages = np.add.reduceat(stored.values, begins) / stored.counts[:, None]
        np.testing.assert_allclose(averages, means.values[:, column], rtol=1e-4, atol=1e-6)
    with pytest.raises(
        ProbelineError, match=r"no tokens of layer 2, only of 1, 3\. .*activations\.token_layers"
    ):
        read_tokens(shard, 2)


def test_an_adapter_on_the_model_is_read_through(tmp_path, dialogues, model):
    adapter = tiny.make_adapter(model, tmp_path / "adapter")
    plain = read_activations([extract(dialogues, model, tmp_path / "plain")], [0, 1, 3])
    extract_activations([dialogues], model, tmp_path / "adapted", SETTINGS, adapter=adapter)
    adapted = read_activations([tmp_path / "adapted"], [0, 1, 3])
    assert np.array_equal(plain.values[:, 0], adapted.values[:, 0])  # the embeddings have no adapter
    assert not np.allclose(plain.values[:, 1], adapted.values[:, 1], rtol=1e-3)
    merged = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model), adapter
    ).merge_and_unload()
    shutil.copytree(model, tmp_path / "merged")
    merged.save_pretrained(tmp_path / "merged")
    expected = read_activations([extract(dialogues, tmp_path / "merged", tmp_path / "out")], [0, 1, 3])
    np.testing.assert_allclose(adapted.values, expected.values, rtol=1e-3, atol=1e-5)
    with pytest.raises(ProbelineError, match="adapter_sha256 is"):
        read_activations([tmp_path / "plain", tmp_path / "adapted"], [1])


def test_an_adapter_that_could_run_code_is_refused(tmp_path, dialogues, model):
    adapter = tiny.make_adapter(model, tmp_path / "adapter")
    whole = (adapter / "adapter_model.safetensors").read_bytes()
    (adapter / "adapter_model.safetensors").write_bytes(b"nonsense" * 10)
    with pytest.raises(ProbelineError, match=r"adapter_model\.safetensors is not a whole safetensors file"):
        extract_activations([dialogues], model, tmp_path / "out", SETTINGS, adapter=adapter)
    (adapter / "adapter_model.safetensors").write_bytes(whole)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ProbelineError, match=r"lacks adapter_model\.safetensors\. Weights in other formats"):
        extract_activations([dialogues], model, tmp_path / "out", SETTINGS, adapter=adapter)


def test_an_adapter_of_another_model_is_refused(tmp_path, dialogues, model):
    deeper = tiny.make_model(tmp_path / "deeper", layers=5)
    wider = tiny.make_model(tmp_path / "wider", width=64)
    for other, words in ((deeper, "16 of its weights|do not match"), (wider, "does not fit the model")):
        adapter = tiny.make_adapter(other, tmp_path / f"adapter-{other.name}")
        with pytest.raises(ProbelineError, match=words):
            extract_activations([dialogues], model, tmp_path / "out", SETTINGS, adapter=adapter)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "peft_type is 'PROMPT_TUNING', but only LORA is read"),
        ({"megatron_config": {"x": 1}, "megatron_core": "antigravity"}, "sets megatron_config"),
    ],
)
def test_adapters_of_other_kinds_are_refused(tmp_path, dialogues, model, change, words):
    adapter = tiny.make_adapter(model, tmp_path / "adapter")
    config = adapter / "adapter_config.json"
    write_json(config, read_json(config) | change)
    with pytest.raises(ProbelineError, match=words):
        extract_activations([dialogues], model, tmp_path / "out", SETTINGS, adapter=adapter)


# What tells the role

REVEALS = [(name, 0, 8, 13) for name in CHATS] + [("g3#Ann", 0, 0, 3)]


def by_player(*shards, layers=(0, 1, 2, 3)):
    told = read_reveals(shards, layers)
    return {player: values.tobytes() for player, values in zip(told.players, told.values, strict=True)}


def test_reveals_are_measured_beside_the_samples_and_change_no_bit_of_them(tmp_path, model):
    settings = {"token_layers": (1, 3), "token_budget": 300}
    # Too long a beginning for an opening, as the system message of a private view is.
    chats = {
        name: tiny.chat(("system", messages[0]["content"] + " Talk, then vote." * 20)) + messages[1:]
        for name, messages in CHATS.items()
    }
    dialogues = tiny.write_dialogues(tmp_path / "dialogues", chats)
    plain = extract(dialogues, model, tmp_path / "plain", **settings)
    told = tiny.write_dialogues(tmp_path / "told", chats, reveals=REVEALS)
    shard = extract(told, model, tmp_path / "out", **settings)
    assert not by_player(plain)
    assert sorted(by_player(shard)) == sorted(tuple(name.split("#")) for name in CHATS)
    same = ("activations.safetensors", "tokens.safetensors", "index.parquet", "excluded.jsonl")
    assert [(shard / name).read_bytes() for name in same] == [(plain / name).read_bytes() for name in same]
    counts = [read_json(folder / "manifest.json") for folder in (plain, shard)]
    assert [(count["samples"], count["tokens"]) for count in counts] == [(18, counts[0]["tokens"])] * 2
    assert [count["reveals"] for count in counts] == [0, 7]


def test_a_reveal_is_the_mean_over_the_tokens_of_all_its_sentences(tmp_path, model):
    shard = extract(
        tiny.write_dialogues(tmp_path / "told", CHATS, reveals=REVEALS),
        model,
        tmp_path / "out",
        layers=[0, 2],
    )
    # The same sentences as samples of a shard of their own.
    places = {"role": (0, 8, 13), "more": (0, 0, 3)}
    as_samples = tiny.write_dialogues(tmp_path / "d", {"g3#Ann": CHATS["g3#Ann"]}, places)
    samples = extract(as_samples, model, tmp_path / "samples", layers=[0, 2])
    counts = pq.read_table(samples / "index.parquet")["tokens"].to_numpy()
    values = read_activations([samples], [2, 0]).values
    expected = np.average(values, axis=0, weights=counts)
    told = read_reveals([shard], [2, 0])
    np.testing.assert_allclose(told.values[told.players.index(("g3", "Ann"))], expected, rtol=1e-4, atol=1e-6)


def test_reveals_are_exact_whatever_runs_beside_them_and_reused(tmp_path, model, workplace):
    told = tiny.write_dialogues(tmp_path / "told", CHATS, reveals=REVEALS)
    output = tmp_path / "out"
    assert extract_again(told, model, output, workplace) == (3, 0)
    everything = by_player(output)
    for game in ("g1", "g2", "g3"):
        part = {name: messages for name, messages in CHATS.items() if name.startswith(game)}
        places = [place for place in REVEALS if place[0] in part]
        shard = tiny.write_dialogues(tmp_path / f"{game}-told", part, reveals=places)
        alone = by_player(extract(shard, model, tmp_path / game))
        assert alone.items() <= everything.items()
        assert len(alone) == 2
    # One more sentence in one game, and one game without any: these two are computed again.
    places = [place for place in REVEALS if not place[0].startswith("g2")] + [("g1#Ben", 0, 0, 3)]
    edited = tiny.write_dialogues(tmp_path / "edited", CHATS, reveals=places)
    assert extract_again(edited, model, output, workplace) == (2, 1)
    extract(edited, model, tmp_path / "scratch")
    assert content(output) == content(tmp_path / "scratch")
    assert extract_again(edited, model, output, workplace) == (0, 3)
    assert content(output) == content(tmp_path / "scratch")


def test_reveals_of_players_without_samples_or_tokens_are_left_out(tmp_path, model):
    chats = {
        "g1#Ann": tiny.chat(("system", "Your role: seer. "), ("assistant", "Fine.")),
        "g1#Ben": tiny.chat(("system", "Your role: seer."), ("assistant", " ")),
        "g1#Cid": tiny.chat(("system", "Your role: seer."), ("assistant", "Fine.<|im_end|>")),
    }
    places = [(name, 0, 0, 16) for name in chats] + [("g1#Ann", 0, 16, 17)]
    shard = tiny.write_dialogues(tmp_path / "told", chats, reveals=places)
    output = extract(shard, model, tmp_path / "out")
    assert list(by_player(output)) == [("g1", "Ann")]
    assert pq.read_table(output / "reveals.parquet").num_rows == 1
    outside = tiny.write_dialogues(tmp_path / "bad", chats, reveals=[("g1#Ann", 0, 0, 99)])
    with pytest.raises(ProbelineError, match="sentence that tells Ann its role lies outside sequence g1#Ann"):
        extract(outside, model, tmp_path / "bad-out")


# Results of earlier runs


@pytest.fixture
def workplace(tmp_path):
    return Workplace(tmp_path / "work", "concept--shard", "digest of the code")


def extract_again(dialogues, model, output, workplace, **changes):
    """Extract with reuse: how many games were computed, and how many reused."""
    figures = output.with_suffix(".json")
    settings = replace(SETTINGS, **changes)
    extract_activations([dialogues], model, output, settings, workplace=workplace, figures=figures)
    said = read_json(figures)
    return said["games_computed"], said["games_reused"]


def content(shard):
    return {file.name: file.read_bytes() for file in shard.iterdir()}


def test_only_games_with_new_content_are_computed_and_the_shard_equals_one_from_scratch(
    tmp_path, dialogues, model, workplace
):
    changes = {"token_layers": (2,)}
    output = tmp_path / "out"
    assert extract_again(dialogues, model, output, workplace, **changes) == (3, 0)
    chats = dict(CHATS) | tiny.game_chats("g4", 2)
    del chats["g2#Ann"], chats["g2#Ben"]
    chats["g3#Ann"] = [*chats["g3#Ann"][:-1], {"role": "assistant", "content": "I say something else."}]
    edited = tiny.write_dialogues(tmp_path / "edited", chats)
    shutil.rmtree(output)  # as Snakemake does
    assert extract_again(edited, model, output, workplace, **changes) == (2, 1)
    scratch = tmp_path / "scratch"
    extract_activations([edited], model, scratch, replace(SETTINGS, **changes))
    assert content(output) == content(scratch)


def test_a_job_that_finds_everything_needs_no_model_and_no_torch(tmp_path, dialogues, model, workplace):
    extract_again(dialogues, model, tmp_path / "out", workplace)
    # A second concept may have the same texts.
    code = """
import sys
from pathlib import Path
from probeline.activations.extract import Settings, Workplace, extract_activations
dialogues, model, output, work = map(Path, sys.argv[1:])
workplace = Workplace(work, "other--shard", "digest of the code")
settings = Settings(None, "float32", "float32", 1)
extract_activations([dialogues], model, output, settings, workplace=workplace)
print("torch" in sys.modules)
"""
    command = [sys.executable, "-c", code, dialogues, model, tmp_path / "other", workplace.folder]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(may_have_cuda())
    assert content(tmp_path / "other") == content(tmp_path / "out")


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "bfloat16"},
        {"layers": [1, 2]},
        {"token_layers": (1,)},
        {"threads": 2},
        {"token_budget": 99},
        {"store_dtype": "float16"},
    ],
)
def test_other_settings_reuse_nothing(tmp_path, dialogues, model, workplace, changes):
    extract_again(dialogues, model, tmp_path / "out", workplace)
    assert extract_again(dialogues, model, tmp_path / "other", workplace, **changes) == (3, 0)
    # What the job left under its old settings is gone: the disk holds one result for each job.
    assert len(list(workplace.folder.glob("*/concept--shard"))) == 1


def test_other_code_weights_and_processors_reuse_nothing(tmp_path, dialogues, model, workplace, monkeypatch):
    extract_again(dialogues, model, tmp_path / "out", workplace)
    other_model = tiny.make_model(tmp_path / "other" / "llama", seed=1)
    other = replace(workplace, name="other")
    assert extract_again(dialogues, other_model, tmp_path / "a", other) == (3, 0)
    assert extract_again(dialogues, model, tmp_path / "b", replace(other, code="edited")) == (3, 0)
    monkeypatch.setattr(extract_module, "processor", lambda: "another one")
    assert extract_again(dialogues, model, tmp_path / "c", other) == (3, 0)


def test_another_config_of_the_same_weights_reuses_nothing(tmp_path, dialogues, model, workplace):
    extract_again(dialogues, model, tmp_path / "out", workplace)
    source = tmp_path / "source"
    shutil.copytree(model, source)
    config = read_json(source / "config.json")
    write_json(source / "config.json", config | {"rms_norm_eps": 0.1})
    fetch_model({"path": str(source)}, tmp_path / "edited" / "llama")
    assert extract_again(dialogues, tmp_path / "edited" / "llama", tmp_path / "a", workplace) == (3, 0)


def test_results_of_a_gpu_without_enough_memory_are_not_reused(
    tmp_path, dialogues, model, workplace, monkeypatch
):
    launch = ActivationEngine.launch

    def small(engine, sequences):
        running = launch(engine, sequences)
        running.token_budget //= 2
        return running

    monkeypatch.setattr(ActivationEngine, "launch", small)
    extract_again(dialogues, model, tmp_path / "out", workplace)
    monkeypatch.undo()
    assert extract_again(dialogues, model, tmp_path / "again", workplace) == (3, 0)


def test_results_of_jobs_that_are_no_more_are_removed_with_their_artifacts(
    tmp_path, dialogues, model, workplace
):
    extract_again(dialogues, model, tmp_path / "out", workplace)
    other = replace(workplace, name="other--shard")
    extract_again(dialogues, model, tmp_path / "other", other)
    remove_orphans(workplace.folder, {"other--shard"})
    assert len(list(workplace.folder.glob("*/concept--shard"))) == 1  # the artifact is still there
    shutil.rmtree(tmp_path / "out")
    remove_orphans(workplace.folder, {"other--shard"})
    assert [entry.name for entry in workplace.folder.glob("*/*")] == ["other--shard"]


def test_a_killed_job_goes_on_where_it_was(tmp_path, dialogues, model, workplace, monkeypatch):
    launch = ActivationEngine.launch
    launched = []

    def killed_at_the_third(engine, sequences):
        launched.append(sequences)
        if len(launched) == 2 + 3:  # the engine tries itself out on two
            raise KeyboardInterrupt
        return launch(engine, sequences)

    monkeypatch.setattr(ActivationEngine, "launch", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        extract_again(dialogues, model, tmp_path / "out", workplace)
    monkeypatch.undo()
    assert not (tmp_path / "out").exists()
    # The kill may have come in the middle of a line.
    (journal,) = workplace.folder.glob("*/concept--shard.journal/games.jsonl")
    journal.write_bytes(journal.read_bytes() + b'{"game": "half a li')
    # The first game was written down; the second was on its way.
    assert extract_again(dialogues, model, tmp_path / "out", workplace) == (2, 1)
    assert content(tmp_path / "out") == content(extract(dialogues, model, tmp_path / "scratch"))
    assert not list(workplace.folder.glob("*/*.journal"))


def test_a_stored_result_that_was_tampered_with_is_not_believed(
    tmp_path, dialogues, model, workplace, caplog
):
    extract_again(dialogues, model, tmp_path / "out", workplace)
    expected = content(tmp_path / "out")
    (stored,) = workplace.folder.glob("*/concept--shard/activations.safetensors")
    data = bytearray(stored.read_bytes())
    data[-7] ^= 1  # in the last game
    stored.write_bytes(data)
    assert extract_again(dialogues, model, tmp_path / "again", workplace) == (1, 2)
    assert content(tmp_path / "again") == expected
    assert "not what was written" in caplog.text


def test_stored_results_take_no_space_of_their_own(tmp_path, dialogues, model, workplace):
    extract_again(dialogues, model, tmp_path / "out", workplace)
    (stored,) = workplace.folder.glob("*/concept--shard/activations.safetensors")
    assert stored.samefile(tmp_path / "out" / "activations.safetensors")


def test_the_figures_of_a_run_add_up(tmp_path, dialogues, model, workplace):
    extract_again(dialogues, model, tmp_path / "out", workplace)
    said = read_json(tmp_path / "out.json")
    assert said["tokens"] == read_json(tmp_path / "out" / "manifest.json")["tokens"]
    assert said["tokens_through_the_model"] <= said["tokens"]
    assert said["tokens_per_second"] == pytest.approx(said["tokens"] / said["seconds"])
    assert 0 < said["share_of_matrix_peak"] < 1
    assert (said["processor"], said["threads"]) == (processor(), 1)


def test_an_empty_shard_is_written_without_torch(tmp_path, model):
    empty = tiny.write_dialogues(tmp_path / "d", {})
    code = """
import sys
from pathlib import Path
from probeline.activations.extract import Settings, extract_activations
from probeline.activations.store import read_activations
dialogues, model, output = map(Path, sys.argv[1:])
extract_activations([dialogues], model, output, Settings([1, 3], "float32", "float16", 1))
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
        "reveals.parquet",
        "reveals.safetensors",
    ]


# A limit on the size of files makes the kernel refuse the write, as a full disk does, on any machine.
WRITES_TOO_MUCH = """
import resource, signal, sys
from pathlib import Path
from probeline.activations.extract import Settings, extract_activations
from probeline.errors import ProbelineError
dialogues, model, output = map(Path, sys.argv[1:])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))
try:
    extract_activations([dialogues], model, output, Settings(None, "float32", "float32", 1))
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
    with pytest.raises(ProbelineError, match=r"holds 18 rows, but its index\.parquet 2"):
        read_activations([shard], [0])
    (shard / "activations.safetensors").write_bytes(b"\0" * 4)
    with pytest.raises(ProbelineError, match="is damaged"):
        read_activations([shard], [0])
    (shard / "activations.safetensors").unlink()
    with pytest.raises(ProbelineError, match=r"activations\.safetensors does not exist\. Delete"):
        read_activations([shard], [0])


def test_shards_of_two_extractions_are_not_taken_for_one(tmp_path, dialogues, model):
    shards = [extract(dialogues, model, tmp_path / name) for name in ("one", "two")]
    with pytest.raises(ProbelineError, match="hold a sample more than once"):
        read_activations(shards, [0])
    with pytest.raises(ProbelineError, match="No shards"):
        read_activations([], [0])


def test_bfloat16_is_read_from_the_processors_flags(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\n")
    assert processor_has_bfloat16(cpuinfo)
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx512f\nbugs\t: amx_bf16\n")
    assert not processor_has_bfloat16(cpuinfo)
    assert not processor_has_bfloat16(tmp_path / "absent")


def test_a_model_of_an_older_version_is_explained(tmp_path):
    model = tiny.make_model(tmp_path / "model")
    manifest = read_json(model / "manifest.json")
    del manifest["parameters"]
    write_json(model / "manifest.json", manifest)
    with pytest.raises(ProbelineError, match="does not say how many parameters"):
        extract_activations([], model, tmp_path / "out", Settings([1], "float32", "float32", 1))
