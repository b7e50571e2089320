"""One shard of dialogues becomes one shard of activations."""

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probeline.errors import ProbelineError
from probeline.files import (
    MANIFEST,
    atomic_directory,
    open_parquet,
    read_json,
    write_bytes,
    write_json_lines,
    write_manifest,
    write_parquet,
)
from probeline.models.render import UnrenderableChatError, render_chat, token_span
from probeline.progress import progress
from probeline.schema import ACTIVATION_INDEX, make_table

if TYPE_CHECKING:
    from probeline.activations.engine import SpannedSequence

log = logging.getLogger(__name__)

TOO_LONG = "context longer than the model's limit"
NO_TEXT = "empty text"
NO_TOKEN = "no token in the mask"

Sample = Mapping[str, Any]


@dataclass
class _Plan:
    """What is to be run, game by game, and what becomes of each sample.

    Attributes:
        games: for each game its sequences, and for each of their spans the row of the result.
        index: rows of ACTIVATION_INDEX, in the order of the samples.
        excluded: samples that cannot be measured, each with the reason.
    """

    games: dict[str, list[tuple["SpannedSequence", list[int]]]] = field(default_factory=dict)
    index: list[dict[str, Any]] = field(default_factory=list)
    excluded: list[dict[str, str]] = field(default_factory=list)


def extract_activations(
    dialogues: Path,
    model: Path,
    output: Path,
    layers: Sequence[int] | None,
    dtype: str,
    store_dtype: str,
    threads: int,
    token_budget: int = 2048,
) -> None:
    """Write the mean residual stream over each sample's masked tokens, for every layer asked for.

    Each sequence is run once, however many samples it holds. A sample that cannot be measured as it is
    (context longer than the model's limit, no token in the mask, …) is left out and counted with its
    reason; nothing is truncated.

    Args:
        dialogues: a shard with `sequences.parquet` and `samples.parquet`.
        model: a model's folder, as `fetch_model` makes it.
        output: the folder to make: `activations.safetensors` with the tensor `mean`
            [samples, layers, width], `index.parquet` (row i describes row i), `excluded.jsonl`, manifest,
            which names the device too: the result's bits depend on it.
        layers: 0 the embeddings, L the residual stream after L blocks; None for all of them.
        dtype: number type of the forward pass, `float32` or `bfloat16`.
        store_dtype: number type of the stored means, `float32` or `float16`.
        threads: processor threads; the result's bits depend on them.
        token_budget: most tokens in one batch, padding included; the result's bits depend on it.

    Raises:
        ProbelineError: the model lacks a layer, the shard contradicts itself, or a mean is not finite in
            the number types asked for.
    """
    from safetensors.numpy import save

    facts = read_json(model / MANIFEST)
    chosen = _check_layers(layers, model.name, facts["depth"])
    plan = _plan(dialogues, model, facts["max_length"])
    mean = np.empty((len(plan.index), len(chosen), facts["hidden_size"]), dtype=store_dtype)
    # Without samples nothing is loaded, and there is no device.
    run: dict[str, Any] = {"device": None, "smallest_token_budget": token_budget, "tokens": 0}
    if plan.games:
        run = _run(plan, mean, model, chosen, dtype, threads, token_budget)
    excluded = Counter(row["reason"] for row in plan.excluded)
    if excluded:
        log.warning(
            "%d of %d samples are excluded: %s",
            excluded.total(),
            excluded.total() + len(plan.index),
            ", ".join(f"{count} for {reason}" for reason, count in sorted(excluded.items())),
        )
    with atomic_directory(output) as draft:
        write_bytes(draft / "activations.safetensors", save({"mean": mean}))
        write_parquet(draft / "index.parquet", make_table(plan.index, ACTIVATION_INDEX))
        write_json_lines(draft / "excluded.jsonl", plan.excluded)
        write_manifest(
            draft,
            "activations",
            {
                "model": model.name,
                "weights_sha256": facts["weights_sha256"],
                "layers": chosen,
                "hidden_size": facts["hidden_size"],
                "dtype": dtype,
                "store_dtype": store_dtype,
                "threads": threads,
                "token_budget": token_budget,
                "games": len(plan.games),
                "samples": len(plan.index),
                **run,
                "excluded": dict(excluded),
            },
        )


def _check_layers(layers: Sequence[int] | None, model: str, depth: int) -> list[int]:
    if layers is None:
        return list(range(depth + 1))
    wrong = sorted(layer for layer in set(layers) if not 0 <= layer <= depth)
    if wrong or not layers:
        raise ProbelineError(
            f"The model {model} has no layer {', '.join(map(str, wrong)) or '(none given)'}. Its depth is "
            f"{depth}: activations.layers may hold 0 (the embeddings) to {depth}."
        )
    return sorted(set(layers))


