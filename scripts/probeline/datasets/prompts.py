"""Support dialogues as prompts for GRPO: what was said so far, what the system said then, and a rubric.

A row's rubric is null unless one is given; what judges an answer reads a null as GENERIC_RUBRIC, through
`rubric_of`. Rubrics made by a judge come in as a mapping from the row's id, so that whatever makes and caches
them needs to know nothing of this module.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from probeline.datasets.accounts import Shown, by_reason, write_games
from probeline.datasets.lengths import length_check
from probeline.digests import canonical_digest, split_of
from probeline.files import atomic_directory, write_json, write_manifest
from probeline.logs.tables import rows_in

SPLITS = ("train", "validation", "test")
SPLIT_OF_FOLDER = {"train": "train", "dev": "validation", "test": "test"}
GENERIC_RUBRIC = (
    "A good reply helps the customer with what they asked for, is accurate and in keeping with the "
    "conversation, asks for what is missing, and is concise."
)


def rubric_of(row: Mapping[str, Any]) -> str:
    """The rubric that a row's completions are judged by."""
    return str(row["rubric"] or GENERIC_RUBRIC)


def build_prompts(
    corpus: Path,
    output: Path,
    dataset: Mapping[str, Any],
    splits: Mapping[str, Any],
    seed: int,
    *,
    simulated: bool,
    model: Path | None = None,
    rubrics: Mapping[str, str] | None = None,
) -> None:
    """Make the prompts of a corpus of support dialogues.

    Files: `prompts.jsonl`, `games.parquet` (the dialogues), `dataset_statistics.json`, `manifest.json`. The
    split of a dialogue is the one its folder named; without one it is drawn by the dialogue's content. A
    prompt that a split further held out has, too, is left out.

    Args:
        corpus: folder with `dialogues.parquet` and `rows.parquet`.
        output: the folder to make; whole or not at all.
        dataset: its declaration.
        splits: the shares of train, validation and test for dialogues without a split.
        seed: another seed parts those differently.
        simulated: the dialogues are made up.
        model: folder of the model whose tokens `max_tokens` of the declaration counts.
        rubrics: id of a row → its rubric.

    Raises:
        ProbelineError: a table is missing or damaged.
    """
    shares = {split: splits[split] for split in SPLITS}
    dialogues = {row["game"]: row for row in rows_in(corpus / "dialogues.parquet")}
    ids = Counter(row["id"] for row in dialogues.values())
    split = {
        key: SPLIT_OF_FOLDER[row["folder"]] if row["folder"] else split_of(row["content"], shares, seed)
        for key, row in dialogues.items()
    }
    held_out: dict[str, str] = {}
    for row in rows_in(corpus / "rows.parquet"):
        digest = canonical_digest(_with_task(row["task_description"], row["prompt"]))
        held_out[digest] = max(held_out.get(digest, ""), split[row["game"]], key=("", *SPLITS).index)
    excluded: Counter[str] = Counter()
    fits = length_check(model, dataset.get("max_tokens"), excluded)
    kept: Counter[str] = Counter()
    shown: list[Shown] = []
    with atomic_directory(output) as draft:
        with (draft / "prompts.jsonl").open("wb") as file:
            for row in rows_in(corpus / "rows.parquet"):
                own = split[row["game"]]
                dialogue = dialogues[row["game"]]["id"]
                if ids[dialogue] > 1:
                    dialogue += f"~{row['game'][:8]}"
                line = _line(row, dialogue, own, rubrics or {})
                if (further := held_out[canonical_digest(line["prompt"])]) != own:
                    excluded[f"excluded.prompt_in_{further}_too"] += 1
                elif not row["prompt"] or row["prompt"][-1]["role"] != "user":
                    excluded["excluded.user_did_not_speak_last"] += 1
                elif fits([line["prompt"]]):
                    kept[own] += 1
                    shown.append(Shown(row["game"], dialogues[row["game"]]["content"], own))
                    file.write(orjson.dumps(line, option=orjson.OPT_SORT_KEYS) + b"\n")
        parted = Counter(split.values())
        statistics = {
            "dialogues": len(dialogues),
            "rows": kept.total() + sum(by_reason(excluded).values()),
            "prompts": kept.total(),
            "excluded": by_reason(excluded),
            "splits": {part: {"dialogues": parted[part], "prompts": kept[part]} for part in SPLITS},
        }
        write_json(draft / "dataset_statistics.json", statistics)
        write_games(draft, shown)
        facts = {"dataset": output.name, "declaration": dict(dataset), "simulated": simulated}
        facts |= {"split_by": "dialogue", "generic_rubric": GENERIC_RUBRIC, "counts": statistics}
        write_manifest(draft, "prompts", facts)


def _line(row: Mapping[str, Any], dialogue: str, split: str, rubrics: Mapping[str, str]) -> dict[str, Any]:
    key = f"{dialogue}#{row['turn_index']}"
    return {
        "id": key,
        "dialogue_id": dialogue,
        "turn_index": row["turn_index"],
        "split": split,
        "prompt": _with_task(row["task_description"], row["prompt"]),
        "ground_truth": row["ground_truth"],
        "rubric": rubrics.get(key),
        "task_description": row["task_description"],
    }


def _with_task(task: str, messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The chat with the task in front, as part of the first user message: not every template has a system."""
    if messages and messages[0]["role"] == "user":
        return [{"role": "user", "content": f"{task}\n\n{messages[0]['content']}"}, *messages[1:]]
    return [{"role": "user", "content": task}, *messages]
