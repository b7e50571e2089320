"""The lineage made small enough for a picture: what differs by shard alone, or in name alone, is one node."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import PurePosixPath

from probeline.lineage.graph import Lineage
from probeline.lineage.records import Record
from probeline.lineage.terminal import SHARD, kind_of

MOST_SIBLINGS = 8
"""More artifacts than these that one rule made of the same become one node."""
SOURCES = "sources"


@dataclass
class Node:
    """What stands as one box in the picture.

    Attributes:
        name: the artifact's path; of several a pattern with `*`.
        kind: what it is: sources, logs, tables, dialogues, models, activations, probes, …
        members: paths of the artifacts, or of the files that no rule made.
        parents: names of the nodes that it was made from.
        column: its place from left to right, counted from 0.
    """

    name: str
    kind: str
    members: list[str]
    parents: list[str] = field(default_factory=list)
    column: int = 0

    @property
    def label(self) -> str:
        """Its name without what its kind says already."""
        parts = PurePosixPath(self.name).parts
        if self.kind in ("logs", "tables", "dialogues", "activations") and "shard-" in parts[-1]:
            parts = parts[:-1]
        if self.kind == "tables" and parts[-1] == "shards":
            parts = parts[:-1]
        if self.kind == SOURCES and parts[:1] in (("raw",), ("data",), ("config",)):
            return "/".join(parts[1:])
        return parts[-1]


def fold(lineage: Lineage, records: Sequence[Record]) -> list[Node]:
    """The nodes of a picture, each after what it was made from, with their columns.

    Args:
        lineage: all records.
        records: those to show, of which each stands after its parents (see `Lineage.ancestors`).
    """
    shards = _grouped((record.name, SHARD.sub(r"shard-*-of-\1", record.name)) for record in records)
    shown = {record.name: record for record in records}
    node_of = {member: name for name, members in shards.items() for member in members}
    nodes, sources = {}, dict[str, list[str]]()
    for name, members in shards.items():
        # One that is alone keeps its own name.
        nodes[name] = Node(name if len(members) > 1 else members[0], kind_of(members[0]), members)
        for member in members:
            for parent in [record.name for record in lineage.parents(shown[member])]:
                _add(nodes[name].parents, node_of.get(parent), name)
            for dependency in shown[member].dependencies:
                if dependency.record is None:
                    place = _source_of(dependency.name)
                    sources.setdefault(place, [])
                    _add(sources[place], dependency.name)
                    _add(nodes[name].parents, place)
    for place, files in sources.items():
        nodes[place] = Node(place, SOURCES, sorted(files))
    nodes = _fold_siblings(nodes, {name: shown[members[0]].rule for name, members in shards.items()})
    return _in_columns(nodes)


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for member, group in pairs:
        groups.setdefault(group, []).append(member)
    return groups


def _add(names: list[str], name: str | None, own: str = "") -> None:
    if name is not None and name != own and name not in names:
        names.append(name)


def _source_of(file: str) -> str:
    """The folder that stands for a file that no rule made: a corpus, a model, or the file alone."""
    parts = PurePosixPath(file).parts
    deep = 3 if parts[:2] in (("data", "raw"), ("raw", "models"), ("raw", "adapters")) else 2
    return "/".join(parts[:deep]) if parts[0] in ("raw", "data") and len(parts) > deep else file


def _fold_siblings(nodes: dict[str, Node], rules: dict[str, str]) -> dict[str, Node]:
    """One node for many of one rule and one kind that were made of the same."""
    alike = _grouped(
        (key, repr((rules[key], node.kind, sorted(node.parents))))
        for key, node in nodes.items()
        if key in rules and len(node.members) == 1
    )
    renamed: dict[str, str] = {}
    folded = dict(nodes)
    for siblings in alike.values():
        if len(siblings) > MOST_SIBLINGS:
            members = sorted(nodes[key].members[0] for key in siblings)
            ends = zip(members[0], members[-1], strict=False)
            name = "".join(one for one, other in takewhile(lambda pair: pair[0] == pair[1], ends)) + "*"
            while name in folded:
                name += "*"
            renamed |= dict.fromkeys(siblings, name)
            for key in siblings:
                del folded[key]
            folded[name] = Node(name, nodes[siblings[0]].kind, members, nodes[siblings[0]].parents)
    names = {key: renamed.get(key, node.name) for key, node in nodes.items()}
    for node in folded.values():
        node.parents = list(dict.fromkeys(names[parent] for parent in node.parents))
    return {node.name: node for node in folded.values()}


def _in_columns(nodes: dict[str, Node]) -> list[Node]:
    """The nodes in the order of their columns: one to the right of the last thing that it was made from."""
    done: dict[str, Node] = {}
    waiting = dict(sorted(nodes.items()))
    while waiting:
        ready = [node for node in waiting.values() if not any(parent in waiting for parent in node.parents)]
        # Records that name each other in a circle are forged; the picture shows them all the same.
        for node in ready or list(waiting.values())[:1]:
            above = [done[parent].column for parent in node.parents if parent in done]
            node.column = max(above, default=-1) + 1
            done[node.name] = node
            del waiting[node.name]
    children: dict[str, list[int]] = {}
    for node in done.values():
        for parent in node.parents:
            children.setdefault(parent, []).append(node.column)
    for node in done.values():
        # What was made from nothing stands right before its first use.
        if not node.parents and children.get(node.name):
            node.column = max(min(children[node.name]) - 1, 0)
    return sorted(done.values(), key=lambda node: (node.column, _natural(node.name)))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts layer 9 before layer 10."""
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d{1,18})", name)]
