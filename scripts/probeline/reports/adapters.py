"""Adapters: how training went, what it changed on held-out data, and how they compare."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from probeline.adapters.curves import PANELS, SMOOTHED
from probeline.files import MANIFEST, read_json
from probeline.groups import FEW_GROUPS, FEWEST_GROUPS
from probeline.reports.estimates import TOO_FEW, many, three_digits, told
from probeline.reports.page import anchor, facts, figure, figures, folded, link, table
from probeline.reports.pictures import lines, panels
from probeline.visible import safe

LOG, SUMMARY = "training_log.jsonl", "training_summary.json"
MOST_POINTS = 400
"""Steps that a curve shows; of more, every second, third, … is drawn, and the last."""
MOST_PANELS = 5
"""Quantities in one figure."""
COLOURS = {"loss": "one"}
SIGNED = partial(three_digits, sign="+")
SHOWN = (
    "learning_rate",
    "batch",
    "accumulation",
    "epochs",
    "max_steps",
    "beta",
    "reward",
    "generations",
    "judge",
)
MARKS = {"better": "good", "worse": "bad"}
APART = (*MARKS, "higher", "lower")
"""Verdicts on systems that are told apart."""
NOT_ALIKE = (
    "The points were not all measured on the same examples in the same way: they do not begin with the same "
    "figure. So they are sorted by the difference that the training made, and what is after it cannot be "
    "compared."
)


def training_article(folder: Path) -> str:
    """A trained adapter: its curves, and held-out validation examples before and after."""
    summary, manifest = read_json(folder / SUMMARY), read_json(folder / MANIFEST)
    rows = [orjson.loads(line) for line in (folder / LOG).read_bytes().splitlines()]
    path = folder.as_posix()
    held_out = summary["held_out"]
    drawn = [*_curves(folder.name, rows, path), *_before_and_after(summary, path)]
    table_of_figures = folded("Held-out figures", _held_out(held_out)) if _measured(held_out) else ""
    return (
        f'<article id="adapter-{anchor(folder.name)}"><h3>{safe(folder.name)}</h3>\n'
        f"<p class=faint>{safe(_what(summary, manifest))}</p>\n"
        f'<p class="verdict {MARKS.get(held_out["verdict"], "")}">{safe(_verdict(held_out))}</p>\n'
        f"{figures(*drawn)}{table_of_figures}"
        f"{folded('Settings', _settings(manifest, summary))}</article>\n"
    )


def _what(summary: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    base = manifest["base"]
    names = [one["adapter"] for one in base["merged"]]
    merged = f" with {' and '.join(names)} merged into it" if names else ""
    start = f", from {base['started_from']['adapter']}" if base["started_from"] else ""
    return (
        f"{summary['method']} on {base['model']}{merged}{start}: {many(summary['steps'], 'step')} over "
        f"{many(summary['examples'], 'example')}, {summary['trained_parameters']:,} trained parameters"
    )


def _verdict(held_out: Mapping[str, Any]) -> str:
    if not _measured(held_out):
        return "Nothing was held out, so nothing was measured."
    name, first = next(iter(_compared(held_out).items()))
    return (
        f"On held-out validation data: {held_out['verdict']}. {_title(name)} from "
        f"{told(first['before'], three_digits)} to {told(first['after'], three_digits)}, over "
        f"{many(first['examples'], 'example')} of {many(first['games'], 'game')}."
    )


def _measured(held_out: Mapping[str, Any]) -> bool:
    """Whether any example was held out."""
    return any(one["examples"] for one in _compared(held_out).values())


def _compared(held_out: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The figures that were measured before and after, the one that the verdict is on first."""
    found = {name: one for name, one in held_out.items() if isinstance(one, dict) and "before" in one}
    leading = ("loss", "preference_accuracy", "reward")
    return {name: found[name] for name in sorted(found, key=lambda name: (name not in leading, name))}


def _curves(name: str, rows: Sequence[Mapping[str, Any]], path: str) -> Iterator[str]:
    """Loss, and what else is told of each step, over the steps."""
    for column, (axis, _) in PANELS.items():
        points = [(row["step"], row[column]) for row in rows if row.get(column) is not None]
        if not points:
            continue
        picture = lines(f"{axis} of {name}", _series(points, COLOURS.get(column, "three")), "step", axis)
        yield figure(picture, _curve_caption(axis, [value for _, value in points]), {LOG: f"{path}/{LOG}"})


def _curve_caption(axis: str, values: Sequence[float]) -> str:
    name = f"{axis[0].upper()}{axis[1:]}"
    first, last = values[0], values[-1]
    if len(values) == 1:
        return f"{name} of the only step is {three_digits(first)}: one step shows no course."
    went = "fell" if last < first else "rose" if last > first else "began and ended the same,"
    return (
        f"{name} {went} from {three_digits(first)} to {three_digits(last)} in {many(len(values), 'step')}: "
        "of training batches, so it says nothing about held-out data."
    )


