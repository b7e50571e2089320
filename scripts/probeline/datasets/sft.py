"""Examples of Mafia for supervised fine-tuning: what good players did, under what they had seen."""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probeline.datasets.accounts import by_reason, warn_if_empty, write_games
from probeline.datasets.lengths import length_check
from probeline.datasets.mafia_acts import Act, read_acts
from probeline.datasets.mafia_files import (
    by_split,
    shown,
    write_balance,
    write_compliance,
    write_statistics,
)
from probeline.files import atomic_directory, write_json_lines, write_manifest

_log = logging.getLogger(__name__)

DATASET_FILE = "mafia_sft_dataset.jsonl"


def build_sft(
    corpus: Path,
    output: Path,
    dataset: Mapping[str, Any],
    splits: Mapping[str, Any],
    seed: int,
    *,
    model: Path | None = None,
    simulated: bool = False,
) -> None:
    """Make the examples of a corpus, their statistics, balance table and compliance manifest.

    Args:
        corpus: folder with its actions.parquet and quality.json.
        output: the folder to make, whole or not at all.
        dataset: its declaration: optionally quality and max_tokens.
        splits: the shares of train, validation and test.
        seed: another seed parts the games differently.
        model: folder of the model whose chat template the examples are measured in.
        simulated: whether the corpus is.
    """
    counts: Counter[str] = Counter()
    acts = read_acts(corpus, dataset.get("quality", {}), splits, seed, counts)
    fits = length_check(model, dataset.get("max_tokens"), counts)
    examples = []
    for act in acts:
        if act.lacks is not None:
            counts[f"excluded.{act.lacks}"] += 1
        elif act.held_out is not None:
            counts[f"excluded.prompt_in_{act.held_out}_too"] += 1
        elif fits([[*act.prompt, {"role": "assistant", "content": act.output}]]):
            examples.append(act)
    with atomic_directory(output) as draft:
        write_json_lines(draft / DATASET_FILE, [_row(act) for act in examples])
        write_statistics(draft, corpus, counts, acts, examples=len(examples))
        write_balance(draft, examples)
        texts = ((act.game, act.turn, act.output) for act in examples)
        write_compliance(draft, corpus, texts, simulated=simulated)
        write_games(draft, shown(examples))
        facts = {
            "simulated": simulated,
            "entries": counts["entries"],
            "examples": len(examples),
            "excluded": by_reason(counts),
            "splits": by_split(examples),
        }
        write_manifest(draft, "sft", {**facts, "declaration": dict(dataset)})
    _log.info("%d examples of %d entries; left out: %s", len(examples), counts["entries"], facts["excluded"])
    warn_if_empty(output, {DATASET_FILE: by_split(examples)}, corpus)


def _row(act: Act) -> dict[str, Any]:
    return {
        "instruction": act.instruction,
        "input": act.input,
        "output": act.output,
        # The logs hold none.
        "reasoning": "",
        "quality_score": act.quality,
        "type": act.phase,
        "game": act.game,
        "turn": act.turn,
        "role": act.role,
        "outcome": "win" if act.won else "loss",
        "split": act.split,
    }
