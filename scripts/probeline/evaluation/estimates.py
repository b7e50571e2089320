"""Numbers of several systems on the same items, and their paired differences, with intervals over groups."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from probeline.bootstrap import Bootstrap, draw_games
from probeline.groups import FEW_GROUPS, FEWEST_GROUPS

Values = Mapping[str, Sequence[tuple[float, float]]]
"""System → numerator and denominator of each item; a denominator of 0 masks the item."""
LOWER, HIGHER = "lower", "higher"


@dataclass(frozen=True)
class Quantity:
    """One number of each system: the sum of its items' numerators by that of their denominators.

    Attributes:
        name: key in metrics.json.
        title: in words, with its unit.
        better: LOWER, HIGHER, or empty where neither is.
        groups: of each item: game, event or dialogue, which is resampled as a whole.
        values: of each system, in the order of `groups`.
        exponential: the number is e to the power of the ratio.
    """

    name: str
    title: str
    better: str
    groups: Sequence[str]
    values: Values
    exponential: bool = False


def compare_systems(
    quantity: Quantity, pairs: Sequence[tuple[str, str]], resamples: int, seed: int
) -> dict[str, Any]:
    """The number of every system, and of each pair by how much the second differs from the first.

    A difference is over the items that neither system has masked, on the same resamples of whole groups.

    Args:
        quantity: what is compared.
        pairs: of systems.
        resamples: of the bootstrap over groups.
        seed: of its draws.

    Returns:
        `title`, `better`, `systems` (name → value, low, high, items, groups) and `differences` (a list of
        from, to, value, low, high, items, groups, verdict); percentiles of the resamples, at 95 %.
    """
    names, group = np.unique(np.array([*quantity.groups], dtype=str), return_inverse=True)
    bootstrap = Bootstrap(group, draw_games(max(len(names), 1), resamples, seed), 0)
    values = {name: np.array(rows, dtype=float).reshape(-1, 2) for name, rows in quantity.values.items()}
    systems = {name: _estimate(quantity, bootstrap, [rows]) for name, rows in values.items()}
    differences = []
    for first, second in pairs:
        both = ((values[first][:, 1] > 0) & (values[second][:, 1] > 0))[:, None]
        difference = _estimate(quantity, bootstrap, [values[second] * both, values[first] * both])
        differences.append(
            {"from": first, "to": second, **difference, "verdict": verdict(quantity.better, difference)}
        )
    return {
        "title": quantity.title,
        "better": quantity.better,
        "systems": systems,
        "differences": differences,
    }


def _estimate(
    quantity: Quantity, bootstrap: Bootstrap, rows: Sequence[npt.NDArray[np.float64]]
) -> dict[str, Any]:
    """The number of one system, or of the first less that of the second, with its interval."""
    shown = rows[0][:, 1] > 0
    counts = {"items": int(shown.sum()), "groups": len(set(bootstrap.game[shown].tolist()))}
    if not counts["items"]:
        return {"value": None, "low": None, "high": None, "reason": "nothing to measure"} | counts

    def number(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        found = []
        for one in rows:
            below = weights @ one[:, 1]
            ratio = np.divide(weights @ one[:, 0], below, out=np.full(len(below), np.nan), where=below > 0)
            found.append(np.exp(ratio) if quantity.exponential else ratio)
        return found[0] if len(found) == 1 else found[0] - found[1]

    value = float(number(np.ones((1, len(shown))))[0])
    if not math.isfinite(value):
        return {"value": None, "low": None, "high": None, "reason": "it is no finite number"} | counts
    if counts["groups"] < 2:
        reason = "an interval needs two groups"
        return {"value": value, "low": None, "high": None, "reason": reason} | counts
    return bootstrap.interval(value, bootstrap.values(number)) | counts


def verdict(better: str, difference: Mapping[str, Any]) -> str:
    """What a difference says: better, worse, higher or lower, or that nothing can be said."""
    if difference["value"] is None:
        return "no interval"
    if difference["groups"] < FEWEST_GROUPS:
        return "too few to tell"
    if difference["low"] is None:
        return "no interval"
    if difference["low"] <= 0 <= difference["high"]:
        return "not told apart"
    direction = HIGHER if difference["low"] > 0 else LOWER
    if not better:
        return direction
    return "better" if direction == better else "worse"


def caution_of(difference: Mapping[str, Any]) -> str:
    """What is to be added to a verdict that rests upon few groups; empty where it rests upon more."""
    few = FEWEST_GROUPS <= difference["groups"] < FEW_GROUPS
    return f" (caution: {difference['groups']} groups)" if few else ""


def spread(values: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Mean, standard deviation (of a sample), least and greatest of the items that are not masked."""
    known = [number / below for number, below in values if below > 0]
    if not known:
        return {"items": 0, "mean": None, "sd": None, "min": None, "max": None}
    mean = math.fsum(known) / len(known)
    squares = math.fsum((value - mean) ** 2 for value in known)
    return {
        "items": len(known),
        "mean": mean,
        "sd": math.sqrt(squares / (len(known) - 1)) if len(known) > 1 else None,
        "min": min(known),
        "max": max(known),
    }


def three_digits(value: float, sign: str = "") -> str:
    """A number in three digits, and never as a power of ten where it is large.

    Args:
        value: the number.
        sign: `+` to have it on numbers above zero, too.
    """
    return f"{value:{sign}.3g}" if abs(value) < 999.5 else f"{value:{sign}.0f}"
