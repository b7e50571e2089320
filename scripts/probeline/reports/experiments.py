"""Sweeps, transfers and probe shifts: which layer tells, where it carries over, what training leaves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probeline.files import MANIFEST, open_parquet, read_json
from probeline.probes.heatmap import NOTES, marks
from probeline.probes.shift_figure import ROWS
from probeline.reports.estimates import layers_told, many, side_of, told
from probeline.reports.page import anchor, figure, figures, folded, link, table
from probeline.reports.pictures import HEIGHT, METHODS, intervals, lines
from probeline.reports.probes import TEXTS, caution
from probeline.visible import safe

DASHES = {"text_masked": (0, (6, 3)), "text_input": (0, (2, 2))}
STEPS = (0.05, 0.15, 0.25, 0.35)
"""How far from its middle a cell of a matrix begins the next shade."""


def sweep_article(folder: Path) -> str:
    """A sweep: AUROC over layers by method, the text as a line."""
    sweep, path = read_json(folder / "sweep.json"), folder.as_posix()
    data = {"sweep.json": f"{path}/sweep.json", "sweep.parquet": f"{path}/sweep.parquet"}
    picture = lines(
        f"AUROC over the layers, {sweep['concept']}",
        [*_methods(sweep), *_texts(sweep["baselines"])],
        "layer (0: embeddings)",
        "AUROC on held-out folds",
        HEIGHT + 70,
    )
    return (
        f'<article id="sweep-{anchor(folder.name)}"><h3>{safe(folder.name)}: layers and methods</h3>\n'
        f"<p class=faint>{safe(sweep['note'])}.</p>\n"
        f"{figures(figure(picture, _sweep_caption(sweep), data))}"
        f"{folded('The best layer of each method', _choices(sweep))}</article>\n"
    )


def _methods(sweep: Mapping[str, Any]) -> list[dict[str, Any]]:
    series = []
    for method in sweep["methods"]:
        rows = [row for row in sweep["rows"] if row["method"] == method]
        colour, marker = METHODS[method]
        values = {end: [_or_nan(row["auroc"][end]) for row in rows] for end in ("value", "low", "high")}
        series.append(
            {
                "name": method,
                "x": [row["layer"] for row in rows],
                "y": values["value"],
                "low": values["low"],
                "high": values["high"],
                "colour": colour,
                "marker": marker if len(rows) <= 40 else None,
                "ring": sweep["choice"][method]["layer"],
            }
        )
    return series


def _texts(baselines: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": title, "level": baselines[name]["auroc"]["value"], "dashes": DASHES[name], "colour": "ink"}
        for name, title in TEXTS.items()
        if baselines[name]["auroc"]["value"] is not None
    ]


def _sweep_caption(sweep: Mapping[str, Any]) -> str:
    method, best = max(sweep["choice"].items(), key=lambda chosen: _or_low(chosen[1]["auroc"]["value"]))
    difference = best["difference_to_text"]
    found = {1: "above", 0: "not told apart from", -1: "below"}[side_of(difference, 0)]
    alike = len(best["not_told_apart"]) - 1
    others = f"; it is not told apart from {many(alike, 'other layer')}" if alike else ""
    return (
        f"Ringed is each method's best layer; the best of all, {method} on layer {best['layer']} with "
        f"{told(best['auroc'])}, is {found} the better text (dashed){others}."
    )


def _choices(sweep: Mapping[str, Any]) -> str:
    rows = [
        [
            safe(method),
            str(best["layer"]),
            safe(told(best["auroc"])),
            safe(told(best["difference_to_text"], "+.3f")),
            safe(", ".join(map(str, best["not_told_apart"]))),
            safe(best["probe"]),
        ]
        for method, best in sweep["choice"].items()
    ]
    head = ["method", "layer", "AUROC", "minus the better text", "not told apart", "tested on test games by"]
    return table(head, rows, numbers=(1,), stacked=True)


def transfer_article(folder: Path) -> str:
    """A transfer: each pair's AUROC and its lead over the text, shaded."""
    facts = read_json(folder / MANIFEST)
    verdict = facts["headline"]["verdict"]
    with open_parquet(folder / "transfer.parquet") as file:
        rows = file.read().to_pylist()
    path = folder.as_posix()
    data = {"transfer.parquet": f"{path}/transfer.parquet", "metrics.json": f"{path}/metrics.json"}
    notes = [note for mark, note in NOTES.items() if any(mark in marks(row) for row in rows)]
    return (
        f'<article id="transfer-{anchor(folder.name)}"><h3>{safe(folder.name)}</h3>\n'
        f"<p class=faint>{safe(facts['method'])}, {safe(layers_told(facts['layers']))} of "
        f"{safe(facts['model'])}</p>\n"
        f'<p class="verdict">{safe(verdict)}</p>\n'
        f"<div class=figures>{figure(_matrix(rows, 'auroc', 0.5, '.2f'), _auroc_caption(rows), data)}"
        f"{figure(_matrix(rows, 'difference', 0.0, '+.2f'), _lead_caption(rows), data)}</div>\n"
        f"<p class=faint>{safe('; '.join(notes))}</p></article>\n"
    )


