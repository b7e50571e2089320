"""A small project for the report: the files that stages write, made quickly by the library's own parts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from probeline import schema
from probeline.files import write_json, write_json_lines, write_manifest, write_parquet
from probeline.probes.evaluate import split_statistics, verdict
from probeline.probes.metrics import bootstrap_games, compare, metrics_of
from probeline.schema import make_table

SPEC: dict[str, Any] = {
    "model": "tiny",
    "simulated": ["werewolf"],
    "labels": {"trust": "same_team"},
    "errors": 8,
}
RESAMPLES = 100


def estimate(value: float, spread: float = 0.1) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread}


def write_probe(folder: Path, games: int, name: str = "trust_lr_l2", prefix: str = "run/game") -> Path:
    """A probe of so many games, half of them test games, whose scores tell something of the labels."""
    rng = np.random.default_rng(games)
    rows, acts = [], []
    for game in range(games):
        split = ("test", "train", "test", "validation")[game % 4]
        for act in range(12):
            label = (game + act) % 2
            score = float(rng.normal(1.2 * label))
            key = f"{prefix}{game:03}"
            sample = {"sample": f"{key}#{act}", "game": key, "split": split, "label": label, "score": score}
            rows.append(sample | {"probability": float(1 / (1 + np.exp(0.6 - score)))})
            acts.append(
                {"game": key, "split": split, "actor": f"Player {act % 4}", "target": None}
                | {"role": "werewolf" if label else "villager", "label": label, "samples": 3, "rank": 1}
                | {"mean_score": score, "act": act // 4 + 1, "event": act, "turn": act // 4 + 1}
                | {"score": score, "running_score": score, "reveal_score": None}
            )
    target = folder / "results/probes" / name
    target.mkdir(parents=True)
    write_parquet(target / "scores.parquet", make_table(rows, schema.SCORES))
    write_parquet(target / "suspects.parquet", make_table(acts, schema.SUSPECTS))
    write_json(target / "metrics.json", metrics(rows))
    facts = {"concept": "trust", "method": "lr", "layers": [2], "model": "tiny", "seed": 0, "threshold": 0.5}
    write_manifest(target, "probe", facts)
    return target


def metrics(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """As `train_probe` writes them; the rivals' scores are noise."""
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for split in ("train", "validation", "test"):
        inside = [row for row in rows if row["split"] == split]
        games, labels, scores = (np.array([row[key] for row in inside]) for key in ("game", "label", "score"))
        if inside:
            found[split] = split_statistics(games, labels, scores)
    bootstrap = bootstrap_games(games, labels, RESAMPLES, 0)
    probabilities = np.array([row["probability"] for row in inside])
    chosen = metrics_of(labels, scores, probabilities, 0.5)
    names = ("text_masked", "text_input", "length", "shuffled")
    baselines = {name: compare(bootstrap, labels, scores, [rng.normal(size=len(labels))]) for name in names}
    found["test"] |= {
        "metrics": {name: bootstrap.estimate(metric) for name, metric in chosen.items()},
        "baselines": baselines,
        "difference_to_text": {"baseline": "text_input", **baselines["text_input"]["difference"]},
        "bootstrap": {
            "unit": "game",
            "games": len(set(games)),
            "resamples": RESAMPLES,
            "skipped_with_one_class": 0,
        },
    }
    return found | {
        "verdict": verdict(found["test"], None),
        "samples": {"used": len(rows), "excluded": {"too_long": 2}, "beyond_max_samples": 0},
        "stages": {"reason": "made for a test"},
    }


