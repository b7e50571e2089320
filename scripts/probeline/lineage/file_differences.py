"""Where two versions of a file differ first, in words."""

import math
from pathlib import Path
from typing import Any

import orjson

from probeline.text import plain_text

LONGEST = 60
"""Characters of a value that are shown."""


def first_difference(recorded: Path, made: Path) -> str:
    """What differs first between two versions of a file, by its kind: a key, a column and row, a tensor.

    Args:
        recorded: the file as it was made before.
        made: the file as it was made now.
    """
    kinds = {".json": _in_json, ".parquet": _in_table, ".safetensors": _in_tensors}
    try:
        found = kinds.get(recorded.suffix, _in_bytes)(recorded, made)
    except (OSError, ValueError, orjson.JSONDecodeError) as error:
        found = f"one of the two cannot be read ({error})"
    return plain_text(found or _in_bytes(recorded, made))


def _in_bytes(recorded: Path, made: Path) -> str:
    old, new = recorded.read_bytes(), made.read_bytes()
    same = next(
        (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new))
    )
    return f"byte {same:,} of {len(old):,} ({len(new):,} now)"


def _in_json(recorded: Path, made: Path) -> str:
    return _in_values(orjson.loads(recorded.read_bytes()), orjson.loads(made.read_bytes()), "")


def _in_values(old: Any, new: Any, key: str) -> str:
    """The first key, sorted, whose values differ; empty where none does."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            if name not in old or name not in new:
                return f"{key}{name} is {'new' if name in new else 'missing'}"
            if found := _in_values(old[name], new[name], f"{key}{name}."):
                return found
        return ""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return next((found for i, (a, b) in pairs if (found := _in_values(a, b, f"{key}{i}."))), "")
    return "" if old == new else f"{key[:-1]}: {_short(old)}, now {_short(new)}"


def _short(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _in_table(recorded: Path, made: Path) -> str:
    from probeline.files import open_parquet

    with open_parquet(recorded) as one, open_parquet(made) as other:
        old, new = one.read(), other.read()
    if old.schema != new.schema:
        return f"columns {', '.join(old.column_names)}, now {', '.join(new.column_names)}"
    if old.num_rows != new.num_rows:
        return f"{old.num_rows:,} rows, now {new.num_rows:,}"
    for name in old.column_names:
        if not old[name].equals(new[name]):
            pairs = zip(old[name].to_pylist(), new[name].to_pylist(), strict=True)
            # As text, for NaN does not equal NaN, be it in a list.
            found = next(((i, a, b) for i, (a, b) in enumerate(pairs) if repr(a) != repr(b)), None)
            if found:
                row, a, b = found
                return f"column {name}, row {row:,}: {str(a)[:LONGEST]}, now {str(b)[:LONGEST]}"
    return ""


def _in_tensors(recorded: Path, made: Path) -> str:
    from safetensors import safe_open

    with safe_open(recorded, "pt") as old, safe_open(made, "pt") as new:
        if set(old.keys()) != set(new.keys()):
            return f"tensors {', '.join(sorted(old.keys()))}, now {', '.join(sorted(new.keys()))}"
        for name in sorted(old.keys()):
            a, b = old.get_tensor(name), new.get_tensor(name)
            if a.shape != b.shape or a.dtype != b.dtype:
                return f"tensor {name}: {a.dtype} {tuple(a.shape)}, now {b.dtype} {tuple(b.shape)}"
            if not a.equal(b):
                differing = int((a != b).sum())
                most = float((a.double() - b.double()).abs().max())
                size = "not a number" if math.isnan(most) else f"at most by {most:.3g}"
                return f"tensor {name}: {differing:,} of {a.numel():,} values, {size}"
    return ""
