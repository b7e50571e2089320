"""`probeline audit cost`: what a lineage took, in seconds and in money; what is shared counts once."""

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from probeline.lineage.commands import add_json, make_console
from probeline.lineage.terminal import make_table, print_json, warn_of_gaps, words
from probeline.reports.estimates import many

if TYPE_CHECKING:
    from probeline.lineage.graph import Lineage
    from probeline.lineage.records import Record

EXAMPLES = """\
examples:
  probeline audit cost                                     everything that has a record
  probeline audit cost trust_lr_l22                        a probe, down to its raw logs
  probeline audit cost trust_lr_l22 collusion_lr_l22       each, and both: what they share counts once

exit status: 0; 1 where a target, or what it rests upon, has no record.
"""
SUMS = {
    "seconds": "seconds",
    "processor_seconds": "processorSeconds",
    "gpu_seconds": "gpuSeconds",
    "usd": "usd",
}
"""Name in the answer → name in a record."""


def add_command(queries: Any) -> None:
    """Declare the command.

    Args:
        queries: the subparsers of `probeline audit`.
    """
    parser = queries.add_parser(
        "cost",
        help="seconds, GPU seconds and money over the whole lineage",
        description="What artifacts and all that they were made from took, by rule. The seconds are those of "
        "the runs that made what is there now; what several rest upon counts once.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", nargs="*", metavar="TARGET", help="artifacts (default: all)")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from probeline.lineage.graph import read_lineage

    lineage = read_lineage()
    facts, everything = cost_facts(lineage, options.target)
    if options.json:
        print_json(facts)
    else:
        print_sums(facts)
    return warn_of_gaps(lineage, everything)


def cost_facts(lineage: "Lineage", names: Iterable[str]) -> tuple[dict[str, Any], list["Record"]]:
    """The sums by target, by rule and in all, and the records that they are over.

    Args:
        lineage: all records.
        names: of artifacts, as people name them; none for all.

    Raises:
        ProbelineError: a name fits no artifact, or several; or there are no records.
    """
    lineage.require_records()
    targets = list({record.name: record for record in map(lineage.find, names)}.values())
    everything = lineage.ancestors(targets or lineage.records.values())
    facts = {
        "targets": {record.name: total(lineage.ancestors([record])) for record in targets},
        "rules": by_rule(everything),
        "total": total(everything),
    }
    return facts, everything


def total(records: Iterable["Record"]) -> dict[str, Any]:
    """Jobs, seconds, processor seconds, GPU seconds, money, and tokens a second where the jobs have them."""
    costs = [record.cost for record in records]
    summed: dict[str, Any] = {"jobs": len(costs)}
    summed |= {name: round(sum(cost.get(key) or 0 for cost in costs), 6) for name, key in SUMS.items()}
    summed["peak_bytes"] = max((cost.get("peakBytes") or 0 for cost in costs), default=0)
    counted = [cost["figures"] for cost in costs if _has_tokens(cost.get("figures"))]
    tokens, seconds = (sum(figures[key] for figures in counted) for key in ("tokens", "seconds"))
    summed["tokens"] = tokens
    summed["tokens_per_second"] = round(tokens / seconds, 1) if seconds else None
    return summed


def _has_tokens(figures: Any) -> bool:
    keys = ("tokens", "seconds")
    return isinstance(figures, dict) and all(isinstance(figures.get(key), int | float) for key in keys)


def by_rule(records: Iterable["Record"]) -> dict[str, dict[str, Any]]:
    """The sums of each rule, in the order in which the rules first come."""
    rules: dict[str, list[Record]] = {}
    for record in records:
        rules.setdefault(record.rule, []).append(record)
    return {rule: total(made) for rule, made in rules.items()}


def cost_line(records: Iterable["Record"]) -> str:
    """The sums in one line."""
    summed = total(records)
    gpu = f", {duration(summed['gpu_seconds'])} of GPU" if summed["gpu_seconds"] else ""
    money = f", {dollars(summed['usd'])} USD" if summed["usd"] else ""
    return (
        f"{many(summed['jobs'], 'job')}, {duration(summed['seconds'])}, "
        f"{duration(summed['processor_seconds'])} of processor{gpu}{money}"
    )


def dollars(amount: float) -> str:
    """Cents, and more digits below ten of them."""
    return f"{amount:.2f}" if amount >= 0.095 or not amount else f"{amount:.4f}"


def duration(seconds: float) -> str:
    """`3.2 s`, `12 min 4 s`, `3 h 12 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


COST_COLUMNS = ("jobs", "time", "processor", "GPU", "USD", "tokens/s")
"""What `cost_cells` gives."""


def print_sums(facts: dict[str, Any]) -> None:
    """Print what `cost_facts` says, by target where there are several, and by rule."""
    console = make_console()
    if len(facts["targets"]) > 1:
        table = make_table("target", *COST_COLUMNS, right=COST_COLUMNS)
        for name, summed in facts["targets"].items():
            table.add_row(words(name), *cost_cells(summed))
        table.add_section()
        table.add_row(words("together, shared once", "bold"), *cost_cells(facts["total"]))
        console.print(table)
        console.print()
    table = make_table("rule", *COST_COLUMNS, right=COST_COLUMNS)
    for rule, summed in facts["rules"].items():
        table.add_row(words(rule), *cost_cells(summed))
    table.add_section()
    table.add_row(words("total", "bold"), *cost_cells(facts["total"]))
    console.print(table)


def cost_cells(summed: dict[str, Any]) -> list[str]:
    """A row below `COST_COLUMNS`.

    Args:
        summed: of `total`.
    """
    rate = summed["tokens_per_second"]
    return [
        f"{summed['jobs']:,}",
        duration(summed["seconds"]),
        duration(summed["processor_seconds"]),
        duration(summed["gpu_seconds"]) if summed["gpu_seconds"] else "0",
        dollars(summed["usd"]) if summed["usd"] else "0",
        f"{rate:,.0f}" if rate else "",
    ]
