"""Trainings of tiny models: what comes out, that it is the same each time, and that a stop costs nothing."""

import json
import math
import os
import re
import signal
import sqlite3
import time
from contextlib import closing, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOTrainer

from probeline.adapters import grpo, training
from probeline.adapters import keeper as keeping
from probeline.adapters.base import _quantized, load_base
from probeline.adapters.dpo import train_dpo
from probeline.adapters.examples import read_examples, shuffled
from probeline.adapters.grpo import Rewards, groups_told, train_grpo
from probeline.adapters.held_out import compared, in_both, mean_of, verdict
from probeline.adapters.recipes import settings_of
from probeline.adapters.sft import train_sft
from probeline.adapters.training import EVENTS, reporters
from probeline.compute.body import BodyFiles
from probeline.compute.workplace import workplace
from probeline.errors import ProbelineError
from probeline.evaluation.systems import systems_of
from probeline.files import write_json, write_json_lines, write_parquet
from probeline.models.adapter import check_base
from probeline.models.generate import Generator
from probeline.models.systems import in_memory
from probeline.schema import DATASET_GAMES, make_table
from tests.unit.judge_server import judge_server
from tests.unit.tiny import contents, logits_of, make_model

REWARDER = grpo._rewarder
TRAINERS = {"sft": train_sft, "dpo": train_dpo, "grpo": train_grpo}
COMMON = {
    "lora": {"rank": 2, "alpha": 4, "dropout": 0.1},
    "max_steps": 4,
    "batch": 2,
    "accumulation": 2,
    "held_out": 4,
    "threads": 1,
    "learning_rate": 0.01,
    "checkpoints": [2],
}
RECIPES: dict[str, dict[str, Any]] = {
    "answers": {"method": "sft", "model": "tiny", "dataset": "sft", **COMMON},
    "better": {
        "method": "dpo",
        "from": "answers",
        "dataset": "preferences",
        **{key: COMMON[key] for key in COMMON if key != "lora"},
    },
    "rewarded": {
        "method": "grpo",
        "from": "answers",
        "merge": True,
        "dataset": "forecasts",
        "generations": 2,
        "completion_tokens": 6,
        "reward": "tree",
        **COMMON,
    },
}
KIND = {"answers": "sft", "better": "preferences", "rewarded": "forecasts"}
FILE = {"sft": "mafia_sft_dataset.jsonl", "preferences": "mafia_dpo_dataset.jsonl", "forecasts": "grpo.jsonl"}


def row(kind: str, number: int) -> dict[str, Any]:
    split = "train" if number % 3 else "validation"
    common = {"id": f"g{number}#1", "game": f"g{number}", "turn": 1, "split": split}
    prompt = [{"role": "user", "content": f"Whom do you trust, player {number}?"}]
    if kind == "sft":
        told = {"instruction": "You are a villager.", "input": prompt[0]["content"], "output": "I trust [3]."}
        return common | told
    if kind == "preferences":
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in ("I trust [3].", "No."))
        return common | {"prompt": prompt, "chosen": chosen, "rejected": rejected, "rejected_game": "g0"}
    return common | {"prompt": prompt, "actual": "Rain"}


def write_dataset(folder: Path, kind: str, rows: list[dict[str, Any]] | None = None) -> Path:
    folder.mkdir(parents=True)
    rows = rows or [row(kind, number) for number in range(12)]
    (folder / FILE[kind]).write_text("".join(json.dumps(one) + "\n" for one in rows))
    games = {one["game"]: {"game": one["game"], "content": "0" * 64, "split": one["split"]} for one in rows}
    write_parquet(folder / "games.parquet", make_table([games[key] for key in sorted(games)], DATASET_GAMES))
    write_json(folder / "manifest.json", {"kind": kind})
    return folder


@pytest.fixture(autouse=True)
def rewards_of_a_random_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model forecasts nothing: it is rewarded for the variety of its letters."""

    def rewarded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [one | {"reward": len(set(one["completion"])) / 10} for one in rows]

    monkeypatch.setattr(grpo, "_rewarder", lambda spec, files: nullcontext(rewarded))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, and a dataset of each kind."""
    folder = tmp_path_factory.mktemp("adapters")
    make_model(folder / "model", layers=2)
    for kind in FILE:
        write_dataset(folder / kind, kind)
    return folder


