"""`probeline audit reproduce`: the same artifact once more, from the raw logs, in a clean checkout."""

import argparse
from pathlib import Path
from typing import Any

from probeline.lineage.commands import add_configfile, add_json, make_console

EXAMPLES = """\
examples:
  probeline audit reproduce results/probes/trust_lr_l22       is it bit-identical when made again?
  probeline audit reproduce --cores 8 trust_lr_l22
  probeline audit reproduce --json trust_lr_l22 > reproduced.json

exit status: 0 where everything that leads to the target is bit-identical; 1 where anything differs, or on
an error.
"""


def add_command(queries: Any) -> None:
    """Declare the command.

    Args:
        queries: the subparsers of `probeline audit`.
    """
    parser = queries.add_parser(
        "reproduce",
        help="make an artifact again from the raw logs, in a clean checkout, and compare",
        description="Check out the recorded commit in a folder of its own, run the recorded config from "
        "the raw logs on, and compare every artifact on the way with its record.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="TARGET", help="an artifact, a file in it, or its name")
    parser.add_argument("--cores", type=int, default=2, help="cores for the run (default 2)")
    parser.add_argument(
        "--dirty",
        action="store_true",
        help="take the sources as they lie here instead of the recorded commit; they must be those that ran",
    )
    add_configfile(parser, "says where the folders outside this one are that the records call raw/…")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="a new folder to run in, which is kept")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from probeline.errors import ProbelineError
    from probeline.lineage.graph import read_lineage
    from probeline.lineage.reproduction import reproduce

    if options.cores < 1:
        raise ProbelineError(f"--cores is {options.cores}; give at least 1.")
    lineage = read_lineage()
    record = lineage.find(options.target)
    result = reproduce(lineage, record, options.cores, options.dirty, options.configfile, options.keep)
    if options.json:
        print(json.dumps(asdict(result) | {"identical": result.identical}, indent=2))
    else:
        _print(result)
    return 0 if result.identical else 1


def _print(result: Any) -> None:
    from rich.text import Text

    from probeline.reports.estimates import many
    from probeline.text import plain_text

    console = make_console()

    def say(words: str, style: str = "") -> None:
        console.print(Text(plain_text(words), style), soft_wrap=True)

    say(f"{result.target}, made again from the raw logs {result.sources} in {result.seconds:.0f} s")
    for name, how in result.models.items():
        say(f"  model {name}: {how}")
    for words in result.environment:
        say(f"  other than recorded: {words}")
    same = [comparison for comparison in result.artifacts if not comparison.differences]
    if result.identical:
        say(f"Bit-identical: {many(len(same), 'artifact')} made again, the target among them.", "green")
        return
    say(
        f"Not the same: {len(same)} of {len(result.artifacts)} made again bit-identical.",
        "red",
    )
    first, *others = [comparison for comparison in result.artifacts if comparison.differences]
    say(f"First: {first.artifact} ({first.rule}{', on a GPU' if first.gpu else ''})")
    for words in first.differences:
        say(f"  {words}")
    if others:
        say("Then, made from it or after it: " + ", ".join(comparison.artifact for comparison in others))
    if first.gpu:
        say("It is work of a GPU, for which no class of equality is declared yet: only equal bits count.")
