"""The picture of a probe shift."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROWS = {
    "base": "without the adapter",
    "adapted": "with the adapter",
    "retrained": "with it, trained anew",
}
COLOURS = {1: "#b3471b", 0: "#4a62b8"}
NAMES = {1: "positive", 0: "negative"}
BINS = 20


def draw_shift(
    result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], title: str, folder: Path
) -> None:
    """Write shift.png and shift.svg: the AUROCs with their intervals, and how far each score has moved.

    Equal results give equal bytes, whatever the user's own settings of matplotlib are.

    Args:
        result: what is in metrics.json.
        rows: of schema.SHIFT, those of the test samples.
        title: above the panels.
        folder: where to write.
    """
    import matplotlib
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context("default"), matplotlib.rc_context({"svg.hashsalt": "probeline", "font.size": 9}):
        figure = Figure(figsize=(8.5, 3.2), layout="constrained")
        figure.suptitle(title, fontsize=10)
        left, right = figure.subplots(1, 2)
        for place, name in enumerate(reversed(ROWS)):
            estimate = result["auroc"][name]
            if estimate["low"] is not None:
                left.plot([estimate["low"], estimate["high"]], [place, place], color="0.3", linewidth=2)
            left.plot([estimate["value"]], [place], "o", color="0.1")
            left.annotate(f"{estimate['value']:.3f}", (estimate["value"], place + 0.15), ha="center")
        left.axvline(0.5, color="0.7", linestyle=":")
        left.set_yticks(range(len(ROWS)), [*reversed(ROWS.values())])
        left.set_ylim(-0.5, len(ROWS) - 0.4)
        left.set_xlabel("AUROC on held-out games, 95 % intervals over games")
        for label in COLOURS:
            moved = [row["adapted"] - row["base"] for row in rows if row["label"] == label]
            right.hist(
                moved, bins=BINS, alpha=0.6, color=COLOURS[label], label=f"{NAMES[label]} ({len(moved)})"
            )
        right.axvline(0, color="0.4", linewidth=1)
        right.set_xlabel("change of the score, of the same probe")
        right.set_ylabel("test samples")
        right.legend(frameon=False, fontsize=8)
        figure.savefig(folder / "shift.png", dpi=150, metadata={"Software": None})
        figure.savefig(folder / "shift.svg", metadata={"Date": None, "Creator": None})
