"""Files of unknown origin: read with limits, parsed with repairs, checked field by field."""

import json
from collections import Counter
from pathlib import Path
from stat import S_ISREG
from typing import Any

import orjson

from probeline.digests import canonical_digest, sha256_bytes, sha256_file
from probeline.errors import ProbelineError
from probeline.logs.listing import BOM, MAX_FILE_BYTES
from probeline.logs.responses import clean
from probeline.text import plain_text

MAX_DEPTH = 200


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """The content of a file.

    Args:
        path: the file.
        limit: most bytes; MAX_FILE_BYTES where it is not given.

    Raises:
        ProbelineError: it is too large for the log of one game, or no regular file.
        OSError: it cannot be read.
    """
    most = MAX_FILE_BYTES if limit is None else limit
    info = path.stat()
    if not S_ISREG(info.st_mode):
        raise ProbelineError("it is no regular file")
    if info.st_size > most:
        raise ProbelineError(f"the file has {info.st_size} bytes, more than {most}")
    return path.read_bytes()


def quarantined(path: Path, error: Exception) -> dict[str, str | None]:
    """Why a file is not used, and its digest where it can be read."""
    reason = str(error)
    if isinstance(error, UnicodeDecodeError):
        reason = f"the file is not UTF-8 ({error.reason} at byte {error.start})"
    elif isinstance(error, OSError):
        reason = f"the file could not be read ({error.strerror})"
    try:
        # A pipe would be read for ever.
        digest = sha256_file(path) if path.is_file() else None
    except OSError:
        digest = None
    return {"reason": plain_text(reason), "sha256": digest}


def parse_json(data: bytes, repairs: Counter[str], what: str = "file") -> Any:
    """The JSON value in some bytes; what only Python's own reader takes is mended and counted.

    A byte order mark in front, which some editors write, is left out and counted.

    Args:
        data: the bytes.
        repairs: counts what was mended.
        what: they are, for the error.

    Raises:
        ProbelineError: they are no JSON, not UTF-8, or nested too deeply.
    """
    if data.startswith(BOM):
        repairs["files_with_byte_order_mark"] += 1
        data = data.removeprefix(BOM)
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as strict:
        # Python's own writer lets NaN and lone surrogates through; they are mended, not lost.
        try:
            value = json.loads(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ProbelineError(f"the {what} is not UTF-8 ({error.reason} at byte {error.start})") from error
        except RecursionError as error:
            raise ProbelineError(f"the {what} is nested too deeply") from error
        except ValueError:
            raise ProbelineError(f"the {what} is not JSON ({strict})") from strict
    repairs["files_nonstandard_json"] += 1
    return _cleaned(value)


def content_digest(stats: Any, data: bytes, *, standard: bool) -> str:
    """The same digest as `listing.game_content`, without parsing again."""
    if not standard:
        return sha256_bytes(data)
    try:
        return canonical_digest(stats)
    except orjson.JSONEncodeError as error:
        raise ProbelineError(f"the file is nested too deeply ({error})") from error


def part_digest(value: Any) -> str:
    """Hex SHA-256 of the canonical JSON of a part of what `parse_json` gave.

    Raises:
        ProbelineError: it is nested too deeply.
    """
    try:
        return canonical_digest(value)
    except orjson.JSONEncodeError:  # an integer beyond 64 bits, or depth
        return sha256_bytes(json.dumps(_cleaned(value), sort_keys=True).encode())


def _cleaned(value: Any, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise ProbelineError("the log is nested too deeply")
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_cleaned(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {clean(key): _cleaned(item, depth + 1) for key, item in value.items()}
    return value


_REQUIRED = object()


def take(data: Any, field: str, kind: type, default: Any = _REQUIRED, where: str = "") -> Any:
    """`data[field]`, of exactly the type `kind`; a default makes it optional.

    Raises:
        ProbelineError: it is missing or of another type; the text names it, and quotes nothing.
    """
    name = f"{where}.{field}" if where else field
    if not isinstance(data, dict):
        raise ProbelineError(f"{where or 'the entry'} is {kind_of(data)}, expected an object")
    if field not in data:
        if default is _REQUIRED:
            raise ProbelineError(f"{name} is missing")
        return default
    value = data[field]
    if type(value) is not kind:
        raise ProbelineError(f"{name} is {kind_of(value)}, expected {kind_of(kind())}")
    return value


def optional(data: Any, field: str, kind: type, default: Any, where: str = "") -> Any:
    """`data[field]`, of exactly the type `kind`, or the default where it is absent or null.

    Raises:
        ProbelineError: it is of another type; the text names it, and quotes nothing.
    """
    if isinstance(data, dict) and data.get(field) is None:
        return default
    return take(data, field, kind, where=where)


def kind_of(value: Any) -> str:
    """The JSON type of a value in words."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        int: "an integer",
        float: "a number",
        bool: "a truth value",
    }
    return names.get(type(value), "null")
