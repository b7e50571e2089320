"""Forecasting cases as examples for fine-tuning, without what gives their answers away.

What the logs have wrong is undone here. The path shown is the seed event and the answers of the levels
before, never the logged `path` (whose end is the answer) nor the logged parent; no research text is shown at
all (it tells the answer); candidates are shuffled with a seed per level; levels dated before what they
follow are left out; false candidates that stand in the levels of several events are dropped; cases of one
event fall into one split. `leaks.json` says what is left of it, see `probeline.datasets.leaks`.
"""

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import Any

from probeline.datasets.accounts import Shown, by_reason, warn_if_empty, write_games
from probeline.datasets.leaks import Question, leak_report
from probeline.datasets.lengths import length_check
from probeline.digests import sha256_bytes, split_of
from probeline.files import atomic_directory, write_json, write_json_lines, write_manifest
from probeline.forecasting.prompts import OUTCOMES, forecast_prompt
from probeline.logs.forecasts import event_key, words_of
from probeline.logs.tables import rows_in
from probeline.schema import SPLITS

_log = logging.getLogger(__name__)

TRUE_SHARE = 7000
WHOLE = 10_000
"""Probabilities are parts of this many: TRUE_SHARE for the answer, the rest in equal parts for the others."""
OFTEN = 3
"""A false candidate in the levels of as many events is known to be false without reading the question."""
ALIKE = 0.8
"""Events that share as large a part of their words are taken for one."""


@dataclass(frozen=True, slots=True)
class Example:
    """A level that can be trained on.

    Attributes:
        case: its row of the table of cases.
        level: its row of the table of levels.
        event: key of the group of cases that it belongs to.
        path: the seed event and the answers of the levels before.
        candidates: in shuffled order; one only where the log has no other.
        answer: the true one.
    """

    case: Mapping[str, Any]
    level: Mapping[str, Any]
    event: str
    path: list[str]
    candidates: list[str]
    answer: str

    @property
    def id(self) -> str:
        """`<case>#<depth>`."""
        return f"{self.case['game']}#{self.level['depth']}"

    def prompt(self, outcomes: int) -> list[dict[str, str]]:
        """The chat that asks for `outcomes` outcomes."""
        return forecast_prompt(
            self.path,
            self.case["date"],
            self.case["context"],
            self.case["domain"],
            self.level["timeframe_months"],
            outcomes,
        )


def soft_target(candidates: Sequence[str], answer: str) -> str:
    """The completion to learn: all candidates in order, .7 on the answer, the rest in equal parts; sums to 1.

    Raises:
        ValueError: there are no others.
    """
    if len(candidates) < 2:
        raise ValueError("a soft target needs two candidates")
    rest, left = divmod(WHOLE - TRUE_SHARE, len(candidates) - 1)
    target = []
    for event in candidates:
        share = TRUE_SHARE
        if event != answer:
            share, left = rest + (left > 0), max(left - 1, 0)
        target.append({"event": event, "probability": share / WHOLE})
    return json.dumps(target, ensure_ascii=False)


