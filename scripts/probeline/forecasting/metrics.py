"""How good forecasts are: loss, perplexity, Brier score and how they were matched, also for each depth."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from probeline.evaluation.estimates import three_digits
from probeline.forecasting.matching import EXACT, FAILED, JUDGED, KINDS, NONE, Forecast
from probeline.groups import FEW_GROUPS, FEWEST_GROUPS

DEEP = 3
"""Depth from which on a gate of its own applies."""
GATES = {"perplexity": 2.5, "brier": 0.15, "matched": 0.8, "matched_deep": 0.7}
"""Bounds where the config says no others: a model must be below the first two, above the others."""
RED_FLAGS = {NONE: 0.2, JUDGED: 0.8, EXACT: 0.5}
"""Shares of the matches above which the numbers are not to be trusted, and why."""
REASONS = {
    NONE: "too few forecasts name what happened: the loss is mostly that of a miss",
    JUDGED: "the numbers rest upon the judge",
    EXACT: "forecasts that repeat the answer word for word hint at a leak",
}
TITLES = {
    "perplexity": "perplexity",
    "brier": "Brier score",
    "matched": "matched",
    "matched_deep": f"matched at depth {DEEP} and more",
}


def forecast_metrics(forecasts: Sequence[Forecast], gates: Mapping[str, float] = GATES) -> dict[str, Any]:
    """The metrics of a model's forecasts.

    Args:
        forecasts: held against what happened; those whose judge failed are counted and left out.
        gates: bounds, the keys of GATES.

    Returns:
        `all`, and in `depths` the same for each depth: counts, `event_loss` (mean of -ln p, nats),
        `perplexity` (e to the power of it), `brier`, `coverage` (kind of match → share). None stands where
        there is nothing to measure. Counts of depths sum to those of all, and so do losses weighted by them.
        `incomplete` counts answers that were cut off or hold an outcome that could not be read. In `gates`,
        `passed` is None below FEWEST_GROUPS groups.
    """
    known = [forecast for forecast in forecasts if forecast.match.kind != FAILED]
    depths = sorted({forecast.depth for forecast in known})
    found: dict[str, Any] = {
        "all": _pooled(known),
        "depths": [
            {"depth": depth} | _pooled([one for one in known if one.depth == depth]) for depth in depths
        ],
        "unparsed": sum(not one.outcomes for one in known),
        "incomplete": sum(not one.complete for one in known),
        "judge_failed": len(forecasts) - len(known),
    }
    deep = _pooled([one for one in known if one.depth >= DEEP])
    found["deep"] = deep
    return found | {"red_flags": _red_flags(found["all"]), "gates": _gates(found["all"], deep, gates)}


def _pooled(forecasts: Sequence[Forecast]) -> dict[str, Any]:
    count = len(forecasts)
    kinds = Counter(forecast.match.kind for forecast in forecasts)
    facts: dict[str, Any] = {"forecasts": count, "groups": len({one.group for one in forecasts})}
    facts["matches"] = {kind: kinds[kind] for kind in KINDS}
    if not count:
        nothing = ("event_loss", "perplexity", "brier", "matched")
        return facts | dict.fromkeys(nothing) | {"coverage": dict.fromkeys(KINDS)}
    loss = math.fsum(-math.log(forecast.probability) for forecast in forecasts) / count
    return facts | {
        "event_loss": loss,
        "perplexity": math.exp(loss),
        "brier": math.fsum(forecast.brier for forecast in forecasts) / count,
        "matched": 1 - kinds[NONE] / count,
        "coverage": {kind: kinds[kind] / count for kind in KINDS},
    }


def _red_flags(pooled: Mapping[str, Any]) -> list[str]:
    return [
        f"{kind} {pooled['coverage'][kind]:.0%}, more than {bound:.0%}: {REASONS[kind]}"
        for kind, bound in RED_FLAGS.items()
        if pooled["forecasts"] and pooled["coverage"][kind] > bound
    ]


def _gates(
    pooled: Mapping[str, Any], deep: Mapping[str, Any], gates: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    found = {}
    for name, bound in gates.items():
        of, key = (deep, "matched") if name == "matched_deep" else (pooled, name)
        value = of[key]
        # Without a value, nothing is passed.
        passed = value is not None and (value < bound if name in ("perplexity", "brier") else value > bound)
        found[name] = {
            "value": value,
            "bound": bound,
            "forecasts": of["forecasts"],
            "groups": of["groups"],
            "passed": passed if of["groups"] >= FEWEST_GROUPS else None,
        }
    return found


def metrics_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Metrics of `forecast_metrics` to be read: numbers, red flags, and which gates are passed."""
    lines = [
        f"{'':<10}{'n':>5}{'loss':>8}{'perpl.':>9}{'Brier':>8}" + "".join(f"{kind:>10}" for kind in KINDS)
    ]
    rows = [("all", metrics["all"]), *((f"depth {row['depth']}", row) for row in metrics["depths"])]
    lines += [
        f"{name:<10}{row['forecasts']:>5}{_number(row['event_loss']):>8}{_number(row['perplexity']):>9}"
        f"{_number(row['brier']):>8}" + "".join(f"{_share(row['coverage'][kind]):>10}" for kind in KINDS)
        for name, row in rows
    ]
    if metrics["unparsed"]:
        lines.append(f"answers that could not be read: {metrics['unparsed']}")
    if metrics["incomplete"]:
        lines.append(f"answers that were cut off or hold what could not be read: {metrics['incomplete']}")
    if metrics["judge_failed"]:
        lines.append(f"left out, as the judge failed: {metrics['judge_failed']}")
    lines += [f"RED FLAG: {flag}" for flag in metrics["red_flags"]]
    return lines + [gate_line(name, gate) for name, gate in metrics["gates"].items()]


def gate_line(name: str, gate: Mapping[str, Any]) -> str:
    """Whether a gate is passed, in words, and how much that rests upon."""
    lower = name in ("perplexity", "brier")
    value, bound = (_number(gate[key]) if lower else _share(gate[key]) for key in ("value", "bound"))
    said = {True: "pass", False: "FAIL", None: "too few to tell"}[gate["passed"]]
    size = f"{gate['forecasts']} forecasts of {gate['groups']} events"
    caution = ": few" if FEWEST_GROUPS <= gate["groups"] < FEW_GROUPS else ""
    return (
        f"{said}  {TITLES[name]} {value}, must be {'below' if lower else 'above'} {bound} ({size}{caution})"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else three_digits(value)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
