"""`probeline audit graph`: the lineage as a picture, as a page, or as a short tree on the terminal."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probeline.lineage.commands import add_json, make_console
from probeline.lineage.folding import Node, fold
from probeline.lineage.graph import Lineage, parent_names, read_lineage
from probeline.lineage.records import Record
from probeline.lineage.terminal import kind_of, line, print_json, warn_of_gaps
from probeline.text import plain_text

if TYPE_CHECKING:
    from rich.tree import Tree

EXAMPLES = """\
examples:
  probeline audit graph                                  everything, as a tree
  probeline audit graph trust_lr_l22                     what it was made from and what was made from it
  probeline audit graph --html lineage.html              a page to search, click and follow
  probeline audit graph trust_lr_l22 --svg lineage.svg   a picture for a paper

The page needs no network. Link into it by name: lineage.html#results/probes/trust_lr_l22, and to a game in it
by lineage.html#&game=baseline/game7.

exit status: 0; 1 where a record is missing or is none (the others are shown), or the target has none.
"""


def add_command(queries: Any) -> None:
    """Declare `graph`."""
    parser = queries.add_parser(
        "graph",
        help="the lineage as a picture",
        description="Draw what was made from what: without a target everything that has a record, else all "
        "above and below it. Shards of one thing are one box.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "target", nargs="?", metavar="TARGET", help="an artifact, or the last part of its path"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page for a browser")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a picture")
    add_json(parser)
    parser.set_defaults(run=_graph)


def _graph(options: argparse.Namespace) -> int:
    from probeline.lineage.page import page
    from probeline.lineage.picture import svg

    lineage = read_lineage()
    lineage.require_records()
    records = shown_records(lineage, options.target)
    nodes = fold(lineage, records)
    target = "" if options.target is None else lineage.find(options.target).name
    if options.html is not None:
        _write(options.html, page(lineage, records, nodes, target))
    if options.svg is not None:
        _write(options.svg, svg(nodes, next((node.name for node in nodes if target in node.members), "")))
    if options.json:
        print_json(_as_json(lineage, records))
    elif options.html is None and options.svg is None:
        _print_tree(nodes)
    return warn_of_gaps(lineage, records)


def shown_records(lineage: Lineage, target: str | None) -> list[Record]:
    """All records, or those above and below a target; what something was made from stands before it."""
    if target is None:
        return lineage.ancestors(lineage.records.values())
    record = lineage.find(target)
    chosen = {found.name for found in [*lineage.ancestors([record]), *lineage.descendants([record])]}
    return [found for found in lineage.ancestors(lineage.records.values()) if found.name in chosen]


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    print(f"{plain_text(str(path))}: {len(text.encode()) / 1000:,.0f} kB", file=sys.stderr)


def _as_json(lineage: Lineage, records: Sequence[Record]) -> dict[str, Any]:
    return {
        "artifacts": [
            {
                "path": record.name,
                "kind": kind_of(record.name),
                "rule": record.rule,
                "made_from": parent_names(record),
                "files_read": [d.name for d in record.dependencies if d.record is None],
            }
            for record in records
        ],
        "faults": lineage.faults,
        "missing": lineage.missing(records),
    }


def _print_tree(nodes: Sequence[Node]) -> None:
    """What nothing was made from yet, each with all that it was made from below it."""
    from rich.tree import Tree

    by_name = {node.name: node for node in nodes}
    parents = {parent for node in nodes for parent in node.parents}
    drawn: set[str] = set()
    console = make_console()
    # Records that name each other in a circle are forged: they are shown last, from any of them on.
    for node in sorted(nodes, key=lambda node: node.name in parents):
        if node.name not in drawn:
            tree = Tree(_line(node))
            _grow(tree, node, by_name, drawn)
            console.print(tree)


def _grow(tree: "Tree", node: Node, by_name: dict[str, Node], drawn: set[str]) -> None:
    """Hang what a node was made from below it; what stands elsewhere already is only named again."""
    drawn.add(node.name)
    direct = [by_name[parent] for parent in node.parents]
    # What comes by way of another parent stands there.
    longer = {name for parent in direct for name in _above(parent, by_name) - {parent.name}}
    for parent in sorted(direct, key=lambda parent: (-parent.column, parent.name)):
        if parent.name in longer:
            continue
        if parent.name in drawn and parent.parents:
            tree.add(_line(parent).append("  (its origin: see above)", "dim"))
        else:
            _grow(tree.add(_line(parent)), parent, by_name, drawn)


def _above(node: Node, by_name: dict[str, Node]) -> set[str]:
    found: set[str] = set()
    pending = list(node.parents)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += by_name[name].parents
    return found


def _line(node: Node) -> Any:
    count = "" if len(node.members) == 1 else f"  {len(node.members):,}"
    return line(node.name, (count, "bold"), (f"  {node.kind}", "dim"))
