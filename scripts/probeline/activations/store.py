"""Stored activations, read back without a model and without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probeline.errors import ProbelineError
from probeline.files import MANIFEST, open_parquet, read_json

# All that decides about the bits of a mean, apart from its own game.
SHARED_FACTS = (
    "model",
    "weights_sha256",
    "adapter_sha256",
    "parameters",
    "hidden_size",
    "dtype",
    "store_dtype",
    "device",
    "threads",
    "token_budget",
)
MEANS, REVEALS = "activations.safetensors", "reveals.safetensors"


@dataclass(frozen=True)
class Activations:
    """Means over the masked tokens of the samples of some shards.

    Attributes:
        samples: id of each sample, shard after shard.
        games: the game of each sample.
        values: float32, [samples, layers, width], layers in the order asked for.
        facts: what all shards agree on, the `SHARED_FACTS`; device is None if all are empty.
    """

    samples: list[str]
    games: list[str]
    values: np.ndarray
    facts: dict[str, Any]


def read_activations(shards: Sequence[Path], layers: Sequence[int]) -> Activations:
    """Read some layers of all shards; only those layers are read from disk.

    Args:
        shards: folders as `extract_activations` makes them, at least one; some may be empty.
        layers: the layers wanted.

    Raises:
        ProbelineError: a layer was not extracted, shards disagree or hold a sample twice, or a file is
            missing or cut short. Bytes that were changed inside a file are not looked for here: that is
            what the digests in the manifests are for.
    """
    found = shard_facts(shards, layers)
    parts = [
        _read_shard(shard, [manifest["layers"].index(layer) for layer in layers], found.facts["hidden_size"])
        for shard, manifest in zip(shards, found.manifests, strict=True)
    ]
    samples = [sample for samples, _, _ in parts for sample in samples]
    if len(set(samples)) < len(samples):
        raise ProbelineError(
            f"The shards {', '.join(str(shard) for shard in shards)} hold a sample more than once. Name the "
            "shards of one extraction only: those that end in the same `-of-N`."
        )
    return Activations(
        samples=samples,
        games=[game for _, games, _ in parts for game in games],
        values=np.concatenate([values for _, _, values in parts]),
        facts=found.facts,
    )


@dataclass(frozen=True)
class Reveals:
    """Means over the sentences that told players their roles; they are no samples.

    Attributes:
        players: game and name of each player, in order.
        values: float32, [players, layers, width], layers in the order asked for.
    """

    players: list[tuple[str, str]]
    values: np.ndarray


def read_reveals(shards: Sequence[Path], layers: Sequence[int]) -> Reveals:
    """Read some layers of what told the players of all shards their roles; nobody where the input tells none.

    Of a player who is told in several sentences, the mean is over the tokens of all.

    Raises:
        ProbelineError: a layer was not extracted, shards disagree, or a file is missing or damaged.
    """
    found = shard_facts(shards, layers)
    width = found.facts["hidden_size"]
    sums: dict[tuple[str, str], np.ndarray] = {}
    tokens: dict[tuple[str, str], int] = {}
    for shard, manifest in zip(shards, found.manifests, strict=True):
        columns = [manifest["layers"].index(layer) for layer in layers]
        index = open_parquet(shard / "reveals.parquet").read().to_pylist()
        values = _read_tensor(shard / REVEALS, "reveal", columns, len(index), width)
        for row, mean in zip(index, values, strict=True):
            player = row["game"], row["actor"]
            sums[player] = sums.get(player, 0) + mean.astype(np.float64) * row["tokens"]
            tokens[player] = tokens.get(player, 0) + row["tokens"]
    players = sorted(sums)
    means = np.empty((len(players), len(layers), width), dtype=np.float32)
    for row, player in enumerate(players):
        means[row] = sums[player] / tokens[player]
    return Reveals(players, means)


@dataclass(frozen=True)
class ShardFacts:
    """What shards say of themselves.

    Attributes:
        facts: what all agree on, the `SHARED_FACTS`.
        layers: those asked for.
        manifests: of each shard.
    """

    facts: dict[str, Any]
    layers: list[int]
    manifests: list[dict[str, Any]]


def shard_facts(shards: Sequence[Path], layers: Sequence[int] | None) -> ShardFacts:
    """Check that shards belong together and hold the layers; their numbers are not read.

    Args:
        shards: folders as `extract_activations` makes them, at least one; some may be empty.
        layers: the layers wanted; None for the only one that there is.

    Raises:
        ProbelineError: a layer was not extracted or has to be named, or shards disagree.
    """
    if not shards:
        raise ProbelineError("No shards of activations are named; there is nothing to read.")
    manifests = [read_json(shard / MANIFEST) for shard in shards]
    for shard, manifest in zip(shards, manifests, strict=True):
        for fact in SHARED_FACTS:
            if fact not in manifest:
                raise ProbelineError(
                    f"{shard / MANIFEST} does not say {fact}: another version of Probeline made it, or "
                    f"something else. Delete {shard} to have it made again."
                )
    # An empty shard was made on no device, so one with samples says what the others are compared to.
    first = next((index for index, manifest in enumerate(manifests) if manifest["samples"]), 0)
    facts = {fact: manifests[first][fact] for fact in SHARED_FACTS}
    if layers is None:
        layers = manifests[first]["layers"]
        if len(layers) > 1:
            raise ProbelineError(
                f"{shards[first]} holds the layers {', '.join(map(str, layers))}. "
                "Name those to be read: ActivationDataset(shards, layer=...)."
            )
    for shard, manifest in zip(shards, manifests, strict=True):
        _check_shard(shard, manifest, shards[first], facts, layers)
    return ShardFacts(facts, list(layers), manifests)


@dataclass(frozen=True)
class TokenActivations:
    """One layer over every masked token of a shard's samples.

    Attributes:
        samples: id of each sample.
        games: the game of each sample.
        counts: int64 [samples], how many tokens are masked in each.
        values: float32 [sum of the counts, width], sample after sample.
    """

    samples: list[str]
    games: list[str]
    counts: np.ndarray
    values: np.ndarray


def read_tokens(shard: Path, layer: int) -> TokenActivations:
    """Read one layer of one shard, token by token.

    Raises:
        ProbelineError: the layer was not kept token by token, or a file is damaged.
    """
    manifest = read_json(shard / MANIFEST)
    kept = manifest["token_layers"]
    if layer not in kept:
        raise ProbelineError(
            f"{shard} holds no tokens of layer {layer}, only of {', '.join(map(str, kept)) or 'none'}. "
            "Add it to activations.token_layers in the config."
        )
    index = open_parquet(shard / "index.parquet").read(columns=["sample", "game", "tokens"])
    counts = index["tokens"].to_numpy().astype(np.int64)
    column, width = kept.index(layer), manifest["hidden_size"]
    values = _read_tensor(shard / "tokens.safetensors", "token", [column], int(counts.sum()), width)
    return TokenActivations(index["sample"].to_pylist(), index["game"].to_pylist(), counts, values[:, 0])


def _check_shard(
    shard: Path, manifest: dict[str, Any], first: Path, facts: dict[str, Any], layers: Sequence[int]
) -> None:
    missing = [layer for layer in layers if layer not in manifest["layers"]]
    if missing:
        raise ProbelineError(
            f"{shard} holds no activations of layer {', '.join(map(str, missing))}, only of "
            f"{', '.join(map(str, manifest['layers']))}. Add it to activations.layers in the config."
        )
    for fact, value in facts.items():
        if manifest[fact] != value and (fact != "device" or manifest["samples"]):
            raise ProbelineError(
                f"Activations that do not belong together: {fact} is {manifest[fact]} in {shard}, but "
                f"{value} in {first}. Extract both with the same model and settings."
            )


def _read_shard(shard: Path, columns: list[int], width: int) -> tuple[list[str], list[str], np.ndarray]:
    index = open_parquet(shard / "index.parquet").read(columns=["sample", "game"])
    values = _read_tensor(shard / MEANS, "mean", columns, index.num_rows, width)
    return index["sample"].to_pylist(), index["game"].to_pylist(), values


def _read_tensor(file: Path, name: str, columns: list[int], rows: int, width: int) -> np.ndarray:
    """Some layers of a stored tensor: float32 [rows, columns, width]."""
    from safetensors import SafetensorError, safe_open

    values = np.empty((rows, len(columns), width), dtype=np.float32)
    try:
        with safe_open(file, framework="np") as tensors:
            stored = tensors.get_slice(name)
            if stored.get_shape()[0] != rows:
                raise ProbelineError(
                    f"{file} holds {stored.get_shape()[0]} rows, but its index.parquet {rows}. "
                    f"Delete {file.parent} to have it made again."
                )
            # A slice of no rows is an error to safetensors.
            for position, column in enumerate(columns if rows else []):
                values[:, position] = stored[:, column]
    except (SafetensorError, FileNotFoundError) as error:
        fault = "does not exist" if isinstance(error, FileNotFoundError) else f"is damaged ({error})"
        raise ProbelineError(f"{file} {fault}. Delete {file.parent} to have it made again.") from error
    return values
