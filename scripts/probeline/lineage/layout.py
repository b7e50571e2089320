"""Where boxes and lines of the picture run: columns from left to right, sorted so that few lines cross."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from probeline.lineage.folding import Node

HEIGHT, GAP, LANE = 44, 14, 12
"""Of a box; between boxes; of a line that passes a column."""
HEADING = 34
SWEEPS = 12


@dataclass
class Place:
    """A box, or where a long line passes a column (then without node)."""

    column: int
    node: Node | None
    left: list["Place"]
    right: list["Place"]
    y: float = 0.0

    @property
    def height(self) -> int:
        """In pixels; `y` is the middle."""
        return HEIGHT if self.node else LANE


def arranged(nodes: Sequence[Node]) -> tuple[list[list[Place]], list[list[Place]]]:
    """Columns of places from top to bottom, and for each line the places that it runs through.

    Args:
        nodes: of `folding.fold`.
    """
    columns, chains = _routes(nodes)
    _order(columns)
    _heights(columns)
    return columns, chains


def implied_lines(nodes: Sequence[Node]) -> set[tuple[str, str]]:
    """The lines whose ends are joined by a longer way, too."""
    above: dict[str, set[str]] = {}
    for node in nodes:
        above[node.name] = {name for parent in node.parents for name in above.get(parent, set()) | {parent}}
    return {
        (parent, node.name)
        for node in nodes
        for parent in node.parents
        if any(parent in above.get(other, ()) for other in node.parents)
    }


def _routes(nodes: Sequence[Node]) -> tuple[list[list[Place]], list[list[Place]]]:
    place_of = {node.name: Place(node.column, node, [], []) for node in nodes}
    columns: list[list[Place]] = [[] for _ in range(max((n.column for n in nodes), default=-1) + 1)]
    for place in place_of.values():
        columns[place.column].append(place)
    chains = []
    for node in nodes:
        for parent in node.parents:
            start, end = place_of[parent], place_of[node.name]
            lanes = [Place(column, None, [], []) for column in range(start.column + 1, end.column)]
            for lane in lanes:
                columns[lane.column].append(lane)
            chains.append([start, *lanes, end])
            for left, right in pairwise(chains[-1]):
                left.right.append(right)
                right.left.append(left)
    return columns, chains


def _order(columns: list[list[Place]]) -> None:
    """Sort each column by the middle of its neighbours', to and fro (Sugiyama's heuristic)."""
    rank: dict[int, float] = {}

    def number(column: list[Place]) -> None:
        rank.update((id(place), (index + 0.5) / len(column)) for index, place in enumerate(column))

    for column in columns:
        number(column)
    for sweep in range(SWEEPS):
        forth = sweep % 2 == 0
        for column in columns if forth else reversed(columns):
            near = [place.left if forth else place.right for place in column]
            wanted = [
                sum(rank[id(other)] for other in others) / len(others) if others else rank[id(place)]
                for place, others in zip(column, near, strict=True)
            ]
            order = sorted(range(len(column)), key=wanted.__getitem__)
            column[:] = [column[index] for index in order]
            number(column)


def _heights(columns: list[list[Place]]) -> None:
    """As near as can be to the middle of the neighbours, without overlap."""
    for column in columns:
        below = float(HEADING)
        for place in column:
            place.y = below + place.height / 2
            below += place.height + GAP
    for sweep in range(SWEEPS):
        for column in columns if sweep % 2 == 0 else reversed(columns):
            near = [place.left + place.right for place in column]
            wanted = [
                sum(other.y for other in others) / len(others) if others else place.y
                for place, others in zip(column, near, strict=True)
            ]
            for place, y in zip(column, _apart(column, wanted), strict=True):
                place.y = y
    top = min((place.y - place.height / 2 for column in columns for place in column), default=0.0)
    for column in columns:
        for place in column:
            place.y += HEADING - top


def _apart(column: list[Place], wanted: list[float]) -> list[float]:
    """The heights nearest to those wanted (least squares) that keep order and distance.

    Isotonic regression by pooling neighbours that are too near.
    """
    offsets, total = [], 0.0
    for index, place in enumerate(column):
        if index:
            total += (column[index - 1].height + place.height) / 2 + GAP
        offsets.append(total)
    pools: list[list[float]] = []  # sum and number
    for y, offset in zip(wanted, offsets, strict=True):
        pools.append([y - offset, 1])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] >= pools[-1][0] / pools[-1][1]:
            sum_, number = pools.pop()
            pools[-1][0] += sum_
            pools[-1][1] += number
    levels = [sum_ / number for sum_, number in pools for _ in range(int(number))]
    return [level + offset for level, offset in zip(levels, offsets, strict=True)]
