"""From seconds and outputs to the tables of the benchmark."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tests.bench.contenders import MATRIX, PRODUCTS
from tests.bench.workers import Side

REFERENCES = "references' way, float32"
REFERENCES_BFLOAT16 = "references' way, bfloat16"
PLAIN = "ours, one process, all threads"
PRODUCTION = "ours, two processes of one thread"
PRODUCTION_FLOAT32 = "ours, float32, two processes of one thread"
ONE_THREAD = "ours, one process of one thread"
ALTERNATIVES = ("nnsight", "TransformerLens", "probelab with mirin", "probelab with hooks")
NOTHING = "-"
NO_NUMBERS = "none: "

Lines = list[list[str]]


@dataclass(frozen=True)
class Error:
    """How far an output is from the float32 references'.

    Attributes:
        largest: the largest difference in a layer over that layer's largest value, in the worst layer.
        mean: the mean difference over the mean value, of all layers together.
        layers: how many layers were compared.
    """

    largest: float
    mean: float
    layers: int


def error(output: np.ndarray, truth: np.ndarray) -> Error:
    """Compare the layers that both hold; one that is not given is NaN throughout."""
    given = [layer for layer in range(truth.shape[1]) if not np.isnan(output[:, layer]).any()]
    differences = np.abs(output[:, given] - truth[:, given])
    values = np.abs(truth[:, given])
    largest = (differences.max(axis=(0, 2)) / values.max(axis=(0, 2))).max()
    return Error(float(largest), float(differences.mean() / values.mean()), len(given))


@dataclass(frozen=True)
class Figures:
    """Everything that was measured.

    Attributes:
        sides: all contenders, by name.
        errors: of those with an output.
        tokens: real tokens of the job `none`.
        spans: how many statements each job measures.
        weights: numbers in the linear layers of all blocks.
        dtype: the number type of those lines that do not name one.
    """

    sides: Mapping[str, Side]
    errors: Mapping[str, Error]
    tokens: int
    spans: Mapping[str, int]
    weights: int
    dtype: str

    def seconds(self, name: str, job: str = "none") -> float | None:
        """The median over the rounds, or None where there is no number."""
        side = self.sides.get(name)
        found = side.seconds.get(job) if side and not side.failure else None
        return statistics.median(found) if found else None

    def seconds_per_span(self, job: str) -> float | None:
        """Of our engine in one process of one thread."""
        seconds = self.seconds(ONE_THREAD, job)
        return seconds / self.spans[job] if seconds else None

    def speed(self, name: str) -> float | None:
        seconds = self.seconds(name)
        return self.tokens / seconds if seconds else None

    def spread(self, name: str) -> float | None:
        """How far the slowest round was from the fastest, over the median: what noise can hide."""
        median, found = self.seconds(name), self.sides[name].seconds.get("none", [])
        return (max(found) - min(found)) / median if median else None

    def peak(self, dtype: str) -> float | None:
        """Operations per second of the large matrix products."""
        seconds = self.seconds(peak_name(dtype))
        return PRODUCTS * 2 * MATRIX**3 / seconds if seconds else None

    def share(self, name: str) -> float | None:
        """The part of the peak that the blocks' matrix products make up."""
        speed, peak = self.speed(name), self.peak(self.sides[name].dtype)
        return speed * 2 * self.weights / peak if speed and peak else None


def peak_name(dtype: str) -> str:
    return f"matrix peak, {dtype}"


def ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above and below else None


def contender_table(figures: Figures) -> Lines:
    """One line per contender; one that failed says why."""
    lines = [
        [
            "contender",
            "tokens/s",
            "spread",
            "to references",
            "to references, bf16",
            "share of peak",
            "largest error",
            "mean error",
        ]
    ]
    for name, side in figures.sides.items():
        if "none" not in side.jobs or name.startswith("matrix"):
            continue
        if side.failure:
            lines.append([name, NO_NUMBERS + side.failure, *[NOTHING] * 6])
            continue
        speed, found = figures.speed(name), figures.errors[name]
        lines.append(
            [
                name,
                f"{speed:,.0f}",
                _percent(figures.spread(name)),
                _times(ratio(speed, figures.speed(REFERENCES))),
                _times(ratio(speed, figures.speed(REFERENCES_BFLOAT16))),
                _percent(figures.share(name)),
                _percent(found.largest, 2),
                _percent(found.mean, 2),
            ]
        )
    return lines


