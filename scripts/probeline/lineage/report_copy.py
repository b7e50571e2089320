"""`probeline report`: the report, with what was measured, as one file to send to people."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probeline.errors import ProbelineError
from probeline.lineage.cost import COST_COLUMNS, cost_cells, cost_facts, cost_line
from probeline.lineage.times import COLUMNS, NUMBERS, read_times, times_rows
from probeline.reports.estimates import many
from probeline.visible import safe

if TYPE_CHECKING:
    from probeline.lineage.graph import Lineage
    from probeline.lineage.times import RuleTimes

REPORT = Path("results/report.html")
OUTPUT = Path("exported/report.html")
BEGIN, END = '<section id="measured">', "</section>"
"""What stands for the measurements in the report: its own bytes must not depend on a clock."""
EXAMPLES = """\
examples:
  snakemake --cores 4 report                      makes results/report.html
  probeline report                                exported/report.html, with time, cost and root digest
  probeline report --output exported/for-alice.html

Links to data lead to ../results and ../data: they work where the copy lies in a folder beside those.
"""


def add_command(commands: Any) -> None:
    """Declare the command.

    Args:
        commands: the subparsers of the command line.
    """
    parser = commands.add_parser(
        "report",
        help="the report with time, cost and root digest, as one file to send",
        description="Copy results/report.html, checked against its record, and put into it what was "
        "measured: time by rule, cost from the records, and the digest over all of them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, metavar="FILE", help=f"where to (default {OUTPUT})"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from probeline.files import write_bytes
    from probeline.lineage.graph import read_lineage
    from probeline.lineage.matching import require_as_recorded

    if not REPORT.is_file():
        raise ProbelineError(f"{REPORT} has not been made. Make it with: snakemake --cores 4 {REPORT}")
    if options.output.resolve() == REPORT.resolve():
        raise ProbelineError(f"{REPORT} is the report itself. Name another --output, such as {OUTPUT}.")
    require_as_recorded(REPORT)
    lineage = read_lineage()
    lineage.require_records()
    if lineage.faults:
        raise ProbelineError("\n".join([*lineage.faults.values(), "What is not valid cannot be added up."]))
    page = with_measures(REPORT.read_text(encoding="utf-8"), measured(lineage, read_times()))
    write_bytes(options.output, page.encode())
    print(f"{options.output}: {REPORT} with time, cost and records")


def with_measures(page: str, body: str) -> str:
    """The report with what was measured, in the place that it has for it.

    Args:
        page: that `write_report` made.
        body: HTML that goes there.

    Raises:
        ProbelineError: the page has no such place.
    """
    before, found, rest = page.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ProbelineError(
            f"{REPORT} has no section for what was measured: it is no page of write_report's. "
            f"Delete it and run snakemake --cores 4 {REPORT}"
        )
    return f"{before}{BEGIN}\n{body}{END}{after}"


def measured(lineage: "Lineage", times: Sequence["RuleTimes"]) -> str:
    """HTML with time, cost and root digest.

    Args:
        lineage: all records, every one valid.
        times: of `read_times`.
    """
    from probeline.lineage.root import root_digest

    facts, everything = cost_facts(lineage, ())
    costs = [[rule, *cost_cells(summed)] for rule, summed in facts["rules"].items()]
    costs.append(["total", *cost_cells(facts["total"])])
    by_rule = _table(("rule", *COST_COLUMNS), costs, COST_COLUMNS)
    parts = [
        "<h2>Time, cost and records</h2>\n",
        "<p>As measured where this copy was made; everything else on this page is the same wherever the same "
        "inputs go through the same code.</p>\n",
        "<h3>Where the time went</h3>\n",
        _table(COLUMNS, times_rows(times), NUMBERS) if times else "",
        "<p class=faint>The last run of each job in this folder, as Snakemake measured it; jobs ran side by "
        "side. A job of a fraction of a second has no memory measured.</p>\n"
        if times
        else "<p>No job ran in this folder: what is shown came from elsewhere.</p>\n",
        "<h3>What it took to make what is there now</h3>\n",
        f"<p>{cost_line(everything)}, wherever they ran, as their records say. Not in it: attempts that "
        "failed, containers that waited, and what was replaced since.</p>\n",
        f"<details><summary>By rule</summary>\n{by_rule}</details>\n",
        "<h3>Records</h3>\n",
        f"<p>{many(len(lineage.records), 'lineage record')} with the root digest "
        f"<code>{root_digest(lineage)}</code>. Whoever has the same records gets the same digest with "
        "<code>probeline audit root</code>; <code>probeline audit verify</code> says whether everything is "
        "what they say.</p>\n",
    ]
    return "".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str]) -> str:
    """In the order of its rows, as durations in words cannot be sorted by a click; without empty columns."""
    shown = [column for column, _ in enumerate(head) if {row[column] for row in rows} - {"", "0"}]

    def line(tag: str, cells: Sequence[str]) -> str:
        inner = (
            f"<{tag} class=number>{safe(cells[column]).replace(' ', '&nbsp;')}</{tag}>"
            if head[column] in numbers
            else f"<{tag}>{safe(cells[column])}</{tag}>"
            for column in shown
        )
        return f"<tr>{''.join(inner)}</tr>\n"

    body = "".join(line("td", row) for row in rows)
    return (
        f'<div class="scroll"><table><thead>{line("th", head)}</thead>\n<tbody>{body}</tbody></table></div>\n'
    )