def run(place: Path, name: str, output: str, **changes: Any) -> Path:
    """Train a recipe, in a work folder beside its output."""
    recipe = settings_of(name, RECIPES)
    made_from = {"better": {"start": ["answers"]}, "rewarded": {"merged": ["answers"]}}.get(name, {})
    spec = {
        "name": name,
        "recipe": recipe | changes.pop("recipe", {}),
        "kind": KIND[name],
        "model_name": "tiny",
        "dtype": changes.pop("dtype", "float32"),
        "threads": 1,
        "seed": 0,
    }
    files = BodyFiles(
        name=f"results/adapters/{name}",
        inputs={
            "dataset": [changes.pop("dataset", place / KIND[name]) / "manifest.json"],
            "model": [place / "model/manifest.json"],
            **{
                role: [made_once(place, one) / "manifest.json" for one in ones]
                for role, ones in made_from.items()
            },
        },
        output=place / output,
        work=place / "work" / output,
        figures=place / "figures" / f"{output}.json",
        **changes,
    )
    TRAINERS[recipe["method"]](spec, files)
    return files.output


def made_once(place: Path, name: str) -> Path:
    """What a recipe makes, for the recipes that go on from it and for tests that only look at it."""
    made = place / "made" / name
    return made if made.is_dir() else run(place, name, f"made/{name}")


def differing(one: Path, other: Path) -> list[str]:
    first, second = contents(one), contents(other)
    return sorted(name for name in {*first, *second} if first.get(name) != second.get(name))


