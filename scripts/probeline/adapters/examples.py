"""What recipes learn from: rows of a dataset as TRL takes them, whole or left out, in our own order."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import orjson

from probeline.datasets.generic_rubric import rubric_of
from probeline.digests import unit_interval
from probeline.errors import ProbelineError
from probeline.files import open_parquet, write_parquet

log = logging.getLogger(__name__)

FILES = {
    ("sft", "sft"): "mafia_sft_dataset.jsonl",
    ("sft", "forecasts"): "sft.jsonl",
    ("dpo", "preferences"): "mafia_dpo_dataset.jsonl",
    ("grpo", "forecasts"): "grpo.jsonl",
    ("grpo", "prompts"): "prompts.jsonl",
}
"""Method and kind of the dataset → the file that is read."""
TRAIN, HELD_OUT = "train", "validation"
ANSWERS = ("completion", "chosen", "rejected")
"""Columns of what an assistant says after a prompt."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Examples:
    """What a training reads.

    Attributes:
        train: rows in the order in which they are trained on, with as many repetitions as the steps need;
            with `prompt_ids`, and for each answer such as `completion` its `completion_ids`.
        held_out: validation rows to measure, whole games of them.
        steps: optimizer steps.
        available: training rows without repetitions.
        excluded: reason → rows of both splits that were left out.
        games: key → its split, of each game that was trained on or measured; None where rows do not tell.
    """

    train: list[Row]
    held_out: list[Row]
    steps: int
    available: int
    excluded: dict[str, int]
    games: dict[str, str] | None


