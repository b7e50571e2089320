"""`probeline audit verify`: is everything what its record says?"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from probeline.errors import ProbelineError
from probeline.lineage.commands import add_configfile, add_json, make_console

EPILOG = """\
states:
  ok          every file is what its record says, and so is everything above it
  changed     the content differs from what was recorded
  missing     a file, an artifact or a record is gone
  unrecorded  nothing says where it comes from
  edited      a record is not the one that was written
  re-issued   made again with the same content after others were made from it: no fault
  not here    raw logs that lie on another machine, not checked: no fault

The exit status is 0, or 1 if there is any fault.

examples:
  probeline audit verify                                 everything under data/ and results/
  probeline audit verify trust_lr_l22                    a probe, and all that it was made from
  probeline audit verify --rehash --json > verify.json   reads every byte again

Files whose size, times and inode are those of the last time are not read again; --rehash reads them all.
"""


def add_command(queries: Any) -> None:
    """Declare the command."""
    parser = queries.add_parser(
        "verify",
        help="is everything what its record says?",
        description="Check every record and every file, up to the raw logs, against what was recorded.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "target", nargs="*", metavar="TARGET", help="an artifact, a folder of them, or a name (default: all)"
    )
    parser.add_argument("--rehash", action="store_true", help="read every file again")
    add_configfile(parser)
    parser.add_argument(
        "--threads", type=int, metavar="N", help="files read at a time (default: one per core)"
    )
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from probeline.lineage.findings import show
    from probeline.lineage.graph import read_lineage
    from probeline.lineage.verification import verify

    threads = len(os.sched_getaffinity(0)) if options.threads is None else options.threads
    if threads < 1:
        raise ProbelineError(f"--threads is {threads}; give at least 1.")
    config = _config(options.configfile)
    report = verify(read_lineage(), options.target, config, options.rehash, threads)
    if options.json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        show(report, make_console())
    return 1 if report.faults else 0


def _config(files: Sequence[Path]) -> dict[str, Any] | None:
    """The settings; None where this folder has none: what lies in it can be checked all the same."""
    from probeline.config import DEFAULT_CONFIG, load_config

    if not files and not DEFAULT_CONFIG.exists():
        return None
    return load_config(files)
