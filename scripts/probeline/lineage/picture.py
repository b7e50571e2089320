"""The lineage as a drawing, in the colours of the reader's theme."""

import unicodedata
from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from probeline.lineage.folding import Node
from probeline.lineage.layout import HEIGHT, Place, arranged, implied_lines
from probeline.visible import visible

WIDTH = 176
COLUMN = 226
"""From column to column."""
MARGIN = 12
LABEL, DETAIL = 22, 27
"""So many narrow letters fit into a box's two lines."""
KINDS = ("sources", "logs", "tables", "dialogues", "models", "activations", "probes", "sweeps", "adapters")
"""Kinds with a colour of their own; evaluation and what else there may be share one."""

# Both themes hold for the page, too.
COLOURS = """\
:root {
  --page: #f6f7f9; --card: #fff; --ink: #1c2330; --faint: #5b6472; --line: #d9dee6; --edge: #aeb7c4;
  --accent: #1f5f9f; --up: #1f6fb2; --down: #b35a00; --hit: #fff3d6;
  --train: #1f5f9f; --validation: #6d5a00; --test: #a3330b; --all: #5b6472;
  --sources: #7a8494; --logs: #8a6d1d; --tables: #2f8168; --dialogues: #2b7f9e; --models: #8a5a9e;
  --activations: #4a62b8; --probes: #b3471b; --sweeps: #a03468; --adapters: #7a3f9c; --other: #4d7a2a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161c; --card: #1a2029; --ink: #e4e8ee; --faint: #9aa5b4; --line: #323b48; --edge: #4a5566;
    --accent: #8cc6f0; --up: #6db8f0; --down: #ffb05c; --hit: #3a301a;
    --train: #8cc6f0; --validation: #e5cf6b; --test: #ff9d76; --all: #9aa5b4;
    --sources: #98a2b3; --logs: #d1b15a; --tables: #63c2a4; --dialogues: #64bcdc; --models: #c596d8;
    --activations: #93a8f5; --probes: #f09068; --sweeps: #e67fb0; --adapters: #b98ad6; --other: #96c46e;
  }
}
"""
DRAWING = """\
svg { font: 13px system-ui, sans-serif; color-scheme: light dark }
.box { fill: var(--card); stroke: var(--line) }
.name { fill: var(--ink); font-weight: 600 }
.detail, .heading { fill: var(--faint); font-size: 11.5px }
.edge { fill: none; stroke: var(--edge); stroke-width: 1.3 }
.implied { stroke-dasharray: 2 4; stroke-width: 1.1 }
.focus .box { stroke: var(--accent); stroke-width: 2.5 }
""" + "".join(f".{kind} .bar {{ fill: var(--{kind}) }}\n" for kind in (*KINDS, "other"))


def drawing(nodes: Sequence[Node], focus: str = "", links: bool = False) -> str:
    """The picture as an SVG element without style.

    Args:
        nodes: of `folding.fold`.
        focus: name of the node to point out.
        links: every box links to its address in the page.
    """
    columns, chains = arranged(nodes)
    width = 2 * MARGIN + COLUMN * (len(columns) - 1) + WIDTH if columns else 2 * MARGIN
    bottom = max((place.y + place.height / 2 for column in columns for place in column), default=0.0)
    role = "group" if links else "img"
    numbers = {node.name: number for number, node in enumerate(nodes)}
    height = round(bottom) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="{role}" aria-label="Lineage">\n'
    ]
    for index, column in enumerate(columns):
        kinds = dict.fromkeys(place.node.kind for place in column if place.node)
        heading = escape(_cut(visible(" · ".join(kinds)), DETAIL))
        parts.append(f'<text class="heading" x="{_x(index)}" y="{MARGIN + 11}">{heading}</text>\n')
    implied = implied_lines(nodes)
    for chain in chains:
        first, last = chain[0].node, chain[-1].node
        assert first is not None
        assert last is not None
        style = "edge implied" if (first.name, last.name) in implied else "edge"
        ends = f' data-from="{numbers[first.name]}" data-to="{numbers[last.name]}"' if links else ""
        parts.append(f'<path class="{style}"{ends} d="{_path(chain)}"/>\n')
    for column in columns:
        for place in column:
            if place.node:
                parts.append(_box(place, place.node, numbers[place.node.name], focus, links))
    return "".join([*parts, "</svg>\n"])


def svg(nodes: Sequence[Node], focus: str = "") -> str:
    """The picture as a file of its own, in the colours of the reader's theme."""
    head, _, body = drawing(nodes, focus).partition(">\n")
    page = '<rect width="100%" height="100%" fill="var(--page)"/>'
    return f"{head}>\n<style>\n{COLOURS}{DRAWING}</style>\n{page}\n{body}"


def colour_of(kind: str) -> str:
    """The class of a kind: nothing that a folder is called gets into a style."""
    return kind if kind in KINDS else "other"


def address(name: str) -> str:
    """What stands for a name behind the `#` of a link."""
    return quote(visible(name), safe="/*")


def _x(column: int) -> int:
    return MARGIN + COLUMN * column


def _path(chain: list[Place]) -> str:
    start, *lanes, end = chain
    x, y = _x(start.column) + WIDTH, round(start.y)
    parts = [f"M{x} {y}"]
    for place in [*lanes, end]:
        to_x, to_y = _x(place.column), round(place.y)
        bend = (to_x - x) // 2
        parts.append(f"C{x + bend} {y} {to_x - bend} {to_y} {to_x} {to_y}")
        x, y = to_x, to_y
        if place is not end:
            x += WIDTH
            parts.append(f"H{x}")
    return "".join(parts)


def _box(place: Place, node: Node, number: int, focus: str, links: bool) -> str:
    x, y = _x(place.column), round(place.y - HEIGHT / 2)
    count = f"{len(node.members):,} " if len(node.members) > 1 else ""
    what = "shards" if "shard-*" in node.name else "files" if node.kind == "sources" else node.kind
    detail = (
        node.kind if not count else f"{count}{what}" if what == node.kind else f"{node.kind} · {count}{what}"
    )
    classes = f"node {colour_of(node.kind)}{' focus' if node.name == focus else ''}"
    tag = f'a href="#{address(node.name)}" data-node="{number}"' if links else "g"
    return (
        f'<{tag} class="{classes}"><title>{escape(visible(node.name))}</title>'
        f'<rect class="box" x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
        f'<rect class="bar" x="{x}" y="{y + 6}" width="4" height="{HEIGHT - 12}" rx="2"/>'
        f'<text class="name" x="{x + 13}" y="{y + 18}">{escape(_cut(visible(node.label), LABEL))}</text>'
        f'<text class="detail" x="{x + 13}" y="{y + 35}">{escape(_cut(visible(detail), DETAIL))}</text>'
        f"</{tag.split()[0]}>\n"
    )


def _cut(text: str, letters: int) -> str:
    """Text that fits: the middle is left out, where names differ least; wide letters count twice."""
    widths = [2 if unicodedata.east_asian_width(letter) in "FW" else 1 for letter in text]
    if sum(widths) <= letters:
        return text
    half = (letters - 1) // 2
    start, end = 0, len(text)
    while sum(widths[: start + 1]) <= half:
        start += 1
    while sum(widths[end - 1 :]) <= half:
        end -= 1
    return f"{text[:start]}…{text[end:]}"
