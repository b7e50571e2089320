"""The answer of `audit why` at a terminal."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.tree import Tree

from probeline.lineage.commands import make_console
from probeline.lineage.present import change_text
from probeline.lineage.record_differences import ABSENT, Change
from probeline.lineage.terminal import family, family_label, fold_shards, line, lines, short
from probeline.reports.estimates import many

MOST = 6
"""Files or games named one by one."""
NOT_SHOWN = ("outputs", "games", "inputs", "commit")


def print_why(facts: dict[str, Any], full: bool = False) -> None:
    """Print the facts of `why`.

    Args:
        facts: what to print.
        full: name every game.
    """
    console = make_console()
    between, now = facts["between"], facts["now"]
    if facts.get("other_config"):
        console.print(line((facts["other_config"], "yellow")))
    if "note" in between:
        console.print(lines(between["note"]))
    elif between:
        console.print(line(("from  ", "cyan"), between["old"]))
        console.print(line(("to    ", "cyan"), between["new"]))
        tree = Tree(_title([between["tree"]]), guide_style="dim")
        _fill(tree, [between["tree"]], full)
        console.print(tree)
    console.print()
    if "fault" in now:
        console.print(lines(now["fault"], "red"))
    else:
        _print_now(console, now)


def _title(nodes: list[dict[str, Any]]) -> Any:
    return line((family_label([node["artifact"] for node in nodes]), "bold"))


def _fill(tree: Tree, nodes: list[dict[str, Any]], full: bool) -> None:
    """The branches of one artifact, or of shards of one that changed in the same way."""
    first = nodes[0]
    if "fault" in first:
        tree.add(lines(first["fault"], "red"))
        return
    if "differences" not in first:
        tree.add(line(("as above", "dim")))
        return
    if all(node["same_record"] for node in nodes):
        tree.add(line("the same record in both"))
        return
    found = first["differences"]
    outputs = {change["name"]: change for node in nodes for change in node["differences"]["outputs"]}
    files = Counter(name.rpartition("/")[2] for name in outputs)
    tree.add(line(("result  ", "cyan"), ", ".join(_times(files)) if files else "the same bytes"))
    own = {kind: found[kind] for kind in ("params", "code", "lock", "environment") if found[kind]}
    for kind, changes in own.items():
        for change in changes[:MOST]:
            text = change_text(change) if kind != "code" else _file_text(change)
            tree.add(line((f"{kind}  ", "yellow"), text))
        if len(changes) > MOST:
            tree.add(line((f"{kind}  ", "yellow"), f"{len(changes) - MOST:,} more"))
    games = {change["name"]: change for node in nodes for change in node["differences"]["games"]}
    if games:
        tree.add(line(("games  ", "cyan"), _games_text(list(games.values()), full)))
    _add_inputs(tree, nodes, full)
    if not own and not any(node["differences"]["inputs"] for node in nodes):
        commits = found["commit"]
        tree.add(
            line("made anew from the same" + (f", at commit {short(commits[0]['new'])}" if commits else ""))
        )


def _add_inputs(tree: Tree, nodes: list[dict[str, Any]], full: bool) -> None:
    raw = {
        change["name"]: change
        for node in nodes
        for change in node["differences"]["inputs"]
        if change["artifact"] is None or ABSENT in (change["old"], change["new"])
    }
    texts = list(dict.fromkeys(map(_input_text, raw.values())))
    for text in texts[:MOST]:
        tree.add(line(("input  ", "yellow"), text))
    if len(texts) > MOST:
        tree.add(line(("input  ", "yellow"), f"{many(len(texts) - MOST, 'more file')}"))
    groups: dict[str, list[dict[str, Any]]] = {}
    for parent in {above["artifact"]: above for node in nodes for above in node["above"]}.values():
        groups.setdefault(f"{family(parent['artifact'])} {_signature(parent)}", []).append(parent)
    for parents in groups.values():
        _fill(tree.add(_title(parents)), parents, full)


def _signature(node: Mapping[str, Any]) -> str:
    """What must be equal for shards to stand together."""
    found = node.get("differences", {})
    own = {kind: changes for kind, changes in found.items() if kind not in NOT_SHOWN}
    return json.dumps(
        [own, node.get("fault"), node.get("same_record"), "differences" in node, len(node.get("above", []))],
        default=str,
    )


def _times(files: Counter[str]) -> list[str]:
    return [name if count == 1 else f"{count} x {name}" for name, count in sorted(files.items())]


def _file_text(change: Change) -> str:
    if change["old"] == ABSENT:
        return f"{change['name']} (new)"
    return f"{change['name']} ({'gone' if change['new'] == ABSENT else 'changed'})"


def _input_text(change: Change) -> str:
    """A file that no rule made by its name; an artifact that is no input of both by its family's."""
    if change["artifact"] is None:
        return _file_text(change)
    return _file_text(change | {"name": family(change["artifact"])})


def _games_text(changes: list[Change], full: bool) -> str:
    """Games that came, went or moved to another split; many are counted."""
    if len(changes) > MOST and not full:
        return _games_counted(changes)
    words = []
    for change in changes:
        if change["old"] == ABSENT:
            words.append(f"+ {change['name']} in {change['new']}")
        elif change["new"] == ABSENT:
            words.append(f"- {change['name']} from {change['old']}")
        else:
            words.append(f"{change['name']}: {change['old']} → {change['new']}")
    return ", ".join(words)


def _games_counted(changes: list[Change]) -> str:
    """`12 games gone: 9 train, 2 test, 1 validation; 1 game new: 1 train (--full)`."""
    counts: dict[str, Counter[str]] = {}
    for change in changes:
        if change["old"] == ABSENT:
            counts.setdefault("new", Counter())[change["new"]] += 1
        elif change["new"] == ABSENT:
            counts.setdefault("gone", Counter())[change["old"]] += 1
        else:
            counts.setdefault("moved", Counter())[f"{change['old']} → {change['new']}"] += 1
    return (
        "; ".join(
            f"{many(splits.total(), 'game')} {verb}: "
            + ", ".join(f"{count:,} {split}" for split, count in splits.most_common())
            for verb, splits in counts.items()
        )
        + " (--full)"
    )


def _print_now(console: Console, now: dict[str, Any]) -> None:
    reruns, follow = now["reruns"], now["follow"]
    if not reruns and not follow:
        console.print("snakemake would rerun nothing for it now.")
    else:
        count = many(len(reruns) + len(follow), "job")
        tree = Tree(line((f"snakemake would run {count} for it now", "bold")), guide_style="dim")
        _add_reasons(tree, reruns)
        if follow:
            names = fold_shards(follow)
            branch = tree.add(line(f"{many(len(follow), 'job')} because of these"))
            for name in names:
                branch.add(line(name))
        console.print(tree)
    if now["differ"]:
        tree = Tree(line(("no reason for snakemake to rerun, but not as it would be made now", "yellow")))
        _add_reasons(tree, now["differ"])
        console.print(tree)


def _add_reasons(tree: Tree, reasons: Mapping[str, list[str]]) -> None:
    groups: dict[str, list[str]] = {}
    for name, texts in reasons.items():
        groups.setdefault("\n".join([family(name), *texts]), []).append(name)
    for names in groups.values():
        branch = tree.add(line((family_label(names), "bold")))
        for text in reasons[names[0]]:
            branch.add(lines(text))
