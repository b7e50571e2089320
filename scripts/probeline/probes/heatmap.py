"""The picture of a transfer matrix."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = (
    ("auroc", "AUROC of the probe", "RdBu_r", (0.0, 1.0), ".2f"),
    ("difference", "Probe - better text", "PuOr_r", (-0.5, 0.5), "+.2f"),
)
LONGEST_NAME = 32
NOTES = {
    "*": "* too few test games or samples for a verdict",
    "†": "† the two share experiments: no transfer",
}


def marks(row: Mapping[str, Any]) -> str:
    """The keys of `NOTES` that stand behind a pair's number, none where it has no number.

    Args:
        row: of schema.TRANSFER.
    """
    if row["auroc"] is None:
        return ""
    # That the diagonal is no transfer goes without saying.
    shared = row["overlap"] and row["train"] != row["test"]
    return "*" * row["small"] + "†" * shared


def draw_transfer(table: Sequence[dict[str, Any]], title: str, folder: Path) -> None:
    """Write transfer.png and transfer.svg: the probe's AUROC and its lead over the text, pair by pair.

    Equal tables give equal bytes, whatever the user's own settings of matplotlib are.

    Args:
        table: rows of schema.TRANSFER, all pairs of one source together.
        title: above the panels.
        folder: where to write.
    """
    import matplotlib
    from matplotlib import style
    from matplotlib.figure import Figure

    sources = list(dict.fromkeys(row["train"] for row in table))
    targets = list(dict.fromkeys(row["test"] for row in table))
    rows = [table[start : start + len(targets)] for start in range(0, len(table), len(targets))]
    names = 0.075 * max(map(len, [_short(name) for name in [*sources, *targets]]))
    with style.context("default"), matplotlib.rc_context({"svg.hashsalt": "probeline", "font.size": 9}):
        size = (2.4 + names + 2 * 0.9 * len(targets), 1.4 + 0.7 * names + 0.6 * len(sources))
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(title, fontsize=10)
        if notes := [note for mark, note in NOTES.items() if any(mark in marks(row) for row in table)]:
            figure.supxlabel("; ".join(notes), fontsize=7, color="0.3")
        for axes, panel in zip(figure.subplots(1, 2, sharey=True), PANELS, strict=True):
            _draw_panel(axes, panel, rows)
            axes.set_xticks(range(len(targets)), map(_short, targets), rotation=40, ha="right")
            axes.set_yticks(range(len(sources)), map(_short, sources))
            axes.set_xlabel("tested on")
        figure.axes[0].set_ylabel("trained on")
        figure.savefig(folder / "transfer.png", dpi=150, metadata={"Software": None})
        figure.savefig(folder / "transfer.svg", metadata={"Date": None, "Creator": None})


def _draw_panel(
    axes: "Axes", panel: tuple[str, str, str, tuple[float, float], str], rows: list[Sequence[dict[str, Any]]]
) -> None:
    name, title, colours, (low, high), form = panel
    values = [[float("nan") if row[name] is None else row[name] for row in line] for line in rows]
    image = axes.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto")
    axes.set_title(title, fontsize=9)
    axes.set_facecolor("0.92")  # what has no number
    for y, line in enumerate(rows):
        for x, row in enumerate(line):
            if row[name] is None:
                axes.text(x, y, "too few", ha="center", va="center", color="0.4", fontsize=7)
                continue
            far = abs(row[name] - (low + high) / 2) > 0.3 * (high - low)
            colour = "white" if far else "black"
            axes.text(x, y - 0.12, f"{row[name]:{form}}{marks(row)}", ha="center", va="center", color=colour)
            if row[f"{name}_low"] is not None:
                interval = f"{row[f'{name}_low']:{form}} to {row[f'{name}_high']:{form}}"
                axes.text(x, y + 0.24, interval, ha="center", va="center", color=colour, fontsize=6)
    axes.figure.colorbar(image, ax=axes, shrink=0.8)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
