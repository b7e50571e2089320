"""`probeline audit export`: the records as a crate that other tools read."""

import argparse
import sys
from pathlib import Path
from typing import Any

from probeline.errors import ProbelineError
from probeline.files import atomic_directory
from probeline.lineage.commands import add_json
from probeline.lineage.graph import read_lineage
from probeline.text import plain_text

EXAMPLES = """\
examples:
  probeline audit export --ro-crate crate                       all records, artifacts by digest
  probeline audit export --ro-crate crate trust_lr_l22          one probe and all that it was made from
  probeline audit export --ro-crate crate --with-data trust_lr_l22
                                                                 the same, with the artifacts' files

exit status: 0; 1 where nothing was written, for example because a file is not what its record says.
"""


def add_command(queries: Any) -> None:
    """Declare `export`."""
    parser = queries.add_parser(
        "export",
        help="the lineage as a Provenance Run RO-Crate",
        description="Write a Provenance Run RO-Crate (Process, Workflow and Provenance Run Crate 0.5): every "
        "job as an action with its parameters, inputs and results by digest, and the records themselves.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help="artifacts, with all above them (default: all)"
    )
    parser.add_argument(
        "--ro-crate", type=Path, required=True, metavar="DIR", help="a folder that does not exist yet"
    )
    parser.add_argument(
        "--with-data",
        action="store_true",
        help="copy the artifacts too, each file checked against its record",
    )
    add_json(parser)
    parser.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    from probeline.lineage.run_crate import write_crate
    from probeline.lineage.terminal import print_json

    lineage = read_lineage()
    lineage.require_records()
    if lineage.faults:
        path, fault = next(iter(lineage.faults.items()))
        raise ProbelineError(
            f"{fault} Nothing was exported: a crate says where everything comes from. ({path} is one of "
            f"{len(lineage.faults)} such records.)"
        )
    chosen = [lineage.find(target) for target in options.targets] or list(lineage.records.values())
    missing = lineage.missing(chosen)
    if missing:
        raise ProbelineError(
            f"{missing[0]} has no record. Nothing was exported: a crate says where everything comes from. "
            f"Take its record from git again. (It is one of {len(missing)} such artifacts.)"
        )
    for record in lineage.ancestors(chosen):
        for name in lineage.superseded(record):
            raise ProbelineError(
                f"{record.name} was made from an earlier version of {name}, whose record is not here. "
                "Nothing was exported: a crate says where everything comes from. Run "
                f"snakemake --cores 4 {record.name} first, or check out the commit that has both."
            )
    if options.ro_crate.exists():
        raise ProbelineError(f"{options.ro_crate} exists already. Name a folder that does not.")
    records = lineage.ancestors(chosen)
    with atomic_directory(options.ro_crate) as draft:
        write_crate(draft, lineage, records, options.with_data)
    what = "with their files" if options.with_data else "by digest"
    print(f"{plain_text(str(options.ro_crate))}: {len(records):,} artifacts, {what}", file=sys.stderr)
    if options.json:
        artifacts = [record.name for record in records]
        print_json({"crate": str(options.ro_crate), "with_data": options.with_data, "artifacts": artifacts})
    return 0
