"""REPORT.md of an evaluation: what was compared on what, every number with its interval, and some answers."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from probeline.evaluation.estimates import caution_of, three_digits
from probeline.evaluation.questions import Measured, as_code, counted, quoted
from probeline.files import write_bytes
from probeline.groups import FEW_GROUPS, FEWEST_GROUPS

REPORT = "REPORT.md"
SHOWN = 3
"""Prompts whose answers the report shows; samples.jsonl has all."""
SIMULATED = "The data are simulated: the numbers show that it works, not what it is worth."
METHOD = (
    "Every system was given the same prompts with the same seed. Intervals are 95 % percentiles of a "
    "bootstrap over groups (games, events or dialogues), the same resamples for both sides of a difference. "
    f"A difference whose interval holds 0 is not told apart; below {FEWEST_GROUPS} groups there is no "
    f"verdict, and below {FEW_GROUPS} it is one with caution. No correction is made for the number of "
    "comparisons."
)


def write_report(
    path: Path,
    spec: Mapping[str, Any],
    metrics: Mapping[str, Any],
    measured: Measured,
) -> None:
    """Write the report.

    Args:
        path: of the file.
        spec: of the evaluation.
        metrics: of metrics.json.
        measured: with paragraphs of its own, and samples.
    """
    datasets = ", ".join(name for name, _ in spec["datasets"])
    parts = [
        f"# {spec['title']}",
        f"Model {spec['model_name']}; datasets {datasets}, split test.",
        *([SIMULATED] if metrics["simulated"] else []),
        METHOD,
        *_foreign(spec["systems"]),
        *_counts(metrics["counts"], spec["settings"]),
        "## Numbers",
        _numbers(metrics),
        *(["## Differences", _differences(metrics)] if spec["pairs"] else []),
        "![Every number with its interval](comparison.svg)",
        *measured.report,
        *(_expected(spec, metrics) if spec.get("expected") else []),
        *_answers(measured.samples),
    ]
    write_bytes(path, ("\n\n".join(parts) + "\n").encode())


def _foreign(systems: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    names = [as_code(system["name"]) for system in systems if system["folder"] is not None]
    if names:
        yield (
            f"{', '.join(names)}: made elsewhere. The games, cases or dialogues of its training are not "
            "known: it may have been trained on those that are held out here, and its numbers be too good."
        )


def _counts(counts: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[str]:
    held_out, asked, left_out = (counted(counts[key]) for key in ("held_out", "asked", "left_out"))
    examples, samples = settings["examples"], settings["samples"]
    yield (
        f"Held out are {held_out}; asked about were {asked} (at most {examples} whose likelihood is "
        f"measured, {samples} that are answered: `evaluation.adapters`). Left out: {left_out}."
    )
    yield from counts["not_measured"]


def _numbers(metrics: Mapping[str, Any]) -> str:
    systems = metrics["systems"]
    lines = [f"| | better | {' | '.join(systems)} | n (groups) |", "|---" * (len(systems) + 3) + "|"]
    for one in metrics["quantities"].values():
        cells = " | ".join(_estimate(one["systems"][name]) for name in systems)
        sizes = {(own["items"], own["groups"]) for own in one["systems"].values()}
        shown = ", ".join(f"{items} ({groups})" for items, groups in sorted(sizes))
        lines.append(f"| {one['title']} | {one['better'] or '-'} | {cells} | {shown} |")
    return "\n".join(lines)


def _differences(metrics: Mapping[str, Any]) -> str:
    lines = ["| | from | to | difference | n (groups) | verdict |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {one['title']} | {row['from']} | {row['to']} | {_estimate(row, signed=True)} | "
        f"{row['items']} ({row['groups']}) | {row['verdict']}{caution_of(row)} |"
        for one in metrics["quantities"].values()
        for row in one["differences"]
    ]
    return "\n".join(lines)


def _estimate(estimate: Mapping[str, Any], signed: bool = False) -> str:
    if estimate["value"] is None:
        return f"- ({estimate['reason']})"
    sign = "+" if signed else ""
    value = three_digits(estimate["value"], sign)
    if estimate["low"] is None:
        return value
    return f"{value} [{three_digits(estimate['low'], sign)}, {three_digits(estimate['high'], sign)}]"


def _expected(spec: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
    """What the reference system expected of each stage, beside what was measured here."""
    found = metrics["quantities"]["perplexity"]["systems"]
    lines = ["| stage | expected | measured | system |", "|---|---|---|---|"]
    for stage, span in spec["expected"].items():
        wanted = f"{span[0]:g}" if span[0] == span[1] else f"{span[0]:g} to {span[1]:g}"
        names = [system["name"] for system in spec["systems"] if system["stage"] == stage]
        measured = [(_estimate(found[name]), name) for name in names] or [("-", "-")]
        lines += [f"| {stage} | {wanted} | {value} | {name} |" for value, name in measured]
    said = (
        "Expected is what the reference system says of gpt-oss-20b on its own cases "
        "(config/costs/forecasts.yaml); with another model or other cases it is no goal."
    )
    return ["## Perplexity, expected and measured", said, "\n".join(lines)]


def _answers(samples: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not samples:
        return
    yield f"## Answers\n\n{min(SHOWN, len(samples))} of {len(samples)}; all are in samples.jsonl."
    for sample in samples[:SHOWN]:
        yield f"### {as_code(sample['id'])}"
        yield quoted(sample["prompt"][-1]["content"])
        if sample["reference"]:
            yield f"What really came:\n\n{quoted(sample['reference'])}"
        for name, answer in sample["answers"].items():
            yield f"{name}:\n\n{quoted(answer['text'])}"