def read_examples(
    dataset: Path,
    kind: str,
    tokenizer: Any,
    recipe: Mapping[str, Any],
    positions: int,
    seed: int,
) -> Examples:
    """The rows of a dataset that a recipe trains on and is measured on.

    Args:
        dataset: its folder.
        kind: of the dataset.
        tokenizer: of the model.
        recipe: its settings.
        positions: most tokens that the model takes.
        seed: another seed orders and draws differently.

    Raises:
        ProbelineError: nothing is left to train on, or a row is no row.
    """
    rows = _rows(dataset / FILES[recipe["method"], kind], kind)
    excluded: Counter[str] = Counter()
    longest = min(recipe["max_tokens"], positions)
    room = recipe.get("completion_tokens", 0)
    asked = [row for row in rows if row["split"] in (TRAIN, HELD_OUT)]
    kept = [row for row in asked if _tokenised(row, tokenizer, longest, room, excluded)]
    train = [row for row in kept if row["split"] == TRAIN]
    if not train:
        raise ProbelineError(
            f"{dataset} holds no example to train on. " + _remedy(excluded, recipe["max_tokens"], positions)
        )
    held_out = _whole_games([row for row in kept if row["split"] == HELD_OUT], recipe["held_out"], seed)
    at_once = recipe["batch"] * recipe["accumulation"] // recipe.get("generations", 1)
    steps = recipe["max_steps"] or -(-len(train) * recipe["epochs"] // at_once)
    order = shuffled(len(train), steps * at_once, seed)
    ordered = [train[place] for place in order]
    for reason, count in sorted(excluded.items()):
        log.warning("%d examples are left out: %s.", count, reason.replace("_", " "))
    return Examples(
        ordered, held_out, steps, len(train), dict(sorted(excluded.items())), _games(ordered, held_out)
    )


def _remedy(excluded: Mapping[str, int], most: int, positions: int) -> str:
    """Why there is no example, and what helps."""
    if not excluded:
        return "More games make more examples."
    reasons = [f"{count} ({reason.replace('_', ' ')})" for reason, count in sorted(excluded.items())]
    told = f"Left out were {', '.join(reasons)}."
    if _too_long(min(most, positions)) not in excluded:
        return f"{told} Take another model, or logs without such texts."
    if most < positions:
        return f"{told} Raise max_tokens of the recipe: the model takes {positions}."
    return f"{told} The model takes no more than {positions}: use one that does."


def _too_long(longest: int) -> str:
    return f"more_than_{longest}_tokens"


def shuffled(count: int, length: int, seed: int) -> list[int]:
    """Places 0 to `count` - 1 in random order, as often as `length` asks for: each pass is shuffled anew.

    The order is ours and not a sampler's, so that training that goes on after a stop sees what it would have
    seen, also in a later pass.
    """
    random = Random(seed)
    order: list[int] = []
    while len(order) < length:
        one_pass = list(range(count))
        random.shuffle(one_pass)
        order += one_pass
    return order[:length]


def write_games(dataset: Path, games: Mapping[str, str] | None, output: Path) -> None:
    """Write games.parquet: the games that a training read, with content and split; lineage reads it.

    Args:
        dataset: the dataset's folder.
        games: of `Examples`; None for all of its games but those of the test.
        output: where to write.
    """
    import pyarrow.compute as pc

    with open_parquet(dataset / "games.parquet") as file:
        table = file.read()
    if games is None:
        keep = pc.is_in(table["split"], value_set=_array([TRAIN, HELD_OUT]))
    else:
        keep = pc.is_in(table["game"], value_set=_array(sorted(games)))
    write_parquet(output / "games.parquet", table.filter(keep))


def _array(values: list[str]) -> Any:
    import pyarrow as pa

    return pa.array(values, pa.string())


def read_rows(path: Path) -> list[Row]:
    """The rows of a dataset's file.

    Raises:
        ProbelineError: it is missing or damaged.
    """
    try:
        return [orjson.loads(line) for line in path.read_bytes().splitlines()]
    except FileNotFoundError as error:
        raise ProbelineError(f"{path} does not exist. Run the same command again to have it made.") from error
    except orjson.JSONDecodeError as error:
        raise ProbelineError(
            f"{path} is damaged ({error}). Delete its folder to have it made again."
        ) from error


def _rows(path: Path, kind: str) -> list[Row]:
    """The rows of a file as examples.

    Raises:
        ProbelineError: one lacks a key.
    """
    examples = []
    for number, row in enumerate(read_rows(path), 1):
        try:
            examples.append(_as_example(kind, row))
        except (KeyError, TypeError) as error:
            lacking = f"lacks {error}" if isinstance(error, KeyError) else "is no example"
            raise ProbelineError(
                f"{path}, line {number}, {lacking}. Delete its folder to have it made again."
            ) from error
    return examples


def _as_example(kind: str, row: Row) -> Row:
    """A row with the columns that TRL reads, its id, its games and its split."""
    if kind == "sft":
        prompt = [
            {"role": "system", "content": row["instruction"]},
            {"role": "user", "content": row["input"]},
        ]
        completion = [{"role": "assistant", "content": row["output"]}]
        return _common(row, row["game"]) | {"prompt": prompt, "completion": completion}
    if kind == "preferences":
        common = _common(row, row["game"], row["rejected_game"])
        return common | {key: row[key] for key in ("prompt", "chosen", "rejected")}
    if kind == "prompts":
        games = [row["game"]] if "game" in row else None
        game = row.get("game", row["dialogue_id"])
        common = {"id": row["id"], "game": game, "games": games, "split": row["split"]}
        return common | {key: row[key] for key in ("prompt", "ground_truth")} | {"rubric": rubric_of(row)}
    common = _common(row, row["id"].partition("#")[0])
    return common | {key: row[key] for key in ("prompt", "completion", "actual") if key in row}


def _common(row: Row, *games: str) -> Row:
    name = row.get("id") or f"{row['game']}#{row['turn']}"
    return {"id": name, "game": row.get("event", games[0]), "games": list(games), "split": row["split"]}


def _tokenised(row: Row, tokenizer: Any, longest: int, room: int, excluded: Counter[str]) -> bool:
    """Give an example its tokens: those that the model is asked with later, too, never a trainer's own.

    Returns:
        Whether it can be shown to the model and fits with room for a completion; else it is counted.
    """
    from probeline.models.render import UnrenderableChatError, answer_tokens, prompt_tokens

    try:
        row["prompt_ids"] = prompt_tokens(tokenizer, row["prompt"])
        answers = [key for key in ANSWERS if key in row]
        for key in answers:
            row[f"{key}_ids"] = answer_tokens(tokenizer, row["prompt"], row[key][0]["content"])
    except UnrenderableChatError as error:
        excluded[str(error).replace(" ", "_")] += 1
        return False
    tokens = len(row["prompt_ids"]) + max((len(row[f"{key}_ids"]) for key in answers), default=0) + room
    if tokens > longest:
        excluded[_too_long(longest)] += 1
    return tokens <= longest


def _whole_games(rows: Sequence[Row], most: int, seed: int) -> list[Row]:
    """Rows of games drawn by their key, whole games until there are about as many rows as asked for."""
    drawn = sorted({row["game"] for row in rows}, key=lambda game: unit_interval(f"held_out:{seed}:{game}"))
    by_game: dict[str, list[Row]] = {game: [] for game in drawn}
    for row in rows:
        by_game[row["game"]].append(row)
    chosen: list[Row] = []
    for game in drawn:
        if len(chosen) >= most:
            break
        chosen += by_game[game]
    return chosen


def _games(*parts: Iterable[Row]) -> dict[str, str] | None:
    games: dict[str, str] = {}
    for row in (row for part in parts for row in part):
        if row["games"] is None:
            return None
        games |= dict.fromkeys(row["games"], row["split"])
    return games