def further_table(figures: Figures) -> Lines:
    """What the contenders do not show."""
    rows: list[tuple[str, float | None, Callable[[float | None], str]]] = [
        ("one forward per game (public) to one per true prompt", public_ratio(figures), _times),
        ("the same to one per prefix of the public transcript", prefix_ratio(figures), _times),
        ("true prompts of a game with shared beginnings to without", shared_ratio(figures), _times),
        ("exactness: cost of never mixing games", exactness_cost(figures), _percent),
        ("two processes of one thread to one with all threads", side_by_side(figures), _times),
    ]
    for dtype in ("bfloat16", "float32"):
        peak = figures.peak(dtype)
        rows.append((f"matrix peak, {dtype}, GFLOP/s", peak and peak / 1e9, _whole))
    return [["figure", "value"], *([text, form(value)] for text, value, form in rows)]


def goal_table(figures: Figures) -> Lines:
    """What is asked of extraction, and whether it was met."""
    best = max((figures.speed(name) or 0 for name in ALTERNATIVES), default=0)
    speed, cost = figures.speed(PRODUCTION), exactness_cost(figures)
    at_least: Sequence[tuple[str, float, float | None]] = [
        ("extraction, to the references' way", 8, ratio(speed, figures.speed(REFERENCES))),
        ("extraction, to the same in bf16", 3, ratio(speed, figures.speed(REFERENCES_BFLOAT16))),
        ("extraction, to the best alternative", 1.5, ratio(speed, best)),
        ("one forward per game, to one prompt per statement", 12, public_ratio(figures)),
        ("two jobs side by side, to one with all threads", 1, side_by_side(figures)),
    ]
    lines = [["what is asked", "goal", "measured", "verdict"]]
    for text, goal, value in at_least:
        met = None if value is None else value >= goal
        lines.append([text, f">= {goal:g}x", _times(value), _verdict(met)])
    met = None if cost is None else cost <= 0.1
    return [*lines, ["cost of exactness", "<= 10%", _percent(cost), _verdict(met)]]


def public_ratio(figures: Figures) -> float | None:
    return ratio(figures.seconds_per_span("prompts"), figures.seconds_per_span("public"))


def prefix_ratio(figures: Figures) -> float | None:
    return ratio(figures.seconds_per_span("prefixes"), figures.seconds_per_span("public"))


def shared_ratio(figures: Figures) -> float | None:
    return ratio(figures.seconds_per_span("prompts"), figures.seconds_per_span("shared"))


def exactness_cost(figures: Figures) -> float | None:
    slower = ratio(figures.seconds(PRODUCTION), figures.seconds(PRODUCTION, "mixed"))
    return slower - 1 if slower else None


def side_by_side(figures: Figures) -> float | None:
    return ratio(figures.speed(PRODUCTION), figures.speed(PLAIN))


def as_text(lines: Lines) -> str:
    """Aligned columns; a reason in place of numbers runs on instead of widening its column."""
    full = [line for line in lines if not line[1].startswith(NO_NUMBERS)]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    widths[0] = max(len(line[0]) for line in lines)
    shown = []
    for line in lines:
        name, *cells = line
        if line in full:
            cells = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        else:
            cells = cells[:1]
        shown.append("  ".join([f"{name:{widths[0]}}", *cells]))
    return "\n".join(shown)


def as_markdown(lines: Lines) -> str:
    rule = ["---", *["---:"] * (len(lines[0]) - 1)]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in (lines[0], rule, *lines[1:])
    )


def _times(value: float | None) -> str:
    return f"{value:.2f}x" if value is not None else NOTHING


def _percent(value: float | None, digits: int = 0) -> str:
    return f"{value:.{digits}%}" if value is not None and not np.isnan(value) else NOTHING


def _whole(value: float | None) -> str:
    return f"{value:,.0f}" if value is not None else NOTHING


def _verdict(met: bool | None) -> str:
    return "not measured" if met is None else "met" if met else "missed"
