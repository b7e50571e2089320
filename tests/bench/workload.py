"""The texts that every contender reads: statements of simulated games, as tokens with the masked spans."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import yaml
from transformers import AutoTokenizer

from probeline.activations.engine import SpannedSequence
from probeline.datasets.dialogues import build_dialogues
from probeline.logs.ingest import ingest_werewolf
from probeline.logs.simulate_werewolf import simulate_games, simulated_game_key
from probeline.models.render import render_chat, token_span

Game = list[SpannedSequence]
Games = list[Game]

TEMPLATE = Path("config/templates/werewolf.yaml")
SPLITS = {"by": "game", "train": 0.6, "validation": 0.2, "test": 0.2}
COLLUSION = {
    "corpus": "werewolf",
    "events": ["statement", "reply"],
    "label": 'actor_team == "werewolves"',
    "mask": "action",
}
FEWEST_PER_GAME = 8  # a simulated game has 10 statements or more
PUBLIC_SHARE = 100  # one public game for so many statements: a forward per prompt is slow, which is the point


def make_workload(statements: int, model: Path) -> dict[str, Games]:
    """What is run, by the name of the job.

    none: at least that many statements, each a sequence of its own, by game.
    mixed: the same sequences as if they were all of one game.
    prompts: statements of a few games, each in the prompt that its player was given, as the log holds it, and
        each as a game of its own, so that our engine shares nothing between them.
    shared: the same prompts by game, so that it shares what it can.
    public: the same games, each one sequence with a span for every statement.
    prefixes: the same spans, each in a sequence of its own that ends with the statement, and as a game of its
        own.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        games = -(-statements // FEWEST_PER_GAME)
        simulate_games(0, range(games), root / "logs")
        keys = sorted(simulated_game_key(index) for index in range(games))
        ingest_werewolf(keys, root / "logs", {}, root / "corpus")
        none = _enough(list(_dialogues(root, "none", model).values()), statements)
        logged = dict(list(_dialogues(root, "prompt", model).items())[: max(1, statements // PUBLIC_SHARE)])
        all_public = _dialogues(root, "public", model)
    mixed = [sequence for game in none for sequence in game]
    shared = list(logged.values())
    prompts = [[sequence] for game in shared for sequence in game]
    public = [all_public[game] for game in logged]
    prefixes = [[prefix] for game in public for sequence in game for prefix in _prefixes(sequence)]
    return {
        "none": none,
        "mixed": [mixed],
        "prompts": prompts,
        "shared": shared,
        "public": public,
        "prefixes": prefixes,
    }


def halves(games: Games) -> tuple[Games, Games]:
    """Two runs of games, in their order, of as equal a number of tokens as whole games allow."""
    cut = min(range(len(games) + 1), key=lambda cut: abs(token_count(games[:cut]) - token_count(games[cut:])))
    return games[:cut], games[cut:]


def token_count(games: Games) -> int:
    return sum(len(sequence.input_ids) for game in games for sequence in game)


def span_count(games: Games) -> int:
    return sum(len(sequence.spans) for game in games for sequence in game)


def save(workload: dict[str, Games], path: Path) -> None:
    plain = {
        job: [
            [(sequence.input_ids, [(span.start, span.stop) for span in sequence.spans]) for sequence in game]
            for game in games
        ]
        for job, games in workload.items()
    }
    path.write_text(json.dumps(plain))


def load(path: Path) -> dict[str, Games]:
    plain = json.loads(path.read_text())
    return {
        job: [
            [SpannedSequence(tuple(ids), tuple(range(*span) for span in spans)) for ids, spans in game]
            for game in games
        ]
        for job, games in plain.items()
    }


def _dialogues(root: Path, context: str, model: Path) -> dict[str, Game]:
    """The collusion concept's dialogues in one context, rendered and with the masked tokens."""
    concept = {**COLLUSION, "context": context}
    template = yaml.safe_load(TEMPLATE.read_text())
    build_dialogues(root / "corpus", root / context, "collusion", concept, template, SPLITS, 0)
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = pq.read_table(root / context / "sequences.parquet").to_pylist()
    rendered = {row["sequence"]: render_chat(tokenizer, row["messages"]) for row in rows}
    spans: dict[str, list[range]] = {}
    for sample in pq.read_table(root / context / "samples.parquet").to_pylist():
        span = token_span(rendered[sample["sequence"]], sample["message"], sample["start"], sample["end"])
        assert span is not None
        spans.setdefault(sample["sequence"], []).append(span)
    by_game: dict[str, Game] = {}
    for row in rows:
        name = row["sequence"]
        sequence = SpannedSequence(rendered[name].input_ids, tuple(spans[name]))
        by_game.setdefault(row["game"], []).append(sequence)
    return by_game


def _enough(games: Games, statements: int) -> Games:
    """The first games that together hold that many statements."""
    for count in range(1, len(games) + 1):
        if span_count(games[:count]) >= statements:
            return games[:count]
    raise ValueError(f"{len(games)} simulated games hold {span_count(games)} statements, not {statements}")


def _prefixes(sequence: SpannedSequence) -> Sequence[SpannedSequence]:
    return [SpannedSequence(sequence.input_ids[: span.stop], (span,)) for span in sequence.spans]
