"""Estimates in words."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Estimate = Mapping[str, Any]
"""`value`, `low` and `high`, the ends of a 95 % interval; null, with `reason`, where there is none."""
TOO_FEW = " So few games are no ground for a conclusion."
"""What a reader of an interval over very few games should know."""


def told(estimate: Estimate, form: str | Callable[[float], str] = ".3f") -> str:
    """An estimate with its interval, such as `0.791 (0.707 to 0.913)`.

    Args:
        estimate: to tell.
        form: of its numbers, or what writes one.
    """
    if estimate["value"] is None:
        return f"none ({estimate.get('reason') or 'not defined'})"
    value, low, high = (_written(estimate[end], form) for end in ("value", "low", "high"))
    if estimate["low"] is None:
        return f"{value} (no interval: {estimate.get('reason') or 'too few groups'})"
    return f"{value} ({low} to {high})"


def _written(number: float | None, form: str | Callable[[float], str]) -> str:
    if number is None:
        return ""
    return form(number) if callable(form) else f"{number:{form}}"


def three_digits(value: float, sign: str = "") -> str:
    """A number as REPORT.md of an evaluation has it, large ones never as a power of ten.

    Args:
        value: the number.
        sign: `+` to have it on numbers above zero, too.
    """
    return f"{value:{sign}.3g}" if abs(value) < 999.5 else f"{value:{sign}.0f}"


def side_of(estimate: Estimate, level: float) -> int:
    """1 where the interval lies above a level, -1 where below, 0 where it holds it or there is none."""
    if estimate["low"] is None:
        return 0
    return int(estimate["low"] > level) - int(estimate["high"] < level)


def many(number: int, noun: str) -> str:
    """A count with its noun, such as `1 game` or `12,345 games`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def layers_told(layers: Sequence[int]) -> str:
    """Layers in words, such as `layer 22` or `layers 11, 22`."""
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"
