"""Tiny random models and hand-made shards of dialogues for the tests of rendering and extraction."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from probeline.files import write_parquet
from probeline.models.fetch import fetch_model
from probeline.models.generate import Generator
from probeline.schema import REVEALS, SAMPLES, SEQUENCES, make_table

NOTHING_LOGGED = {name: None for name, _, _ in SAMPLES if name.startswith("logged_")}

RANDOM = {
    "architecture": "llama",
    "layers": 3,
    "width": 32,
    "heads": 2,
    "vocabulary": 512,
    "max_length": 512,
    "seed": 0,
}


def make_model(folder: Path, **changes: Any) -> Path:
    fetch_model({"random": RANDOM | changes}, folder)
    return folder


def logits_of(generator: Generator, prompt: list[dict[str, str]]) -> np.ndarray:
    """What the model expects after each token of a prompt: float32 [tokens, vocabulary]."""
    ids = generator._prompt(1, prompt, 0)
    logits: np.ndarray = generator._read(ids, len(ids))[0].float().numpy()
    return logits


def make_adapter(model: Path, folder: Path, seed: int = 0) -> Path:
    """A LoRA adapter with weights that do something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(
            AutoModelForCausalLM.from_pretrained(model),
            LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False),
        )
    adapted.save_pretrained(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def chat(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def game_chats(game: str, rounds: int) -> dict[str, list[dict[str, str]]]:
    """Two players' views of one game, each with one assistant turn per round."""
    views = {}
    for player in ("Ann", "Ben"):
        turns = [("system", f"You are {player} in {game}.")]
        for number in range(rounds):
            turns.append(("user", f"Round {number}: what do you say about {game}?"))
            turns.append(("assistant", f"{player} trusts number {number}, " + "and waits " * number))
        views[f"{game}#{player}"] = chat(*turns)
    return views


def write_dialogues(
    folder: Path,
    chats: dict[str, list[dict[str, str]]],
    masks: dict[str, tuple[int, int, int]] | None = None,
    reveals: Iterable[tuple[str, int, int, int]] = (),
) -> Path:
    """A shard with one sample per assistant message, or with the masks (message, start, end) given.

    The game of a sequence is its id up to `#`, and its player what follows. What tells the role is given as
    (sequence, message, start, end).
    """
    rows = []
    for sequence, messages in chats.items():
        places = [
            (f"{sequence}#{index}", index, 0, len(message["content"]))
            for index, message in enumerate(messages)
            if message["role"] == "assistant"
        ]
        if masks:
            places = [(sample, *mask) for sample, mask in masks.items()]
        rows += [_sample(sequence, *place) for place in places]
    folder.mkdir(parents=True)
    write_parquet(folder / "samples.parquet", make_table(rows, SAMPLES))
    sequences = [
        {"sequence": sequence, "game": sequence.split("#")[0], "messages": messages}
        for sequence, messages in chats.items()
    ]
    write_parquet(folder / "sequences.parquet", make_table(sequences, SEQUENCES))
    told = [
        {"sequence": sequence, "game": sequence.split("#")[0], "actor": sequence.split("#")[1]}
        | {"message": message, "start": start, "end": end, "text": "not read by the extraction"}
        for sequence, message, start, end in reveals
    ]
    write_parquet(folder / "reveals.parquet", make_table(told, REVEALS))
    return folder


def _sample(sequence: str, sample: str, message: int, start: int, end: int) -> dict[str, Any]:
    return {
        "sample": sample,
        "sequence": sequence,
        "game": sequence.split("#")[0],
        "content": "0" * 64,
        "experiment": "baseline",
        "split": "train",
        "label": 1,
        "type": "statement",
        "turn": 1,
        "event": message,
        "actor": "Ann",
        "actor_role": "villager",
        "target": None,
        "same_team": None,
        "message": message,
        "start": start,
        "end": end,
        "text": "not read by the extraction",
        **NOTHING_LOGGED,
    }
