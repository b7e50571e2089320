"""What a corpus holds and what each concept would get from it, without a model."""

from collections import Counter
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probeline.datasets.concepts import concept_notes
from probeline.datasets.contexts import Event
from probeline.datasets.dialogues import Selector, Tally, game_split, read_game_rows, read_games
from probeline.datasets.role_mask import UNKNOWN_ROLE
from probeline.progress import progress
from probeline.reports.estimates import many
from probeline.schema import EVENT_TYPES, SPLITS
from probeline.text import plain_text

if TYPE_CHECKING:
    from rich.table import Table


def data_check(
    corpus: Path,
    concepts: Mapping[str, Mapping[str, Any]],
    splits: Mapping[str, Any],
    seed: int,
    min_samples: int,
) -> dict[str, Any]:
    """Count the interactions of a corpus, and the samples that every concept would get.

    Args:
        corpus: folder with the corpus's `events.parquet` and `games.parquet`.
        concepts: concept → declaration; those of this corpus.
        splits: `by` (game or experiment) and the shares of train, validation and test.
        seed: the seed of the splits.
        min_samples: fewest training samples of a probe.

    Returns:
        JSON values: `corpus`, `games`, `quarantined` (logs), `interactions` (type → role → counts), and
        `concepts` (concept → counts as in the manifest of its dialogues, `notes`, `problems`: what would
        stop a probe, and `cautions`: what would leave it without a verdict).

    Raises:
        ProbelineError: a declaration is faulty, or a table is missing.
    """
    selectors = {name: Selector(name, concept) for name, concept in concepts.items()}
    columns = frozenset[str]().union(*(selector.columns for selector in selectors.values()))
    games = read_game_rows(corpus)
    tallies = {name: Tally(games=len(games)) for name in concepts}
    interactions: Counter[tuple[str, str, str]] = Counter()
    for key, events in progress(read_games(corpus, columns), "Checking games", len(games), "game"):
        for event in events:
            interactions.update(_traits(event))
        split = game_split(games[key], splits, seed)
        kinds = {event["event"]: event["type"] for event in events}
        for name, selector in selectors.items():
            labels, excluded = selector.labels(events)
            tallies[name].excluded += excluded
            tallies[name].add(split, kinds, labels)
    return {
        "corpus": corpus.name,
        "games": _games(list(games.values())),
        "quarantined": _lines(corpus / "quarantine.jsonl"),
        "interactions": _interactions(interactions),
        "concepts": {
            name: _concept(name, concepts[name], tally.facts(), splits, min_samples)
            for name, tally in tallies.items()
        },
    }


def _lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def format_check(report: Mapping[str, Any], simulated: bool = False) -> str:
    """The report as tables for a terminal, 100 characters wide.

    Args:
        report: what `data_check` returns.
        simulated: whether the games are made up, which the first line says then.
    """
    from rich.console import Console

    page = StringIO()
    # Roles come from logs: no markup, and nothing that a terminal would obey.
    console = Console(file=page, width=100, markup=False, highlight=False, color_system=None)
    games = report["games"]
    kind = "simulated game" if simulated else "game"
    read = f"{many(games['games'], kind)} of {many(games['experiments'], 'experiment')}"
    console.print(f"{plain_text(report['corpus'])}: {read}.")
    if report["quarantined"]:
        where = plain_text(f"data/processed/{report['corpus']}/quarantine.jsonl")
        console.print(f"Not read: {many(report['quarantined'], 'log')}; the reasons are in {where}")
    winners = ", ".join(f"{plain_text(winner)} {count}" for winner, count in games["winners"].items())
    console.print(f"Winners as logged: {winners or 'none'}. Aborted: {games['aborted']}.")
    console.print(
        f"With llm_log.txt: {games['with_log']}. "
        f"Vote tallies reproduced: {games['tallies_matched']} of {games['tallies']}.\n"
    )
    console.print(_interaction_table(report["interactions"]))
    for name, concept in report["concepts"].items():
        console.print(_concept_table(name, concept))
        for reason, count in concept["excluded"].items():
            console.print(f"left out: {count} ({reason})")
        for note in concept["notes"]:
            console.print(f"note: {note}")
        for caution in concept["cautions"]:
            console.print(f"caution: {caution}")
        for problem in concept["problems"]:
            console.print(f"problem: {problem}")
        console.print()
    return page.getvalue()


