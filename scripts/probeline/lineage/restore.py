"""`probeline restore`: after a clone, a checkout or a pull, Snakemake knows again what is done."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probeline.lineage.commands import add_configfile
from probeline.lineage.lock import hold_workflow_lock
from probeline.text import plain_text

if TYPE_CHECKING:
    from probeline.lineage.restoration import Restored

EXAMPLES = """\
examples:
  git clone … && dvc pull && probeline restore        all that was pulled
  git switch other && dvc checkout && probeline restore
  probeline restore trust_lr_l22                      this probe and what it was made from
  probeline restore --configfile mine.yaml            the corpora lie where mine.yaml says

Every file is read once and compared with its record; then Snakemake is told what the records say. An edit
that was made before, or is made later, is seen by Snakemake, as if everything had been made here.
The exit status is 1 where something is not what its record says, or the raw logs are not where the config
says. Snakemake will make that again.
"""


def add_command(commands: Any) -> None:
    """Declare the command.

    Args:
        commands: the subparsers of the command line.
    """
    parser = commands.add_parser(
        "restore",
        help="after git clone or checkout and dvc pull or checkout: verify, and let Snakemake know",
        description="Verify artifacts that were made elsewhere against their records, and let Snakemake know "
        "what they were made from.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help="artifacts, with all above them (default: everything)"
    )
    add_configfile(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.set_defaults(run=_restore)


def _restore(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from probeline.config import load_config
    from probeline.lineage.graph import read_lineage
    from probeline.lineage.places import written_roots
    from probeline.lineage.raw_inputs import homes_of, raw_inputs, unseen
    from probeline.lineage.restoration import restore

    config = load_config(options.configfile)
    # What a run is making must not be looked at.
    hold_workflow_lock(Path(".snakemake/probeline.lock"))
    lineage = read_lineage()
    named = [lineage.find(target) for target in options.targets]
    records = lineage.ancestors(named or lineage.records.values())
    found = restore(lineage, records, written_roots(config))
    used = [lineage.records[name] for name in (*found.restored, *found.fine)]
    found.unseen = unseen(raw_inputs(lineage, lineage.ancestors(used), homes_of(config)))
    if options.json:
        print(json.dumps(asdict(found), indent=2))
    else:
        _show(found)
    return 1 if found.refused or found.unseen else 0


def _show(found: "Restored") -> None:
    """Counts, then by name what will be made again, and why."""
    from rich.table import Table
    from rich.text import Text

    from probeline.lineage.commands import make_console
    from probeline.reports.estimates import many

    console = make_console()
    counts = Table.grid(padding=(0, 2))
    counts.add_column(justify="right")
    rows = {
        "restored: verified, and Snakemake knows": found.restored,
        "already fine": found.fine,
        "not here": found.absent,
        "refused: not what the record says": found.refused,
    }
    for meaning, names in rows.items():
        if names:
            counts.add_row(str(len(names)), meaning)
    if counts.row_count:
        console.print(counts)
    else:
        console.print("There are no records under data/ and results/: nothing to restore.", soft_wrap=True)
    for name, why in found.refused.items():
        console.print(Text.assemble(("refused ", "bold red"), plain_text(f"{name}: {why}")), soft_wrap=True)
    for name, inputs in found.outdated.items():
        more = f" and {len(inputs) - 1} more" if len(inputs) > 1 else ""
        line = plain_text(f"{name}: {inputs[0]}{more} changed since")
        console.print(Text.assemble(("outdated ", "bold yellow"), line), soft_wrap=True)
    for home, count in found.unseen.items():
        line = plain_text(f"{home}: {many(count, 'file')} not compared; name the run's config with ")
        words = Text.assemble(("not here ", "bold yellow"), line, "--configfile mine.yaml")
        console.print(words, soft_wrap=True)
    if found.future:
        more = f" and {len(found.future) - 1} more" if len(found.future) > 1 else ""
        says = f"{found.future[0]}{more}: modified in the future, says the file system. Snakemake fails jobs"
        line = plain_text(f"{says} that read what is: `touch` it.")
        console.print(Text.assemble(("future ", "bold yellow"), line), soft_wrap=True)
    if found.refused or found.outdated:
        console.print("Snakemake will make these again, and what was made from them.")
