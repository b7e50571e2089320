import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from probeline.activations import engine as engine_module
from probeline.activations import loading
from probeline.activations.attention import PackedAttention
from probeline.activations.engine import ActivationEngine, HeldDecoder, SpannedSequence
from probeline.activations.packing import GRAIN, Limits, packs
from probeline.errors import ProbelineError
from tests.unit import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.make_model(tmp_path_factory.mktemp("models") / "llama")


def random_sequence(length, *spans, seed=0):
    ids = np.random.default_rng(seed).integers(3, 512, length)
    return SpannedSequence(tuple(ids.tolist()), tuple(range(*span) for span in spans))


# The engine


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("llama", {}),
        ("qwen2", {}),
        ("gpt2", {}),
        ("gpt_neox", {}),
        ("mistral", {"sliding_window": 7}),
        ("gemma2", {"sliding_window": 7}),  # in every other layer, and a cap on the products
        ("gpt_oss", {"sliding_window": 7, "num_local_experts": 4}),  # attention to nothing
    ],
)
def test_layers_are_transformers_hidden_states(tmp_path, architecture, settings):
    folder = tiny.make_model(tmp_path / architecture, architecture=architecture)
    if settings:
        config = AutoConfig.from_pretrained(folder)
        for name, value in settings.items():
            setattr(config, name, value)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    reference = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
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


def test_sequences_in_one_row_do_not_see_each_other(model):
    short, long = random_sequence(20, (5, 20)), random_sequence(90, (80, 90), seed=1)
    engine = ActivationEngine(model, [0, 1, 2, 3], "float32", 1, 4096, "cpu")
    together = engine.game_means([short, long])
    alone = np.concatenate([engine.game_means([short]), engine.game_means([long])])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)


def test_only_the_blocks_up_to_the_deepest_layer_run(model, monkeypatch):
    calls = []
    find = loading.decoder_blocks

    def count(loaded):
        blocks = find(loaded)
        for index, block in enumerate(blocks):
            block.register_forward_hook(lambda *_, index=index: calls.append(index))
        return blocks

    monkeypatch.setattr(loading, "decoder_blocks", count)
    engine = ActivationEngine(model, [0, 1, 2, 3], "float32", 1, 4096, "cpu")
    calls.clear()
    full = engine.game_means([random_sequence(9, (0, 9))])
    assert calls == [0, 1, 2]
    engine = ActivationEngine(model, [0, 2], "float32", 1, 4096, "cpu")
    calls.clear()
    part = engine.game_means([random_sequence(9, (0, 9))])
    assert calls == [0, 1]
    assert np.array_equal(part, full[:, [0, 2]])


def test_equal_inputs_are_run_once_and_nothing_after_the_last_span(model):
    engine = ActivationEngine(model, [3], "float32", 1, 4096, "cpu")
    twice = [random_sequence(50, (0, 10)), random_sequence(50, (3, 10), (0, 10))]
    means = engine.game_means(twice)
    assert engine.tokens == 10
    assert np.array_equal(means[0], means[2])
    assert not np.array_equal(means[0], means[1])


def test_shared_beginnings_are_run_once(model):
    engine = ActivationEngine(model, [1, 3], "float32", 1, 4096, "cpu")
    first, other = random_sequence(150, (0, 150)), random_sequence(40, (0, 40), seed=1)
    branch = SpannedSequence((*first.input_ids[:100], *other.input_ids), (range(90, 140),))
    together = engine.game_means([first, branch])
    assert engine.tokens == 150 + 40
    alone = np.concatenate([engine.game_means([first]), engine.game_means([branch])])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)


def test_an_opening_is_run_once_for_all_games_and_changes_no_bit(model):
    """The lines before a statement without context are the same in many games."""
    opening = random_sequence(20).input_ids
    games = [
        [
            SpannedSequence(
                (*opening, *random_sequence(9, seed=10 * game + number).input_ids), (range(20, 29),)
            )
            for number in range(3)
        ]
        for game in range(4)
    ]
    engine = ActivationEngine(model, [0, 1, 3], "bfloat16", 1, 4096, "cpu")
    in_turn = [engine.game_means(game) for game in games]
    assert engine.tokens == 20 + 4 * 3 * 9
    alone = [
        ActivationEngine(model, [0, 1, 3], "bfloat16", 1, 4096, "cpu").game_means(game) for game in games
    ]
    assert [means.tobytes() for means in in_turn] == [means.tobytes() for means in alone]


