"""`probeline audit leakage`: no game is in the training side of a model and in the data that evaluates it."""

import argparse
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from probeline.lineage.commands import add_json, make_console

if TYPE_CHECKING:
    from rich.console import Console

    from probeline.lineage.graph import Lineage
    from probeline.lineage.records import Record

EXAMPLES = """\
examples:
  probeline audit leakage                                  everything that was tested
  probeline audit leakage trust_lr_l22                     one probe, and the adapters below it
  probeline audit leakage --texts trust_lr_l22             also copies cut short or continued

Games are compared by the digest of their content, whatever their name and the formatting of their logs.
--texts compares what the model read, too: it reads the dialogues themselves.

exit status: 0; 1 where a game is on both sides, a record or (--texts) the dialogues are missing, or nothing
says which games a model was trained or tested on.
"""
TEST = "test"
TRANSFER = "evaluate_transfer"
SWEEP = "sweep_probes"
DATA = ("logs", "tables", "dialogues", "models", "activations")
"""Kinds of artifacts that are given to models and are none of the games' own."""
OUTSIDE = ("adapter", "folders")
"""Inputs that are adapters of the user's where they have no record."""
EVALUATIONS = ("probes", "sweeps", "evaluation", "adapters")
"""Kinds that have games; one that shows none cannot be judged."""


def add_command(queries: Any) -> None:
    """Declare the command.

    Args:
        queries: the subparsers of `probeline audit`.
    """
    parser = queries.add_parser(
        "leakage",
        help="no game is both in a model's training and in its test, whatever its name",
        description="Looks for games that a model was trained or validated on and that it is tested on: by "
        "content, in the artifact itself and in every model that it rests upon.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", nargs="*", metavar="TARGET", help="probes, transfers, … (default: all)")
    parser.add_argument("--texts", action="store_true", help="also compare what the model read")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from probeline.lineage.graph import read_lineage
    from probeline.lineage.terminal import print_json, warn_of_gaps

    lineage = read_lineage()
    lineage.require_records()
    targets = [lineage.find(target) for target in options.target]
    asked = [one for one in targets or lineage.records.values() if is_judged(one) or _lacks_games(one)]
    judged = [record for record in asked if is_judged(record)]
    facts = {
        "checked": [record.name for record in judged],
        "not_evaluations": [record.name for record in targets if record not in asked],
        "found": [finding for record in judged for finding in leaks(lineage, record)],
        "left_out": {record.name: count for record in judged if (count := _left_out(record))},
        "unknown": unknown_models(lineage, asked),
        "near_copies": [],
        "unread": [],
    }
    if options.texts:
        from probeline.lineage.near_copies import near_copies, unread_dialogues

        facts["unread"] = unread_dialogues(lineage, judged)
        facts["near_copies"] = [pair for record in judged for pair in near_copies(lineage, record)]
    if options.json:
        print_json(facts)
    else:
        _print(facts)
    gaps = warn_of_gaps(lineage, asked)
    return 1 if any(facts[fault] for fault in ("found", "near_copies", "unknown", "unread")) else gaps


def is_judged(record: "Record") -> bool:
    """Whether an artifact evaluates something on games: a probe, a sweep, a transfer, an adapter."""
    from probeline.lineage.terminal import kind_of

    return kind_of(record.name) not in DATA and bool(record.games)


def leaks(lineage: "Lineage", record: "Record") -> Iterator[dict[str, Any]]:
    """Every game that evaluates an artifact and that it, or a model below it, was trained or validated on.

    Args:
        lineage: all records.
        record: the artifact's, see `is_judged`.
    """
    evaluated = list(evaluation(record))
    for model in models_below(lineage, record):
        trained: dict[str, list[tuple[str | None, str, str]]] = {}
        for content, split, name in training(lineage, model):
            for key in (content, f"name {name}"):
                if key:
                    trained.setdefault(key, []).append((content, split, name))
        for content, split, name in evaluated:
            alike = trained.get(content, []) if content else []
            # Where either side has no digest, the names must tell.
            named = trained.get(f"name {name}", [])
            alike = alike + [other for other in named if content is None or other[0] is None]
            for _, other_split, other in alike:
                itself = model is record
                if itself and (record.rule == TRANSFER or (record.rule == SWEEP and name >= other)):
                    continue
                yield {
                    "artifact": record.name,
                    "game": name,
                    "split": split,
                    "trained": model.name,
                    "as": other,
                    "trained_split": other_split,
                    "content": content or f"name {name}",
                }


def models_below(lineage: "Lineage", record: "Record") -> "list[Record]":
    """What was trained on games among an artifact and all that it was made from."""
    return [one for one in lineage.ancestors([record]) if one is record or is_judged(one) or _is_model(one)]


