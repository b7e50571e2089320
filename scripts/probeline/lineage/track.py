"""`probeline track`: hand artifacts to DVC."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from probeline.errors import ProbelineError
from probeline.text import plain_text

EXAMPLES = """\
examples:
  probeline track                       pointers for what is new or changed; then: git add -A && git commit
  probeline track --push                and copy it all to the remote
  probeline track --prune               and drop the pointers of what is gone

Exit status 1: an artifact was refused, or the remote lacks something. docs/versions.md says more.
"""
LIST_EXAMPLES = """\
examples:
  probeline list                        the probes and adapters of this working copy
  probeline list --remote               which of them the remote holds
  probeline list --rev origin/main      those of another revision; get NAME --rev origin/main downloads one
"""
MOST = 10
"""Names that are listed; the rest is counted (--json has all)."""
WIDTH = 200
"""Of a table that goes into a file: nothing is cut."""


def add_command(commands: Any) -> None:
    """Declare the command."""
    track = commands.add_parser(
        "track",
        help="version artifacts and raw logs with DVC",
        description="Hand every new or changed artifact with a valid record, and the raw logs, to DVC in one "
        "batch, and keep metrics/ and dvc.yaml current. Artifacts stay as they are. Where there is no DVC "
        "repository, one is made, with the folder ../<name>-dvc as its remote.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    track.add_argument("--push", action="store_true", help="then copy everything to the default remote")
    track.add_argument("--prune", action="store_true", help="remove pointers of artifacts that are gone")
    track.add_argument("--json", action="store_true", help="print one JSON object instead")
    track.set_defaults(run=_track)


def add_list_command(commands: Any) -> None:
    """Declare `probeline list`."""
    listing = commands.add_parser(
        "list",
        help="the probes and adapters that there are, here, at a git revision or in the remote",
        description="Name, kind, date (UTC), a probe's AUROC on the test games, and where each probe and "
        "adapter is. Figures come from git, so nothing has to be downloaded.",
        epilog=LIST_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = listing.add_mutually_exclusive_group()
    where.add_argument("--rev", metavar="REV", help="as of this commit, branch or tag")
    where.add_argument("--remote", action="store_true", help="ask the remote which of them it holds whole")
    listing.add_argument("--json", action="store_true", help="print one JSON array instead")
    listing.set_defaults(run=_list_made)


def _track(options: argparse.Namespace) -> int:
    from probeline.lineage import dvc_repository
    from probeline.lineage.lock import WORKFLOW, hold_workflow_lock
    from probeline.lineage.versions import track

    hold_workflow_lock(WORKFLOW)
    made = None
    if dvc_repository.repository_root() is None:
        if not Path("Snakefile").exists():
            raise ProbelineError("There is no Snakefile here; run this in the folder of the Snakefile.")
        made = dvc_repository.make_repository()
    tracked = track(options.prune)
    tracked.remote = made
    lacking = dvc_repository.push(tracked.sound) if options.push else {}
    if options.json:
        print(json.dumps(asdict(tracked) | {"not_pushed": lacking}, indent=2, sort_keys=True))
        return int(bool(tracked.refused or lacking))
    if made:
        print(f"A DVC repository was made; its remote is {made}.")
    for title, paths in (
        ("new", tracked.new),
        ("changed", tracked.changed),
        ("same content, another record", tracked.renoted),
    ):
        _list(title, paths)
    print(
        f"{len(tracked.unchanged):,} unchanged" + (f", {tracked.absent:,} not here" if tracked.absent else "")
    )
    for corpus, reason in tracked.left.items():
        print(plain_text(f"corpus {corpus} is not versioned: {reason}"))
    if tracked.orphans:
        noun = "pointer" if len(tracked.orphans) == 1 else "pointers"
        title = f"{noun} removed" if tracked.pruned else "gone, with a pointer left (--prune)"
        _list(title, tracked.orphans)
    for path, reason in tracked.refused.items():
        print(plain_text(f"refused: {path}: {reason}"), file=sys.stderr)
    for name, state in lacking.items():
        print(plain_text(f"not pushed: {name} ({state})"), file=sys.stderr)
    if options.push and not lacking:
        print("The remote holds everything that is tracked.")
    return int(bool(tracked.refused or lacking))


def _list(title: str, paths: list[str]) -> None:
    if paths:
        print(f"{len(paths):,} {title}:")
        print("\n".join(plain_text(f"  {path}") for path in paths[:MOST]))
        if len(paths) > MOST:
            print(f"  and {len(paths) - MOST:,} more")


def _list_made(options: argparse.Namespace) -> int:
    from rich.table import Table
    from rich.text import Text

    from probeline.lineage.catalogue import as_rows, list_made, stored_paths
    from probeline.probes.show import make_console

    made, faults = list_made(options.rev)
    stored = stored_paths(made) if options.remote else set()
    for fault in faults:
        print(plain_text(fault), file=sys.stderr)
    if options.json:
        held = [{"in_remote": one.path in stored} if options.remote else {} for one in made]
        print(json.dumps([asdict(one) | more for one, more in zip(made, held, strict=True)], indent=2))
    elif not made:
        at = f" at {plain_text(options.rev)}." if options.rev else " here yet."
        print("No probe or adapter has a record" + at)
    else:
        columns = [
            "name",
            "kind",
            "made (UTC)",
            "held-out figures",
            "better text",
            "here",
            "versioned",
        ]
        table = Table(box=None, pad_edge=False)
        for column in [*columns, *(["in the remote"] if options.remote else [])]:
            table.add_column(column, no_wrap=True)
        for one, row in zip(made, as_rows(made), strict=True):
            cells = ["yes" if one.path in stored else "no"] if options.remote else []
            table.add_row(*(Text(plain_text(cell)) for cell in [*row, *cells]))
        console = make_console()
        if not console.is_terminal:
            console.width = WIDTH
        console.print(table)
    return int(bool(faults))
