"""The figure of an evaluation: each number of each system, with its interval."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLUMNS = 3
WIDTH, HEIGHT = 4.0, 0.42
DOTS_PER_INCH = 130
COLOUR = "#0072B2"


def draw_comparison(metrics: Mapping[str, Any], title: str, folder: Path) -> None:
    """Write comparison.svg and comparison.png: equal metrics, equal bytes.

    Args:
        metrics: of metrics.json: `systems`, and of `quantities` their `title` (which names the unit of the
            axis), `better` and `systems` (name → value, low, high).
        title: what is compared.
        folder: where to write.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    quantities, systems = list(metrics["quantities"].values()), metrics["systems"]
    columns = min(COLUMNS, max(len(quantities), 2))
    rows = -(-len(quantities) // columns)
    size = (WIDTH * columns, rows * (1.3 + HEIGHT * len(systems)) + 0.5)
    # The user's own settings of matplotlib would be in the bytes, too.
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams["svg.hashsalt"] = "probeline"
        figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")
        FigureCanvasAgg(figure)
        all_axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, quantity in zip(all_axes, quantities, strict=False):
            _draw(axes, quantity, systems)
        for axes in all_axes[len(quantities) :]:
            axes.set_axis_off()
        figure.suptitle(f"{title}: held-out data, 95 % intervals over groups", x=0.01, ha="left", fontsize=11)
        figure.savefig(folder / "comparison.svg", metadata={"Date": None, "Creator": None})
        figure.savefig(folder / "comparison.png", metadata={"Software": None})


def _draw(axes: Any, quantity: Mapping[str, Any], systems: list[str]) -> None:
    for place, name in enumerate(systems):
        estimate = quantity["systems"][name]
        if estimate["value"] is None:
            continue
        axes.plot(estimate["value"], place, "o", color=COLOUR, markersize=5)
        if estimate["low"] is not None:
            axes.plot([estimate["low"], estimate["high"]], [place, place], color=COLOUR, linewidth=1.6)
    axes.set_yticks(range(len(systems)), systems, fontsize=8)
    axes.set_ylim(len(systems) - 0.5, -0.5)
    wanted = f" ({quantity['better']} is better)" if quantity["better"] else ""
    axes.set_title(_wrapped(quantity["title"] + wanted), loc="left", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _wrapped(text: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, 46))
