"""What adapters are evaluated on: rows of the test split of datasets, drawn with a seed."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probeline.adapters.examples import read_rows
from probeline.digests import unit_interval
from probeline.errors import ProbelineError
from probeline.files import MANIFEST, open_parquet, read_json, write_parquet
from probeline.schema import DATASET_GAMES, make_table

TEST = "test"
FILES = {
    "sft": "mafia_sft_dataset.jsonl",
    "preferences": "mafia_dpo_dataset.jsonl",
    "forecasts": "sft.jsonl",
    "questions": "grpo.jsonl",
    "prompts": "prompts.jsonl",
}
"""What is read of a dataset: of one of forecasts, both the examples and the questions without candidates."""

Chat = list[dict[str, str]]


class NothingHeldOutError(ProbelineError):
    """A dataset has no row in the test split."""


@dataclass(frozen=True)
class Item:
    """A held-out row.

    Attributes:
        id: of the row.
        group: game, event or dialogue: what splits keep together, and what is resampled.
        games: keys that the dataset's games.parquet has for it; none where rows do not tell.
        prompt: the chat before the answer.
        row: all of it.
    """

    id: str
    group: str
    games: tuple[str, ...]
    prompt: Chat
    row: Mapping[str, Any]


def read_held_out(dataset: Path, kind: str) -> list[Item]:
    """The rows of the test split.

    Args:
        dataset: its folder.
        kind: a key of FILES.

    Raises:
        ProbelineError: the file is missing or damaged; as NothingHeldOutError, none is in the test split.
    """
    path = dataset / FILES[kind]
    rows = read_rows(path)
    try:
        items = [_item(kind, row) for row in rows if row["split"] == TEST]
    except (KeyError, TypeError) as error:
        raise ProbelineError(
            f"{path} is damaged ({error}). Delete {dataset} to have it made again."
        ) from error
    if not items:
        raise NothingHeldOutError(
            # No path: an evaluation's artifact says it, wherever it was made.
            f"{path.name} of {dataset.name} has {len(rows)} rows, but none of the test split: nothing is "
            "held out. More games, or a larger share for splits.test, make some."
        )
    return items


def _item(kind: str, row: Mapping[str, Any]) -> Item:
    if kind == "sft":
        prompt = [
            {"role": "system", "content": row["instruction"]},
            {"role": "user", "content": row["input"]},
        ]
        return Item(f"{row['game']}#{row['turn']}", row["game"], (row["game"],), prompt, row)
    if kind == "preferences":
        games = (row["game"], row["rejected_game"])
        return Item(f"{row['game']}#{row['turn']}", row["game"], games, row["prompt"], row)
    if kind == "prompts":
        return Item(row["id"], row["dialogue_id"], (), row["prompt"], row)
    return Item(row["id"], row["event"], (row["id"].partition("#")[0],), row["prompt"], row)


def draw(items: Sequence[Item], most: int, seed: int) -> list[Item]:
    """Some of the items, of as many groups as possible: one of each, then a second of each, and so on.

    A larger number draws the same items and more.

    Args:
        items: to draw from.
        most: of them.
        seed: another seed draws others.
    """
    place = {item.id: unit_interval(f"evaluation:{seed}:{item.id}") for item in items}
    by_group: dict[str, list[Item]] = defaultdict(list)
    for item in sorted(items, key=lambda item: (place[item.id], item.id)):
        by_group[item.group].append(item)
    ranked = [(rank, place[item.id], item) for own in by_group.values() for rank, item in enumerate(own)]
    return [item for _, _, item in sorted(ranked, key=lambda entry: (*entry[:2], entry[2].id))[:most]]


def that_fit(
    items: Sequence[Item], model: Path, answers: Sequence[str], room: int, most: int, excluded: Counter[str]
) -> list[Item]:
    """The items that a model takes whole: nothing is cut.

    Args:
        items: to look at.
        model: folder of the model.
        answers: keys of rows that hold an answer, measured with the prompt.
        room: tokens that must be free behind the prompt.
        most: tokens of a prompt with its answer or that room, and no more than the model takes.
        excluded: gets how many were left out, by reason.
    """
    from probeline.models.render import UnrenderableChatError, answer_tokens, load_tokenizer, prompt_tokens

    tokenizer = load_tokenizer(model)
    longest, kept = min(most, read_json(model / MANIFEST)["max_length"]), []
    for item in items:
        try:
            prompt = len(prompt_tokens(tokenizer, item.prompt))
            texts = [answer_text(item, key) for key in answers]
            tokens = [len(answer_tokens(tokenizer, item.prompt, text)) for text in texts]
        except UnrenderableChatError as error:
            excluded[str(error).replace(" ", "_")] += 1
            continue
        if prompt + max([room, *tokens]) > longest:
            excluded[f"more_than_{longest}_tokens"] += 1
        else:
            kept.append(item)
    return kept


def answer_text(item: Item, key: str) -> str:
    """The text of an answer in a row, which holds it as text or as the last message of a chat."""
    answer = item.row[key]
    return str(answer if isinstance(answer, str) else answer[-1]["content"])


def write_games(datasets: Sequence[Path], items: Sequence[Item], output: Path) -> None:
    """Write games.parquet: what was held out and evaluated on; lineage and `audit leakage` read it.

    Args:
        datasets: folders of the datasets.
        items: that were used; of a dataset whose rows do not tell, all games of the test split count.
        output: the folder to write to.
    """
    named = {game for item in items for game in item.games}
    untold = any(not item.games for item in items)
    found: dict[str, dict[str, Any]] = {}
    for dataset in datasets:
        with open_parquet(dataset / "games.parquet") as file:
            rows = file.read(columns=[name for name, _, _ in DATASET_GAMES]).to_pylist()
        found |= {
            row["game"]: row for row in rows if row["split"] == TEST and (untold or row["game"] in named)
        }
    table = make_table([found[game] for game in sorted(found)], DATASET_GAMES)
    write_parquet(output / "games.parquet", table)
