"""Figures of the report: drawn by matplotlib, in the colours of the reader's theme, fit for a phone."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from textwrap import wrap
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from probeline.reports.estimates import three_digits
from probeline.visible import safe, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 340
"""Units of a figure, which are pixels on a phone; a page shows them larger where there is room."""
HEIGHT = 250
LETTERS = 54
"""That fit into a line above a panel."""
# A colour of the page → what stands for it while matplotlib draws. Nothing is drawn in these themselves.
SENTINELS = {
    name: f"#{number:02x}{number:02x}{number + 1:02x}"
    for number, name in enumerate(
        ("ink", "faint", "line", "edge", "card", "one", "two", "three", "four", "five"), start=1
    )
}
METHODS = {
    "lr": ("one", "o"),
    "mms": ("two", "s"),
    "cmms": ("three", "^"),
    "lat": ("four", "D"),
    "mlp": ("five", "v"),
}
"""Colour and marker of each method, the same in all figures."""
_NAMES = {sentinel: f"var(--{name})" for name, sentinel in SENTINELS.items()}
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "probeline",
    "text.parse_math": False,  # names with dollars are names
    "font.family": "DejaVu Sans",  # matplotlib's own: others are measured where they are installed
    "font.size": 10.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 10.5,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "text.color": SENTINELS["ink"],
    "axes.labelcolor": SENTINELS["ink"],
    "xtick.color": SENTINELS["edge"],
    "ytick.color": SENTINELS["edge"],
    "xtick.labelcolor": SENTINELS["faint"],
    "ytick.labelcolor": SENTINELS["ink"],
    "axes.edgecolor": SENTINELS["edge"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": SENTINELS["line"],
    "grid.linewidth": 0.8,
}
_DEFAULTS = {
    ("stroke-dashoffset", "0"),
    ("stroke-linecap", "butt"),
    ("stroke-opacity", "1"),
    ("opacity", "1"),
}
_SVG = "{http://www.w3.org/2000/svg}"
_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?|-0\b")
_LINK = "{http://www.w3.org/1999/xlink}href"


def svg(title: str, draw: Callable[["Figure"], None], height: float = HEIGHT) -> str:
    """A figure as an SVG element without ids, styles and colours of its own. Equal calls give equal bytes.

    Args:
        title: what it shows, for who cannot see it.
        draw: draws on the figure, in the colours of `SENTINELS`.
        height: in units of which WIDTH are its width.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # The user's own settings of matplotlib would be in the bytes, too.
    with mpl.rc_context(), warnings.catch_warnings():
        # A name in letters that the measuring font lacks is shown in the reader's own fonts.
        warnings.filterwarnings("ignore", message="Glyph")
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        drawn = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        FigureCanvasSVG(drawn)
        draw(drawn)
        file = BytesIO()
        drawn.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_page(ElementTree.fromstring(file.getvalue()), title)


def _for_page(root: ElementTree.Element, title: str) -> str:
    """What matplotlib has drawn, as the page's policy and theme want it: shapes and texts, nothing else."""
    shapes = {f"#{element.get('id')}": element for element in root.iter(f"{_SVG}path") if element.get("id")}
    parts = "".join(_element(child, shapes) for child in root)
    return f'<svg viewBox="{root.get("viewBox")}" role="img" aria-label="{safe(title)}">{parts}</svg>'


def _element(element: ElementTree.Element, shapes: Mapping[str, ElementTree.Element]) -> str:
    tag = element.tag.removeprefix(_SVG)
    if tag == "use":
        return _copy(element, shapes[element.attrib[_LINK]])
    if tag == "path":
        return _path(element.attrib["d"], _paint(element), "")
    if tag == "text":
        place = "".join(
            f' {name}="{_short(element.attrib[name])}"' for name in ("x", "y") if name in element.attrib
        )
        turned = _short(element.get("transform", ""))
        turn = "" if not turned or turned.startswith("rotate(0 ") else f' transform="{turned}"'
        return f"<text{place}{turn}{_attributes(_paint(element))}>{safe(element.text or '')}</text>"
    if tag != "g":
        return ""  # definitions, which are drawn where they are used; metadata
    inner = "".join(_element(child, shapes) for child in element)
    attributes = _attributes(_paint(element))
    return f"<g{attributes}>{inner}</g>" if inner and attributes else inner


def _copy(use: ElementTree.Element, shape: ElementTree.Element) -> str:
    """A shape where it is used: no name is left that two figures of a page could share."""
    paint = _paint(use) | _paint(shape)
    x, y = (_short(use.get(name, "0")) for name in ("x", "y"))
    return _path(shape.attrib["d"], paint, "" if (x, y) == ("0", "0") else f' transform="translate({x} {y})"')


def _path(line: str, paint: Mapping[str, str], place: str) -> str:
    if paint.get("fill") == "none" and "stroke" not in paint:
        return ""
    return f'<path d="{_short(" ".join(line.split()))}"{place}{_attributes(paint)}/>'


def _paint(element: ElementTree.Element) -> dict[str, str]:
    """The styles of an element that matter, in the colours of the page."""
    said = (part.partition(":") for part in element.get("style", "").split(";") if part.strip())
    styles = {name.strip(): value.strip().removesuffix("px") for name, _, value in said}
    return {
        name: _NAMES.get(value, value)
        for name, value in styles.items()
        if name not in ("font-family", "font") and (name, value) not in _DEFAULTS
    }