def _is_model(record: "Record") -> bool:
    """Whether it is a model or adapter, also one whose record shows no games."""
    from probeline.lineage.terminal import kind_of

    return kind_of(record.name) in ("models", "adapters")


def evaluation(record: "Record") -> Iterator[tuple[str | None, str, str]]:
    """Content, split and name of the games that evaluate an artifact.

    Those are its test games; all of a sweep, whose folds are held out in turn.
    """
    for content, split, name in _games(record):
        if split == TEST or record.rule == SWEEP:
            yield content, split, name


def training(lineage: "Lineage", record: "Record") -> Iterator[tuple[str | None, str, str]]:
    """Content, split and name of the games that a model was fitted, chosen or calibrated on."""
    for source in _sources(lineage, record):
        for content, split, name in _games(source):
            if split != TEST:
                yield content, split, name


def _sources(lineage: "Lineage", record: "Record") -> "list[Record]":
    """The records that show a model's games: one that shows none has those that it was made from."""
    return [record] if record.games or not _is_model(record) else lineage.parents(record)


def _games(record: "Record") -> Iterator[tuple[str | None, str, str]]:
    """Content, None where there is no digest of it, split and name."""
    from probeline.lineage.games import name_of

    for subject in record.subjects:
        for split, games in subject.games.items():
            for name, content in games.items():
                yield content or None, split, name_of(name, content)


def _left_out(record: "Record") -> int:
    """Games on both sides of a transfer, which leaves them out of its tests by content."""
    if record.rule != TRANSFER:
        return 0
    games = list(_games(record))
    test = {content for content, split, _ in games if split == TEST and content}
    return len(test & {content for content, split, _ in games if split != TEST})


def unknown_models(lineage: "Lineage", records: "Iterable[Record]") -> list[str]:
    """What no record says the games of: adapters from outside, and models or evaluations that show none."""
    above = lineage.ancestors(records)
    silent = {
        record.name
        for record in above
        if _lacks_games(record) and not any(source.games for source in _sources(lineage, record))
    }
    return sorted(
        silent
        | {
            dependency.name.rpartition("/")[0]
            for record in above
            for dependency in record.dependencies
            if dependency.role in OUTSIDE and dependency.record is None
        }
    )


def _lacks_games(record: "Record") -> bool:
    """Whether it is of a kind that has games, and its record shows none."""
    from probeline.lineage.terminal import kind_of

    return kind_of(record.name) in EVALUATIONS and not record.games


def _print_found(console: "Console", found: list[dict[str, Any]]) -> None:
    """A tree for each artifact: the models, and the games under both their names."""
    from rich.tree import Tree

    from probeline.lineage.terminal import line
    from probeline.reports.estimates import many

    artifacts: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in found:
        artifacts.setdefault(row["artifact"], {}).setdefault(row["trained"], []).append(row)
    for artifact, models in artifacts.items():
        games = {row["content"] for rows in models.values() for row in rows}
        tree = Tree(line((artifact, "bold"), (f"  {many(len(games), 'game')} on both sides", "bold red")))
        for model, rows in models.items():
            branch = tree.add(line("trained in  ", "itself" if model == artifact else model))
            for row in rows:
                branch.add(line(f"{row['game']} ({row['split']}) is {row['as']} ({row['trained_split']})"))
        console.print(tree)


def _print(facts: dict[str, Any]) -> None:
    from probeline.lineage.terminal import line
    from probeline.reports.estimates import many

    console = make_console()
    for name in facts["not_evaluations"]:
        console.print(line(f"{name} evaluates nothing on games: not checked."))
    _print_found(console, facts["found"])
    for pair in facts["near_copies"]:
        console.print(
            line(
                (f"near copy  {pair['shared']} of {pair['of']} inputs", "bold red"),
                f" of {pair['game']} (test of {pair['artifact']}) are word for word those of {pair['as']} "
                f"({pair['trained_split']})",
            )
        )
    for name, count in facts["left_out"].items():
        console.print(
            line(f"{name}: {many(count, 'game')} of both sides, left out of its tests (seen_in_training).")
        )
    for name in facts["unknown"]:
        console.print(line((f"{name}: no record says which games it was trained on, or tested.", "yellow")))
    for name in facts["unread"]:
        console.print(
            line((f"{name}: its dialogues are away, so that their texts were not compared.", "red"))
        )
    checked = many(len(facts["checked"]), "artifact")
    if facts["checked"] and not facts["found"] and not facts["near_copies"]:
        console.print(f"{checked} checked: no game is on both sides.")
    if not facts["checked"] and not facts["not_evaluations"]:
        console.print("0 artifacts checked: no record is of a probe, sweep, transfer or adapter with games.")
