"""Games that are nearly the same, one cut short or continued: told by what the model reads, word for word."""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from probeline.files import open_parquet
from probeline.lineage.games import DIGITS
from probeline.lineage.graph import Lineage, parent_names
from probeline.lineage.leakage import SWEEP, evaluation, models_below, training
from probeline.lineage.records import Record
from probeline.lineage.terminal import kind_of

FEWEST = 3
SHARE = 0.5
"""Inputs that two games must share, of the smaller: openings alone coincide by chance."""

Inputs = dict[tuple[str, str], set[bytes]]
"""Content and name of a game → digests of all that was read before and in each of its samples."""


def near_copies(lineage: Lineage, record: Record) -> Iterator[dict[str, Any]]:
    """Pairs of a test game and a training game that share most of their inputs, but not their content.

    An input is the whole chat up to the end of a sample: two games share one only where all was the same
    until then.

    Args:
        lineage: all records.
        record: of what is evaluated.
    """
    evaluated = _by_split(record, evaluation(record))
    tested = {game: inputs for games in evaluated.values() for game, inputs in games.items()}
    for model in models_below(lineage, record):
        for split, games in _by_split(model, training(lineage, model)).items():
            for row in _pairs(tested, games):
                # The folds of a sweep are held out in turn: each pair once.
                if model is record and record.rule == SWEEP and row["game"] > row["as"]:
                    continue
                yield {"artifact": record.name, "trained": model.name, "trained_split": split} | row


def unread_dialogues(lineage: Lineage, records: Iterable[Record]) -> list[str]:
    """What the texts of cannot be compared: dialogues that are away, and models that name none."""
    away = set()
    for model in {m.name: m for record in records for m in models_below(lineage, record)}.values():
        folders = _dialogues(model)
        if not folders and any(training(lineage, model)):
            away.add(model.name)
        away |= {folder.as_posix() for folder in folders if not _is_there(folder)}
    return sorted(away)


def _dialogues(record: Record) -> list[Path]:
    """The shards of dialogues that something was made from, whether they are there or not."""
    return [Path(name) for name in parent_names(record) if kind_of(name) == "dialogues"]


def _is_there(folder: Path) -> bool:
    return all((folder / f"{table}.parquet").is_file() for table in ("samples", "sequences"))


def _pairs(tested: Inputs, trained: Inputs) -> Iterator[dict[str, Any]]:
    where: dict[bytes, list[tuple[str, str]]] = {}
    for game, inputs in trained.items():
        for digest in inputs:
            where.setdefault(digest, []).append(game)
    for (content, name), inputs in tested.items():
        shared: dict[tuple[str, str], int] = {}
        for digest in inputs:
            for game in where.get(digest, ()):
                shared[game] = shared.get(game, 0) + 1
        for (other_content, other), count in sorted(shared.items()):
            fewer = min(len(inputs), len(trained[other_content, other]))
            if content != other_content and count >= max(FEWEST, SHARE * fewer):
                yield {"game": name, "as": other, "shared": count, "of": fewer}


def _by_split(record: Record, games: Iterable[tuple[str | None, str, str]]) -> dict[str, Inputs]:
    """The inputs of some games of a record by its splits, from the dialogues that it was made from.

    Args:
        record: the record.
        games: content, split and name of each: shards of dialogues hold more than what was used of them.
    """
    splits: dict[str, set[str]] = {}
    for content, split, name in games:
        splits.setdefault(content or f"name {name}", set()).add(split)
    found: dict[str, Inputs] = {}
    for folder in _dialogues(record):
        if _is_there(folder):
            for (content, name), digest in _inputs(folder):
                for split in splits.get(content, set()) | splits.get(f"name {name}", set()):
                    found.setdefault(split, {}).setdefault((content, name), set()).add(digest)
    return found


def _inputs(folder: Path) -> Iterator[tuple[tuple[str, str], bytes]]:
    """Game, by content and name, and digest of the input of each sample of a shard of dialogues."""
    columns = ["sequence", "game", "content", "message", "end"]
    rows = open_parquet(folder / "samples.parquet").read(columns=columns).to_pylist()
    ends: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        ends.setdefault(row["sequence"], []).append(row)
    table = open_parquet(folder / "sequences.parquet")
    for batch in table.iter_batches(columns=["sequence", "messages"], batch_size=64):
        for sequence in batch.to_pylist():
            read = sha256()
            samples = sorted(ends.get(sequence["sequence"], ()), key=lambda row: (row["message"], row["end"]))
            position = 0
            for row in samples:
                for message in sequence["messages"][position : row["message"]]:
                    read.update(f"{message['role']}\n{message['content']}\0".encode())
                position = max(position, row["message"])
                here = read.copy()
                message = sequence["messages"][row["message"]]
                here.update(f"{message['role']}\n{message['content'][: row['end']]}".encode())
                yield (row["content"][:DIGITS], row["game"]), here.digest()
