"""Support dialogues in, checked tables and an account of everything read out.

`quality.json` counts what `probeline.logs.units` says, and of the dialogues that are kept:

- turns; system_turns = rows + first_system_turns + system_turns_without_words; user_turns_without_words;
  turns_merged: those that continue the message of the turn before, which was the same side's.
- dialogues_of_files_…: dialogues of a file in which something was mended, see `reading.parse_json`.
- dialogues_train + dialogues_dev + dialogues_test + dialogues_without_split = dialogues: the split is the
  folder of the file. Of copies in several splits the one in test is kept, then the one in dev.
- dialogues_without_rows; ids_repeated: ids, split included, that several dialogues have.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from probeline.files import open_parquet
from probeline.logs.formats import unit_key
from probeline.logs.reading import read_bytes
from probeline.logs.support import Dialogue, Unreadable, read_support, rows_of, task_description
from probeline.logs.units import Fault, Format, Unit, collect_units, counts_column, ingest_units
from probeline.schema import DIALOGUES, ROWS

SPLIT_FOLDERS = ("test", "dev", "train")
"""Folders that name a split; of copies the first of these is kept, so that nothing held out is trained on."""
SCHEMA_FILE = "schema.json"


def ingest_support(files: list[Path], root: Path, output: Path, retracted: Mapping[str, str]) -> None:
    """Read the files of one shard into dialogues.parquet and rows.parquet (DIALOGUES, ROWS of the schema).

    Args:
        files: the shard's files.
        root: the folder of the corpus.
        output: the folder to make, with quality.json, quarantine.jsonl and manifest.json beside the tables.
        retracted: key of each dialogue that is taken out → the reason.
    """
    ingest_units(_FORMAT, files, root, output, retracted)


def collect_support(shards: list[Path], output: Path) -> None:
    """Merge the shards of a corpus, copies in several of them once; see `units.collect_units`."""
    collect_units(_FORMAT, shards, output)


def _read(path: Path, root: Path) -> Iterator[Unit | Fault] | None:
    if path.name == SCHEMA_FILE:
        return None
    folders = [name for name in reversed(path.relative_to(root).parts[:-1]) if name in SPLIT_FOLDERS]
    return _entries(read_bytes(path), folders[0] if folders else None)


def _entries(data: bytes, split: str | None) -> Iterator[Unit | Fault]:
    for entry in read_support(data):
        if isinstance(entry, Unreadable):
            yield Fault(entry.position, entry.reason, entry.sha256)
        else:
            yield _unit(entry, split)


def _unit(dialogue: Dialogue, split: str | None) -> Unit:
    counts = dialogue.repairs + Counter({"turns": len(dialogue.turns)})
    rows = rows_of(dialogue, counts)
    counts[f"dialogues_{split}" if split else "dialogues_without_split"] += 1
    counts["dialogues_without_rows"] += not rows
    key = unit_key(dialogue.content)
    task = task_description(dialogue.services)
    row = {
        "game": key,
        "content": dialogue.content,
        "id": f"{split}/{dialogue.dialogue_id}" if split else dialogue.dialogue_id,
        "folder": split,
        "dialogue_id": dialogue.dialogue_id,
        "services": dialogue.services,
        "turns": len(dialogue.turns),
        "counts": counts_column(counts),
    }
    parts = [
        {
            "game": key,
            "turn_index": one.turn_index,
            "prompt": one.prompt,
            "ground_truth": one.ground_truth,
            "task_description": task,
        }
        for one in rows
    ]
    return Unit(dialogue.content, row, parts)


def _rank(row: Mapping[str, Any]) -> int:
    return SPLIT_FOLDERS.index(row["folder"]) if row["folder"] else len(SPLIT_FOLDERS)


def _extra(dialogues: Path, rows: Path) -> dict[str, Any]:
    with open_parquet(dialogues) as file:
        ids = Counter(file.read(["id"])["id"].to_pylist())
    return {"ids_repeated": sum(count > 1 for count in ids.values())}


_FORMAT = Format(
    noun="dialogues",
    parts="rows",
    unit_columns=DIALOGUES,
    part_columns=ROWS,
    read=_read,
    rank=_rank,
    extra=_extra,
    counted=(
        "turns",
        "system_turns",
        "rows",
        "first_system_turns",
        "system_turns_without_words",
        "user_turns_without_words",
        "turns_merged",
        "dialogues_train",
        "dialogues_dev",
        "dialogues_test",
        "dialogues_without_split",
        "dialogues_without_rows",
    ),
)