def _plan(dialogues: Path, model: Path, max_length: int) -> _Plan:
    """Tokenise every sequence once and locate the samples in it; without samples, import nothing heavy."""
    columns = ["sample", "sequence", "game", "message", "start", "end"]
    samples = open_parquet(dialogues / "samples.parquet").read(columns=columns).to_pylist()
    plan = _Plan()
    if not samples:
        return plan
    from transformers import AutoTokenizer

    from probeline.activations.engine import SpannedSequence

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True, trust_remote_code=False)
    table = open_parquet(dialogues / "sequences.parquet").read(columns=["sequence", "messages"])
    chats = {row["sequence"]: row["messages"] for row in table.to_pylist()}
    members: dict[str, list[Sample]] = {}
    for sample in samples:
        members.setdefault(sample["sequence"], []).append(sample)
        _check_mask(sample, chats.get(sample["sequence"]), dialogues)

    tokens: dict[str, tuple[int, ...]] = {}
    masks: dict[str, range | str] = {}
    for sequence, its_samples in progress(members.items(), "Tokenising", len(members), "chat"):
        tokens[sequence], found = _locate(tokenizer, chats[sequence], its_samples, max_length)
        masks.update(zip((sample["sample"] for sample in its_samples), found, strict=True))

    row_of: dict[str, int] = {}
    for sample in samples:
        mask = masks[sample["sample"]]
        if isinstance(mask, str):
            plan.excluded.append({"sample": sample["sample"], "reason": mask})
            continue
        row_of[sample["sample"]] = len(plan.index)
        plan.index.append(
            {
                "sample": sample["sample"],
                "game": sample["game"],
                "tokens": len(mask),
                "position": mask[-1],
            }
        )
    for sequence, its_samples in members.items():
        kept = [sample["sample"] for sample in its_samples if sample["sample"] in row_of]
        if kept:
            spans = tuple(mask for name in kept if isinstance(mask := masks[name], range))
            game = plan.games.setdefault(its_samples[0]["game"], [])
            game.append((SpannedSequence(tokens[sequence], spans), [row_of[name] for name in kept]))
    return plan


def _check_mask(sample: Sample, messages: list[dict[str, str]] | None, dialogues: Path) -> None:
    """Raise if a sample's mask lies outside its chat: a defect of the shard, not of one log."""
    if (
        messages is None
        or not 0 <= sample["message"] < len(messages)
        or not 0 <= sample["start"] <= sample["end"] <= len(messages[sample["message"]]["content"])
    ):
        raise ProbelineError(
            f"{dialogues / 'samples.parquet'} contradicts sequences.parquet: the mask of sample "
            f"{sample['sample']} lies outside sequence {sample['sequence']}. Delete {dialogues} to have it "
            "built again."
        )


def _locate(
    tokenizer: Any, messages: list[dict[str, str]], samples: list[Sample], max_length: int
) -> tuple[tuple[int, ...], list[range | str]]:
    """A chat's tokens, and each sample's masked ones, or the reason why it cannot be measured."""
    try:
        rendered = render_chat(tokenizer, messages)
    except UnrenderableChatError as error:
        return (), [str(error)] * len(samples)
    found: list[range | str] = []
    for sample in samples:
        message, start, end = sample["message"], sample["start"], sample["end"]
        mask = token_span(rendered, message, start, end)
        if not messages[message]["content"][start:end].strip():
            found.append(NO_TEXT)
        elif mask is None:
            found.append(NO_TOKEN)
        elif mask.stop > max_length:
            found.append(TOO_LONG)
        else:
            found.append(mask)
    return rendered.input_ids, found


def _run(
    plan: _Plan,
    mean: np.ndarray,
    model: Path,
    layers: list[int],
    dtype: str,
    threads: int,
    token_budget: int,
) -> dict[str, Any]:
    """Fill `mean` game by game; return the device, the smallest token budget and the number of tokens."""
    from probeline.activations.engine import ActivationEngine

    engine = ActivationEngine(model, layers, dtype, threads, token_budget)
    started = time.monotonic()
    for game, parts in progress(plan.games.items(), "Extracting activations", len(plan.games), "game"):
        rows = [row for _, its_rows in parts for row in its_rows]
        means = engine.game_means(sequence for sequence, _ in parts)
        with np.errstate(over="ignore"):  # becomes infinite, which is looked for
            mean[rows] = means
        if not np.isfinite(mean[rows]).all():
            faulty = "activations.dtype" if not np.isfinite(means).all() else "activations.store"
            raise ProbelineError(
                f"Activations of the game {game} are beyond the range of {faulty}: set it to float32."
            )
    seconds = time.monotonic() - started
    log.info(
        "%d samples of %d games: %d tokens in %.1f s (%.0f tokens/s)",
        len(plan.index),
        len(plan.games),
        engine.tokens,
        seconds,
        engine.tokens / seconds,
    )
    return {
        "device": engine.device_name,
        "smallest_token_budget": engine.smallest_token_budget,
        "tokens": engine.tokens,
    }
