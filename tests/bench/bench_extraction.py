"""Our extraction beside the references' way: same texts, same masks, same layers, in one run.

The references' way is what the probe trainers on Werewolf logs do: float32, padded batches of 4 in the order
of the files, the full model with logits, `output_hidden_states`, then the mean over the masked tokens.
Prints medians of three rounds and ratios; the contenders take turns, so that a noisy neighbour hits all.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from probeline.activations.engine import ActivationEngine, SpannedSequence
from probeline.activations.precision import processor_has_bfloat16
from probeline.datasets.dialogues import build_dialogues
from probeline.files import read_json
from probeline.logs.ingest import ingest_werewolf
from probeline.logs.simulate_werewolf import simulate_games, simulated_game_key
from probeline.models.render import render_chat, token_span

SPLITS = {"by": "game", "train": 0.6, "validation": 0.2, "test": 0.2}
COLLUSION = {
    "corpus": "werewolf",
    "events": ["statement", "reply"],
    "label": 'actor_team == "werewolves"',
    "mask": "action",
}
Games = dict[str, list[SpannedSequence]]


def dialogues(folder: Path, games: int, context: str, model: Path) -> Games:
    """The sequences and masked tokens of simulated games, by game, in one context."""
    simulate_games(0, range(games), folder / "logs")
    keys = sorted(simulated_game_key(index) for index in range(games))
    ingest_werewolf(keys, folder / "logs", {}, folder / "corpus")
    template = yaml.safe_load(Path("config/templates/werewolf.yaml").read_text())
    build_dialogues(
        folder / "corpus",
        folder / context,
        "collusion",
        {**COLLUSION, "context": context},
        template,
        SPLITS,
        0,
    )
    tokenizer = AutoTokenizer.from_pretrained(model)
    chats = {
        row["sequence"]: row for row in pq.read_table(folder / context / "sequences.parquet").to_pylist()
    }
    spans: dict[str, list[range]] = {}
    rendered = {name: render_chat(tokenizer, row["messages"]) for name, row in chats.items()}
    for sample in pq.read_table(folder / context / "samples.parquet").to_pylist():
        span = token_span(rendered[sample["sequence"]], sample["message"], sample["start"], sample["end"])
        assert span is not None
        spans.setdefault(sample["sequence"], []).append(span)
    by_game: Games = {}
    for name, found in spans.items():
        sequence = SpannedSequence(rendered[name].input_ids, tuple(found))
        by_game.setdefault(chats[name]["game"], []).append(sequence)
    return by_game


def references_way(model: Any, games: Games) -> np.ndarray:
    """Padded batches of 4, every layer of every token, logits: [spans, layers, width]."""
    sequences = [sequence for game in games.values() for sequence in game]
    means = []
    for first in range(0, len(sequences), 4):
        batch = sequences[first : first + 4]
        longest = max(len(sequence.input_ids) for sequence in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence.input_ids)] = torch.tensor(sequence.input_ids)
            mask[row, : len(sequence.input_ids)] = 1
        with torch.no_grad():
            states = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        for row, sequence in enumerate(batch):
            means += [
                torch.stack([state[row, span.start : span.stop].float().mean(0) for state in states])
                for span in sequence.spans
            ]
    return torch.stack(means).numpy()


def ours(engine: ActivationEngine, games: Games) -> np.ndarray:
    """A batch never mixes games: [spans, layers, width]."""
    return np.concatenate([engine.game_means(game) for game in games.values()])


def main() -> None:
    """Run the comparison and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("data/models/smollm2-135m"))
    parser.add_argument("--games", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    depth = read_json(options.model / "manifest.json")["depth"]
    dtypes = ["float32", "bfloat16"] if processor_has_bfloat16() else ["float32"]
    print(f"{options.games} simulated games, {options.model.name}, {options.threads} threads, medians of 3\n")
    with tempfile.TemporaryDirectory() as folder:
        none = dialogues(Path(folder) / "none", options.games, "none", options.model)
        public = dialogues(Path(folder) / "public", options.games, "public", options.model)
    spans = sum(len(sequence.spans) for game in none.values() for sequence in game)
    tokens = sum(len(sequence.input_ids) for game in none.values() for sequence in game)

    contenders: dict[str, Callable[[], np.ndarray]] = {}
    for dtype in dtypes:
        full = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, dtype)).eval()
        contenders[f"references' way, {dtype}"] = lambda full=full: references_way(full, none)
        engine = ActivationEngine(options.model, range(depth + 1), dtype, options.threads, 2048, "cpu")
        contenders[f"ours, {dtype}"] = lambda engine=engine: ours(engine, none)
        last_engine = engine
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    outputs = {}
    for _ in range(3):
        for name, run in contenders.items():
            started = time.perf_counter()
            outputs[name] = run()
            seconds[name].append(time.perf_counter() - started)
    base = statistics.median(seconds["references' way, float32"])
    truth = outputs["references' way, float32"]
    print(f"{spans} statements, one sequence each, {tokens} tokens, layers 0 to {depth}")
    print(f"{'':28}{'tokens/s':>10}{'ratio':>8}{'largest error':>15}")
    for name, taken in seconds.items():
        median = statistics.median(taken)
        # The last layer of the references is behind the final norm, ours is the residual stream itself.
        error = np.abs(outputs[name][:, :-1] - truth[:, :-1]).max() / np.abs(truth[:, :-1]).max()
        print(f"{name:28}{tokens / median:>10.0f}{base / median:>7.1f}x{error:>14.2%}")

    one_forward = []
    per_statement = []
    prefixes = {
        game: [
            SpannedSequence(sequence.input_ids[: span.stop], (span,))
            for sequence in sequences
            for span in sequence.spans
        ]
        for game, sequences in public.items()
    }
    for _ in range(3):
        started = time.perf_counter()
        ours(last_engine, public)
        one_forward.append(time.perf_counter() - started)
        started = time.perf_counter()
        ours(last_engine, prefixes)
        per_statement.append(time.perf_counter() - started)
    ratio = statistics.median(per_statement) / statistics.median(one_forward)
    print(f"\npublic context: one forward per game is {ratio:.1f}x faster than one per statement")


if __name__ == "__main__":
    main()