def _series(points: Sequence[tuple[int, float]], colour: str) -> list[dict[str, Any]]:
    steps, values = [step for step, _ in points], [value for _, value in points]
    smooth = len(points) > 2 * SMOOTHED
    every = -(-len(points) // MOST_POINTS)
    drawn = _drawn(len(points), every)
    series: list[dict[str, Any]] = [
        {
            "name": "each step" if every == 1 else f"one of {every} steps",
            "x": [steps[place] for place in drawn],
            "y": [values[place] for place in drawn],
            "colour": colour,
            "alpha": 0.4 if smooth else 1,
            "width": 1 if smooth else 1.6,
            "marker": None if smooth else "o",
        }
    ]
    if smooth:
        means = [sum(values[end - SMOOTHED : end]) / SMOOTHED for end in range(SMOOTHED, len(values) + 1)]
        drawn = _drawn(len(means), every)
        series.append(
            {
                "name": f"mean of {SMOOTHED} steps",
                "x": [steps[place + SMOOTHED - 1] for place in drawn],
                "y": [means[place] for place in drawn],
                "colour": colour,
                "width": 2.2,
            }
        )
    return series


def _drawn(count: int, every: int) -> list[int]:
    """The places of the points that are drawn: the caption names the last, too."""
    return sorted({*range(0, count, every), count - 1})


def _before_and_after(summary: Mapping[str, Any], path: str) -> Iterator[str]:
    found = {
        name: one
        for name, one in _compared(summary["held_out"]).items()
        if one["before"]["value"] is not None
    }
    if not found:
        return
    shown = dict(list(found.items())[:MOST_PANELS])
    picture = panels(
        f"Held-out figures of {summary['recipe']} before and after",
        {_title(name): {"before": one["before"], "after": one["after"]} for name, one in shown.items()},
    )
    name, one = next(iter(found.items()))
    difference = one["difference"]
    if difference["low"] is None:
        said = "without an interval nothing can be said about it"
    else:
        held = difference["low"] <= 0 <= difference["high"]
        said = "the interval holds 0, so the two are not told apart" if held else "the interval excludes 0"
    few = TOO_FEW if one["games"] < FEWEST_GROUPS else ""
    change = told(difference, SIGNED)
    caption = f"Held-out {_title(name).lower()} changed by {change}, on the same examples: {said}.{few}"
    yield figure(picture, caption, {SUMMARY: f"{path}/{SUMMARY}"})


def _held_out(held_out: Mapping[str, Any]) -> str:
    rows = [
        [
            safe(_title(name)),
            *(safe(told(one[when], three_digits)) for when in ("before", "after")),
            safe(told(one["difference"], SIGNED)),
            f"{one['examples']:,} ({one['games']:,})",
        ]
        for name, one in _compared(held_out).items()
    ]
    return table(["figure", "before", "after", "difference", "examples (games)"], rows, stacked=True)


def _settings(manifest: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    settings = manifest["settings"]
    rows = {key.replace("_", " "): safe(settings[key]) for key in SHOWN if settings.get(key) is not None}
    lora = settings.get("lora")
    rows["adapter"] = (
        "the whole model" if lora is None else f"rank {lora['rank']}, alpha {safe(lora['alpha'])}"
    )
    left_out = ", ".join(
        f"{number:,} {reason.replace('_', ' ')}" for reason, number in summary["excluded"].items()
    )
    return facts({**rows, "left out": safe(left_out or "nothing")})


def evaluation_article(folder: Path) -> str:
    """An evaluation or a comparison: every quantity of every system, and the differences."""
    metrics, manifest = read_json(folder / "metrics.json"), read_json(folder / MANIFEST)
    path, quantities = folder.as_posix(), metrics["quantities"]
    simulated = (
        "<p class=faint>The data are simulated: it works, and says no more.</p>\n" * metrics["simulated"]
    )
    return (
        f'<article id="{evaluation_key(folder)}"><h3>{safe(manifest["title"])}</h3>\n'
        f"<p class=faint>{safe(_asked(metrics, manifest))}</p>\n{simulated}"
        f"{figures(*_quantities(metrics, path))}{folded('Every difference', _differences(quantities))}"
        f"{folded('Every number', _numbers(metrics))}"
        f"<p class=faint>{link(f'{path}/REPORT.md', 'REPORT.md')} has answers in full.</p></article>\n"
    )


def evaluation_key(folder: Path) -> str:
    """The address of an evaluation or comparison in the page."""
    return f"{anchor(folder.parent.name)}-{anchor(folder.name)}"


def _asked(metrics: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    counts = metrics["counts"]
    asked = ", ".join(f"{count:,} {name}" for name, count in counts["asked"].items())
    held_out = ", ".join(f"{count:,} {name}" for name, count in counts["held_out"].items())
    systems = ", ".join(metrics["systems"])
    datasets = ", ".join(manifest["datasets"])
    return f"{systems} on {datasets}, test split: {held_out} held out, {asked} asked about"


def _quantities(metrics: Mapping[str, Any], path: str) -> Iterator[str]:
    """Figures of a few quantities each, with what was told apart."""
    known = {
        name: one
        for name, one in metrics["quantities"].items()
        if any(own["value"] is not None for own in one["systems"].values())
    }
    names = list(known)
    for first in range(0, len(names), MOST_PANELS):
        chosen = {name: known[name] for name in names[first : first + MOST_PANELS]}
        picture = panels(
            "Held-out figures of each system",
            {f"{one['title']}{_wanted(one)}": one["systems"] for one in chosen.values()},
        )
        yield figure(picture, _quantities_caption(chosen), {"metrics.json": f"{path}/metrics.json"})


def _wanted(quantity: Mapping[str, Any]) -> str:
    return f" ({quantity['better']} is better)" if quantity["better"] else ""


def _quantities_caption(quantities: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [(one["title"], row) for one in quantities.values() for row in one["differences"]]
    told_apart = [
        f"{row['to']} {row['verdict']} than {row['from']} in {title}{caution_of(row)}"
        for title, row in rows
        if row["verdict"] in APART
    ]
    if not rows:
        return "Figures of each system with 95 % intervals over groups."
    if not told_apart:
        comparisons = many(len(rows), "comparison")
        return f"Nothing is told apart in {comparisons}: intervals hold 0, or there are too few groups."
    more = f", and {len(told_apart) - 2} more" if len(told_apart) > 2 else ""
    return f"Told apart: {'; '.join(told_apart[:2])}{more}, of {many(len(rows), 'comparison')}."


def _differences(quantities: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [
            safe(one["title"]),
            safe(row["from"]),
            safe(row["to"]),
            safe(told(row, SIGNED)),
            f"{row['items']:,} ({row['groups']:,})",
            f'<span><span class="mark {MARKS.get(row["verdict"], "")}"></span>'
            f"{safe(row['verdict'] + caution_of(row))}</span>",
        ]
        for one in quantities.values()
        for row in one["differences"]
    ]
    return table(["figure", "from", "to", "difference", "n (groups)", "verdict"], rows, stacked=True)


def caution_of(difference: Mapping[str, Any]) -> str:
    """What is to be added to a verdict that rests upon few groups, as in REPORT.md."""
    few = FEWEST_GROUPS <= difference["groups"] < FEW_GROUPS
    return f" (caution: {difference['groups']} groups)" if few else ""


def _numbers(metrics: Mapping[str, Any]) -> str:
    rows = [
        [
            safe(one["title"]),
            safe(one["better"] or "-"),
            *(safe(told(one["systems"][name], three_digits)) for name in metrics["systems"]),
        ]
        for one in metrics["quantities"].values()
    ]
    return table(["figure", "better", *metrics["systems"]], rows, stacked=True)


def grid_article(folder: Path) -> str:
    """A grid: its points beside each other, the best first."""
    grid = read_json(folder / "grid.json")
    name, path = grid["figure"], folder.as_posix()
    varied = list(grid["points"][0]["settings"]) if grid["points"] else []
    rows = [
        [
            safe(row["point"]),
            *(safe(row["settings"][key]) for key in varied),
            *(safe(told(row["figures"][name][when], three_digits)) for when in ("before", "after")),
            safe(told(row["figures"][name]["difference"], SIGNED)),
            safe(row["verdict"]),
        ]
        for row in grid["points"]
    ]
    head = ["point", *varied, f"{_title(name)} before", "after", "difference", "verdict"]
    by = "" if grid["sorted_by"] == "after" else "the change of "
    apart = "" if grid["alike"] else f"<p>{NOT_ALIKE}</p>\n"
    return (
        f'<article id="grid-{anchor(folder.name)}"><h3>{safe(folder.name)}</h3>\n'
        f"<p>The best point first, by {by}held-out {safe(name.replace('_', ' '))} ({safe(grid['better'])} is "
        f"better); the best of {len(rows)} looks better than it is.</p>\n"
        f"{apart}{table(head, rows, stacked=True)}"
        f"<p class=faint>Data: {link(f'{path}/grid.json', 'grid.json')}</p></article>\n"
    )


def _title(name: str) -> str:
    words = name.replace("_", " ")
    return f"{words[0].upper()}{words[1:]}"
