"""The commands of lineage: `probeline track`, `list`, `restore`, `cost`, `times`, `report` and `audit …`.

Each lies in a module of its name, whose `add_command` declares its options; what it needs is imported when
it runs. A command returns its exit status: 0, or 1 where it found a fault.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probeline.errors import ProbelineError
from probeline.lineage.graph import PLACES

if TYPE_CHECKING:
    from rich.console import Console


LINEAGE = ("track", "list", "restore", "audit", "cost", "times", "report")
"""The commands that read records."""
AUDIT_EXAMPLES = """\
examples:
  probeline audit verify                              is everything what its record says?
  probeline audit trace trust_lr_l22                  where does it come from?
  probeline audit impact game:baseline/game7          what would be gone without this game?
"""


def add_lineage_commands(commands: Any) -> None:
    """Declare the commands.

    Args:
        commands: the subparsers of the command line.
    """
    # Here, as these modules use what is below.
    from probeline.lineage import (
        cost,
        cost_commands,
        export,
        impact,
        leakage,
        report_copy,
        reproduce,
        restore,
        retract,
        root,
        show_graph,
        stale,
        times,
        trace,
        track,
        verify,
        why,
    )

    track.add_command(commands)
    track.add_list_command(commands)
    restore.add_command(commands)
    cost_commands.add_cost_command(commands)
    times.add_command(commands)
    report_copy.add_command(commands)
    audit = commands.add_parser(
        "audit",
        help="ask the records where an artifact comes from, and whether it is what they say",
        description="Questions to the lineage records beside the artifacts.",
        epilog=AUDIT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    queries = audit.add_subparsers(dest="query", required=True, metavar="QUERY")
    for part in (
        *(verify, trace, impact, why, leakage, stale, cost),
        *(reproduce, retract, show_graph, export, root),
    ):
        part.add_command(queries)


def require_project() -> None:
    """Refuse to answer where there can be no records: silence would pass for a good answer.

    Raises:
        ProbelineError: this is neither the folder of a Snakefile nor one with artifacts.
    """
    if not any(map(os.path.exists, ("Snakefile", *PLACES))):
        raise ProbelineError("There is no Snakefile here; run this in the folder of the Snakefile.")


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option that all queries share."""
    parser.add_argument("--json", action="store_true", help="print one JSON value instead")


def add_configfile(parser: argparse.ArgumentParser, meaning: str = "laid over config/config.yaml") -> None:
    """The option of the commands that must know the config of the run."""
    parser.add_argument(
        "--configfile", nargs="+", action="extend", type=Path, default=[], metavar="FILE", help=meaning
    )


def make_console() -> "Console":
    """Standard output, with no number coloured; a character that its encoding lacks becomes a number."""
    from probeline.probes import show

    return show.make_console(highlight=False)