def write_corpus(folder: Path, games: int, quarantined: Sequence[str] = (), lost: int = 0) -> Path:
    """A corpus with lines in quarantine for these reasons; of its games `lost` are in no count."""
    target = folder / "data/processed/werewolf"
    target.mkdir(parents=True)
    quality = {
        "files": games + len(quarantined) + lost,
        "games": games,
        "duplicates": 0,
        "quarantined": len(quarantined),
        "retracted": 0,
        "outcomes_mended": 3,
    }
    write_json(target / "quality.json", quality)
    lines = [
        {"path": f"bad/game{place}", "reason": reason, "sha256": None}
        for place, reason in enumerate(quarantined)
    ]
    write_json_lines(target / "quarantine.jsonl", lines)
    write_manifest(target, "corpus", {"games": games})
    return target


def write_adapter(folder: Path, name: str = "mafia_sft", steps: int = 3) -> Path:
    """A trained adapter."""
    target = folder / "results/adapters" / name
    target.mkdir(parents=True)
    write_json_lines(
        target / "training_log.jsonl", [{"step": step + 1, "loss": 3.0 - step * 0.1} for step in range(steps)]
    )
    held_out = {
        "loss": {
            **{"before": estimate(3.0), "after": estimate(2.5), "difference": estimate(-0.5)},
            **{"examples": 20, "games": 6},
        },
        "split": "validation",
        "verdict": "better",
    }
    summary = {"recipe": name, "method": "sft", "steps": steps, "examples": 50, "excluded": {}}
    summary |= {"trained_parameters": 1000, "held_out": held_out, "checkpoints": []}
    write_json(target / "training_summary.json", summary)
    settings = {"batch": 2, "accumulation": 2, "learning_rate": 1e-4, "lora": {"rank": 4, "alpha": 8}}
    base = {"model": "tiny", "merged": [], "started_from": None}
    write_manifest(target, "adapter", {"settings": settings, "base": base})
    return target


def folders_of(folder: Path) -> dict[str, list[Path]]:
    """The artifacts of the project, by input of the rule."""
    places = {
        "corpora": "data/processed/*",
        "probes": "results/probes/*",
        "adapters": "results/adapters/*",
        "sweeps": "results/sweeps/*",
        "transcripts": "results/transcripts/*",
    }
    found = {
        name: sorted(path.relative_to(folder) for path in folder.glob(place))
        for name, place in places.items()
    }
    others = ("activations", "transfers", "shifts", "evaluations", "comparisons", "grids")
    return found | {"trained": found["adapters"]} | {name: [] for name in others}


def write_sweep(folder: Path) -> Path:
    """A sweep of two methods over three layers; lr is best on layer 1, above the text."""
    target = folder / "results/sweeps/trust"
    target.mkdir(parents=True)
    values = {"lr": (0.6, 0.9, 0.7), "mms": (0.5, 0.6, 0.65)}
    rows = [
        {"method": method, "layer": layer, "auroc": estimate(value)}
        for method, own in values.items()
        for layer, value in enumerate(own)
    ]
    choice = {
        method: {
            "layer": layer,
            "auroc": estimate(value),
            "not_told_apart": [layer, 0],
            "probe": f"p_l{layer}",
        }
        | {"difference_to_text": {"baseline": "text_input", **estimate(value - 0.6)}}
        for method, layer, value in (("lr", 1, 0.9), ("mms", 2, 0.65))
    }
    baselines = {name: {"auroc": estimate(0.6)} for name in ("text_masked", "text_input")}
    sweep = {"concept": "trust", "methods": list(values), "rows": rows, "choice": choice}
    write_json(
        target / "sweep.json", sweep | {"baselines": baselines, "note": "The test games were not used"}
    )
    write_manifest(target, "sweep", {})
    return target


