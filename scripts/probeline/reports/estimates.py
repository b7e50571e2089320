"""Estimates in words."""

from collections.abc import Mapping
from typing import Any

Estimate = Mapping[str, Any]
"""`value`, `low` and `high`, the ends of a 95 % interval; null, with `reason`, where there is none."""


def told(estimate: Estimate, form: str = ".3f") -> str:
    """An estimate with its interval, such as `0.791 (0.707 to 0.913)`.

    Args:
        estimate: to tell.
        form: of its numbers.
    """
    if estimate["value"] is None:
        return f"none ({estimate.get('reason') or 'not defined'})"
    value = f"{estimate['value']:{form}}"
    if estimate["low"] is None:
        return f"{value} (no interval: {estimate.get('reason') or 'too few groups'})"
    return f"{value} ({estimate['low']:{form}} to {estimate['high']:{form}})"


def side_of(estimate: Estimate, level: float) -> int:
    """1 where the interval lies above a level, -1 where below, 0 where it holds it or there is none."""
    if estimate["low"] is None:
        return 0
    return int(estimate["low"] > level) - int(estimate["high"] < level)


def many(number: int, noun: str) -> str:
    """A count with its noun, such as `1 game` or `12,345 games`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
