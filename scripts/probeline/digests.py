"""Content digests, and the choices that are derived from them (shard, split)."""

import hashlib
from pathlib import Path
from typing import Any

import orjson


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of the bytes of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_bytes(value: Any) -> bytes:
    """The JSON text of `value` with sorted keys and no spaces: equal values, equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def canonical_digest(value: Any) -> str:
    """Hex SHA-256 of the canonical JSON of `value`, whatever its formatting or key order was."""
    return sha256_bytes(canonical_bytes(value))


def in_key_order(value: Any) -> Any:
    """The same value with sorted keys: its text does not tell in which order a file names them."""
    return orjson.loads(canonical_bytes(value))


def unit_interval(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone, uniform over texts."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56


def shard_of(game: str, shards: int) -> int:
    """The shard of a game, from its key (its folder relative to the corpus root) alone.

    A changed log keeps its key and therefore touches one shard only.
    """
    return int(unit_interval(f"shard:{game}") * shards)


def shard_name(index: int, shards: int) -> str:
    """The name of a shard's folder, for example `shard-03-of-16`."""
    width = len(str(shards - 1))
    return f"shard-{index:0{width}d}-of-{shards}"


def split_of(key: str, fractions: dict[str, float], seed: int) -> str:
    """The split that `key` falls into, from its own digest alone: adding keys never moves another.

    Args:
        key: what is kept together: a game's content digest, or an experiment's name.
        fractions: split → share, in order; the shares sum to 1.
        seed: another seed draws another partition.
    """
    position = unit_interval(f"split:{seed}:{key}")
    upper = 0.0
    for split, share in fractions.items():
        upper += share
        if position < upper:
            return split
    return next(reversed(fractions))
