"""What the audit's answers have in common at a terminal: names in few words, and text that it cannot obey."""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import orjson

from probeline.reports.estimates import many
from probeline.text import plain_text

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from probeline.lineage.graph import Lineage
    from probeline.lineage.records import Record

SHARD = re.compile(r"(?<=/)shard-\d+-of-(\d+)(?=/|$)")
DIGITS = 12
"""Of a digest, for a person's eyes."""
LONGEST_VALUE = 60


def warn_of_gaps(lineage: "Lineage", records: "Iterable[Record]", origins: bool = True) -> int:
    """Say on standard error which records an answer lacks; the exit status, 1 where it lacks any.

    Args:
        lineage: all records.
        records: those that the answer is about.
        origins: whether it is about what they were made from.
    """
    records = list(records)
    gaps = [f"{path} is left out: {fault.replace(path, 'it', 1)}" for path, fault in lineage.faults.items()]
    faulty = {path.removesuffix(".lineage.json") for path in lineage.faults}
    gaps += [f"{name} has no record." for name in lineage.missing(records) if name not in faulty]
    earlier = {
        f"{family(record.name)} was made from an earlier version of {family(name)}, whose record is not "
        "here.": None
        for record in (lineage.ancestors(records) if origins else ())
        for name in lineage.superseded(record)
    }
    gaps += earlier
    for gap in gaps:
        print(f"probeline: {plain_text(gap)}", file=sys.stderr)
    if gaps:
        print("probeline: The answer is not complete; `probeline audit verify` says more.", file=sys.stderr)
    return 1 if gaps else 0


def words(text: object, style: str = "") -> "Text":
    """Text of any origin: neither rich nor the terminal finds commands in it."""
    from rich.text import Text

    return Text(plain_text(str(text)), style, overflow="fold")


def line(*parts: "str | Text | tuple[object, str]") -> "Text":
    """One line out of parts, each a text, or a pair of text and style."""
    from rich.text import Text

    joined = Text(overflow="fold")
    for part in parts:
        joined.append_text(
            part if isinstance(part, Text) else words(*(part if isinstance(part, tuple) else (part,)))
        )
    return joined


def lines(text: str, style: str = "") -> "Text":
    """Text of several lines, such as a message: its line breaks stay."""
    from rich.text import Text

    return Text("\n").join(words(one, style) for one in text.split("\n"))


def make_table(*columns: str, right: Sequence[str] = ()) -> "Table":
    """A table without lines between; numbers go to the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        aside = column in right
        table.add_column(column, justify="right" if aside else "left", overflow="fold", no_wrap=aside)
    return table


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        # Names in a log may hold what the encoding lacks: JSON has ASCII for it.
        text = json.dumps(orjson.loads(text), indent=2)
    print(text)


def short(digest: str) -> str:
    """The first digits of a digest."""
    return digest[:DIGITS]


def value_text(value: Any) -> str:
    """A parameter in a few characters."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: {value_text(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, list):
        text = "[" + ", ".join(map(value_text, value)) + "]"
    else:
        text = orjson.dumps(value).decode()
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def family(name: str) -> str:
    """The name that shards of one thing share, `results/activations/trust/shard-*`."""
    return SHARD.sub("shard-*", name)


def fold_shards(names: Iterable[str]) -> dict[str, list[str]]:
    """Names with the shards of one thing together: `results/activations/trust (4 shards)` → their names."""
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(family(name), []).append(name)
    return {family_label(members): members for members in families.values()}


def family_label(members: Sequence[str]) -> str:
    """How shards of one thing are called together; one alone keeps its name."""
    if len(members) == 1:
        return members[0]
    name = family(members[0])
    if not name.endswith("/shard-*"):
        return f"{name} ({many(len(members), 'shard')})"
    return f"{name.removesuffix('/shard-*')} ({many(len(members), 'shard')})"


def kind_of(name: str) -> str:
    """What an artifact is, from where it lies: logs, tables, dialogues, models, probes and so on."""
    match PurePosixPath(name).parts:
        case ("results", kind, _, *_):
            return kind
        case ("results", "report.html"):
            return "report"
        case ("data", "simulated", _, *_):
            return "logs"
        case ("data", "processed", "dialogues", *_):
            return "dialogues"
        case ("data", "processed", _, *_):
            return "tables"
        case ("data", "models", _, *_):
            return "models"
    return "other"


def order_of(record: "Record") -> tuple[int, str]:
    """Sorts artifacts in the order of the data's way."""
    known = ("logs", "tables", "dialogues", "models", "activations", "adapters", "probes", "sweeps")
    kind = kind_of(record.name)
    return known.index(kind) if kind in known else len(known), record.name