def write_transfer(folder: Path, name: str = "across") -> Path:
    """A transfer between two groups: one way above chance and the text, the other without enough games."""
    target = folder / "results/evaluation" / name
    target.mkdir(parents=True)
    rows = []
    for train, test, value in (("a", "a", 0.8), ("a", "b", 0.75), ("b", "a", None), ("b", "b", 0.7)):
        row: dict[str, Any] = {column: None for column, _, _ in schema.TRANSFER}
        row |= {"train": train, "test": test, "num_games": 9, "num_positive": 30, "num_negative": 30}
        row |= {"overlap": train == test, "seen_in_training": 0, "small": False, "reason": "one game only"}
        if value is not None:
            row |= {"auroc": value, "auroc_low": value - 0.1, "auroc_high": value + 0.1}
            row |= {"difference": 0.2, "difference_low": 0.1, "difference_high": 0.3, "reason": None}
        rows.append(row)
    write_parquet(target / "transfer.parquet", make_table(rows, schema.TRANSFER))
    facts = {
        "method": "lr",
        "layers": [2],
        "model": "tiny",
        "headline": {"verdict": "It carries over one way."},
    }
    write_manifest(target, "transfer", facts)
    return target


def write_shift(folder: Path) -> Path:
    """A probe shift: the adapter lowers the probe's AUROC."""
    target = folder / "results/evaluation/probe_shift/after"
    target.mkdir(parents=True)
    found = {
        "auroc": {"base": estimate(0.8), "adapted": estimate(0.6), "retrained": estimate(0.79)},
        "difference": estimate(-0.2),
        "score_shift": {"positive": estimate(-1.0), "negative": estimate(0.2)},
        "verdict": "The probe falls with the adapter.",
        **{"num_games": 9, "num_positive": 30, "num_negative": 30},
    }
    write_json(target / "metrics.json", found)
    write_manifest(target, "probe-shift", {"probe": "trust_lr_l2", "model": "tiny", "adapter": "mafia_sft"})
    return target


def write_evaluation(folder: Path, kind: str = "comparisons", name: str = "steps") -> Path:
    """A comparison of two systems in two figures, of which one is told apart."""
    target = folder / "results/evaluation" / kind / name
    target.mkdir(parents=True)
    sizes = {"items": 20, "groups": 9}
    quantities = {
        key: {
            "title": title,
            "better": better,
            "systems": {"base": estimate(2.0) | sizes, "tuned": estimate(2.0 + change) | sizes},
            "differences": [{"from": "base", "to": "tuned", "verdict": word} | estimate(change) | sizes],
        }
        for key, title, better, change, word in (
            ("loss", "loss of held-out acts", "lower", -0.5, "better"),
            ("legal", "share of legal moves", "higher", 0.05, "not told apart"),
            ("words", "words of a statement", "", 1234.4, "higher"),
        )
    }
    counts = {"held_out": {"acts": 30}, "asked": {"acts": 20}, "left_out": {}, "not_measured": []}
    metrics_found = {
        "systems": ["base", "tuned"],
        "quantities": quantities,
        "counts": counts,
        "simulated": True,
    }
    write_json(target / "metrics.json", metrics_found)
    write_manifest(target, "adapter_evaluation", {"title": f"Comparison {name}", "datasets": ["mafia_sft"]})
    return target


def write_activations(folder: Path, name: str = "trust", tokens: int = 1000) -> Path:
    """A shard of activations."""
    target = folder / "results/activations" / name / "shard-000-of-001"
    target.mkdir(parents=True)
    facts = {"model": "tiny", "games": 2, "samples": 9, "tokens": tokens, "layers": [0, 1, 2]}
    write_manifest(target, "activations", facts | {"parameters": 500_000})
    return target


def write_grid(folder: Path, alike: bool = True) -> Path:
    """A grid of two points."""
    target = folder / "results/evaluation/grids/rates"
    target.mkdir(parents=True)
    points = [
        {"point": f"rates@{rate}", "settings": {"learning_rate": rate}, "steps": 2, "verdict": "better"}
        | {"figures": {"loss": {when: estimate(2.0) for when in ("before", "after", "difference")}}}
        for rate in (0.1, 0.2)
    ]
    found = {"figure": "loss", "better": "lower", "points": points}
    found |= {"alike": alike, "sorted_by": "after" if alike else "difference"}
    write_json(target / "grid.json", found)
    write_manifest(target, "grid", {})
    return target
