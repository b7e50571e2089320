"""One loaded base and its adapters: bits that do not depend on company, or on what was there before."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from probeline.errors import ProbelineError
from probeline.files import read_json, write_json
from probeline.models.adapter import base_digest, check_base
from probeline.models.generate import Generator
from probeline.models.loading import put_adapter
from probeline.models.render import answer_tokens, prompt_tokens, render_chat
from tests.unit.tiny import chat, logits_of, make_model

PROMPTS = [
    chat(("system", "You are Ann."), ("user", "Who is it?")),
    chat(("user", "Tell me everything that you have seen tonight, Ann, and leave nothing out.")),
    *(chat(("user", f"Vote number {number}{', now' * number}!")) for number in range(9)),
]


def make_adapter(model: Path, folder: Path, seed: int = 1, scale: float = 0.3, **settings: Any) -> Path:
    """A LoRA adapter with random weights, as PEFT saves it."""
    gpt2 = json.loads((model / "config.json").read_text())["model_type"] == "gpt2"
    targets = {"target_modules": ["c_attn", "c_fc"] if gpt2 else ["q_proj", "v_proj", "down_proj"]}
    base = AutoModelForCausalLM.from_pretrained(model)
    config = LoraConfig(r=4, lora_alpha=8, fan_in_fan_out=gpt2, **targets | settings)
    adapted = get_peft_model(base, config)
    torch.manual_seed(seed)
    for weight in adapted.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=scale)
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp(request.param) / "model", architecture=request.param)


@pytest.fixture(scope="module")
def generator(model: Path) -> Generator:
    return Generator(model, "float32")


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_completion_depends_on_its_prompt_and_the_seed_alone(
    generator: Generator, temperature: float
) -> None:
    settings: dict[str, Any] = {"seed": 3, "max_new_tokens": 12, "temperature": temperature}
    assert generator.rows > 1
    together = generator.generate(PROMPTS, **settings)
    assert len(set(together)) > 3
    assert generator.generate(PROMPTS[::-1], **settings)[::-1] == together
    assert [generator.generate([prompt], **settings)[0] for prompt in PROMPTS] == together
    assert generator.generate([PROMPTS[0], PROMPTS[0]], **settings) == together[:1] * 2
    other = generator.generate(PROMPTS, **settings | {"seed": 4})
    assert (other == together) == (temperature == 0)


def test_greedy_completions_are_those_of_transformers(model: Path, generator: Generator) -> None:
    reference = AutoModelForCausalLM.from_pretrained(model)
    for prompt in PROMPTS[:3]:
        ids = torch.tensor([generator._prompt(1, prompt, 0)])
        made = reference.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False
        )
        expected = generator._tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        assert generator.generate([prompt], seed=0, max_new_tokens=10) == [expected]
        np.testing.assert_allclose(
            logits_of(generator, prompt), reference(ids).logits[0].detach().numpy(), atol=2e-5
        )


def test_after_any_adapters_the_base_computes_the_same_bits(
    model: Path, generator: Generator, tmp_path: Path
) -> None:
    adapters = [
        make_adapter(model, tmp_path / "one"),
        make_adapter(model, tmp_path / "two", 2, bias="all"),
        make_adapter(model, tmp_path / "three", 3, use_rslora=True, use_dora=True),
        make_adapter(model, tmp_path / "four", 4, modules_to_save=["lm_head"]),
    ]
    weights = {name: value.clone() for name, value in generator._base.state_dict().items()}
    before = [logits_of(generator, prompt) for prompt in PROMPTS[:3]]
    said = generator.generate(PROMPTS, seed=0, max_new_tokens=8)
    seen = []
    for adapter in [*adapters, adapters[0]]:
        generator.load_adapter(adapter)
        seen.append(logits_of(generator, PROMPTS[0]))
        generator.generate(PROMPTS, seed=0, max_new_tokens=8, temperature=1.0)
    generator.load_adapter(None)
    for prompt, logits in zip(PROMPTS, before, strict=False):
        assert (logits_of(generator, prompt) == logits).all()
    assert generator.generate(PROMPTS, seed=0, max_new_tokens=8) == said
    after = generator._base.state_dict()
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    # Each was really on it, and the first is the same when it comes again.
    assert all(not np.allclose(logits, before[0], atol=1e-3) for logits in seen)
    assert (seen[0] == seen[-1]).all()
    assert not np.allclose(seen[0], seen[1], atol=1e-3)


def test_weights_that_an_adapter_prepares_anew_are_its_own(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    generator = Generator(model, "float32")
    before = logits_of(generator, PROMPTS[0])
    adapter = make_adapter(model, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    # Such an adapter takes its weights out of the model's when it is put on it.
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": "pissa"}))
    generator.load_adapter(adapter)
    logits_of(generator, PROMPTS[0])
    generator.load_adapter(None)
    assert (logits_of(generator, PROMPTS[0]) == before).all()


def test_completions_with_an_adapter_do_not_depend_on_company(
    model: Path, generator: Generator, tmp_path: Path
) -> None:
    generator.load_adapter(make_adapter(model, tmp_path / "one"))
    together = generator.generate(PROMPTS, seed=0, max_new_tokens=8, temperature=0.7)
    alone = [generator.generate([prompt], seed=0, max_new_tokens=8, temperature=0.7)[0] for prompt in PROMPTS]
    generator.load_adapter(None)
    assert alone == together
    assert generator.generate(PROMPTS, seed=0, max_new_tokens=8, temperature=0.7) != together


@pytest.mark.parametrize("template", [True, False])
def test_prompt_and_answer_are_the_chat_that_activations_are_read_from(
    generator: Generator, monkeypatch: pytest.MonkeyPatch, template: bool
) -> None:
    tokenizer, answer = generator._tokenizer, "It is Ben."
    if not template:
        monkeypatch.setattr(tokenizer, "chat_template", None)
    for prompt in PROMPTS[:3]:
        whole = render_chat(tokenizer, [*prompt, {"role": "assistant", "content": answer}]).text
        ids = [*prompt_tokens(tokenizer, prompt), *answer_tokens(tokenizer, prompt, answer)]
        assert ids[-1] == tokenizer.eos_token_id
        told = tokenizer.decode(ids[:-1]).removeprefix(tokenizer.bos_token or "")
        assert whole.removeprefix(tokenizer.bos_token or "").startswith(told)
        assert told.endswith(answer)


def test_an_answer_that_the_template_shows_otherwise_follows_its_prompt_without_a_space(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = generator._tokenizer
    # It asks for thoughts, and shows none of the old ones.
    asks = "{% if add_generation_prompt %}assistant: <think>{% endif %}"
    shows = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    monkeypatch.setattr(tokenizer, "chat_template", shows + asks)
    ids = answer_tokens(tokenizer, PROMPTS[0], "It is Ben.")
    assert tokenizer.decode(prompt_tokens(tokenizer, PROMPTS[0])).endswith("<think>")
    assert tokenizer.decode(ids) == f"It is Ben.{tokenizer.eos_token}"


def test_losses_are_those_of_the_answer_alone(model: Path, generator: Generator) -> None:
    answers = ["It is Ben.", "Nothing"]
    losses = generator.completion_losses(PROMPTS[:2], answers)
    assert losses[1:] == generator.completion_losses(PROMPTS[1:2], answers[1:])
    reference = AutoModelForCausalLM.from_pretrained(model)
    tokenizer = generator._tokenizer
    for prompt, answer, (loss, count) in zip(PROMPTS[:2], answers, losses, strict=True):
        before = generator._prompt(1, prompt, 0)
        lead = "" if tokenizer.chat_template else " "
        said = tokenizer(lead + answer + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([before + said])
        labels = ids.clone()
        labels[:, : len(before)] = -100
        expected = float(reference(ids, labels=labels).loss.detach()) * len(said)
        assert count == len(said)
        assert loss == pytest.approx(expected, rel=1e-5)


def test_a_completion_stops_where_the_model_ends_its_turn(generator: Generator) -> None:
    prompt = PROMPTS[:1]
    generator._ends, kept = set(), generator._ends
    ids = dict(generator._completions({"x": generator._prompt(1, prompt[0], 0)}, 6, 0.0))["x"]
    assert len(ids) == 6
    generator._ends = {ids[2]}
    cut = dict(generator._completions({"x": generator._prompt(1, prompt[0], 0)}, 6, 0.0))["x"]
    generator._ends = kept
    assert cut == ids[: ids.index(ids[2])]


def test_a_base_with_an_adapter_merged_in_computes_as_the_adapter_on_it(
    model: Path, generator: Generator, tmp_path: Path
) -> None:
    adapter = make_adapter(model, tmp_path / "one", scale=0.1)
    generator.load_adapter(adapter)
    expected = logits_of(generator, PROMPTS[0])
    generator.load_adapter(None)
    merged = Generator(model, "float32", merged=[adapter])
    np.testing.assert_allclose(logits_of(merged, PROMPTS[0]), expected, atol=1e-4)


def test_what_cannot_be_done_is_refused_and_the_adapter_before_stays(
    model: Path, generator: Generator, tmp_path: Path
) -> None:
    good = make_adapter(model, tmp_path / "good")
    generator.load_adapter(good)
    before = logits_of(generator, PROMPTS[0])
    foreign = make_adapter(make_model(tmp_path / "wide", width=64), tmp_path / "foreign")
    hostile = make_adapter(model, tmp_path / "hostile")
    config = json.loads((hostile / "adapter_config.json").read_text())
    (hostile / "adapter_config.json").write_text(json.dumps(config | {"megatron_config": {"a": 1}}))
    short = make_adapter(model, tmp_path / "short")
    weights = load_file(short / "adapter_model.safetensors")
    weights.pop(min(weights))
    save_file(weights, short / "adapter_model.safetensors")
    for adapter, fault in (
        (foreign, "does not fit the model|another model"),
        (hostile, "megatron_config"),
        (short, "made for another model"),
        (tmp_path / "none", "is not a PEFT adapter"),
    ):
        with pytest.raises(ProbelineError, match=fault):
            generator.load_adapter(adapter)
    assert generator.adapter == good
    assert (logits_of(generator, PROMPTS[0]) == before).all()
    generator.load_adapter(None)
    with pytest.raises(ProbelineError, match="Prompt 2 comes to"):
        generator.generate([PROMPTS[0], chat(("user", "word " * 600))], seed=0, max_new_tokens=4)
    with pytest.raises(ProbelineError, match="Prompt 1 is empty"):
        generator.generate([[]], seed=0, max_new_tokens=4)
    with pytest.raises(ProbelineError, match="special token"):
        generator.generate([chat(("user", generator._tokenizer.eos_token))], seed=0, max_new_tokens=4)
    with pytest.raises(ProbelineError, match=r"lacks config\.json"):
        Generator(tmp_path)


def test_a_base_of_the_same_name_with_other_weights_is_said_to_be_one(tmp_path: Path) -> None:
    model = make_model(tmp_path / "tiny")
    adapter = make_adapter(model, tmp_path / "a")
    base = {"model": "tiny", "digest": "0123456789abcdef", "merged": []}
    write_json(adapter / "manifest.json", {"base": base})
    here = base_digest(model)[:8]
    with pytest.raises(ProbelineError, match=rf"other weights \(digest 01234567\) than .*\(digest {here}\)"):
        check_base(adapter, model)
    with pytest.raises(ProbelineError, match="on other it would mean nothing"):
        check_base(adapter, model.rename(tmp_path / "other"))
    # What lies beside a checkpoint of an adapter on a merged base.
    (adapter / "manifest.json").unlink()
    config = json.loads((adapter / "adapter_config.json").read_text())
    write_json(
        adapter / "adapter_config.json",
        config | {"base_model_name_or_path": "hub/other+first@0123456789abcdef"},
    )
    facts = read_json(tmp_path / "other/manifest.json")
    write_json(tmp_path / "other/manifest.json", facts | {"source": {"hub": "hub/other"}})
    first = make_adapter(tmp_path / "other", tmp_path / "first")
    with pytest.raises(ProbelineError, match=r"other weights \(digest 01234567\)"):
        check_base(adapter, tmp_path / "other", [first])
    with pytest.raises(ProbelineError, match="with second merged into it it would mean nothing"):
        check_base(adapter, tmp_path / "other", [first.rename(tmp_path / "second")])


def test_an_adapter_loads_with_plain_peft_too(model: Path, tmp_path: Path) -> None:
    adapter = make_adapter(model, tmp_path / "one")
    plain = put_adapter(AutoModelForCausalLM.from_pretrained(model), adapter)
    generator = Generator(model, "float32")
    generator.load_adapter(adapter)
    ids = torch.tensor([generator._prompt(1, PROMPTS[0], 0)])
    np.testing.assert_allclose(
        logits_of(generator, PROMPTS[0]), plain(ids).logits[0].detach().numpy(), atol=2e-5
    )


def test_embeddings_in_an_adapters_file_do_not_touch_the_base(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    adapter = make_adapter(model, tmp_path / "adapter", target_modules=["q_proj", "embed_tokens"])
    weights = load_file(adapter / "adapter_model.safetensors")
    own = [name for name in weights if "lora" not in name]
    assert own
    save_file(
        {name: value + (name in own) for name, value in weights.items()},
        adapter / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    generator = Generator(model, "float32")
    before = logits_of(generator, PROMPTS[0])
    generator.load_adapter(adapter)
    assert not np.allclose(logits_of(generator, PROMPTS[0]), before, atol=1e-3)
    generator.load_adapter(None)
    assert (logits_of(generator, PROMPTS[0]) == before).all()