def _matrix(rows: Sequence[Mapping[str, Any]], name: str, middle: float, form: str) -> str:
    """A table whose cells are shaded by how far they lie from a middle."""
    sources, targets = (list(dict.fromkeys(row[side] for row in rows)) for side in ("train", "test"))
    by_pair = {(row["train"], row["test"]): row for row in rows}
    head = "".join(f"<th scope=col>{safe(target)}</th>" for target in targets)
    lines_ = [
        f"<tr><th scope=row>{safe(source)}</th>"
        + "".join(_cell(by_pair[source, target], name, middle, form) for target in targets)
        + "</tr>\n"
        for source in sources
    ]
    return (
        '<div class="scroll"><table class="matrix"><thead><tr><th>trained on \\ tested on</th>'
        f"{head}</tr></thead>"
        f"<tbody>{''.join(lines_)}</tbody></table></div>"
    )


def _cell(row: Mapping[str, Any], name: str, middle: float, form: str) -> str:
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    if value is None:
        return f"<td class=none><small>{safe(row['reason'] or 'too few')}</small></td>"
    steps = sum(abs(value - middle) >= step for step in STEPS)
    shade = "" if steps == 0 else f' class="{"a" if value > middle else "b"}{steps}"'
    interval = "" if low is None else f"<small>{low:{form}} to {high:{form}}</small>"
    return f"<td{shade}>{value:{form}}{marks(row)}{interval}</td>"


def _pairs(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The transfers that a verdict counts."""
    return [
        row
        for row in rows
        if row["auroc"] is not None
        and row["train"] != row["test"]
        and not row["overlap"]
        and not row["small"]
    ]


def _auroc_caption(rows: Sequence[Mapping[str, Any]]) -> str:
    pairs = _pairs(rows)
    above = sum((row["auroc_low"] or 0) > 0.5 for row in pairs)
    if not pairs:
        return "AUROC of the probe; no pair off the diagonal has enough test games for a conclusion."
    return (
        f"AUROC of the probe: {above} of {len(pairs)} transfers off the diagonal lie above chance, interval "
        "and all."
    )


def _lead_caption(rows: Sequence[Mapping[str, Any]]) -> str:
    pairs = [row for row in _pairs(rows) if row["difference"] is not None]
    ahead = sum((row["difference_low"] or 0) > 0 for row in pairs)
    if not pairs:
        return "Lead over the better text that was carried over the same way."
    return (
        f"Lead over the better text that was carried over the same way: in {ahead} of {len(pairs)} transfers "
        "the probe carries over more than words do."
    )


def shift_article(folder: Path) -> str:
    """A probe shift: the same probe without the adapter and with it, and one trained anew."""
    metrics, facts = read_json(folder / "metrics.json"), read_json(folder / MANIFEST)
    path = folder.as_posix()
    data = {"metrics.json": f"{path}/metrics.json", "shift.parquet": f"{path}/shift.parquet"}
    rows = {title: metrics["auroc"][name] for name, title in ROWS.items()}
    picture = intervals(
        f"AUROC of {facts['probe']} on the adapted model", rows, "AUROC on the test games", 0.5
    )
    moved = {label: told(metrics["score_shift"][label], "+.2f") for label in ("positive", "negative")}
    side = {1: "higher", 0: "not told apart", -1: "lower"}[side_of(metrics["difference"], 0)]
    caption = (
        f"With the adapter the probe's AUROC is {side}: {told(metrics['difference'], '+.3f')}; "
        f"scores of label 1 move by {moved['positive']}, those of label 0 by {moved['negative']} deviations."
        f"{caution(metrics)}"
    )
    return (
        f'<article id="shift-{anchor(folder.name)}"><h3>{safe(folder.name)}</h3>\n'
        f"<p class=faint>{safe(facts['probe'])} on {safe(facts['model'])} with {safe(facts['adapter'])}</p>\n"
        f'<p class="verdict">{safe(metrics["verdict"])}</p>\n'
        f"{figures(figure(picture, caption, data))}"
        f"<p class=faint>{link(f'{path}/shift.svg', 'how far each score moved')}</p></article>\n"
    )


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _or_low(value: float | None) -> float:
    return -1.0 if value is None else value
