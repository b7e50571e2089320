"""`probeline audit trace`: the way up from an artifact, as a tree."""

import argparse
from typing import TYPE_CHECKING, Any

from probeline.lineage.commands import add_json, make_console

if TYPE_CHECKING:
    from probeline.lineage.graph import Lineage
    from probeline.lineage.records import Record

EXAMPLES = """\
examples:
  probeline audit trace trust_lr_l22                       a probe, by its name
  probeline audit trace results/activations/trust/shard-0-of-4
  probeline audit trace --full trust_lr_l22                every shard, source and log by itself
  probeline audit trace --json trust_lr_l22 > trace.json

exit status: 0; 1 where a record is missing or is none.
"""


def add_command(queries: Any) -> None:
    """Declare the command.

    Args:
        queries: the subparsers of `probeline audit`.
    """
    parser = queries.add_parser(
        "trace",
        help="the way up: logs, code, params, model, environment and cost of an artifact",
        description="What an artifact was made from, down to the raw logs, as a tree.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="TARGET", help="an artifact, a file in it, or its name")
    parser.add_argument("--full", action="store_true", help="fold nothing: every shard, source and raw log")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from probeline.lineage.graph import read_lineage
    from probeline.lineage.terminal import print_json, warn_of_gaps
    from probeline.lineage.trace_tree import trace_tree

    lineage = read_lineage()
    record = lineage.find(options.target)
    if options.json:
        print_json(trace_facts(lineage, record))
    else:
        make_console().print(trace_tree(lineage, record, options.full))
    return warn_of_gaps(lineage, [record])


def trace_facts(lineage: "Lineage", record: "Record") -> dict[str, Any]:
    """The same for a program: the artifact and all above it, each after what it was made from."""
    return {
        "target": record.name,
        "missing": lineage.missing([record]),
        "artifacts": [_facts(one) for one in lineage.ancestors([record])],
    }


def _facts(record: "Record") -> dict[str, Any]:
    source = record.other_dependency("source")
    lock = record.other_dependency("lock")
    return {
        "artifact": record.name,
        "rule": record.rule,
        "wildcards": record.wildcards,
        "params": {key: value for key, value in record.params.items() if key != "code"},
        "code": record.code,
        "outputs": [
            {"path": subject.name, "digest": subject.sha256, "bytes": subject.bytes}
            for subject in record.subjects
        ],
        "games": {split: sorted(games) for split, games in record.games.items()},
        "inputs": [
            {"path": d.name, "role": d.role, "sha256": d.sha256, "record": d.record}
            for d in record.dependencies
        ],
        "lock": lock and lock["digest"]["sha256"],
        "commit": source and source["digest"]["gitCommit"],
        "dirty": source and source["annotations"]["dirty"],
        "environment": record.environment,
        "cost": record.cost,
    }
