"""Support dialogues as prompts for GRPO: what was said so far, what the system said then, and a rubric.

A row's rubric is null unless one is given; what judges an answer reads a null as GENERIC_RUBRIC, through
`datasets.generic_rubric`. Rubrics that a judge has written come in as a mapping from the row's id, see
`datasets.rubrics`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from probeline.datasets.accounts import Shown, by_reason, warn_if_empty, write_games
from probeline.datasets.generic_rubric import GENERIC_RUBRIC
from probeline.datasets.lengths import length_check
from probeline.digests import canonical_digest, split_of
from probeline.files import atomic_directory, write_json, write_manifest
from probeline.logs.tables import rows_in
from probeline.schema import SPLITS

SPLIT_OF_FOLDER = {"train": "train", "dev": "validation", "test": "test"}


class Dialogue(NamedTuple):
    """A dialogue of a corpus: its name, which no other has, the digest of its content, its split."""

    name: str
    content: str
    split: str


def read_rubrics(file: Path) -> dict[str, str | None]:
    """Id of a row → its rubric, of what `datasets.rubrics` has written."""
    rows = map(orjson.loads, file.read_bytes().splitlines())
    return {row["id"]: row["rubric"] for row in rows}


def build_prompts(
    corpus: Path,
    output: Path,
    dataset: Mapping[str, Any],
    splits: Mapping[str, Any],
    seed: int,
    *,
    simulated: bool,
    model: Path | None = None,
    rubrics: Mapping[str, str | None] | None = None,
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
        rubrics: id of a row → its rubric; null where a judge could write none.

    Raises:
        ProbelineError: a table is missing or damaged.
    """
    dialogues = dialogues_of(corpus, splits, seed)
    excluded: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    written: Counter[str] = Counter()
    shown: list[Shown] = []
    with atomic_directory(output) as draft:
        with (draft / "prompts.jsonl").open("wb") as file:
            for line, unit in kept_prompts(corpus, dialogues, dataset, model, excluded):
                line["rubric"] = (rubrics or {}).get(line["id"])
                written["failed" if line["rubric"] is None else "written"] += 1
                kept[unit.split] += 1
                shown.append(unit)
                file.write(orjson.dumps(line, option=orjson.OPT_SORT_KEYS) + b"\n")
        parted = Counter(unit.split for unit in dialogues.values())
        statistics: dict[str, Any] = {
            "dialogues": len(dialogues),
            "rows": kept.total() + sum(by_reason(excluded).values()),
            "prompts": kept.total(),
            "excluded": by_reason(excluded),
            "splits": {part: {"dialogues": parted[part], "prompts": kept[part]} for part in SPLITS},
        }
        if rubrics is not None:
            statistics["rubrics"] = {name: written[name] for name in ("written", "failed")}
        write_json(draft / "dataset_statistics.json", statistics)
        write_games(draft, shown)
        facts = {"dataset": output.name, "declaration": dict(dataset), "simulated": simulated}
        facts |= {"split_by": "dialogue", "generic_rubric": GENERIC_RUBRIC, "counts": statistics}
        write_manifest(draft, "prompts", facts)
    warn_if_empty(output, {"prompts.jsonl": {part: kept[part] for part in SPLITS}}, corpus)


def kept_prompts(
    corpus: Path,
    dialogues: Mapping[str, Dialogue],
    dataset: Mapping[str, Any],
    model: Path | None,
    excluded: Counter[str],
) -> Iterator[tuple[dict[str, Any], Shown]]:
    """The rows of a dataset, without rubrics, each with the dialogue that it is of.

    Args:
        corpus: folder with `rows.parquet`.
        dialogues: those of the corpus.
        dataset: its declaration.
        model: folder of the model whose tokens are counted.
        excluded: counts what is left out, by reason.
    """
    held_out: dict[str, str] = {}
    for row in rows_in(corpus / "rows.parquet"):
        digest = canonical_digest(_with_task(row["task_description"], row["prompt"]))
        split = dialogues[row["game"]].split
        held_out[digest] = max(held_out.get(digest, ""), split, key=("", *SPLITS).index)
    fits = length_check(model, dataset.get("max_tokens"), excluded)
    for row in rows_in(corpus / "rows.parquet"):
        dialogue = dialogues[row["game"]]
        line = _line(row, dialogue)
        if (further := held_out[canonical_digest(line["prompt"])]) != dialogue.split:
            excluded[f"excluded.prompt_in_{further}_too"] += 1
        elif not row["prompt"] or row["prompt"][-1]["role"] != "user":
            excluded["excluded.user_did_not_speak_last"] += 1
        elif fits([line["prompt"]]):
            yield line, Shown(row["game"], dialogue.content, dialogue.split)


def dialogues_of(corpus: Path, splits: Mapping[str, Any], seed: int) -> dict[str, Dialogue]:
    """Key → dialogue, of all in `dialogues.parquet`; arguments as for `build_prompts`."""
    shares = {split: splits[split] for split in SPLITS}
    rows = list(rows_in(corpus / "dialogues.parquet"))
    ids = Counter(row["id"] for row in rows)
    return {
        row["game"]: Dialogue(
            row["id"] if ids[row["id"]] == 1 else f"{row['id']}~{row['game'][:8]}",
            row["content"],
            SPLIT_OF_FOLDER[row["folder"]] if row["folder"] else split_of(row["content"], shares, seed),
        )
        for row in rows
    }


def _line(row: Mapping[str, Any], dialogue: Dialogue) -> dict[str, Any]:
    return {
        "id": f"{dialogue.name}#{row['turn_index']}",
        "game": row["game"],
        "dialogue_id": dialogue.name,
        "turn_index": row["turn_index"],
        "split": dialogue.split,
        "prompt": _with_task(row["task_description"], row["prompt"]),
        "ground_truth": row["ground_truth"],
        "rubric": None,
        "task_description": row["task_description"],
    }


def _with_task(task: str, messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The chat with the task in front, as part of the first user message: not every template has a system."""
    if messages and messages[0]["role"] == "user":
        return [{"role": "user", "content": f"{task}\n\n{messages[0]['content']}"}, *messages[1:]]
    return [{"role": "user", "content": task}, *messages]


def without_task(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The chat of a row as the two sides have spoken it, without the task in front."""
    first, *rest = row["prompt"]
    said = first["content"].removeprefix(row["task_description"]).removeprefix("\n\n")
    return [{"role": "user", "content": said}, *rest] if said else rest
