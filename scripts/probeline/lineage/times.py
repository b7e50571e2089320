"""`probeline times`: where the time of runs went, by rule, from Snakemake's benchmarks of the jobs."""

import argparse
import csv
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from probeline.errors import ProbelineError
from probeline.lineage.commands import add_json, make_console
from probeline.lineage.cost import duration
from probeline.lineage.terminal import make_table, print_json, words

BENCHMARKS = Path("benchmarks")
EXAMPLES = """\
examples:
  probeline times                 where the time went, the slowest rule first
  probeline times --json > times.json

exit status: 0; 1 where no job has been measured here.
"""
NOTHING = (
    "No job has been measured here: benchmarks/ holds the times of jobs that ran in this folder, and none "
    "has run yet. Artifacts that came from elsewhere have theirs in their records: probeline audit cost."
)


@dataclass(frozen=True)
class RuleTimes:
    """The last run of each job of a rule.

    Attributes:
        rule: its name.
        jobs: how many were measured.
        seconds: of all of them; side by side they took less.
        median: seconds of a job.
        longest: seconds of the slowest one.
        slowest: that job, as `werewolf/shard-0-of-4`.
        processor_seconds: of all of them, as far as they were long enough to be sampled.
        peak_bytes: most memory of a job; None where none was long enough to be sampled.
    """

    rule: str
    jobs: int
    seconds: float
    median: float
    longest: float
    slowest: str
    processor_seconds: float
    peak_bytes: int | None


def add_command(commands: Any) -> None:
    """Declare the command.

    Args:
        commands: the subparsers of the command line.
    """
    parser = commands.add_parser(
        "times",
        help="where the time of runs went, by rule",
        description="Seconds and memory of the jobs that ran in this folder, by rule: the last run of each "
        "job, as Snakemake measured it. What waited for Modal counts as it was waited for here; what was "
        "paid for there: probeline cost --actual.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    times = read_times()
    if not times:
        raise ProbelineError(NOTHING)
    if options.json:
        print_json([asdict(rule) for rule in times])
    else:
        _print_times(times)
    return 0


def read_times(folder: Path = BENCHMARKS) -> list[RuleTimes]:
    """What was measured, the rule that took longest first; empty where nothing was.

    Args:
        folder: holds `<rule>/<job>.tsv`.

    Raises:
        ProbelineError: a file there is no benchmark.
    """
    jobs: dict[str, dict[str, dict[str, str]]] = {}
    for file in sorted(folder.glob("*/**/*.tsv")):
        rule, *job = file.relative_to(folder).with_suffix("").parts
        jobs.setdefault(rule, {})["/".join(job)] = _measured(file)
    return sorted((_of_rule(rule, measured) for rule, measured in jobs.items()), key=lambda r: -r.seconds)


def _measured(file: Path) -> dict[str, str]:
    """The one row of a benchmark."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    if len(rows) != 1 or _number(rows[0].get("s")) is None:
        raise ProbelineError(
            f"{file} is no benchmark of Snakemake's. Delete it; the next run of its job writes it."
        )
    return rows[0]


def _of_rule(rule: str, jobs: dict[str, dict[str, str]]) -> RuleTimes:
    seconds = {job: _number(row["s"]) or 0.0 for job, row in jobs.items()}
    slowest = max(seconds, key=lambda job: seconds[job])
    peaks = [peak for row in jobs.values() if (peak := _number(row.get("max_rss"))) is not None]
    return RuleTimes(
        rule=rule,
        jobs=len(jobs),
        seconds=round(sum(seconds.values()), 4),
        median=round(statistics.median(seconds.values()), 4),
        longest=seconds[slowest],
        slowest=slowest,
        processor_seconds=round(sum(_number(row.get("cpu_time")) or 0.0 for row in jobs.values()), 4),
        peak_bytes=round(max(peaks) * 2**20) if peaks else None,  # Snakemake counts in MiB
    )


def _number(cell: str | None) -> float | None:
    """A cell's number; None for `NA` and `-`, which stand where a job was too short to be sampled."""
    try:
        return float(cell or "")
    except ValueError:
        return None


COLUMNS = ("rule", "jobs", "time", "share", "median", "longest", "memory", "longest job")
NUMBERS = COLUMNS[1:7]


def times_rows(times: Sequence[RuleTimes]) -> list[list[str]]:
    """What stands below `COLUMNS`: a row for each rule, and one for all."""
    everything = sum(rule.seconds for rule in times)
    rows = [
        [
            rule.rule,
            f"{rule.jobs:,}",
            duration(rule.seconds),
            f"{rule.seconds / everything:.0%}" if everything else "",
            duration(rule.median),
            duration(rule.longest),
            "" if rule.peak_bytes is None else f"{rule.peak_bytes / 2**20:,.0f} MiB",
            rule.slowest,
        ]
        for rule in times
    ]
    return [*rows, ["total", f"{sum(rule.jobs for rule in times):,}", duration(everything), *[""] * 5]]


def _print_times(times: Sequence[RuleTimes]) -> None:
    table = make_table(*COLUMNS, right=NUMBERS)
    *rules, total = times_rows(times)
    for row in rules:
        table.add_row(*map(words, row))
    table.add_section()
    table.add_row(words(total[0], "bold"), *total[1:])
    make_console().print(table)