def answers_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(20).reshape(1, 20)).logits


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_seed_gives_the_same_bytes_also_after_a_kill(
    place: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made_once(place, name)
    saved = keeping.Keeper.on_save

    def killed(self: Any, *arguments: Any, **named: Any) -> None:
        saved(self, *arguments, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(keeping.Keeper, "on_save", killed)
        with pytest.raises(KeyboardInterrupt):
            run(place, name, f"again/{name}")
    again = run(place, name, f"again/{name}")

    assert json.loads((place / f"figures/again/{name}.json").read_bytes())["resumed_from_step"] == 2
    assert differing(again, whole) == []


@pytest.mark.parametrize("name", RECIPES)
def test_an_artifact_loads_with_plain_peft_and_tells_no_place_or_time(place: Path, name: str) -> None:
    made = made_once(place, name)
    base = AutoModelForCausalLM.from_pretrained(place / "model")
    before = answers_of(base)
    adapted = PeftModel.from_pretrained(base, str(made))
    step = load_file(made / "checkpoints/step-2/adapter_model.safetensors")
    last = load_file(made / "adapter_model.safetensors")

    assert not torch.equal(answers_of(adapted), before)
    assert step.keys() == last.keys()
    assert any(not torch.equal(step[key], last[key]) for key in step)
    for file, content in contents(made).items():
        if file.endswith((".json", ".jsonl", ".svg")):
            assert str(place).encode() not in content, file
    rows = [json.loads(line) for line in (made / "training_log.jsonl").read_text().splitlines()]
    assert [one["step"] for one in rows] == [1, 2, 3, 4]
    told = {"loss", "lr", *(["reward"] if name == "rewarded" else [])}
    assert all(told <= one.keys() for one in rows)
    # All files are listed, the checkpoint's too, and every setting as it was set.
    manifest = json.loads((made / "manifest.json").read_bytes())
    assert manifest["files"].keys() == contents(made).keys() - {"manifest.json"}
    assert "checkpoints/step-2/adapter_model.safetensors" in manifest["files"]
    assert manifest["settings"] == settings_of(name, RECIPES)
    arguments = json.loads((made / "training_args.json").read_bytes())
    trained_with = (
        "max_steps",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "learning_rate",
    )
    assert [arguments[key] for key in trained_with] == [4, 2, 2, 0.01]
    assert json.loads((made / "adapter_config.json").read_bytes())["r"] == 2


def test_epochs_say_how_often_all_examples_are_seen(place: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    given = settings_of("answers", RECIPES) | {"max_steps": None}
    for epochs in (1, 3):
        found = read_examples(place / "sft", "sft", tokenizer, given | {"epochs": epochs}, 512, seed=0)
        assert found.steps == epochs * len({one["id"] for one in found.train}) / (2 * 2)
        assert len(found.train) == epochs * 8


def log_likelihoods(model: Any, rows: list[dict[str, Any]], key: str) -> list[torch.Tensor]:
    """ln p of each token of each row's answer, by transformers alone."""
    found = []
    for one in rows:
        prompt, answer = one["prompt_ids"], one[f"{key}_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        found.append(logits.log_softmax(-1)[range(len(answer)), answer])
    return found


@pytest.mark.parametrize(("name", "key"), [("answers", "completion"), ("better", "chosen")])
def test_plain_peft_finds_the_figures_of_the_summary(place: Path, name: str, key: str) -> None:
    made = made_once(place, name)
    told = json.loads((made / "training_summary.json").read_bytes())["held_out"]
    tokenizer = AutoTokenizer.from_pretrained(made)
    rows = read_examples(
        place / KIND[name], KIND[name], tokenizer, settings_of(name, RECIPES), 512, seed=0
    ).held_out
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(place / "model"), str(made))
    found = log_likelihoods(model, rows, key)

    if name == "answers":
        assert told["loss"]["after"]["value"] == pytest.approx(-torch.cat(found).mean().item(), abs=1e-4)
    else:
        mean = torch.stack([one.sum() for one in found]).mean().item()
        assert told["chosen_log_likelihood"]["after"]["value"] == pytest.approx(mean, abs=1e-3)


def test_plain_peft_has_the_rewarded_model_on_its_merged_base(place: Path) -> None:
    made = made_once(place, "rewarded")
    base = AutoModelForCausalLM.from_pretrained(place / "model")
    base = PeftModel.from_pretrained(base, str(made_once(place, "answers"))).merge_and_unload()
    tokenizer = AutoTokenizer.from_pretrained(made)
    rows = read_examples(
        place / "sft", "sft", tokenizer, settings_of("answers", RECIPES), 512, seed=0
    ).held_out
    before = [one.sum().item() for one in log_likelihoods(base, rows, "completion")]
    found = log_likelihoods(PeftModel.from_pretrained(base, str(made)), rows, "completion")
    generator = Generator(place / "model", "float32", merged=[made_once(place, "answers")])
    generator.load_adapter(made)
    losses = generator.completion_losses(
        [one["prompt"] for one in rows], [one["completion"][0]["content"] for one in rows]
    )

    assert [one.sum().item() for one in found] == pytest.approx([-loss for loss, _ in losses], abs=1e-3)
    assert [one.sum().item() for one in found] != pytest.approx(before, abs=1e-3)


def test_what_it_learned_from_is_listed_with_its_games(place: Path) -> None:
    import pyarrow.parquet as pq

    games = pq.read_table(made_once(place, "answers") / "games.parquet").to_pylist()
    assert {one["split"] for one in games} == {"train", "validation"}
    assert all(int(one["game"][1:]) % 3 == 0 for one in games if one["split"] == "validation")


def test_the_reference_of_dpo_is_the_adapter_that_it_starts_from(place: Path) -> None:
    """Without a step taken, policy and reference are one: the loss of the first step is ln 2."""
    made = run(place, "better", "reference/better", recipe={"lora": {"rank": 2, "alpha": 4, "dropout": 0.0}})
    first = json.loads((made / "training_log.jsonl").read_text().splitlines()[0])
    start = load_file(made_once(place, "answers") / "adapter_model.safetensors")

    assert first["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert load_file(made / "adapter_model.safetensors").keys() == start.keys()
    assert json.loads((made / "adapter_config.json").read_bytes())["base_model_name_or_path"] == "tiny"


def test_an_adapter_on_a_merged_base_is_refused_on_another(place: Path) -> None:
    made = made_once(place, "rewarded")
    merged = [made_once(place, "answers")]

    check_base(made, place / "model", merged)
    check_base(made / "checkpoints/step-2", place / "model", merged)
    for adapter in (made, made / "checkpoints/step-2"):
        with pytest.raises(ProbelineError, match="trained on tiny, with answers merged into it"):
            check_base(adapter, place / "model")
    with pytest.raises(ProbelineError, match="was trained on tiny"):
        check_base(made_once(place, "answers"), make_model(place / "other", layers=2, seed=1))


def test_a_terminated_training_saves_what_it_has(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = keeping.Keeper.on_train_begin

    def terminated(self: Any, *arguments: Any, **named: Any) -> None:
        begun(self, *arguments, **named)
        os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    stopped = r"stopped at step 1 of 4: it was asked to stop \(SIGTERM\)"
    with monkeypatch.context() as patched:
        patched.setattr(keeping.Keeper, "on_train_begin", terminated)
        with pytest.raises(ProbelineError, match=stopped):
            run(place, "answers", "terminated/answers")
    assert signal.getsignal(signal.SIGTERM) is handler
    with pytest.raises(ProbelineError, match="its time limit of 1 seconds is near"):
        run(place, "answers", "late/answers", seconds=1)
    # Loading a model is a part of the time: here it takes a thousand seconds.
    late: list[int] = []
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + sum(late))

    def slow(*arguments: Any) -> Any:
        late.append(1000)
        return load_base(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(training, "load_base", slow)
        patched.setattr(training, "time", clock)
        patched.setattr(keeping, "time", clock)
        with pytest.raises(ProbelineError, match="its time limit of 500 seconds is near"):
            run(place, "answers", "slow/answers", seconds=500)
    made = run(place, "answers", "terminated/answers")

    assert differing(made, made_once(place, "answers")) == []


def test_what_is_too_long_is_left_out_and_counted(place: Path) -> None:
    rows = [row("sft", number) for number in range(12)]
    rows[1]["input"] = "and then " * 400
    rows[2]["input"] = "<|im_end|>"
    made = run(place, "answers", "long/answers", dataset=write_dataset(place / "long", "sft", rows))
    manifest = json.loads((made / "manifest.json").read_bytes())

    assert manifest["excluded"] == {"holds_a_special_token_of_the_model": 1, "more_than_512_tokens": 1}


def test_a_whole_model_can_be_tuned(place: Path) -> None:
    made = run(place, "answers", "whole-model/answers", recipe={"lora": None, "checkpoints": [2]})
    tuned = AutoModelForCausalLM.from_pretrained(made)
    base = AutoModelForCausalLM.from_pretrained(place / "model")

    assert not torch.equal(answers_of(tuned), answers_of(base))
    assert json.loads((made / "manifest.json").read_bytes())["kind"] == "model"
    # So do its checkpoints, which are asked by themselves.
    declared = {"recipe": "answers", "step": 2, "merged": [], "whole": True, "folder": None}
    systems = systems_of([{"name": "answers@2", **declared}], place / "model", {"answers": made})
    prompt = row("forecasts", 1)["prompt"]
    [then] = [logits_of(generator, prompt) for _, generator in in_memory(systems, "float32", 1)]
    now = logits_of(Generator(made, "float32"), prompt)
    assert now.shape == then.shape
    assert (now != then).any()


def test_updates_of_a_whole_model_are_not_lost_in_bfloat16(place: Path) -> None:
    """A step of 1e-5 is far below what bfloat16 tells apart beside a weight."""
    changes = {"lora": None, "checkpoints": [], "learning_rate": 1e-5, "weight_decay": 0.0}
    made = run(place, "answers", "small/answers", recipe=changes, dtype="bfloat16")
    tuned, base = (load_file(folder / "model.safetensors") for folder in (made, place / "model"))
    name = next(key for key in base if "q_proj" in key)

    assert (tuned[name] != base[name].to(tuned[name].dtype)).float().mean() > 0.9


def test_one_step_with_a_share_of_warmup_moves_weights(place: Path) -> None:
    made = run(place, "answers", "step/answers", recipe={"max_steps": 1, "checkpoints": [], "warmup": 0.03})
    weights = load_file(made / "adapter_model.safetensors")

    assert all(value.any() for key, value in weights.items() if "lora_B" in key)


def test_the_dropout_of_the_recipe_is_the_adapters(place: Path) -> None:
    """Whatever the adapter had that is trained on; DPO trains without."""
    made = made_once(place, "better")

    for folder, dropout in ((made_once(place, "answers"), 0.1), (made, 0.0)):
        settings = json.loads((folder / "manifest.json").read_bytes())["settings"]
        config = json.loads((folder / "adapter_config.json").read_bytes())
        assert settings["lora"]["dropout"] == config["lora_dropout"] == dropout


def test_nothing_is_left_of_a_finished_training_but_its_artifact(place: Path) -> None:
    made_once(place, "answers")

    assert list((place / "work/made/answers/training").iterdir()) == []


def test_the_advice_on_memory_never_takes_the_group_away(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: Any) -> int:
        raise MemoryError

    monkeypatch.setattr(training, "_train", exhausted)
    with pytest.raises(ProbelineError, match="gradient_checkpointing: true, halve batch") as raised:
        run(place, "rewarded", "memory/rewarded")
    assert "completion_tokens" in str(raised.value)
    assert "generations" not in str(raised.value)


def test_without_a_key_or_the_package_nothing_is_reported_and_nothing_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    there = {"wandb"}
    events = Path("work/tensorboard/answers")
    monkeypatch.setenv(EVENTS, "")
    monkeypatch.delenv(EVENTS)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in there else None)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)

    assert {reporters(asked, events) for asked in ("", "wandb", "tensorboard")} == {"none"}
    assert "WANDB_API_KEY is not set" in caplog.text
    assert "the package tensorboard is not installed" in caplog.text
    monkeypatch.setenv("WANDB_API_KEY", "a key")
    assert reporters("wandb", events) == "wandb"
    assert EVENTS not in os.environ
    # Its events would go with the checkpoints.
    there.add("tensorboard")
    assert reporters("tensorboard", events) == "tensorboard"
    assert os.environ[EVENTS] == str(events)
    monkeypatch.setenv(EVENTS, "of the user")
    reporters("tensorboard", events)
    assert os.environ[EVENTS] == "of the user"


def test_a_row_that_lacks_a_key_is_named(place: Path) -> None:
    rows = [row("sft", number) for number in range(12)]
    del rows[3]["input"]
    dataset = write_dataset(place / "lacking", "sft", rows)

    with pytest.raises(ProbelineError, match=r"mafia_sft_dataset.jsonl, line 4, lacks 'input'"):
        run(place, "answers", "lacking/answers", dataset=dataset)


def test_prompts_that_name_their_game_say_what_was_used(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    common = {"prompt": [{"role": "user", "content": "Help."}], "ground_truth": "Yes.", "rubric": "Kind."}
    rows = [
        common | {"id": f"{number}", "dialogue_id": f"d{number}", "game": f"g{number}", "split": "train"}
        for number in range(6)
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    recipe = {"max_steps": 1, "batch": 2, "accumulation": 1, "generations": 2, "held_out": 4}
    recipe |= {"method": "grpo", "max_tokens": 99, "completion_tokens": 4}
    tokenizer = AutoTokenizer.from_pretrained(make_model(tmp_path / "model", layers=2))

    used = read_examples(tmp_path, "prompts", tokenizer, recipe, 512, 0).games
    assert used is not None
    assert len(used) == 1


@pytest.mark.parametrize(
    ("said", "most", "positions", "fault"),
    [
        ("Help.", 9, 512, "6 (more than 9 tokens). Raise max_tokens of the recipe: the model takes 512."),
        ("Help.", 99, 9, "6 (more than 9 tokens). The model takes no more than 9"),
        ("{eos}", 99, 512, "6 (holds a special token of the model). Take another model"),
        (None, 99, 512, "More games make more examples."),
    ],
)
def test_why_there_is_no_example_is_said_with_what_helps(
    tmp_path: Path, said: str | None, most: int, positions: int, fault: str
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(make_model(tmp_path / "model", layers=2))
    row = {"ground_truth": "Yes.", "rubric": None, "split": "train", "dialogue_id": "d"}
    rows = [] if said is None else [row | {"id": str(number)} for number in range(6)]
    prompt = [{"role": "user", "content": (said or "").replace("{eos}", tokenizer.eos_token)}]
    write_json_lines(tmp_path / "prompts.jsonl", [one | {"prompt": prompt} for one in rows])
    recipe = {"method": "grpo", "max_tokens": most, "completion_tokens": 4, "held_out": 4}

    with pytest.raises(ProbelineError, match=re.escape(fault)):
        read_examples(tmp_path, "prompts", tokenizer, recipe, positions, 0)


def test_weights_of_four_bits_are_made_whole_and_not_quantised_twice(tmp_path: Path) -> None:
    """What gpt-oss brings; a model of that kind is too large to be loaded here."""
    write_json(tmp_path / "config.json", {"quantization_config": {"quant_method": "mxfp4"}})

    assert _quantized(None, "bfloat16", tmp_path).dequantize
    with pytest.raises(ProbelineError, match=r"quantised already \(mxfp4\)"):
        _quantized("4bit", "bfloat16", tmp_path)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
REFUSES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
)
SYSTEM = {"role": "system", "content": "You are a villager."}
TEMPLATES = {
    "own": None,
    "without a template": "",
    "refuses system": REFUSES_SYSTEM + CHATML,
    "tells the day": "Today is {{ strftime_now('%Y-%m-%d') }}." + CHATML,
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_model_is_trained_on_the_tokens_that_it_is_asked_with_later(
    place: Path, tmp_path: Path, template: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tmp_path / "model", layers=2)
    if template is not None:
        config = json.loads((model / "tokenizer_config.json").read_bytes())
        (model / "chat_template.jinja").unlink(missing_ok=True)
        config.pop("chat_template", None)
        write_json(
            model / "tokenizer_config.json", config | ({"chat_template": template} if template else {})
        )
    for kind in FILE:
        rows = [row(kind, number) for number in range(12)]
        for one in rows:
            if "prompt" in one:
                one["prompt"].insert(0, SYSTEM)
        write_dataset(tmp_path / kind, kind, rows)
    asked: list[list[int]] = []
    single_turn = GRPOTrainer._generate_single_turn

    def seen(self: Any, prompt_ids: Any, *rest: Any) -> Any:
        asked.extend(prompt_ids)
        return single_turn(self, prompt_ids, *rest)

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", seen)
    # What is compared comes before the training, or from the adapter that it ends with, however short it is.
    short = {"max_steps": 1, "checkpoints": []}
    made = {name: run(tmp_path, name, f"made/{name}", recipe=short) for name in RECIPES}
    told = {name: json.loads((one / "training_summary.json").read_bytes()) for name, one in made.items()}
    generator = Generator(model, "float32")
    held_out = [number for number in range(12) if number % 3 == 0]
    prompts = [[SYSTEM, row("forecasts", number)["prompt"][0]] for number in held_out]
    ids = [generator._prompt(1, prompt, 0) for prompt in prompts]
    losses = generator.completion_losses(prompts, ["I trust [3]."] * len(prompts))
    first = told["answers"]["held_out"]["loss"]["before"]["value"]
    generator.load_adapter(made["answers"])
    adapted = generator.completion_losses(prompts, ["I trust [3]."] * len(prompts))
    chosen = told["better"]["held_out"]["chosen_log_likelihood"]["before"]["value"]

    assert first == pytest.approx(sum(loss for loss, _ in losses) / sum(count for _, count in losses), 1e-4)
    assert chosen == pytest.approx(-sum(loss for loss, _ in adapted) / len(adapted), 1e-4)
    assert all(one in asked for one in ids)


def test_gpt2_kinds_get_an_adapter_too(place: Path, tmp_path: Path) -> None:
    make_model(tmp_path / "model", architecture="gpt2", layers=2)
    (tmp_path / "sft").symlink_to(place / "sft")
    made = run(tmp_path, "answers", "made/answers")
    config = json.loads((made / "adapter_config.json").read_bytes())

    assert config["target_modules"] == ["c_attn", "c_fc", "c_proj"]
    assert config["fan_in_fan_out"]
    of_llama = json.loads((made_once(place, "answers") / "adapter_config.json").read_bytes())
    kinds = ("down", "gate", "k", "o", "q", "up", "v")
    assert of_llama["target_modules"] == [f"{kind}_proj" for kind in kinds]
    assert not of_llama["fan_in_fan_out"]


def test_a_reward_that_failed_is_masked_and_equal_groups_are_counted() -> None:
    given: list[dict[str, Any]] = []
    scores = iter([None, 0.5, 0.5, 0.5, 0.2, 0.9])
    rewards = Rewards(given, lambda rows: [one | {"reward": next(scores)} for one in rows])
    state = type("State", (), {"global_step": 0})
    asked = [[{"role": "user", "content": "?"}]] * 6
    said = [[{"role": "assistant", "content": "!"}]] * 6
    told = rewards(prompts=asked, completions=said, trainer_state=state, id=[*"aabbcc"], log_metric=None)

    assert told == [None, 0.5, 0.5, 0.5, 0.2, 0.9]
    assert given[0] == {"step": 1, "id": "a", "completion": "!", "reward": None}
    facts = groups_told(given, 2)
    assert (facts["groups"], facts["without_gradient"], facts["masked"]) == (3, 2, 1)
    # One prompt twice in a step is two groups.
    twice = [{"step": 1, "id": "a", "reward": reward} for reward in (0.1, 0.1, 0.5, 0.5)]
    facts = groups_told(twice, 2)
    assert (facts["groups"], facts["without_gradient"]) == (2, 2)


def test_the_tree_rewards_what_happened_and_tells_what_it_could_not_read() -> None:
    said = json.dumps([{"event": "Rain falls", "probability": 0.75}, {"event": "War", "probability": 0.25}])
    answers = {"a": said, "b": "?"}
    rows = [{"id": one, "actual": "Rain falls", "completion": text} for one, text in answers.items()]
    right, unread = grpo._tree_rewards()(rows)

    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    parts = {"calibration": 0.75, "sharpness": 1 / (1 + entropy), "diversity": 0.5}
    assert {part: right[part] for part in parts} == pytest.approx(parts)
    assert right["reward"] == pytest.approx(0.4 * 0.75 + 0.3 / (1 + entropy) + 0.3 * 0.5)
    assert (right["id"], right["parsed"], unread["parsed"], unread["reward"]) == ("a", True, False, 0)


def test_a_judge_is_told_what_is_what_and_its_failure_is_no_reward(tmp_path: Path) -> None:
    rows = [
        {"prompt": [{"role": "user", "content": "It hums."}], "rubric": "Be kind.", "ground_truth": "Why?"}
        | {"id": text, "completion": text}
        for text in ("Sorry.", "No.")
    ]
    files = BodyFiles("results/adapters/a", {}, tmp_path / "a", tmp_path / "work", tmp_path / "figures.json")
    with judge_server(lambda said, _: '{"score": 0.25}' if said == "Sorry." else "8/10") as server:
        spec = {"recipe": {"reward": "judge"}, "judge": {"name": "strict", "settings": server.settings()}}
        with REWARDER(spec, files) as rewards:
            told = rewards(rows)
        sent = [json.loads(body["messages"][-1]["content"]) for body in server.bodies]

    assert told == [rows[0] | {"reward": 0.25}, rows[1] | {"reward": None}]
    first = next(one for one in sent if one["completion"] == "Sorry.")
    assert (first["rubric"], first["reference"]) == ("Be kind.", "Why?")
    assert "It hums." in first["conversation"]
    assert server.answered["No."] == 5
    # The file is let go of, and remembers the score alone.
    assert not (tmp_path / "work/rewards.sqlite-wal").exists()
    with closing(sqlite3.connect(tmp_path / "work/rewards.sqlite")) as remembered:
        assert remembered.execute("SELECT score FROM answers").fetchall() == [(0.25,)]


@pytest.mark.parametrize(("failed", "moves"), [(None, False), (0.0, True)])
def test_a_group_with_one_reward_moves_nothing_and_none_is_not_zero(
    place: Path, monkeypatch: pytest.MonkeyPatch, failed: float | None, moves: bool
) -> None:
    def rewarded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [one | {"reward": 0.5 if number % 2 else failed} for number, one in enumerate(rows)]

    monkeypatch.setattr(grpo, "_rewarder", lambda spec, files: nullcontext(rewarded))
    made = run(place, "rewarded", f"masked-{failed}/rewarded", recipe={"max_steps": 2, "checkpoints": []})
    weights = load_file(made / "adapter_model.safetensors")

    assert [value.any().item() for key, value in weights.items() if "lora_B" in key] == [moves] * 14
    training = json.loads((made / "training_summary.json").read_bytes())["held_out"]["training"]
    assert training["masked"] == (0 if moves else 4)


def test_checkpoints_behind_the_end_are_refused() -> None:
    assert keeping.wanted_steps({"every": 2}, 5) == [2, 4]
    for asked in ({"every": 20}, [2, 20]):
        with pytest.raises(ProbelineError, match=r"checkpoints asks for .*20"):
            keeping.wanted_steps(asked, 3)


@pytest.mark.parametrize("name", ["answers", "better"])
def test_a_training_that_diverges_stops_and_says_what_helps(place: Path, name: str) -> None:
    settings = {"learning_rate": 1e30, "checkpoints": [], "max_steps": 8}
    with pytest.raises(ProbelineError, match=r"diverged: at step \d of 8 the .* is (nan|inf).*learning_rate"):
        run(place, name, f"diverged/{name}", recipe=settings)
    assert not (place / f"diverged/{name}").exists()


def test_an_adapter_without_numbers_is_refused_when_it_is_asked(place: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (damaged / name).write_bytes((place / "made/answers" / name).read_bytes())
    file = damaged / "adapter_model.safetensors"
    save_file({key: value * math.nan for key, value in load_file(file).items()}, file)
    prompt = row("forecasts", 1)["prompt"]
    generator = Generator(place / "model", "float32")
    before = logits_of(generator, prompt)
    generator.load_adapter(damaged)
    for ask in (
        lambda: generator.generate([prompt], seed=0, max_new_tokens=4, temperature=1.0),
        lambda: generator.completion_losses([prompt], ["I trust [3]."]),
    ):
        with pytest.raises(ProbelineError, match="damaged computes no finite numbers"):
            ask()
    generator.load_adapter(None)
    assert (logits_of(generator, prompt) == before).all()


def test_a_model_or_an_adapter_that_lacks_weights_is_not_trained_on(place: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", layers=2)
    weights = load_file(model / "model.safetensors")
    lacking = {key: value for key, value in weights.items() if "layers.1.mlp.up_proj" not in key}
    save_file(lacking, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ProbelineError, match=r"lacks weights \(model.layers.1.mlp.up_proj.weight"):
        load_base(model, [], "float32", None)

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_bytes((place / "made/answers/adapter_config.json").read_bytes())
    weights = load_file(place / "made/answers/adapter_model.safetensors")
    save_file({key: weights[key] for key in sorted(weights)[2:]}, adapter / "adapter_model.safetensors")
    with pytest.raises(ProbelineError, match="2 of its weights and the model's do not match"):
        load_base(place / "model", [adapter], "float32", None)


def test_what_is_kept_of_a_step_is_whole_or_not_there(tmp_path: Path) -> None:
    whole: list[bool] = []

    def save(folder: Path) -> None:
        (folder / "weights").write_bytes(b"half")
        if not whole:
            raise KeyboardInterrupt
        (folder / "weights").write_bytes(b"whole")

    keeper = keeping.Keeper(tmp_path, 4, [2], save, lambda: None, None, 0.0)
    kept = keeping.kept_folder(tmp_path, 2)
    with pytest.raises(KeyboardInterrupt):
        keeper._keep(2)
    assert not kept.exists()
    whole.append(True)
    keeper._keep(2)
    assert contents(kept) == {"weights": b"whole"}
    assert [folder.name for folder in kept.parent.iterdir()] == ["step-2"]


def test_artifacts_of_one_name_do_not_remove_what_the_other_keeps(tmp_path: Path) -> None:
    def folder(name: str, seed: int) -> Path:
        return workplace("evaluation", {"seed": seed}, BodyFiles(name, {}, tmp_path, tmp_path, tmp_path))

    evaluation = folder("results/evaluation/adapters/a", 0)
    comparison = folder("results/evaluation/comparisons/a", 0)
    assert evaluation != comparison
    assert evaluation.is_dir()
    # Of itself, what other settings have left goes.
    anew = folder("results/evaluation/adapters/a", 1)
    assert (evaluation.exists(), comparison.is_dir(), anew.is_dir()) == (False, True, True)
    assert folder("results/evaluation/adapters/a", 1) == anew


def test_each_pass_over_the_data_is_shuffled_anew_and_complete() -> None:
    order = shuffled(5, 12, seed=0)

    assert sorted(order[:5]) == sorted(order[5:10]) == [0, 1, 2, 3, 4]
    assert order[:5] != order[5:10]
    assert order == shuffled(5, 12, seed=0) != shuffled(5, 12, seed=1)


def test_a_difference_is_judged_by_its_interval() -> None:
    before = [{"game": str(number), "loss": 1.0 + number / 10} for number in range(10)]
    after = [one | {"loss": one["loss"] - 0.5} for one in before]
    found = compared(before, after, mean_of("loss"), seed=0)

    assert found["difference"] == pytest.approx({"value": -0.5, "low": -0.5, "high": -0.5})
    assert verdict(found, -1) == "better"
    assert verdict(compared(before, before, mean_of("loss"), 0), -1) == "undecided"
    few = compared(before[:4], after[:4], mean_of("loss"), seed=0)
    assert few["difference"]["high"] == pytest.approx(-0.5)
    assert verdict(few, -1) == "undecided"
    one = compared(before[:1], after[:1], mean_of("loss"), seed=0)
    assert one["difference"] == {"value": pytest.approx(-0.5), "low": None, "high": None}


def test_what_is_no_number_decides_nothing() -> None:
    before = [{"game": str(number), "loss": 1.0 + number / 10} for number in range(10)]
    for value in (math.nan, math.inf):
        found = compared(before, [one | {"loss": value} for one in before], mean_of("loss"), seed=0)
        assert found["after"] == found["difference"] == {"value": None, "low": None, "high": None}
        assert found["before"]["low"] is not None
        assert {verdict(found, wanted) for wanted in (1, -1)} == {"undecided"}


def test_an_example_without_a_reward_on_one_side_is_not_compared() -> None:
    before = [{"game": str(number), "reward": None if number % 2 else 1.0} for number in range(20)]
    after = [{"game": str(number), "reward": 0.0 if number % 2 else 1.0} for number in range(20)]
    found = compared(*in_both(before, after, "reward"), mean_of("reward"), seed=0)

    assert found["difference"]["value"] == 0
    assert (found["examples"], verdict(found, 1)) == (10, "undecided")