def test_what_is_measured_besides_changes_no_bit_of_the_rest(model):
    """With the first span behind a long beginning, behind an opening, and in one before what is besides."""
    first, other = random_sequence(150, (120, 130), (140, 150)), random_sequence(90, (30, 60), seed=1)
    told = [
        SpannedSequence(first.input_ids, first.spans, (range(7, 15), range(100, 110))),
        SpannedSequence(other.input_ids, other.spans, (range(40, 45),)),
    ]
    engine = ActivationEngine(model, [0, 1, 3], "bfloat16", 1, 4096, "cpu")
    plain, beside = engine.game_means([first, other]), engine.game_means(told)
    assert np.array_equal(plain, beside[[0, 1, 4]])
    again = [
        random_sequence(150, (7, 15), (100, 110), (120, 150)),
        random_sequence(90, (40, 45), seed=1),
    ]
    near = engine.game_means(again)
    np.testing.assert_allclose(beside[[2, 3, 5]], near[[0, 1, 3]], rtol=0.05, atol=0.05)
    # In the opening: that ends before it, and both are what transformers says up to rounding.
    inside = SpannedSequence(other.input_ids, other.spans, (range(10, 20),))
    exact = ActivationEngine(model, [0, 1, 3], "float32", 1, 4096, "cpu")
    together = exact.game_means([inside])
    expected = exact.game_means([random_sequence(90, (30, 60), (10, 20), seed=1)])
    np.testing.assert_allclose(together, expected, rtol=1e-4, atol=1e-6)


def test_spans_that_begin_at_different_places_of_one_text_are_measured(model):
    """As where the words of one sample stand behind its reasoning, and another sample has none."""
    text = random_sequence(40).input_ids
    game = [
        SpannedSequence(text, (range(20, 40),)),
        SpannedSequence((*text[:30], 3, 4, 5), (range(5, 33),)),
        SpannedSequence(text[:25], (range(10, 25),)),
    ]
    engine = ActivationEngine(model, [0, 1, 3], "float32", 1, 4096, "cpu")
    together = engine.game_means(game)
    alone = np.concatenate([engine.game_means([sequence]) for sequence in game])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)


def test_forgotten_openings_are_run_again_to_the_same_bits(model, monkeypatch):
    monkeypatch.setattr(engine_module, "MOST_OPENINGS", 1)
    engine = ActivationEngine(model, [3], "float32", 1, 4096, "cpu")
    games = [[random_sequence(30, (20, 30), seed=seed)] for seed in (1, 2, 1)]
    first, _, again = [engine.game_means(game) for game in games]
    assert engine.tokens == 90
    assert np.array_equal(first, again)


def test_tokens_of_the_spans_are_kept_for_the_layers_asked_for(model):
    engine = ActivationEngine(model, [0, 3], "float32", 1, 60, "cpu", token_layers=[1, 3])
    game = [random_sequence(50, (5, 10), (7, 30)), random_sequence(45, (10, 45), seed=1)]
    found = engine.launch(game).result()
    assert found.tokens.shape == (5 + 23 + 35, 2, 32)
    ends = np.cumsum([5, 23, 35])
    for span, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        np.testing.assert_allclose(
            found.tokens[start:end, 1].mean(0), found.means[span, 1], rtol=1e-4, atol=1e-6
        )


def test_activations_beyond_the_stored_type_are_refused(model):
    engine = ActivationEngine(model, [0, 3], "float32", 1, 60, "cpu", store_dtype="float16")
    hook = engine._model.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: ((args[0] * 1e9,), kwargs), with_kwargs=True, prepend=True
    )
    with pytest.raises(ProbelineError, match=r"beyond the range of activations\.store: set it to float32"):
        engine.game_means([random_sequence(9, (2, 9))])
    hook.remove()
    assert engine.game_means([random_sequence(9, (2, 9))]).dtype == np.float16


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


def test_an_architecture_that_mixes_tokens_elsewhere_is_refused(tmp_path):
    bloom = tiny.make_model(tmp_path / "bloom", architecture="bloom")
    with pytest.raises(ProbelineError, match="Activations cannot be read from Bloom"):
        ActivationEngine(bloom, [0, 1], "float32", 1, 4096, "cpu")


def test_a_layer_that_carries_something_from_one_sequence_to_the_next_is_refused(model, monkeypatch):
    """As the state of a recurrent layer beside the attention would."""
    find = loading.decoder_blocks

    def recurrent(loaded):
        blocks = find(loaded)
        blocks[1].register_forward_hook(lambda block, args, hidden: hidden.cumsum(dim=1))
        return blocks

    monkeypatch.setattr(loading, "decoder_blocks", recurrent)
    with pytest.raises(ProbelineError, match="Activations cannot be read from LlamaModel"):
        ActivationEngine(model, [0, 1, 3], "float32", 1, 4096, "cpu")


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}),
        ("qwen2_moe", {"layer_types": ["sliding_attention"] * 3, "sliding_window": 7, "num_experts": 4}),
    ],
)
def test_what_depends_on_the_row_or_loses_its_window_is_refused(tmp_path, architecture, settings):
    folder = tiny.make_model(tmp_path / architecture, architecture=architecture)
    config = AutoConfig.from_pretrained(folder)
    for name, value in settings.items():
        setattr(config, name, value)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    with pytest.raises(ProbelineError, match="Activations cannot be read from"):
        ActivationEngine(folder, [0, 1], "float32", 1, 4096, "cpu")


