"""The figure of a training: loss, and reward where there is one, over the steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PANELS = {
    "loss": ("loss", "#0072B2"),
    "reward": ("mean reward of a step", "#009E73"),
    "rewards/accuracies": ("pairs preferred rightly in a step", "#009E73"),
}
"""Columns of the log → what their axis is called, and a colour of Okabe and Ito's."""
SIZE = (8.0, 3.2)
DOTS_PER_INCH = 150
SMOOTHED = 10
"""Steps that the thick line is the mean of, where there are more than twice as many."""


def draw_curves(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], folder: Path) -> None:
    """Write curves.svg and curves.png: equal logs, equal bytes.

    Args:
        rows: of training_log.jsonl: `step`, and the keys of PANELS that are there: the trainer's loss (of SFT
            nats per token), mean reward (of the judge or the tree, 0 to 1), share of pairs.
        summary: of training_summary.json: `recipe`, `method` and `steps`.
        folder: where to write.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    there = [name for name in PANELS if any(row.get(name) is not None for row in rows)] or ["loss"]
    # The user's own settings of matplotlib would be in the bytes, too.
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams["svg.hashsalt"] = "probeline"
        figure = Figure(figsize=(SIZE[0], SIZE[1] * len(there)), dpi=DOTS_PER_INCH, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(there), 1, sharex=True, squeeze=False)[:, 0]
        for axes, name in zip(panels, there, strict=True):
            _draw(axes, rows, name)
        panels[0].set_title(
            f"{summary['recipe']} ({summary['method']}), {summary['steps']} steps", loc="left"
        )
        panels[-1].set_xlabel("step")
        figure.savefig(folder / "curves.svg", metadata={"Date": None, "Creator": None})
        figure.savefig(folder / "curves.png", metadata={"Software": None})


def _draw(axes: Any, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    from matplotlib.ticker import MaxNLocator

    label, colour = PANELS[name]
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    steps, values = [step for step, _ in points], [value for _, value in points]
    smooth = len(points) > 2 * SMOOTHED
    axes.plot(
        steps, values, color=colour, alpha=0.35 if smooth else 1, linewidth=1, marker=None if smooth else "o"
    )
    if smooth:
        means = [sum(values[end - SMOOTHED : end]) / SMOOTHED for end in range(SMOOTHED, len(values) + 1)]
        axes.plot(steps[SMOOTHED - 1 :], means, color=colour, linewidth=2, label=f"mean of {SMOOTHED} steps")
        axes.legend(frameon=False)
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
