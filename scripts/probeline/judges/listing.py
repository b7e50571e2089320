"""What judges have answered so far, for people to look at."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probeline.errors import ProbelineError, near_misses
from probeline.judges.cache import AnswerCache
from probeline.judges.chat import endpoint_of
from probeline.text import plain_text

GROUP = ("purpose", "kind", "endpoint", "model", "temperature", "template")
SHOWN_DIGITS = 16
"""Of a key, in a list."""
FEWEST_DIGITS = 4
"""Of a key, to find an answer by."""
WIDTH = 60
"""Characters of a completion or rubric, in a list."""


def summary(cache: Path, judge: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The answers by purpose, judge, model, temperature and template: how many, and what the scores are like.

    Args:
        cache: the file of answers.
        judge: settings of the only judge that counts; all if not given.

    Raises:
        ProbelineError: no judge has been asked yet, or the file cannot be used.
    """
    groups: dict[tuple[Any, ...], list[float]] = {}
    for row in _rows(cache, ("score",), *_only(judge)):
        groups.setdefault(tuple(row[name] for name in GROUP), []).append(row["score"])
    return [
        dict(zip(GROUP, group, strict=True)) | _account(scores) for group, scores in sorted(groups.items())
    ]


def entries(cache: Path, judge: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The answers of one judge by key, with all that was asked; arguments as for `summary`."""
    return [_entry(row) for row in _rows(cache, ("key", "score", "rubric", "material"), *_only(judge))]


def entry(cache: Path, key: str) -> dict[str, Any]:
    """One answer with all that was asked.

    Args:
        cache: the file of answers.
        key: its key, or the beginning of it.

    Raises:
        ProbelineError: no answer has this key, or several do.
    """
    if len(key) < FEWEST_DIGITS or set(key) - set("0123456789abcdef"):
        raise ProbelineError(f"{key!r} is no key: give its first {FEWEST_DIGITS} hex digits at least.")
    columns = ("key", "score", "rubric", "material")
    found = _rows(cache, columns, "key >= ? AND key < ?", (key, key + "g"))
    if len(found) != 1:
        keys = ", ".join(row["key"][:SHOWN_DIGITS] for row in found[:5])
        raise ProbelineError(
            f"{len(found)} answers have a key that begins with {key}: {keys}. Give more digits."
            if found
            else f"No answer has a key that begins with {key}. `probeline rewards --judge NAME` lists them."
        )
    return _entry(found[0])


def judge_settings(name: str, judges: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a judge by its name in the config.

    Raises:
        ProbelineError: the config has none of this name.
    """
    if name not in judges:
        raise ProbelineError(f"--judge: unknown judge {name!r}. {near_misses(name, judges)}")
    return dict(judges[name])


def format_summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """The summary as lines, a paragraph for each judge, model and template."""
    return "\n".join(_line(row) for row in rows) or "No answers."


def format_entries(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each answer: key, score, and the beginning of what was judged or written."""
    return "\n".join(
        f"{row['key'][:SHOWN_DIGITS]}  {_value(row)}  {plain_text(_subject(row))[:WIDTH]}" for row in rows
    )


def format_entry(row: Mapping[str, Any]) -> str:
    """One answer, with all that was asked, each text under its name."""
    facts = [f"{name}: {row[name]}" for name in ("key", *GROUP) if row[name] != ""]
    texts = {**row["material"], row["purpose"]: row[row["purpose"]]}
    parts = [f"{name}:\n  " + "\n  ".join(str(text).split("\n")) for name, text in texts.items()]
    return "\n".join(map(plain_text, "\n".join([*facts, "", *parts]).split("\n")))


def _rows(cache: Path, columns: Sequence[str], where: str, values: Sequence[Any]) -> list[dict[str, Any]]:
    if not cache.exists():
        raise ProbelineError(f"{cache} does not exist: no judge has been asked in this project yet.")
    answers = AnswerCache(cache)
    try:
        names = ", ".join([*GROUP, *columns])
        return answers.rows(f"SELECT {names} FROM answers WHERE {where} ORDER BY key", values)
    finally:
        answers.close()


def _only(judge: Mapping[str, Any] | None) -> tuple[str, tuple[Any, ...]]:
    """Condition and values for the answers of a judge as it is set now."""
    if judge is None:
        return "1", ()
    if judge["kind"] == "local":
        return "kind = 'local'", ()
    asked = (judge["kind"], endpoint_of(judge), judge["model"], float(judge.get("temperature", 0.0)))
    return "kind = ? AND endpoint = ? AND model = ? AND temperature = ?", asked


def _account(scores: list[float]) -> dict[str, Any]:
    if scores[0] is None:  # rubrics
        return {"answers": len(scores)}
    deviation = statistics.stdev(scores) if len(scores) > 1 else None
    return {
        "answers": len(scores),
        "mean": statistics.fmean(scores),
        "sd": deviation,
        "min": min(scores),
        "max": max(scores),
    }


def _entry(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "material": json.loads(row["material"])}


def _line(row: Mapping[str, Any]) -> str:
    where = f" at {row['endpoint']}" if row["endpoint"] else ""
    model = row["model"][:SHOWN_DIGITS] if row["kind"] == "local" else row["model"]
    line = f"{row['kind']} {model}{where}, temperature {row['temperature']:g}, template {row['template']}: "
    line += f"{row['answers']} {row['purpose']}{'s' if row['answers'] != 1 else ''}"
    if "mean" in row:
        spread = "" if row["sd"] is None else f" ± {row['sd']:.3f} (sd)"
        line += f", mean {row['mean']:.3f}{spread}, {row['min']:.3f} to {row['max']:.3f}"
    return plain_text(line)


def _value(row: Mapping[str, Any]) -> str:
    return "rubric" if row["score"] is None else f"{row['score']:.4f}"


def _subject(row: Mapping[str, Any]) -> str:
    return str(row["rubric"] or row["material"].get("completion", ""))
