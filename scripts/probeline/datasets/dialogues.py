"""Labelled dialogues: which events become samples, in what split, and the chats that show them."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probeline.datasets.concepts import (
    check_concept,
    concept_notes,
    filter_expression,
    label_expression,
)
from probeline.datasets.contexts import Event, View, Wording, check_wording, exclusion, views_of
from probeline.digests import split_of
from probeline.errors import ProbelineError
from probeline.files import atomic_directory, open_parquet, write_manifest, write_parquet
from probeline.progress import progress
from probeline.schema import (
    EVENTS,
    LOGGED_SCORES,
    REVEALS,
    SAMPLES,
    SEQUENCES,
    SPLITS,
    arrow_schema,
    make_table,
)

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

# Most of the table's bytes; read only where they are needed.
PROMPT_COLUMNS = frozenset(("system_prompt", "user_prompt", "response"))


class Selector:
    """Decides for every event whether a concept takes it, and with which label.

    Args:
        name: the concept's key in the config.
        concept: its declaration.

    Raises:
        ProbelineError: the declaration is faulty.
    """

    def __init__(self, name: str, concept: Mapping[str, Any]) -> None:
        check_concept(name, concept)
        self._concept = concept
        self._types = frozenset(concept["events"])
        self._filter = filter_expression(name, concept)
        self._label = label_expression(name, concept)

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the event table that the concept's expressions and context read."""
        read = self._label.columns | (self._filter.columns if self._filter else frozenset())
        return read | PROMPT_COLUMNS if self._concept["context"] == "prompt" else read

    def labels(self, events: list[Event]) -> tuple[dict[int, bool], Counter[str]]:
        """The label of each event that is taken, and how many of its types are not, by reason.

        An event without a definite answer to the filter is not taken.
        """
        labels: dict[int, bool] = {}
        excluded: Counter[str] = Counter()
        for event in events:
            if event["type"] not in self._types:
                continue
            label, reason = self._judge(event)
            if reason is None:
                labels[event["event"]] = label
            else:
                excluded[reason] += 1
        return labels, excluded

    def _judge(self, event: Event) -> tuple[bool, str | None]:
        if self._filter is not None and self._filter.evaluate(event) is not True:
            return False, "filter"
        label = self._label.evaluate(event)
        if label is None:
            return False, "label undefined"
        return label, exclusion(event, self._concept["context"], self._concept["mask"])


@dataclass
class Tally:
    """Counts of a dataset: `samples` and everything in `excluded` add up to the events of its types."""

    games: int = 0
    sequences: int = 0
    reveals: int = 0
    excluded: Counter[str] = field(default_factory=Counter)
    _games: Counter[str] = field(default_factory=Counter)
    _samples: Counter[tuple[str, str, bool]] = field(default_factory=Counter)

    def add(self, split: str, kinds: Mapping[int, str], labels: Mapping[int, bool]) -> None:
        """Count the samples of one game.

        Args:
            split: the game's split.
            kinds: number of the event → its type.
            labels: number of the event → label, for the events that are taken.
        """
        self._games[split] += bool(labels)
        self._samples.update((split, kinds[number], label) for number, label in labels.items())

    def facts(self) -> dict[str, Any]:
        """The counts as JSON values: per split, and per event type within it."""
        samples = self._samples.total()
        excluded = self.excluded.total()
        return {
            "games": self.games,
            "events": samples + excluded,
            "samples": samples,
            "positives": sum(count for (_, _, label), count in self._samples.items() if label),
            "excluded": dict(sorted(self.excluded.items())),
            "splits": {split: self._split_facts(split) for split in SPLITS},
        }

    def _split_facts(self, split: str) -> dict[str, Any]:
        own = {(kind, label): count for (part, kind, label), count in self._samples.items() if part == split}
        kinds = {
            kind: {
                "samples": own.get((kind, True), 0) + own.get((kind, False), 0),
                "positives": own.get((kind, True), 0),
            }
            for kind in sorted({kind for kind, _ in own})
        }
        return {
            "games": self._games[split],
            "samples": sum(own.values()),
            "positives": sum(count for (_, label), count in own.items() if label),
            "types": kinds,
        }


def build_dialogues(
    corpus_shard: Path,
    output: Path,
    concept_name: str,
    concept: Mapping[str, Any],
    template: Wording,
    splits: Mapping[str, Any],
    seed: int,
    *,
    role_masked: bool = False,
) -> None:
    """Make the dialogues of one shard.

    Files: `sequences.parquet`, `samples.parquet`, `reveals.parquet` (what tells players their roles, which is
    no sample; empty where the context tells none) and `manifest.json`.

    Args:
        corpus_shard: folder with the shard's `events.parquet` and `games.parquet`.
        output: the folder to make; whole or not at all.
        concept_name: the concept's key in the config.
        concept: its declaration, see `probeline.datasets.concepts`.
        template: content of the wording file that the concept names.
        splits: `by` (game or experiment) and the shares of train, validation and test.
        seed: another seed parts the games differently.
        role_masked: show the same events without what tells the actor's role, see `datasets.role_mask`.

    Raises:
        ProbelineError: the declaration or the wording is faulty, or the shard is incomplete.
    """
    selector = Selector(concept_name, concept)
    check_wording(template)
    context, mask = concept["context"], concept["mask"]
    games = read_game_rows(corpus_shard)
    tally, sequences, samples, reveals = Tally(games=len(games)), [], [], []
    stream = progress(read_games(corpus_shard, selector.columns), "Building dialogues", len(games), "game")
    for key, events in stream:
        game = games[key]
        labels, excluded = selector.labels(events)
        split = game_split(game, splits, seed)
        tally.excluded += excluded
        tally.add(split, {event["event"]: event["type"] for event in events}, labels)
        views = views_of(context, mask, game, events, labels, template, role_masked=role_masked)
        tally.sequences += len(views)
        tally.reveals += sum(bool(view.reveals) for view in views)
        sequences.append(make_table([_sequence(key, view) for view in views], SEQUENCES))
        samples.append(make_table(_samples(game, split, events, labels, views), SAMPLES))
        reveals.append(make_table([row for view in views for row in _reveals(key, view)], REVEALS))
    facts = tally.facts()
    for reason, count in facts["excluded"].items():
        logger.info("%s: %d of %d events left out: %s", concept_name, count, facts["events"], reason)
    with atomic_directory(output) as draft:
        write_parquet(draft / "sequences.parquet", _joined(sequences, SEQUENCES))
        write_parquet(draft / "samples.parquet", _joined(samples, SAMPLES))
        write_parquet(draft / "reveals.parquet", _joined(reveals, REVEALS))
        write_manifest(
            draft,
            "dialogues",
            {
                "concept": concept_name,
                "declaration": dict(concept),
                "context": context,
                "mask": mask,
                "role_masked": role_masked,
                "split_by": splits["by"],
                "counts": {**facts, "sequences": tally.sequences, "reveals": tally.reveals},
                "notes": concept_notes(concept_name, concept),
            },
        )


