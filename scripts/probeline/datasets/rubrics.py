"""A rubric for each prompt of a dataset, written by a judge."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from probeline.datasets.accounts import Shown, write_games
from probeline.datasets.prompts import dialogues_of, kept_prompts, without_task
from probeline.errors import ProbelineError
from probeline.files import atomic_directory, write_manifest
from probeline.judges import CACHE, Judge, RubricRequest, conversation_text, open_judge

BATCH = 1000
"""Rows that are in memory at once."""

log = logging.getLogger(__name__)


def write_rubrics(
    corpus: Path,
    output: Path,
    dataset: Mapping[str, Any],
    splits: Mapping[str, Any],
    seed: int,
    judge: Mapping[str, Any],
    *,
    model: Path | None = None,
    cache: Path = CACHE,
) -> None:
    """Have a judge write a rubric for each row that `build_prompts` will keep.

    Files: `rubrics.jsonl` (id, rubric; null where all attempts have failed), `games.parquet`,
    `manifest.json`. What the judge has written before comes from the cache.

    Args:
        corpus: folder with `dialogues.parquet` and `rows.parquet`.
        output: the folder to make; whole or not at all.
        dataset: its declaration.
        splits: the shares of train, validation and test for dialogues without a split.
        seed: another seed parts those differently.
        judge: its `name` and its `settings`.
        model: folder of the model whose tokens `max_tokens` of the declaration counts.
        cache: the file in which all runs remember answers.

    Raises:
        ProbelineError: the judge cannot be asked, or has not written one rubric.
    """
    counts = {"written": 0, "failed": 0}
    shown: list[Shown] = []
    rows = kept_prompts(corpus, dialogues_of(corpus, splits, seed), dataset, model, Counter())
    with open_judge(judge["name"], judge["settings"], cache) as asked, atomic_directory(output) as draft:
        with (draft / "rubrics.jsonl").open("wb") as file:
            while batch := list(islice(rows, BATCH)):
                shown += [unit for _, unit in batch]
                for row in _written(asked, [line for line, _ in batch]):
                    counts["failed" if row["rubric"] is None else "written"] += 1
                    file.write(orjson.dumps(row, option=orjson.OPT_SORT_KEYS) + b"\n")
        if counts["failed"] and not counts["written"]:
            raise ProbelineError(
                f"The judge {judge['name']} has written none of {counts['failed']} rubrics; what went wrong "
                "stands above. Without rubrics, leave out the key rubrics of the dataset: the generic one "
                "is used then."
            )
        write_games(draft, shown)
        facts = {"dataset": output.name, "judge": judge["name"], "model": asked.asked.model, "counts": counts}
        write_manifest(draft, "rubrics", facts)
    if counts["failed"]:
        log.warning(
            "%d of %d rubrics are missing; the generic one stands in for them. To ask for them again, run "
            "the same command with -R write_rubrics: those that were written are remembered.",
            counts["failed"],
            sum(counts.values()),
        )


def _written(judge: Judge, lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    requests = [
        RubricRequest(line["task_description"], conversation_text(without_task(line)), line["ground_truth"])
        for line in lines
    ]
    for line, rubric in zip(lines, judge.rubrics(requests), strict=True):
        yield {"id": line["id"], "rubric": rubric}
