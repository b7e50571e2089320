"""The last lines of a run: what a probe or a transfer was made of, what it is worth, and where it lies."""

import shutil
import textwrap
from pathlib import Path
from typing import Any

from probeline.evaluation.summary import evaluation_summary, grid_summary
from probeline.files import MANIFEST, read_json
from probeline.probes.heatmap import NOTES, marks

SPLITS = ("train", "validation", "test")
ROWS = {
    "probe": "auroc",
    "text, masked": "text_masked",
    "text, whole input": "text_input",
    "length": "length",
    "shuffled labels": "shuffled",
}
LOSSES = {
    "duplicates": ("copy of another game", "copies of other games"),
    "quarantined": ("game in quarantine", "games in quarantine"),
    "retracted": ("retracted game", "retracted games"),
    "folders_without_stats": ("game folder without game_stats.json", "game folders without game_stats.json"),
    "logs_unreadable": ("llm_log.txt that could not be read", "llm_log.txt that could not be read"),
}
"""Counts of the corpus's quality.json that say what is missing, in words for one and for several."""
WIDTH = min(96, shutil.get_terminal_size((96, 24)).columns)
MOST_COLUMNS = 4
"""Wider matrices do not fit on a terminal; their picture does."""


def run_summary(results: Path, started: float) -> str:
    """What a run made, from the manifests: every probe, sweep and transfer; empty where it made none.

    Args:
        results: folder of the results.
        started: seconds since the epoch; what is older was not made by the run.
    """
    summaries = {
        "probes": probe_summary,
        "sweeps": sweep_summary,
        "evaluation": transfer_summary,
        "evaluation/probe_shift": shift_summary,
        "evaluation/adapters": evaluation_summary,
        "evaluation/comparisons": evaluation_summary,
        "evaluation/grids": grid_summary,
    }
    made = [
        summary(manifest.parent)
        for kind, summary in summaries.items()
        for manifest in sorted(results.glob(f"{kind}/*/{MANIFEST}"))
        # An imported probe was not evaluated.
        if manifest.stat().st_mtime >= started and not read_json(manifest).get("imported")
    ]
    return "\n\n".join(made)


def probe_summary(directory: Path) -> str:
    """A few aligned lines on one probe, from its manifest alone.

    Args:
        directory: a probe made by `train_probe`.
    """
    facts = read_json(directory / MANIFEST)
    headline = facts["headline"]
    lines = [
        f"{facts['concept']}: method {facts['method']}, {_layers(facts)}, model {facts['model']}",
        f"  {'':<12}{'games':>8}{'samples':>10}{'positive':>10}{'negative':>10}",
    ]
    for split in SPLITS:
        counts = facts["splits"][split]
        lines.append(
            f"  {split:<12}{counts['num_games']:>8,}{counts['num_interactions']:>10,}"
            f"{counts['num_positive']:>10,}{counts['num_negative']:>10,}"
        )
    lines += _left_out(facts)
    lines.append("  AUROC on the test games (95 % interval, bootstrap over games)")
    lines += [f"    {title:<20}{_estimate(headline[key])}" for title, key in ROWS.items()]
    shuffles = headline["shuffles"]
    lines.append(f"    {'':<28}from {min(shuffles):.3f} to {max(shuffles):.3f} in {len(shuffles)} shuffles")
    if headline["role_masked"]:
        lines.append(f"    {'role masked':<20}{_estimate(headline['role_masked'])}")
    lines += _logged(headline["logged"])
    difference = headline["difference_to_text"]
    lines.append(f"    {'probe - better text':<20}{_estimate(difference, signed=True)}")
    lines += textwrap.wrap(headline["verdict"], WIDTH, initial_indent="  ", subsequent_indent="  ")
    lines.append(f"  {directory}")
    return "\n".join(lines)


def transfer_summary(directory: Path) -> str:
    """A few aligned lines on one transfer, from its manifest alone.

    Args:
        directory: a matrix made by `evaluate_transfer`.
    """
    facts = read_json(directory / MANIFEST)
    cells = facts["headline"]["cells"]
    lines = [f"{directory.name}: method {facts['method']}, {_layers(facts)}, model {facts['model']}"]
    targets = list(dict.fromkeys(cell["test"] for cell in cells))
    if len(targets) <= MOST_COLUMNS:
        lines.append("  AUROC on the test games, in brackets that of the better text; trained on, tested on:")
        lines.append(f"    {'':<20}" + "".join(f"{_cut(name):>18}" for name in targets))
        for start in range(0, len(cells), len(targets)):
            row = cells[start : start + len(targets)]
            values = [
                "too few" if c["auroc"] is None else f"{c['auroc']:.3f} ({c['text']:.3f}){marks(c)}"
                for c in row
            ]
            lines.append(f"    {_cut(row[0]['train']):<20}" + "".join(f"{value:>18}" for value in values))
    else:
        numbers = sum(cell["auroc"] is not None for cell in cells)
        lines.append(f"  {numbers:,} of {len(cells):,} pairs have a number; all of them: transfer.parquet")
    lines += [f"  {note}" for mark, note in NOTES.items() if any(mark in marks(cell) for cell in cells)]
    seen = sum(cell["seen_in_training"] for cell in cells)
    if seen:
        lines.append(f"  test samples left out, because their game was in the source's training: {seen:,}")
    verdict = facts["headline"]["verdict"]
    lines += textwrap.wrap(verdict, WIDTH, initial_indent="  ", subsequent_indent="  ")
    lines.append(f"  {directory}")
    return "\n".join(lines)