def _traits(event: Event) -> list[tuple[str, str, str]]:
    role = event["actor_role"] or (UNKNOWN_ROLE if event["actor"] else "nobody")
    names = ["events"]
    if event["target"] is not None:
        names.append("with_target")
    if event["same_team"] is not None:
        names.append("same_team" if event["same_team"] else "different_team")
    if not event["valid"]:
        names.append("invalid")
    return [(event["type"], role, name) for name in names]


INTERACTION_COUNTS = ("events", "with_target", "same_team", "different_team", "invalid")


def _interactions(counts: Counter[tuple[str, str, str]]) -> dict[str, dict[str, dict[str, int]]]:
    roles = sorted({(kind, role) for kind, role, _ in counts})
    return {
        kind: {
            role: {name: counts[kind, role, name] for name in INTERACTION_COUNTS}
            for found, role in roles
            if found == kind
        }
        for kind in EVENT_TYPES
        if any(found == kind for found, _ in roles)
    }


def _games(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "games": len(rows),
        "experiments": len({row["experiment"] for row in rows}),
        "aborted": sum(row["aborted"] for row in rows),
        "with_log": sum(row["has_log"] for row in rows),
        "winners": dict(sorted(Counter(row["winner"] for row in rows).items())),
        "tallies": sum(row["tallies"] for row in rows),
        "tallies_matched": sum(row["tallies_matched"] for row in rows),
    }


def _concept(
    name: str,
    concept: Mapping[str, Any],
    facts: dict[str, Any],
    splits: Mapping[str, Any],
    min_samples: int,
) -> dict[str, Any]:
    problems = []
    training = facts["splits"]["train"]["samples"]
    if training < min_samples:
        problems.append(
            f"Not enough data: {training} training samples, at least {min_samples} are needed "
            "(evaluation.min_samples). Add games, let the concept take more event types, or give train a "
            "larger share (splits)."
        )
    for split, counts in facts["splits"].items():
        positives, negatives = counts["positives"], counts["samples"] - counts["positives"]
        if not positives or not negatives:
            problems.append(
                f"Not enough data: {split} has {positives} positive and {negatives} negative samples of "
                f"{counts['games']} games. Add games, or change splits (by: {splits['by']})."
            )
    return {
        "context": concept["context"],
        "mask": concept["mask"],
        **facts,
        "notes": concept_notes(name, concept),
        "problems": problems,
        "cautions": [] if problems else _cautions(facts["splits"]["test"]),
    }


def _cautions(test: Mapping[str, int]) -> list[str]:
    """What the evaluation would say of so few test games, before anything is computed."""
    from probeline.probes.evaluate import is_small

    positives, negatives = test["positives"], test["samples"] - test["positives"]
    if not is_small({"num_games": test["games"], "num_positive": positives, "num_negative": negatives}):
        return []
    return [
        f"{many(test['games'], 'test game')} with {positives} positive and {negatives} negative samples are "
        "too few for a verdict. Add games, or give test a larger share (splits); for more samples of a game, "
        "let the concept take more event types."
    ]


def _interaction_table(interactions: Mapping[str, Any]) -> "Table":
    table = _table("Interactions", ["type", "role"], [name.replace("_", " ") for name in INTERACTION_COUNTS])
    for kind, roles in interactions.items():
        for role, counts in roles.items():
            table.add_row(kind, plain_text(role), *(str(counts[name]) for name in INTERACTION_COUNTS))
    return table


def _concept_table(name: str, concept: Mapping[str, Any]) -> "Table":
    title = f"{name} (context {concept['context']}, mask {concept['mask']})"
    table = _table(title, ["split"], ["games", "samples", "positive", "negative", "share positive"])
    everything = {
        "games": sum(concept["splits"][split]["games"] for split in SPLITS),
        "samples": concept["samples"],
        "positives": concept["positives"],
    }
    for split, counts in {**concept["splits"], "all": everything}.items():
        samples, positives = counts["samples"], counts["positives"]
        share = f"{100 * positives / samples:.1f} %" if samples else "none"
        cells = (counts["games"], samples, positives, samples - positives, share)
        table.add_row(split, *(str(cell) for cell in cells))
    return table


def _table(title: str, names: list[str], numbers: list[str]) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right")
    return table
