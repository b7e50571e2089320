"""`probeline cost`: what a run will cost on Modal, what was paid, and what the reference systems paid."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from probeline.errors import ProbelineError
from probeline.lineage.commands import add_configfile, add_json, make_console
from probeline.lineage.cost import cost_facts, dollars, duration, print_sums
from probeline.lineage.terminal import fold_shards, make_table, print_json, warn_of_gaps, words
from probeline.reports.estimates import many

if TYPE_CHECKING:
    from rich.table import Table

    from probeline.compute.cost_tables import CostTable, Span, Stage
    from probeline.compute.plan import PlannedJob
    from probeline.compute.prices import Prices
    from probeline.lineage.records import Record

EXAMPLES = """\
examples:
  probeline cost --plan                                    what a plain run would cost on Modal
  probeline cost --plan results/probes/trust_lr_l22 --configfile config/full.yaml
  probeline cost --plan --table mafia                      a reference system's figures, and today's
  probeline cost --actual trust_lr_l22                     what was paid for a probe and all below it
  probeline cost --refresh                                 take the prices of your own account

exit status: 0; 1 where a plan is over modal.budget, or a record is missing.
"""
MOST_ROWS = 20
"""Above that, a plan is told by rule."""


def add_cost_command(commands: Any) -> None:
    """Declare the command.

    Args:
        commands: the subparsers of the command line.
    """
    parser = commands.add_parser(
        "cost",
        help="what a run will cost on Modal, and what was paid",
        description="The plan of a run on Modal: where each job runs, how long it is expected to take and "
        "what that rests upon, its price, the total, and whether modal.budget allows it. Or, from the "
        "records, what was paid.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    question = parser.add_mutually_exclusive_group(required=True)
    question.add_argument("--plan", action="store_true", help="what a run would cost; nothing is started")
    question.add_argument("--actual", action="store_true", help="what was paid, from the records")
    question.add_argument("--refresh", action="store_true", help="ask Modal for the prices of your account")
    parser.add_argument(
        "target", nargs="*", metavar="TARGET", help="with --plan as for snakemake, with --actual artifacts"
    )
    parser.add_argument(
        "--table", metavar="NAME", help="with --plan: a table in config/costs, or a file of that form"
    )
    add_configfile(parser, "with --plan: laid over config/config.yaml")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if not options.plan and (options.table or options.configfile):
        raise ProbelineError("--table and --configfile go with --plan.")
    if options.target and (options.table or options.refresh):
        raise ProbelineError("TARGET goes with --plan, without --table, and with --actual.")
    if options.actual:
        return _actual(options)
    if options.refresh:
        return _refresh(options)
    return _reference(options) if options.table else _plan(options)


def _plan(options: argparse.Namespace) -> int:
    from probeline.compute.plan import PlannedJob, total, waiting
    from probeline.compute.prices import read_prices
    from probeline.lineage.workflow_state import ask_plan

    prices, answer = read_prices(), ask_plan(options.target, options.configfile)
    jobs, budget = [PlannedJob(**job) for job in answer["jobs"]], answer["modal"]["budget"]
    fits = total(jobs) <= budget
    if options.json:
        facts: dict[str, Any] = {"compute": answer["compute"], "total": total(jobs)}
        facts |= {"budget": budget, "fits": fits, "prices": prices.date}
        facts["waiting"] = waiting(jobs, answer["modal"])
        print_json(facts | {"jobs": [asdict(job) | {"usd_per_hour": _hourly(job, prices)} for job in jobs]})
    else:
        _print_plan(jobs, answer, prices)
    return 0 if fits else 1


def _print_plan(jobs: Sequence["PlannedJob"], answer: Mapping[str, Any], prices: "Prices") -> None:
    from probeline.compute.plan import total, waiting

    settings = answer["modal"]
    if answer["compute"] == "local":
        print("compute is local, so nothing runs on Modal. With `compute: modal`:")
    if not jobs:
        print(
            "Nothing would run on Modal: what is asked for is made, or modal.rules names none of its rules."
        )
        return
    numbers = ("time", "USD/h", "USD")
    table = make_table("job", "GPU", "time", "rests upon", "USD/h", "USD", right=numbers)
    for label, group in _groups(jobs).items():
        table.add_row(
            words(label),
            words(group[0].gpu or "none"),
            duration(sum(job.seconds for job in group)),
            words(_basis(group)),
            f"{_hourly(group[0], prices):.2f}",
            dollars(total(group)),
        )
    table.add_section()
    seconds = duration(sum(job.seconds for job in jobs))
    table.add_row(words("total", "bold"), "", seconds, "", "", dollars(total(jobs)))
    make_console().print(table)
    over = total(jobs) - settings["budget"]
    verdict = f"that is {dollars(over)} USD too much, and the run is refused" if over > 0 else "the run fits"
    print(
        f"\nPrices of {prices.date} ({prices.file}). modal.budget is {settings['budget']:g} USD: {verdict}."
    )
    print(
        f"Times are those of containers, up to {settings['containers']} side by side. Planned are the start "
        "of each container with its model, and each job once; more is paid for retries (modal.retries: "
        f"{settings['retries']}) and while containers wait for work (modal.idle: {settings['idle']} s, "
        f"{dollars(waiting(jobs, settings))} USD for all of them once)."
    )


def _groups(jobs: Sequence["PlannedJob"]) -> dict[str, list["PlannedJob"]]:
    """The rows of a plan: shards of one thing together; by rule where there are too many."""
    named = {job.name: job for job in jobs}
    rows = {label: [named[name] for name in names] for label, names in fold_shards(named).items()}
    if len(rows) <= MOST_ROWS:
        return rows
    rules: dict[str, list[PlannedJob]] = {}
    for job in jobs:
        label = job.name if job.is_start else job.rule
        rules.setdefault(label, []).append(job)
    return {
        label if group[0].is_start else f"{label} ({many(len(group), 'job')})": group
        for label, group in rules.items()
    }


def _basis(group: Sequence["PlannedJob"]) -> str:
    """What the seconds of a row rest upon; where its jobs differ, that of the longest."""
    longest = max(group, key=lambda job: job.seconds).basis
    alike = len({job.basis for job in group}) == 1
    return longest if alike else f"the longest: {longest}"


def _hourly(job: "PlannedJob", prices: "Prices") -> float:
    """USD per hour of a job's container."""
    return round(3600 * prices.per_second(job.gpu, job.cpu, job.memory), 4)


