"""Texts to score, from a file or from standard input."""

import difflib
import sys
from pathlib import Path
from typing import Any

from probeline.errors import ProbelineError

STANDARD_INPUT = "-"
KEY = "text"


def read_texts(file: str) -> list[str]:
    """The texts of a file: one in each line that is not blank, or JSON lines with a text each.

    JSON lines are read where the first line is a JSON object; it and all others must then have the key
    `text`. A text with line breaks needs them.

    Args:
        file: a path, or `-` for standard input.

    Raises:
        ProbelineError: no such file, no text in it, or JSON lines one of which has no text; names it.
    """
    name = "standard input" if file == STANDARD_INPUT else file
    try:
        data = sys.stdin.buffer.read() if file == STANDARD_INPUT else Path(file).read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ProbelineError(_not_a_file(Path(file))) from error
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProbelineError(f"{name} is not UTF-8 text: byte {error.start} is none of it.") from error
    # Not splitlines(): it parts lines at characters that belong to a text.
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(content.split("\n"), 1)]
    lines = [(number, line) for number, line in lines if line.strip()]
    if not lines:
        raise ProbelineError(f"{name} holds no text: a line that is not blank was expected for each.")
    if _object(lines[0][1]) is None:
        return [line for _, line in lines]
    return [_text_of(line, f"{name}, line {number}") for number, line in lines]


def _object(line: str) -> dict[str, Any] | None:
    """The JSON object in a line, None where it is no such line."""
    import orjson

    try:
        value: Any = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _text_of(line: str, place: str) -> str:
    """The text in the JSON object of a line."""
    found = _object(line)
    if found is None:
        raise ProbelineError(
            f'{place}: expected a JSON object with a text, {{"text": "…"}}, as in the first line.'
        )
    text = found.get(KEY)
    if isinstance(text, str):
        return text
    if KEY in found:
        raise ProbelineError(f'{place}: the value of "{KEY}" is {type(text).__name__}, not a text.')
    by_lower_case = {key.lower(): key for key in found}
    close = difflib.get_close_matches(KEY, by_lower_case, n=1, cutoff=0.6)
    hint = f' Did you mean "{KEY}" by "{by_lower_case[close[0]]}"?' if close else ""
    raise ProbelineError(
        f'{place}: the JSON object has no key "{KEY}"; its keys are {", ".join(found) or "none"}.{hint}'
    )


def _not_a_file(path: Path) -> str:
    if path.is_dir():
        return f"{path} is a folder; name a file with one text per line."
    there = [entry.name for entry in path.parent.iterdir() if entry.is_file()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, there, n=3, cutoff=0.6)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"{path} does not exist.{hint}"