def shift_summary(directory: Path) -> str:
    """A few aligned lines on one probe shift, from its manifest alone.

    Args:
        directory: made by `evaluate_probe_shift`.
    """
    facts = read_json(directory / MANIFEST)
    headline = facts["headline"]
    lines = [
        f"{directory.name}: probe {facts['probe']}, adapter {facts['adapter']} on model {facts['model']}",
        "  AUROC on the test games (95 % interval, paired bootstrap over games)",
        f"    {'without the adapter':<24}{_estimate(headline['auroc']['base'])}",
        f"    {'with it':<24}{_estimate(headline['auroc']['adapted'])}",
        f"    {'with it, trained anew':<24}{_estimate(headline['auroc']['retrained'])}",
        f"    {'with it - without':<24}{_estimate(headline['difference'], signed=True)}",
    ]
    lines += textwrap.wrap(headline["verdict"], WIDTH, initial_indent="  ", subsequent_indent="  ")
    lines.append(f"  {directory}")
    return "\n".join(lines)


def _layers(facts: dict[str, Any]) -> str:
    several = len(facts["layers"]) > 1
    side_by_side = " side by side" if several and facts.get("ensemble") == "concat" else ""
    return f"layer{'s' * several} {' '.join(map(str, facts['layers']))}{side_by_side}"


def _cut(name: str) -> str:
    return name if len(name) <= 17 else f"{name[:16]}…"


def sweep_summary(directory: Path) -> str:
    """A few aligned lines on one sweep, from its manifest alone.

    Args:
        directory: a sweep made by `sweep_probes`.
    """
    facts = read_json(directory / MANIFEST)
    headline = facts["headline"]
    layers = facts["layers"]
    span = f"{len(layers)} layers, {layers[0]} to {layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}"
    lines = [
        f"{facts['concept']}: sweep of {span}, model {facts['model']}, {facts['samples']['used']:,} samples",
        "  AUROC on held-out folds of the training and validation games (95 % interval over games)",
    ]
    choice = sorted(headline["choice"].items(), key=lambda chosen: -chosen[1]["auroc"]["value"])
    for method, best in choice:
        title = f"{method}, best at layer {best['layer']}"
        others = len(best["not_told_apart"]) - 1
        more = f"; not told apart from {others} other{'s' * (others > 1)}" if others else ""
        lines.append(f"    {title:<24}{_estimate(best['auroc'])}{more}")
    for title, key in (("text, masked", "text_masked"), ("text, whole input", "text_input")):
        lines.append(f"    {title:<24}{_estimate(headline['baselines'][key]['auroc'])}")
    lines += textwrap.wrap(headline["note"], WIDTH, initial_indent="  ", subsequent_indent="  ")
    lines.append(f"  {directory / 'figure.svg'}")
    return "\n".join(lines)


def _logged(logged: dict[str, Any] | None) -> list[str]:
    """What the probe that ran in the games reached, and this one on the samples that have its score."""
    if logged is None or logged.get("auroc", {"value": None})["value"] is None:
        return []
    lines = [
        f"    {'logged in the games':<20}{_estimate(logged['auroc'])}",
        f"    {'':<28}on {logged['num_interactions']:,} samples; there the probe reaches "
        f"{logged['probe']['value']:.3f}",
    ]
    if logged["small"]:
        lines.append(
            f"    {'':<28}caution: too few for a conclusion ({logged['num_games']} games, "
            f"{logged['num_positive']} positive, {logged['num_negative']} negative)"
        )
    within = logged["within_games"]
    if within["games"]:
        lines.append(
            f"    {'':<28}mean within a game: {within['auroc']['value']:.3f}, and the probe "
            f"{within['probe']['value']:.3f}"
        )
    return lines


def _left_out(facts: dict[str, Any]) -> list[str]:
    """What the numbers above do not contain: nothing is lost without a word."""
    logs = [
        f"{number:,} {several if number > 1 else one}"
        for name, (one, several) in LOSSES.items()
        if (number := facts["quality"].get(name))
    ]
    samples = [f"{number:,} {reason}" for reason, number in facts["samples"]["excluded"].items()]
    if facts["samples"]["beyond_max_samples"]:
        samples.append(f"{facts['samples']['beyond_max_samples']:,} beyond max_samples")
    lines = []
    if logs:
        lines.append(f"  logs left out: {', '.join(logs)}")
    if samples:
        lines.append(f"  samples left out: {', '.join(samples)}")
    return [part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="    ")]


def _estimate(estimate: dict[str, Any], signed: bool = False) -> str:
    form = "+.3f" if signed else ".3f"
    value = f"{estimate['value']:{form}}".rjust(6)
    if estimate["low"] is None:
        return f"{value}  (no interval: {estimate['reason']})"
    return f"{value}  ({estimate['low']:{form}} to {estimate['high']:{form}})"