def _actual(options: argparse.Namespace) -> int:
    from probeline.compute.plan import read_plan
    from probeline.lineage.graph import read_lineage

    lineage = read_lineage()
    facts, everything = cost_facts(lineage, options.target)
    planned = read_plan()
    facts["artifacts"] = {record.name: _paid(record, planned) for record in everything}
    if options.json:
        print_json(facts)
    else:
        _print_paid(facts["artifacts"])
        print_sums(facts)
    return warn_of_gaps(lineage, everything)


def _paid(record: "Record", planned: Mapping[str, Any]) -> dict[str, Any]:
    """What a job took, beside what was planned for it, if it ran on Modal."""
    cost, plan = record.cost, planned.get(record.name)
    remote = cost["backend"] != "local"
    return {
        "rule": record.rule,
        "backend": cost["backend"],
        "gpu": cost.get("gpu"),
        "seconds": cost["seconds"],
        "gpu_seconds": cost.get("gpuSeconds") or 0,
        "usd": cost.get("usd") or 0,
        "planned_seconds": plan["seconds"] if remote and plan else None,
        "planned_usd": plan["usd"] if remote and plan else None,
    }


def _print_paid(artifacts: Mapping[str, Mapping[str, Any]]) -> None:
    numbers = ("time", "planned time", "GPU time", "USD", "planned USD")
    table = make_table("artifact", "where", *numbers, right=numbers)
    for label, members in fold_shards(artifacts).items():
        paid = [artifacts[name] for name in members]
        places = dict.fromkeys(" ".join(filter(None, (one["backend"], one["gpu"]))) for one in paid)
        planned = all(one["planned_usd"] is not None for one in paid)
        table.add_row(
            words(label),
            words(", ".join(places)),
            duration(sum(one["seconds"] for one in paid)),
            duration(sum(one["planned_seconds"] for one in paid)) if planned else "",
            duration(sum(one["gpu_seconds"] for one in paid))
            if any(one["gpu_seconds"] for one in paid)
            else "0",
            dollars(sum(one["usd"] for one in paid)),
            dollars(sum(one["planned_usd"] for one in paid)) if planned else "",
        )
    make_console().print(table)
    print()


def _reference(options: argparse.Namespace) -> int:
    from probeline.compute.cost_tables import read_cost_table
    from probeline.compute.prices import read_prices

    prices = read_prices()
    table = read_cost_table(options.table, prices)
    if options.json:
        sums = ("sum_usd", "sum_today", "usd", "today") if table.reserve is not None else ()
        facts = {name: getattr(table, name) for name in sums}
        print_json(asdict(table) | facts | {"prices": prices.date})
        return 0
    print(table.title)
    make_console().print(_reference_table(table))
    if table.perplexities:
        stages = (f"{stage} {_span(span, 'g')}" for stage, span in table.perplexities.items())
        print(
            f"\nPerplexities that it expects: {', '.join(stages)}. Those measured are in REPORT.md of "
            "results/evaluation/adapters/<recipe>."
        )
    print(f"\nToday is at the prices of {prices.date} ({prices.file}), cores and memory included.")
    return 0


def _reference_table(table: "CostTable") -> "Table":
    numbers = ("time", "USD/h", "USD", "it says", "USD today")
    shown = make_table("stage", "GPU", *numbers, right=numbers)
    for stage in table.stages:
        shown.add_row(
            words(stage.name),
            words(stage.gpu or "none"),
            _hours(stage),
            f"{stage.count * stage.price:.2f}",
            _span(stage.usd),
            _span(stage.states) if stage.states else "",
            _span(stage.today),
        )
    if table.reserve is not None:
        shown.add_section()
        shown.add_row(words("total", "bold"), "", "", "", _span(table.sum_usd), "", _span(table.sum_today))
        label = f"with {table.reserve:.0%} reserve"
        shown.add_row(words(label, "bold"), "", "", "", _span(table.usd), "", _span(table.today))
    return shown


def _hours(stage: "Stage") -> str:
    low, high = stage.hours
    if high > 1:
        return f"{_span((low, high))} h"
    return f"{_span((60 * low, 60 * high), '.0f')} min"


def _span(span: "Span", form: str = ".2f") -> str:
    """`10 to 15`; one value where both ends are the same."""
    low, high = (format(end, form) for end in span)
    return high if low == high else f"{low} to {high}"


def _refresh(options: argparse.Namespace) -> int:
    from probeline.compute.prices import refresh_prices

    prices = refresh_prices()
    if options.json:
        print_json({"date": prices.date, "gpus": prices.gpus, "cpu": prices.cpu, "memory": prices.memory})
        return 0
    table = make_table("", "USD/s", "USD/h", right=("USD/s", "USD/h"))
    for name, price in {**prices.gpus, "core": prices.cpu, "GiB": prices.memory}.items():
        table.add_row(words(name), f"{price:.9f}".rstrip("0"), f"{3600 * price:.3f}")
    make_console().print(table)
    print(
        f"\nThe prices of your account on {prices.date}, kept in {prices.file}; they go before the project's."
    )
    return 0
