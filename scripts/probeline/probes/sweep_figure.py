"""The figure of a sweep: AUROC over layers by method, beside what the text alone gives away."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart with any colour vision, and in grey by their markers.
STYLES = {
    "lr": ("#0072B2", "o", "logistic regression (lr)"),
    "mms": ("#D55E00", "s", "difference of means (mms)"),
    "cmms": ("#009E73", "^", "difference through covariance (cmms)"),
    "lat": ("#CC79A7", "D", "first component of pairs (lat)"),
    "mlp": ("#E69F00", "v", "one hidden layer (mlp)"),
}
TEXTS = {
    "text_masked": ("#000000", (0, (6, 3)), "text alone: the masked words"),
    "text_input": ("#666666", (0, (2, 2)), "text alone: the whole input"),
}
SIZE = (9.0, 5.4)
DOTS_PER_INCH = 150


def draw_sweep(result: dict[str, Any], folder: Path) -> None:
    """Write figure.svg and figure.png: equal results, equal bytes.

    Args:
        result: what sweep.json holds.
        folder: where to write.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The user's own settings of matplotlib would be in the bytes, too.
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams["svg.hashsalt"] = "probeline"
        figure = Figure(figsize=SIZE, dpi=DOTS_PER_INCH, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        _draw_methods(axes, result)
        _draw_texts(axes, result["baselines"])
        _label(axes, result)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        figure.savefig(folder / "figure.svg", metadata={"Date": None, "Creator": None})
        figure.savefig(folder / "figure.png", metadata={"Software": None})


def _draw_methods(axes: "Axes", result: dict[str, Any]) -> None:
    """One line per method with the band of its intervals, and a ring around its best layer."""
    few = len(result["layers"]) <= 40
    for method in result["methods"]:
        colour, marker, title = STYLES[method]
        rows = [row for row in result["rows"] if row["method"] == method]
        layers = [row["layer"] for row in rows]
        values = [_or_nan(row["auroc"]["value"]) for row in rows]
        axes.plot(layers, values, color=colour, marker=marker if few else None, markersize=4, label=title)
        low, high = ([_or_nan(row["auroc"][end]) for row in rows] for end in ("low", "high"))
        axes.fill_between(layers, low, high, color=colour, alpha=0.1, linewidth=0)
        # Where bands lie over each other, their edges tell them apart.
        for edge in (low, high):
            axes.plot(layers, edge, color=colour, alpha=0.5, linewidth=0.7)
        best = result["choice"][method]
        axes.plot(
            *([best["layer"]], [best["auroc"]["value"]]),
            color=colour,
            marker="o",
            markersize=11,
            fillstyle="none",
            markeredgewidth=1.6,
            linestyle="none",
        )


def _draw_texts(axes: "Axes", baselines: dict[str, Any]) -> None:
    """What the text alone gives away: the same at every layer."""
    for name, (colour, dashes, title) in TEXTS.items():
        estimate = baselines[name]["auroc"]
        axes.axhline(_or_nan(estimate["value"]), color=colour, linestyle=dashes, linewidth=1.3, label=title)
        if estimate["low"] is not None:
            axes.axhspan(estimate["low"], estimate["high"], color=colour, alpha=0.05, linewidth=0)
            for edge in (estimate["low"], estimate["high"]):
                axes.axhline(edge, color=colour, linestyle=dashes, alpha=0.35, linewidth=0.6)


def _label(axes: "Axes", result: dict[str, Any]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.axhline(0.5, color="#999999", linewidth=0.8)
    axes.annotate(
        "chance",
        xy=(1, 0.5),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 2),
        textcoords="offset points",
        color="#777777",
        ha="right",
        fontsize=8,
    )
    games = sum(fold["games"] for fold in result["folds"])
    axes.set_title(f"{result['concept']}: what each layer of {result['model']} tells", loc="left", pad=22)
    axes.annotate(
        f"{len(result['folds'])}-fold cross-validation over {games} training and validation games, "
        "test games not used. Bands: 95 % intervals over games. Rings: best layer.",
        xy=(0, 1),
        xycoords="axes fraction",
        xytext=(0, 7),
        textcoords="offset points",
        fontsize=8,
        color="#444444",
    )
    axes.set_xlabel("layer (0: embeddings)")
    axes.set_ylabel("AUROC on held-out folds")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=16))
    axes.margins(x=0.02)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
