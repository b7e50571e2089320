"""What a training comes to in one line; nothing heavy, as it is said at the end of each run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probeline.adapters.names import SUMMARY
from probeline.files import read_json


def headline(summary: Mapping[str, Any]) -> str:
    """One line about a training: its held-out figures before and after, and the change with its interval.

    Args:
        summary: of training_summary.json.
    """
    parts = [f"{summary['recipe']}: {summary['steps']} steps"]
    for name, figure in summary["held_out"].items():
        if not isinstance(figure, Mapping) or "before" not in figure:
            continue
        values = [figure[when]["value"] for when in ("before", "after")]
        if None in values:
            continue
        change = figure["difference"]
        interval = "" if change["low"] is None else f" [{change['low']:+.3f}, {change['high']:+.3f}]"
        parts.append(f"{name.replace('_', ' ')} {values[0]:.3f} to {values[1]:.3f}{interval}")
    return ", ".join(parts)


def run_headlines(results: Path, started: float) -> str:
    """A line for each adapter that was made since a run began; empty without one.

    Args:
        results: the folder of all results.
        started: seconds since the epoch.
    """
    made = sorted(results.glob(f"adapters/*/{SUMMARY}"))
    fresh = [read_json(path) for path in made if path.stat().st_mtime >= started]
    return "\n".join(f"Adapter {headline(summary)}" for summary in fresh)
