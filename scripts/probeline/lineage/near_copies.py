"""Games that are nearly the same, one cut short or continued: told by what the model reads, word for word."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from probeline.files import open_parquet
from probeline.lineage.graph import Lineage
from probeline.lineage.leakage import TEST, models_below
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
    tested = _by_split(lineage, record).get(TEST, {})
    for model in models_below(lineage, record):
        for split, games in _by_split(lineage, model).items():
            if split != TEST:
                for row in _pairs(tested, games):
                    yield {"artifact": record.name, "trained": model.name, "trained_split": split} | row


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


def _by_split(lineage: Lineage, record: Record) -> dict[str, Inputs]:
    """The inputs of the games of each split, from the dialogues that something was made from."""
    found: dict[str, Inputs] = {}
    for parent in lineage.parents(record):
        folder = Path(parent.name)
        if kind_of(parent.name) == "dialogues" and (folder / "samples.parquet").is_file():
            for split, game, digest in _inputs(folder):
                found.setdefault(split, {}).setdefault(game, set()).add(digest)
    return found


def _inputs(folder: Path) -> Iterator[tuple[str, tuple[str, str], bytes]]:
    """Split, game and digest of the input of each sample of a shard of dialogues."""
    columns = ["sequence", "game", "content", "split", "message", "end"]
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
                yield row["split"], (row["content"], row["game"]), here.digest()