def build_forecasts(
    corpus: Path,
    output: Path,
    dataset: Mapping[str, Any],
    splits: Mapping[str, Any],
    seed: int,
    *,
    simulated: bool,
    model: Path | None = None,
) -> None:
    """Make the examples of a forecasting corpus.

    Files: `sft.jsonl` (prompt, completion: the loss is on the completion alone), `grpo.jsonl` (prompt,
    actual), `leaks.json`, `games.parquet` (the cases), `dataset_statistics.json`, `manifest.json`. Each row
    names its split.

    Args:
        corpus: folder with `cases.parquet` and `levels.parquet`.
        output: the folder to make; whole or not at all.
        dataset: its declaration.
        splits: the shares of train, validation and test.
        seed: another seed shuffles and parts differently.
        simulated: the cases are made up.
        model: folder of the model whose tokens `max_tokens` of the declaration counts.

    Raises:
        ProbelineError: a table is missing or damaged.
    """
    cases = {row["game"]: row for row in rows_in(corpus / "cases.parquet")}
    levels = {
        key: list(rows) for key, rows in groupby(rows_in(corpus / "levels.parquet"), itemgetter("game"))
    }
    alike = alike_events(cases, levels)
    events = group_events(cases, levels, alike)
    excluded: dict[str, Counter[str]] = {"sft": Counter(), "grpo": Counter(), "candidates": Counter()}
    shared = _shared_answers(levels, events, alike)
    examples = list(_examples(cases, levels, events, shared, seed, excluded))
    shares = {split: splits[split] for split in SPLITS}
    split = {event: split_of(event, shares, seed) for event in sorted(set(events.values()))}
    fits = {kind: length_check(model, dataset.get("max_tokens"), excluded[kind]) for kind in ("sft", "grpo")}
    rows: dict[str, list[dict[str, Any]]] = {"sft": [], "grpo": []}
    for example in examples:
        for kind, row in _training_rows(example, split[example.event]):
            if fits[kind]([[*row["prompt"], *row.get("completion", [])]]):
                rows[kind].append(row)
    kept = {kind: {row["id"]: row["split"] for row in lines} for kind, lines in rows.items()}
    used = [example for example in examples if example.id in kept["sft"]]
    statistics = _statistics(cases, levels, events, split, rows, excluded)
    finished = kept["sft"] | kept["grpo"]
    statistics["events_in_two_splits"] = events_in_two_splits(
        (finished[example.id], [example.path[0], example.answer])
        for example in examples
        if example.id in finished
    )
    leaks = leak_report(_logged(cases, levels, events), [_shown(one) for one in used])
    for picker, figures in leaks["after"].items():
        if figures["above_chance"]:
            _log.warning(
                "%s is right on %.1f of %d levels of %s, which is above chance: see docs/forecasts.md",
                picker,
                figures["right"],
                figures["levels"],
                output.name,
            )
    with atomic_directory(output) as draft:
        for kind, lines in rows.items():
            write_json_lines(draft / f"{kind}.jsonl", lines)
        write_json(draft / "leaks.json", leaks)
        write_json(draft / "dataset_statistics.json", statistics)
        shown = ((row["game"], row["split"]) for row in [*rows["sft"], *rows["grpo"]])
        write_games(draft, (Shown(case, cases[case]["content"], split) for case, split in shown))
        facts = {
            "dataset": output.name,
            "declaration": dict(dataset),
            "simulated": simulated,
            "split_by": "event",
        }
        write_manifest(draft, "forecasts", {**facts, "counts": statistics})
    parts = statistics["splits"]
    held = {f"{kind}.jsonl": {part: parts[part][kind] for part in SPLITS} for kind in rows}
    warn_if_empty(output, held, corpus)


