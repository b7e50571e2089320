"""The samples of a concept with their activations: read, limited, and refused where they are no good."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from probeline.activations.store import read_activations
from probeline.digests import unit_interval
from probeline.errors import ProbelineError
from probeline.files import open_parquet
from probeline.probes.methods import Labels

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ProbeData:
    """The samples of a concept with their activations, ordered by game and event.

    Attributes:
        samples: [n] rows of schema.SAMPLES.
        values: activations [n, layers, width].
        facts: how the activations were made, see `activations.store.Activations`.
        excluded: samples without activations, counted by reason.
    """

    samples: list[dict[str, Any]]
    values: npt.NDArray[np.floating[Any]]
    facts: dict[str, Any]
    excluded: dict[str, int]

    @property
    def labels(self) -> Labels:
        """Labels [n] of 0 and 1."""
        return np.array([sample["label"] for sample in self.samples], dtype=np.int8)

    def inside(self, split: str) -> npt.NDArray[np.bool_]:
        """Which samples [n] belong to a split."""
        return np.array([sample["split"] == split for sample in self.samples], dtype=bool)

    def where(self, kept: npt.NDArray[np.bool_]) -> "ProbeData":
        """The samples that a mask [n] keeps, in their order."""
        rows = np.flatnonzero(kept)
        return replace(self, samples=[self.samples[row] for row in rows], values=self.values[rows])


def read_data(
    activations: list[Path],
    dialogues: list[Path],
    spec: dict[str, Any],
    splits: Sequence[str] = SPLITS,
) -> ProbeData:
    """Join the samples of the dialogues with their activations.

    Args:
        activations: shards of activations.
        dialogues: shards of dialogues.
        spec: its layers, model and concept count.
        splits: samples of others are neither kept nor counted.

    Raises:
        ProbelineError: the two do not belong together, or a game is in two splits.
    """
    samples = {row["sample"]: row for row in _read_rows(dialogues, "samples.parquet")}
    stored = read_activations(activations, spec["layers"])
    if stored.facts["model"] != spec["model"]:
        raise ProbelineError(
            f"These are activations of the model {stored.facts['model']}, but the probe is for "
            f"{spec['model']}. Make the activations again, or name that model in the config."
        )
    rows = {sample: row for row, sample in enumerate(stored.samples)}
    reasons = {
        row["sample"]: row["reason"]
        for shard in activations
        for row in map(orjson.loads, (shard / "excluded.jsonl").read_bytes().splitlines())
    }
    strangers = (rows.keys() | reasons.keys()) ^ samples.keys()
    if strangers:
        raise ProbelineError(
            f"The activations of {spec['concept']} are not of these dialogues: {len(strangers)} samples are "
            f"in one only, for example {min(strangers)}. Make the activations again."
        )
    split_of: dict[str, str] = {}
    for sample in samples.values():
        if split_of.setdefault(sample["content"], sample["split"]) != sample["split"]:
            raise ProbelineError(
                f"Game {sample['game']} is in the splits {split_of[sample['content']]} and "
                f"{sample['split']}: its samples would be trained on and tested on. Make the dialogues again."
            )
    wanted = {name for name, sample in samples.items() if sample["split"] in splits}
    ordered = sorted(
        rows.keys() & wanted, key=lambda name: (samples[name]["game"], samples[name]["event"], name)
    )
    excluded = Counter(reason for name, reason in reasons.items() if name in wanted)
    return ProbeData(
        [samples[sample] for sample in ordered],
        stored.values[[rows[sample] for sample in ordered]],
        stored.facts,
        dict(sorted(excluded.items())),
    )


def _read_rows(shards: list[Path], name: str) -> list[dict[str, Any]]:
    return [row for shard in shards for row in open_parquet(shard / name).read().to_pylist()]


def read_sequences(dialogues: list[Path]) -> dict[str, list[dict[str, str]]]:
    """The messages of each sequence of some shards of dialogues, by its id."""
    return {row["sequence"]: row["messages"] for row in _read_rows(dialogues, "sequences.parquet")}


def limit_samples(data: ProbeData, most: int | None, seed: int) -> ProbeData:
    """At most `most` samples, every split and class keeping its share (at least one sample).

    Which ones depends on the seed and each sample's id, so that new samples replace few.
    """
    if most is None or len(data.samples) <= most:
        return data
    groups: dict[tuple[str, int], list[int]] = {}
    for row, sample in enumerate(data.samples):
        groups.setdefault((sample["split"], sample["label"]), []).append(row)
    kept: list[int] = []
    for rows in groups.values():
        rows.sort(key=lambda row: unit_interval(f"sample:{seed}:{data.samples[row]['sample']}"))
        kept += rows[: max(1, len(rows) * most // len(data.samples))]
    kept.sort()
    return replace(data, samples=[data.samples[row] for row in kept], values=data.values[kept])


def require_enough(data: ProbeData, concept: str, least: int) -> None:
    """Refuse data on which a probe cannot be fitted, calibrated or tested.

    Args:
        data: all samples.
        concept: its name.
        least: fewest training samples.

    Raises:
        ProbelineError: a split lacks a class, or the training samples are too few; with counts and remedies.
    """
    counts = Counter((sample["split"], sample["label"]) for sample in data.samples)
    faults = []
    training = counts["train", 0] + counts["train", 1]
    if training < least:
        faults.append(f"{training} training samples, at least {least} are needed (evaluation.min_samples)")
    for split in SPLITS:
        absent = [name for label, name in ((1, "positive"), (0, "negative")) if not counts[split, label]]
        if absent:
            faults.append(f"no {' and no '.join(absent)} sample in {split}")
    if not faults:
        return
    lines = [f"{'split':<12}{'games':>8}{'positive':>10}{'negative':>10}"]
    for split in SPLITS:
        games = len({sample["game"] for sample in data.samples if sample["split"] == split})
        lines.append(f"{split:<12}{games:>8}{counts[split, 1]:>10}{counts[split, 0]:>10}")
    for reason, number in data.excluded.items():
        lines.append(f"left out before ({reason}): {number}")
    labels = {"true": 1, "false": 0}
    never = [name for name, label in labels.items() if not any(counts[split, label] for split in SPLITS)]
    remedy = (
        "Add games, give validation and test a larger share (splits), or let the concept take more event "
        "types or another context (probes)."
    )
    if never and data.samples:
        remedy = f"The label is never {never[0]}: look at probes.{concept}.label and at `probeline check`."
    raise ProbelineError(
        f"Not enough data for {concept}: {'; '.join(faults)}.\n"
        + "\n".join(f"  {line}" for line in lines)
        + f"\n{remedy}"
    )


def require_numbers(data: ProbeData, layers: list[int]) -> None:
    """Refuse activations with NaN or infinite entries.

    Raises:
        ProbelineError: there are some; the text names the first sample and layer.
    """
    finite = np.isfinite(data.values).all(axis=2)
    if finite.all():
        return
    row, layer = np.argwhere(~finite)[0]
    raise ProbelineError(
        f"The activations of {int((~finite.all(axis=1)).sum())} samples hold NaN or infinite numbers, the "
        f"first at sample {data.samples[row]['sample']}, layer {layers[layer]}. Float16 overflows at 65,504: "
        "set activations.store (or activations.dtype) to float32 and extract again."
    )
