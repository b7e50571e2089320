"""`probeline audit stale`: made with other code, params, lock file, inputs or model than the present ones."""

import argparse
from typing import TYPE_CHECKING, Any

from probeline.lineage.commands import add_configfile, add_json, make_console

if TYPE_CHECKING:
    from probeline.lineage.graph import Lineage
    from probeline.lineage.records import Record

EXAMPLES = """\
examples:
  probeline audit stale                                    everything that has a record
  probeline audit stale trust_lr_l22                       a probe and all that it rests upon
  probeline audit stale --configfile mine.yaml             against the config of that run
  probeline audit stale --code                             code and lock file alone: no Snakemake, no config

exit status: 0; 1 where something is stale, or a record is missing.
"""


def add_command(queries: Any) -> None:
    """Declare the command.

    Args:
        queries: the subparsers of `probeline audit`.
    """
    parser = queries.add_parser(
        "stale",
        help="made with other code, params, lock file, inputs or model than the present ones",
        description="Compares each record with what the workflow would use now, and with the templates and "
        "raw logs that are here. Whether artifacts were changed since is for `probeline audit verify` to "
        "say.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", nargs="*", metavar="TARGET", help="artifacts (default: all)")
    parser.add_argument("--code", action="store_true", help="compare code, lock file and inputs alone")
    add_configfile(parser)
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from probeline.lineage.graph import read_lineage
    from probeline.lineage.inputs_now import input_reasons, other_config, present_config
    from probeline.lineage.terminal import print_json, warn_of_gaps
    from probeline.lineage.workflow_state import ask

    lineage = read_lineage()
    lineage.require_records()
    targets = [lineage.find(target) for target in options.target]
    checked = lineage.ancestors(targets or lineage.records.values())
    present = {} if options.code or not checked else ask(checked, options.configfile)["present"]
    config = None if options.code else present_config(options.configfile)
    changed, absent = input_reasons(lineage, checked, config)
    found = stale(lineage, checked, present, changed)
    facts = {
        "checked": len(checked),
        "other_config": other_config(_made_otherwise(checked, found["stale"]), config),
        **found,
        "not_compared": [] if options.code else absent,
    }
    if options.json:
        print_json(facts)
    else:
        _print(facts)
    gaps = warn_of_gaps(lineage, checked, origins=False)
    return 1 if facts["stale"] else gaps


def _made_otherwise(checked: "list[Record]", found: dict[str, list[str]]) -> "list[Record]":
    """Those that are stale by what a config says."""
    concerned = ("param ", "inputs: ", "config: ")
    return [one for one in checked if any(text.startswith(concerned) for text in found.get(one.name, ()))]


def stale(
    lineage: "Lineage", checked: "list[Record]", present: dict[str, Any], changed: dict[str, list[str]]
) -> dict[str, Any]:
    """Artifacts with the reasons why they are stale, and those that only rest upon such.

    Args:
        lineage: all records.
        checked: of what is asked about, each after what it was made from.
        present: artifact → what `workflow_state.ask` says of it; empty without Snakemake.
        changed: artifact → what `inputs_now.input_reasons` says of it.
    """
    from probeline.lineage.graph import parent_names
    from probeline.lineage.present import reasons_now

    found: dict[str, list[str]] = {}
    below: list[str] = []
    for record in checked:
        reasons = reasons_now(lineage, record, present.get(record.name))
        reasons += changed.get(record.name, [])
        if reasons:
            found[record.name] = reasons
        elif any(name in found or name in below for name in parent_names(record)):
            below.append(record.name)
    return {"stale": found, "rests_on_stale": below}


def _print(facts: dict[str, Any]) -> None:
    from probeline.lineage.terminal import family, family_label, line, make_table, words
    from probeline.reports.estimates import many

    console = make_console()
    if facts["other_config"]:
        console.print(line((facts["other_config"], "yellow")))
    groups: dict[tuple[str, str], list[str]] = {}
    for name, reasons in facts["stale"].items():
        groups.setdefault((family(name), "\n".join(reasons)), []).append(name)
    if groups:
        table = make_table("stale", "made with other")
        for (_, _), names in groups.items():
            reasons = facts["stale"][names[0]]
            cell = words(reasons[0])
            for reason in reasons[1:]:
                cell.append("\n").append_text(words(reason))
            table.add_row(words(family_label(names)), cell)
        console.print(table)
    rest = facts["rests_on_stale"]
    if rest:
        console.print(line(f"{many(len(rest), 'other artifact')} rest upon these."))
    for text in facts["not_compared"]:
        console.print(line(text))
    checked = many(facts["checked"], "artifact")
    if groups:
        console.print(line((f"{len(facts['stale']):,} of {checked} stale.", "bold red")))
    else:
        console.print(f"{checked} checked: made with the present code, params, lock file and inputs.")