def _attributes(paint: Mapping[str, str]) -> str:
    return "".join(f' {name}="{safe(value)}"' for name, value in paint.items())


def _short(text: str) -> str:
    """Numbers with one decimal: a tenth of a unit is less than a pixel."""
    return _NUMBER.sub(lambda found: f"{round(float(found[0]), 1) + 0.0:g}", text)


def intervals(
    title: str, rows: Mapping[str, Mapping[str, Any]], axis: str, chance: float | None = None
) -> str:
    """Figures with their intervals below each other, on one axis.

    Args:
        title: what it shows.
        rows: plain name → `value`, `low`, `high` (null where there is none); the first is pointed out.
        axis: what the axis is called.
        chance: where a line stands.
    """

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for place, estimate in enumerate(rows.values()):
            _estimate(axes, estimate, place, "one" if place == 0 else "faint", "{:.3f}".format)
        if chance is not None:
            axes.axvline(chance, color=SENTINELS["edge"], linewidth=1, linestyle=(0, (4, 3)))
        axes.set_yticks(range(len(rows)), [shortened(name) for name in rows])
        axes.set_ylim(len(rows) - 0.6, -0.8)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.set_xlabel(axis)

    return svg(title, draw, 54 + 30 * len(rows))


def panels(title: str, rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """As `intervals`, each of several quantities on an axis of its own.

    Args:
        title: what they show.
        rows: plain name of the quantity → plain name → `value`, `low`, `high`.
    """
    sizes = [len(systems) for systems in rows.values()]

    def draw(figure: "Figure") -> None:
        all_axes = figure.subplots(
            len(rows), 1, squeeze=False, gridspec_kw={"height_ratios": [n + 1 for n in sizes]}
        )
        for axes, (name, systems) in zip(all_axes[:, 0], rows.items(), strict=True):
            for place, estimate in enumerate(systems.values()):
                _estimate(axes, estimate, place, "faint" if place == 0 else "one")
            axes.set_title("\n".join(wrap(shortened(name, 100), LETTERS)))
            axes.set_yticks(range(len(systems)), [shortened(system, 20) for system in systems])
            axes.set_ylim(len(systems) - 0.5, -0.9)
            axes.margins(x=0.12)
            axes.locator_params(axis="x", nbins=5)
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.grid(axis="x")

    titles = sum(14 * (len(wrap(shortened(name, 100), LETTERS)) - 1) for name in rows)
    return svg(title, draw, titles + sum(48 + 26 * size for size in sizes))


def _estimate(
    axes: "Axes",
    estimate: Mapping[str, Any],
    place: float,
    colour: str,
    form: Callable[[float], str] = three_digits,
) -> None:
    """A dot with its interval and its number."""
    if estimate["value"] is None:
        return
    if estimate["low"] is not None:
        axes.plot([estimate["low"], estimate["high"]], [place] * 2, color=SENTINELS[colour], linewidth=2)
    axes.plot([estimate["value"]], [place], "o", color=SENTINELS[colour], markersize=6)
    axes.annotate(
        form(estimate["value"]),
        (estimate["value"], place),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=9,
        color=SENTINELS["faint"],
    )


def lines(
    title: str, series: Sequence[Mapping[str, Any]], across: str, up: str, height: float = HEIGHT
) -> str:
    """Lines over whole numbers, such as layers or steps, with bands where there are some.

    Args:
        title: what they show.
        series: each with `name`, `x`, `y`, `colour`, and as it likes `marker`, `low`, `high`, `ring` (an x to
            point out), `dashes` and `level` (a line across instead of `x` and `y`).
        across: what the lower axis is called.
        up: what the left axis is called.
        height: of the figure.
    """

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.subplots()
        for one in series:
            _line(axes, one)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.grid(axis="y")
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        if len(series) > 1:
            figure.legend(
                *axes.get_legend_handles_labels(), loc="outside lower left", ncols=2, handlelength=1.6
            )

    return svg(title, draw, height)


def _line(axes: "Axes", one: Mapping[str, Any]) -> None:
    colour = SENTINELS[one["colour"]]
    name = shortened(one["name"])
    if "level" in one:
        axes.axhline(one["level"], color=colour, linestyle=one["dashes"], linewidth=1.4, label=name)
        return
    axes.plot(
        one["x"],
        one["y"],
        color=colour,
        linewidth=one.get("width", 1.6),
        alpha=one.get("alpha", 1),
        marker=one.get("marker"),
        markersize=4,
        label=name,
    )
    if "low" in one:
        axes.fill_between(one["x"], one["low"], one["high"], color=colour, alpha=0.13, linewidth=0)
    if one.get("ring") is not None:
        at = list(one["x"]).index(one["ring"])
        axes.plot(
            [one["x"][at]],
            [one["y"][at]],
            "o",
            markersize=11,
            fillstyle="none",
            markeredgewidth=1.6,
            color=colour,
        )


def shortened(name: str, letters: int = 26) -> str:
    """A name that fits beside a figure."""
    shown = visible(name)
    return shown if len(shown) <= letters else f"{shown[: letters - 1]}…"
