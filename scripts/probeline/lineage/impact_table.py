"""The answer of `audit impact` at a terminal."""

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console

from probeline.lineage.commands import make_console
from probeline.lineage.terminal import family, family_label, kind_of, line, make_table, words
from probeline.reports.estimates import many

MOST_ROWS, MOST_NAMED = 12, 6
"""Artifacts of one kind and split that are named, and of more than these the first."""


def print_impact(facts: dict[str, Any], full: bool = False) -> None:
    """Print the facts of `impact.game_impact` or `impact.path_impact`.

    Args:
        facts: what to print.
        full: name every artifact.
    """
    console = make_console()
    if "file" in facts:
        console.print(line(("file  ", "cyan"), (facts["file"], "bold")))
    for row in facts.get("quarantined", ()):
        console.print(line(("quarantine  ", "yellow"), f"{row['artifact']}: {row['file']}, {row['reason']}"))
    if "made_from_it" in facts:
        _print_made(console, facts["made_from_it"])
    else:
        _print_game(console, facts, full)


def _print_made(console: Console, made: list[dict[str, str]]) -> None:
    if not made:
        console.print("Nothing with a record was made from it.")
        return
    table = make_table("kind", "made from it", "how")
    for members in _folded((row["artifact"], row["how"]) for row in made):
        names, (how,) = [name for name, _ in members], {how for _, how in members}
        table.add_row(words(kind_of(names[0])), words(family_label(names)), words(how))
    console.print(table)
    console.print(many(len(made), "artifact"))


def _folded(rows: Iterable[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Shards of one thing together where the rest of their rows is the same."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, rest in rows:
        groups.setdefault((family(name), rest), []).append((name, rest))
    return list(groups.values())


def _print_game(console: Console, facts: dict[str, Any], full: bool) -> None:
    console.print(line(("game  ", "cyan"), (", ".join(facts["game"]), "bold")))
    console.print(line(("content  ", "cyan"), ", ".join(facts["content"]) or "no table has read it"))
    if len(facts["game"]) > 1:
        console.print(line(("The same game has several names: these are copies of one another.", "yellow")))
    for copy, kept in sorted(facts["copies_left_out"].items()):
        console.print(line(("copy  ", "cyan"), f"{copy}, left out when the logs were read: as {kept}"))
    for file in facts["raw_logs"]:
        console.print(line(("raw log  ", "cyan"), file))
    console.print()
    several = len(facts["game"]) > 1
    if facts["contained_in"]:
        table = make_table("kind", "contained in", "split", *(["as"] if several else []))
        for cells in _rows(facts["contained_in"], full):
            table.add_row(*map(words, cells if several else cells[:3]))
        console.print(table)
    count = len({row["artifact"] for row in facts["contained_in"]})
    console.print(f"{many(count, 'artifact')} {'contains' if count == 1 else 'contain'} it.")
    if facts["rests_on_the_same_files"]:
        console.print()
        table = make_table("kind", "rests on the same files, does not contain the game")
        for members in _folded((name, "") for name in facts["rests_on_the_same_files"]):
            names = [name for name, _ in members]
            table.add_row(words(kind_of(names[0])), words(family_label(names)))
        console.print(table)


def _rows(found: list[dict[str, str]], full: bool) -> Iterator[tuple[str, str, str, str]]:
    """Kind, artifact, split and name; of many alike the first few, and how many more there are."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for row in found:
        split = "" if row["split"] == "all" else row["split"]
        groups.setdefault((kind_of(row["artifact"]), split, row["as"]), []).append(row["artifact"])
    for (kind, split, name), artifacts in groups.items():
        shown = artifacts if full or len(artifacts) <= MOST_ROWS else artifacts[:MOST_NAMED]
        for artifact in shown:
            yield kind, artifact, split, name
        if len(artifacts) > len(shown):
            yield kind, f"and {len(artifacts) - len(shown):,} more (--full)", split, name