def _training_rows(example: Example, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines that an example makes, each with its kind, `sft` or `grpo`."""
    depth = example.level["depth"]
    common = {
        "id": example.id,
        "game": example.case["game"],
        "event": example.event,
        "split": split,
        "depth": depth,
    }
    yield "grpo", {**common, "prompt": example.prompt(OUTCOMES), "actual": example.answer}
    if len(example.candidates) > 1:
        target = soft_target(example.candidates, example.answer)
        prompt = example.prompt(len(example.candidates))
        yield "sft", {**common, "prompt": prompt, "completion": [{"role": "assistant", "content": target}]}


def _plain(text: str) -> str:
    return " ".join(words_of(text))


def _answer(level: Mapping[str, Any]) -> str | None:
    index = level["answer"]
    return None if index is None else str(level["candidates"][index]["event"])


def _true_events(level: Mapping[str, Any]) -> list[str]:
    return [candidate["event"] for candidate in level["candidates"] if candidate["label"]]


def alike_events(
    cases: Mapping[str, Mapping[str, Any]], levels: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[tuple[str, str]]:
    """Pairs of keys of seed events and answers, in whatever case, that share ALIKE of their words."""
    texts = {row["event_key"]: row["event"] for row in cases.values()}
    for rows in levels.values():
        for level in rows:
            texts |= {event_key(answer): answer for answer in _true_events(level)}
    return list(_alike(texts))


def group_events(
    cases: Mapping[str, Mapping[str, Any]],
    levels: Mapping[str, Sequence[Mapping[str, Any]]],
    alike: Sequence[tuple[str, str]],
) -> dict[str, str]:
    """Case → key of its event: cases that one split must hold together have the same.

    These are cases whose seed events have the same words, or ALIKE as many, and a case whose seed event is
    so much like an answer of another. The key is that of the earliest seed event, the shortest of several:
    the split hangs on it, and a later or longer account of the same event does not move what is there.

    Args:
        cases: key → row of the table of cases.
        levels: key → rows of the table of levels.
        alike: pairs of keys of events, see `alike_events`.
    """
    rank: dict[str, tuple[str, int, str]] = {}
    for row in cases.values():
        own = (row["date"] or "9999", len(words_of(row["event"])), row["event_key"])
        rank[row["event_key"]] = min(own, rank.get(row["event_key"], own))
    parent = {key: key for key in rank}

    def find(key: str) -> str:
        while parent[key] != key:
            parent[key] = key = parent[parent[key]]
        return key

    def join(one: str, other: str) -> None:
        first, second = sorted((find(one), find(other)), key=rank.__getitem__)
        parent[second] = first

    holders: dict[str, set[str]] = defaultdict(set)
    for key, row in cases.items():
        holders[row["event_key"]].add(row["event_key"])
        for level in levels[key]:
            for answer in _true_events(level):
                holders[event_key(answer)].add(row["event_key"])
    for one, other in [*((key, key) for key in rank), *alike]:
        for seed, holder in ((one, other), (other, one)):
            if seed in rank:
                for key in sorted(holders[holder]):
                    join(seed, key)
    return {key: find(row["event_key"]) for key, row in cases.items()}


def _shared_answers(
    levels: Mapping[str, Sequence[Mapping[str, Any]]],
    events: Mapping[str, str],
    alike: Sequence[tuple[str, str]],
) -> set[str]:
    """Keys of the answers that are answers of another event, too, or ALIKE one of it."""
    groups: dict[str, set[str]] = defaultdict(set)
    for key, rows in levels.items():
        for level in rows:
            for answer in _true_events(level):
                groups[event_key(answer)].add(events[key])
    return _several(groups, alike)


def events_in_two_splits(shown: Iterable[tuple[str, Sequence[str]]]) -> int:
    """How many events stand in several splits, word for word or with ALIKE of their words.

    Args:
        shown: split of an example, and its events.
    """
    texts: dict[str, str] = {}
    splits: dict[str, set[str]] = defaultdict(set)
    for split, events in shown:
        for event in events:
            texts[event_key(event)] = event
            splits[event_key(event)].add(split)
    return len(_several(splits, list(_alike(texts))))


def _several(places: Mapping[str, set[str]], alike: Sequence[tuple[str, str]]) -> set[str]:
    """The keys that have several places, with those of what is like them."""
    all_places = {key: set(own) for key, own in places.items()}
    for one, other in alike:
        if one in places and other in places:
            all_places[one] |= places[other]
            all_places[other] |= places[one]
    return {key for key, own in all_places.items() if len(own) > 1}


def _alike(texts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Pairs of keys whose texts share ALIKE of all their words (Jaccard).

    Such a pair shares one of the few rarest words of each and differs little in their number, so that only
    those are looked up.
    """
    keys = sorted(texts)
    words = [frozenset(words_of(texts[key])) for key in keys]
    uses = Counter(word for own in words for word in own)
    holders: dict[tuple[str, int], list[int]] = defaultdict(list)
    for index, own in enumerate(words):
        size = len(own)
        rarest = sorted(own, key=lambda word: (uses[word], word))[: size - ceil(ALIKE * size) + 1]
        sizes = range(ceil(ALIKE * size), floor(size / ALIKE) + 1)
        found = {other for word in rarest for length in sizes for other in holders.get((word, length), ())}
        for other in sorted(found):
            both = len(own & words[other])
            if both >= ALIKE * (size + len(words[other]) - both):
                yield keys[other], keys[index]
        for word in rarest:
            holders[word, size].append(index)


def _examples(
    cases: Mapping[str, Mapping[str, Any]],
    levels: Mapping[str, Sequence[Mapping[str, Any]]],
    events: Mapping[str, str],
    shared: set[str],
    seed: int,
    excluded: Mapping[str, Counter[str]],
) -> Iterator[Example]:
    """The levels that can be trained on; counts the others by reason."""
    false_of: dict[str, set[str]] = defaultdict(set)
    for key, rows in levels.items():
        for level in rows:
            for candidate in level["candidates"]:
                if not candidate["label"]:
                    false_of[_plain(candidate["event"])].add(events[key])
    for key, case in cases.items():
        path: list[str] | None = [case["event"]]
        for level in levels[key]:
            if (reason := _unfit(case, level, path, shared)) is None and path is not None:
                random = Random(_level_seed(seed, key, level))
                candidates = _candidates(level, false_of, random, excluded["candidates"])
                if len(candidates) < 2:
                    one = "one_candidate" if len(level["candidates"]) == 1 else "only_repeated_candidates"
                    excluded["sft"][f"excluded.{one}"] += 1
                yield Example(case, level, events[key], list(path), candidates, _answer(level) or "")
            else:
                for kind in ("sft", "grpo"):
                    excluded[kind][f"excluded.{reason}"] += 1
            path = _followed(path, level)


def _followed(path: list[str] | None, level: Mapping[str, Any]) -> list[str] | None:
    """The path to the next level, or None where it cannot be known."""
    answer = _answer(level)
    if path is None or answer is None or len(path) != level["depth"]:
        return None
    return [*path, answer]


def _unfit(
    case: Mapping[str, Any],
    level: Mapping[str, Any],
    path: list[str] | None,
    shared: set[str],
) -> str | None:
    """Why a level cannot be trained on, or None."""
    answer = _answer(level)
    if answer is None:
        return "not_one_answer"
    if path is None or len(path) != level["depth"]:
        return "past_unknown"
    for finding, reason in (
        ("dates_before_seed", "dated_before_seed"),
        ("dates_before_parent", "dated_before_parent"),
    ):
        if finding in level["findings"]:
            return reason
    told = f" {_plain(' '.join([*path, case['context'] or '']))} "
    if f" {_plain(answer)} " in told:
        return "answer_in_the_prompt"
    if event_key(answer) in shared:
        return "answer_of_another_event"
    return None


def _candidates(
    level: Mapping[str, Any], false_of: Mapping[str, set[str]], random: Random, dropped: Counter[str]
) -> list[str]:
    """The candidates in shuffled order, without those known to be false anywhere, and each once."""
    answer = _answer(level) or ""
    kept = {_plain(answer): answer}
    for candidate in sorted(one["event"] for one in level["candidates"] if not one["label"]):
        plain = _plain(candidate)
        if plain in kept:
            dropped["excluded.copy_within_the_level"] += 1
        elif len(false_of[plain]) >= OFTEN:
            dropped["excluded.false_for_several_events"] += 1
        else:
            kept[plain] = candidate
    shuffled = sorted(kept.values())  # so that nothing of the logged order is left
    random.shuffle(shuffled)
    return shuffled


def _level_seed(seed: int, case: str, level: Mapping[str, Any]) -> int:
    return int(sha256_bytes(f"candidates:{seed}:{case}:{level['depth']}".encode())[:16], 16)


def _logged(
    cases: Mapping[str, Mapping[str, Any]],
    levels: Mapping[str, Sequence[Mapping[str, Any]]],
    event_of: Mapping[str, str],
) -> list[Question]:
    """The levels as the logs have them, and what an example made of them as they are would show."""
    questions = []
    for key in cases:
        for level in levels[key]:
            events = [candidate["event"] for candidate in level["candidates"]]
            if level["answer"] is not None and len(events) > 1:
                path, research = level["path"], level["research_summary"] or ""
                prompt = "\n".join([cases[key]["context"] or "", *path, research])
                end = path[-1] if path else ""
                questions.append(Question(events, level["answer"], end, research, prompt, event_of[key]))
    return questions


def _shown(example: Example) -> Question:
    """The level as the example shows it: without research."""
    prompt = "\n".join([*example.path, example.case["context"] or ""])
    answer = example.candidates.index(example.answer)
    return Question(example.candidates, answer, example.path[-1], "", prompt, example.event)


def _statistics(
    cases: Mapping[str, Any],
    levels: Mapping[str, Sequence[Any]],
    events: Mapping[str, str],
    split: Mapping[str, str],
    rows: Mapping[str, list[dict[str, Any]]],
    excluded: Mapping[str, Counter[str]],
) -> dict[str, Any]:
    return {
        "cases": len(cases),
        "events": len(split),
        "levels": sum(map(len, levels.values())),
        "sft_examples": len(rows["sft"]),
        "grpo_prompts": len(rows["grpo"]),
        "excluded": {kind: by_reason(counts) for kind, counts in excluded.items()},
        "splits": {
            part: {
                "events": sum(own == part for own in split.values()),
                "cases": sum(split[event] == part for event in events.values()),
                **{kind: sum(row["split"] == part for row in lines) for kind, lines in rows.items()},
            }
            for part in SPLITS
        },
    }