def game_split(game: Mapping[str, Any], splits: Mapping[str, Any], seed: int) -> str:
    """The split of a game: renamed copies fall together, and adding games moves none.

    A game of Mafia goes by what was played, as in the datasets for fine-tuning: no probe is tested on games
    that an adapter was trained on.

    Args:
        game: as `read_game_rows` gives it.
        splits: `by` (game or experiment) and the shares of train, validation and test.
        seed: another seed parts the games differently.
    """
    key = game["experiment"] if splits["by"] == "experiment" else game.get("played", game["content"])
    return split_of(key, {split: splits[split] for split in SPLITS}, seed)


def read_game_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """Game → its row of `games.parquet`; with `played`, where `actions.parquet` tells it (Mafia).

    Raises:
        ProbelineError: the table is missing.
    """
    rows = {row["game"]: row for row in open_parquet(_existing(folder / "games.parquet")).read().to_pylist()}
    actions = folder / "actions.parquet"
    if actions.is_file():
        for act in open_parquet(actions).read(columns=["game", "played"]).to_pylist():
            rows[act["game"]]["played"] = act["played"]
    return rows


def read_games(folder: Path, columns: frozenset[str]) -> Iterator[tuple[str, list[Event]]]:
    """Every game of `events.parquet` with its events in order, a few in memory at a time.

    Args:
        folder: holds the table.
        columns: columns that are needed; of PROMPT_COLUMNS only those are read.

    Raises:
        ProbelineError: the table is missing, or the events of a game do not lie together.
    """
    path = _existing(folder / "events.parquet")
    wanted = [name for name, _, _ in EVENTS if name not in PROMPT_COLUMNS - columns]
    with open_parquet(path) as file:
        batches = file.iter_batches(batch_size=1024, columns=wanted)
        rows = (row for batch in batches for row in batch.to_pylist())
        seen = set()
        for game, events in groupby(rows, key=itemgetter("game")):
            if game in seen:
                raise ProbelineError(f"{path}: the events of game {game} do not lie together. Make it again.")
            seen.add(game)
            yield game, list(events)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ProbelineError(f"{path} does not exist. Make it with: snakemake --cores 1 datasets")
    return path


def _sequence(game: str, view: View) -> dict[str, Any]:
    return {"sequence": f"{game}#{view.name}", "game": game, "messages": view.messages}


def _reveals(game: str, view: View) -> list[dict[str, Any]]:
    return [
        {
            "sequence": f"{game}#{view.name}",
            "game": game,
            "actor": view.player,
            "message": span.message,
            "start": span.start,
            "end": span.end,
            "text": view.messages[span.message]["content"][span.start : span.end],
        }
        for span in view.reveals
    ]


def _samples(
    game: Mapping[str, Any], split: str, events: list[Event], labels: Mapping[int, bool], views: list[View]
) -> list[dict[str, Any]]:
    shown_in = {number: view for view in views for number in view.spans}
    return [
        _sample(game, split, event, labels[event["event"]], shown_in[event["event"]])
        for event in events
        if event["event"] in labels
    ]


def _sample(game: Mapping[str, Any], split: str, event: Event, label: bool, view: View) -> dict[str, Any]:
    span = view.spans[event["event"]]
    return {
        "sample": f"{game['game']}#{event['event']}",
        "sequence": f"{game['game']}#{view.name}",
        **{key: game[key] for key in ("game", "content", "experiment")},
        "split": split,
        "label": int(label),
        **{key: event[key] for key in ("type", "turn", "event", "actor", "target", "same_team")},
        "actor_role": event["actor_role"] or "unknown",
        "message": span.message,
        "start": span.start,
        "end": span.end,
        "text": view.messages[span.message]["content"][span.start : span.end],
        **{name: event[name] for name, _, _ in LOGGED_SCORES},
        "logged_role_reveal_score": next(
            (player["role_reveal_score"] for player in game["players"] if player["name"] == event["actor"]),
            None,
        ),
    }


def _joined(tables: list["pa.Table"], columns: list[tuple[str, str, str]]) -> "pa.Table":
    import pyarrow as pa

    # One chunk whatever the games were, so that equal rows are equal bytes.
    return pa.concat_tables([arrow_schema(columns).empty_table(), *tables]).combine_chunks()