def test_engines_of_several_settings_share_one_model_in_memory(model):
    """As in a container that stays warm: none leaves a trace in the next one's results."""
    sequences = [random_sequence(40, (3, 40), seed=seed) for seed in range(3)]
    held = HeldDecoder(model, "float32", 1, "cpu")
    for layers, budget in (([1], 4096), ([0, 3], 64), ([2], 4096), ([1], 4096)):
        shared = ActivationEngine(model, layers, "float32", 1, budget, "cpu", held=held)
        alone = ActivationEngine(model, layers, "float32", 1, budget, "cpu")
        assert shared.game_means(sequences).tobytes() == alone.game_means(sequences).tobytes()
        assert shared.linear_weights == alone.linear_weights
        assert len(held.hooks) == len(layers)


def test_out_of_gpu_memory_halves_the_rows_of_that_game(model, monkeypatch, caplog):
    engine = ActivationEngine(model, [2], "float32", 1, 4096, "cpu")
    sequences = [random_sequence(32, (0, 32), seed=seed) for seed in range(4)]
    expected = engine.game_means(sequences)
    run, sizes = engine._run, []

    def small_memory(row):
        sizes.append(row.pack.tokens)
        if sizes[-1] > limit:
            raise torch.OutOfMemoryError
        return run(row)

    monkeypatch.setattr(engine, "_run", small_memory)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    limit = 64
    np.testing.assert_allclose(engine.game_means(sequences), expected, rtol=1e-4, atol=1e-6)
    # First once more without what earlier games have left on the GPU.
    assert sizes == [128, 128, 64, 64]
    assert "Out of memory" in caplog.text
    assert engine.smallest_token_budget == 64
    sizes.clear()
    engine.game_means(sequences[:2])
    assert sizes == [64]
    limit = 16
    with pytest.raises(ProbelineError, match="does not hold one sequence of 32 tokens"):
        engine.game_means(sequences)


# Packs


def branching(seed, count=6):
    """Sequences of which some share their beginnings."""
    generator = np.random.default_rng(seed)
    sequences = [tuple(generator.integers(3, 9, generator.integers(1, 90)).tolist())]
    for _ in range(count - 1):
        base = sequences[generator.integers(len(sequences))]
        fresh = generator.integers(3, 9, generator.integers(1, 90)).tolist()
        sequences.append((*base[: generator.integers(len(base) + 1)], *fresh))
    return sequences


@pytest.mark.parametrize("seed", range(8))
def test_packs_hold_every_token_once_and_lead_to_each_sequence(seed):
    sequences = branching(seed)
    generator = np.random.default_rng(seed)
    openings = {
        sequence: int(generator.integers(min(len(sequence), 30))) if seed % 2 else 0 for sequence in sequences
    }
    for pack in packs(openings, Limits(120, 16, 2**12)):
        table = np.concatenate([*map(np.array, pack.openings), pack.input_ids])
        ahead = len(table) - len(pack.input_ids)
        assert pack.tokens <= 120 or len(pack.paths) == 1
        assert 0 <= len(pack.input_ids) - pack.tokens < GRAIN
        for sequence, path in pack.paths.items():
            assert tuple(table[path + ahead].tolist()) == sequence
            own = path[openings[sequence] :]
            assert (own >= 0).all()  # what is measured is in the row
            assert (pack.position_ids[own] == range(openings[sequence], len(sequence))).all()
        if not seed % 2:
            prefixes = {sequence[: end + 1] for sequence in pack.paths for end in range(len(sequence))}
            assert pack.tokens == len(prefixes)
        assert len(set(pack.places[: pack.tokens].tolist())) == pack.tokens
    packed = [sequence for pack in packs(openings, Limits(120, 16, 2**12)) for sequence in pack.paths]
    assert packed == sorted(set(sequences))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("fused", "block"), [(False, 16), (True, 16), (True, 4096)])
@pytest.mark.parametrize(
    ("window", "softcap", "sink"),
    [(None, None, False), (5, None, False), (None, 2.0, False), (7, None, True)],
)
def test_attention_in_a_pack_is_attention_in_each_sequence(seed, fused, block, window, softcap, sink):
    """Against the formula, written out for one sequence at a time."""
    sequences = branching(seed)
    (pack,) = packs(dict.fromkeys(sequences, 0), Limits(10**6, block, 2**12))
    generator = torch.Generator().manual_seed(seed)
    tokens = len(pack.input_ids)
    query, key, value = (torch.randn(1, heads, tokens, 8, generator=generator) for heads in (6, 2, 2))
    sinks = torch.randn(6, generator=generator) if sink else None
    attention = PackedAttention(pack, [], fused=fused)
    found = attention.attend(query, key, value, 0.3, window, softcap, sinks)
    for path in pack.paths.values():
        q, k, v = (
            part[0][:, path].repeat_interleave(6 // part.shape[1], dim=0) for part in (query, key, value)
        )
        scores = q @ k.mT * 0.3
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        place = torch.arange(len(path))
        distance = place[:, None] - place
        hidden = (distance < 0) if window is None else (distance < 0) | (distance >= window)
        scores = scores.masked_fill(hidden, -torch.inf)
        if sinks is not None:
            scores = torch.cat([scores, sinks.view(6, 1, 1).expand(6, len(path), 1)], dim=-1)
        expected = (scores.softmax(-1)[..., : len(path)] @ v).transpose(0, 1)
        torch.testing.assert_close(found[0, path], expected, rtol=1e-4, atol=1e-5)


# CUDA


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
