"""One game of Werewolf as its `game_stats.json` records it, checked field by field.

`phase` is ignored throughout: the logs say "night" everywhere. What the players said and did in one turn is
told apart by `type` alone.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from probeline.errors import ProbelineError
from probeline.logs.reading import content_digest, kind_of, parse_json, take
from probeline.logs.responses import as_text, clean, squash

MAX_HISTORY = 5000
"""A longer history (the longest real ones have about 100 entries) is no log of one game."""
MAX_TURN = 100_000

_SCORES = {
    "logged_score": "aggregate_score",
    "logged_prompt_score": "prompt_score",
    "logged_cot_score": "cot_score",
    "logged_action_score": "action_score",
    "logged_generation_score": "generation_score",
}


@dataclass(frozen=True, slots=True)
class Player:
    """A player: name, role in lower case, team (`werewolves` or `village`) and fate.

    `role_reveal_score` is what the game's own probe said of the prompt that told the role, if it was logged.
    """

    name: str
    role: str
    team: str
    survived: bool
    role_reveal_score: float | None = None


@dataclass(frozen=True, slots=True)
class Statement:
    """A public statement, or a reply to `called_by`."""

    turn: int
    player: str
    text: str
    reasoning: str | None
    called_by: str | None
    question: str | None


@dataclass(frozen=True, slots=True)
class NightKill:
    """The victim of a night, and the werewolves' votes, or None where they were not recorded."""

    turn: int
    victim: str | None
    votes: dict[str, str] | None


@dataclass(frozen=True, slots=True)
class Elimination:
    """Who was voted out, and how many votes each text got, in the order of voting."""

    turn: int
    victim: str | None
    tally: dict[str, int]


@dataclass(frozen=True, slots=True)
class Activation:
    """One entry of `player_activations`; `scores` is None where the probe failed."""

    action: Any
    scores: dict[str, float | None] | None


@dataclass(slots=True)
class Game:
    """A game; the lists are in logged order. `repairs` counts what was mended or left out, by reason."""

    content: str
    game_id: int | None
    winner: str
    turns: int
    backend: str
    probe_enabled: bool
    players: dict[str, Player]
    statements: list[Statement] = field(default_factory=list)
    kills: list[NightKill] = field(default_factory=list)
    eliminations: list[Elimination] = field(default_factory=list)
    activations: dict[str, list[Activation]] = field(default_factory=dict)
    words: set[str] = field(default_factory=set)
    repairs: Counter[str] = field(default_factory=Counter)

    @property
    def aborted(self) -> bool:
        """The game was not played to its end."""
        return self.winner == "Aborted"

    def living(self, turn: int, *, by_day: bool) -> list[str]:
        """The players alive in the night of `turn`, or by its day, before anyone is voted out."""
        dead = {kill.victim for kill in self.kills if kill.turn < turn + by_day}
        dead |= {elimination.victim for elimination in self.eliminations if elimination.turn < turn}
        return [name for name in self.players if name not in dead]

    def named(self, text: str, speaker: str) -> str | None:
        """The one player besides the `speaker` whom `text` names, or None; the text may be a sentence."""
        if text in self.players:
            return text
        found = {name for name in re.findall(r"\w+", text) if name in self.players and name != speaker}
        return found.pop() if len(found) == 1 else None


def read_game(data: bytes) -> Game:
    """The game in the bytes of a `game_stats.json`.

    Raises:
        ProbelineError: it is no such file; the text says why and names the field.
    """
    repairs: Counter[str] = Counter()
    stats = parse_json(data, repairs)
    if not isinstance(stats, dict):
        raise ProbelineError(f"the file holds {kind_of(stats)}, expected an object")
    players = _read_players(take(stats, "players", list))
    game = Game(
        content=content_digest(stats, data, standard=not repairs["files_nonstandard_json"]),
        game_id=take(stats, "game_id", int, None) if stats.get("game_id") is not None else None,
        winner=take(stats, "winner", str),
        turns=take(stats, "total_turns", int),
        backend=take(stats, "backend_type", str),
        probe_enabled=take(stats, "probe_enabled", bool),
        players=players,
        repairs=repairs,
    )
    if not 0 <= game.turns <= MAX_TURN:
        raise ProbelineError(f"total_turns is {game.turns}, expected 0 to {MAX_TURN}")
    if game.game_id is not None and abs(game.game_id) >= 2**63:
        raise ProbelineError("game_id does not fit into 64 bits")
    _read_history(game, take(stats, "history", list))
    _read_activations(game, take(stats, "player_activations", dict, {}))
    _read_role_reveals(game, stats.get("role_reveal_activations"))
    _collect_words(game, take(stats, "player_reasoning", dict, {}))
    return game


def _read_players(rows: list[Any]) -> dict[str, Player]:
    players: dict[str, Player] = {}
    for position, row in enumerate(rows):
        where = f"players[{position}]"
        name = take(row, "name", str, where=where)
        role = take(row, "role", str, where=where).strip().lower()
        if not name or name in players:
            raise ProbelineError(f"{where}.name is empty or occurs twice: {name[:40]!r}")
        team = "werewolves" if role == "werewolf" else "village"
        players[name] = Player(name, role, team, take(row, "survived", bool, where=where))
    if not players:
        raise ProbelineError("players is empty")
    return players


def _read_history(game: Game, history: list[Any]) -> None:
    if len(history) > MAX_HISTORY:
        raise ProbelineError(f"history has {len(history)} entries, more than {MAX_HISTORY}")
    game.repairs["games_with_empty_history"] += not history
    for position, row in enumerate(history):
        where = f"history[{position}]"
        turn = take(row, "turn", int, where=where)
        if not 1 <= turn <= MAX_TURN:
            raise ProbelineError(f"{where}.turn is {turn}, expected 1 to {MAX_TURN}")
        kind = take(row, "type", str, where=where)
        data = take(row, "data", dict, where=where)
        if kind == "day_statement":
            game.statements.append(_read_statement(game, turn, data, f"{where}.data"))
        elif kind == "night_kill":
            game.kills.append(_read_kill(game, turn, data, f"{where}.data"))
        elif kind == "day_elimination":
            game.eliminations.append(_read_elimination(turn, data, f"{where}.data"))
        else:
            game.repairs["history_entries_of_unknown_type"] += 1


def _read_statement(game: Game, turn: int, data: dict[str, Any], where: str) -> Statement:
    player = take(data, "player", str, where=where)
    if player not in game.players:
        raise ProbelineError(f"{where}.player is not among players: {player[:40]!r}")
    text = take(data, "statement", str, where=where)
    game.repairs["statements_like_json"] += text.lstrip()[:1] in ("{", "[")
    return Statement(
        turn=turn,
        player=player,
        text=text,
        reasoning=_read_reasoning(data.get("reasoning"), game.repairs),
        called_by=_optional_text(data, "called_by", where),
        question=_optional_text(data, "question", where),
    )


def _optional_text(data: dict[str, Any], field: str, where: str) -> str | None:
    return None if data.get(field) is None else str(take(data, field, str, where=where))


def _read_reasoning(reasoning: Any, repairs: Counter[str]) -> str | None:
    if reasoning is None:
        return None
    if not isinstance(reasoning, str):
        repairs["reasonings_not_text"] += 1
        return as_text(reasoning)
    if reasoning.strip() == "N/A":
        repairs["reasonings_not_available"] += 1
        return None
    return reasoning


def _read_kill(game: Game, turn: int, data: dict[str, Any], where: str) -> NightKill:
    votes = None
    if data.get("werewolf_votes") is None:
        game.repairs["night_kills_without_votes"] += 1
    else:
        votes = take(data, "werewolf_votes", dict, where=where)
        votes = {wolf: as_text(target) for wolf, target in votes.items()}
        if unknown := [wolf for wolf in votes if wolf not in game.players]:
            raise ProbelineError(f"{where}.werewolf_votes: {unknown[0][:40]!r} is not among players")
    return NightKill(turn, _optional_text(data, "victim", where), votes)


def _read_elimination(turn: int, data: dict[str, Any], where: str) -> Elimination:
    tally = take(data, "votes", dict, where=where)
    for count in tally.values():
        if type(count) is not int or not 0 <= count <= MAX_HISTORY:
            raise ProbelineError(f"{where}.votes holds {kind_of(count)}, expected counts")
    return Elimination(turn, _optional_text(data, "victim", where), tally)


def _read_activations(game: Game, activations: dict[str, Any]) -> None:
    for player, entries in activations.items():
        if player not in game.players or not isinstance(entries, list):
            raise ProbelineError(f"player_activations: {player[:40]!r} is no player with a list of entries")
        game.activations[player] = [_read_activation(entry, game.repairs) for entry in entries]


def _read_activation(entry: Any, repairs: Counter[str]) -> Activation:
    """An entry; without its scores where they are unusable, so that the order of entries stays."""
    repairs["activation_entries"] += 1
    action = entry.get("action") if isinstance(entry, dict) else None
    scores = entry.get("activations") if isinstance(entry, dict) else None
    repairs["activation_actions_not_text"] += not isinstance(action, str)
    if isinstance(scores, dict) and scores.get("error") is not None:
        repairs["activation_errors_dropped"] += 1
    elif isinstance(scores, dict) and _number(scores.get("aggregate_score")) is not None:
        return Activation(action, {column: _number(scores.get(key)) for column, key in _SCORES.items()})
    else:
        repairs["activation_entries_without_score"] += 1
    return Activation(action, None)


def _read_role_reveals(game: Game, reveals: Any) -> None:
    """The scores at role reveal; what cannot be read is counted, since the game does not hang on it."""
    if reveals is None:
        return
    if not isinstance(reveals, dict):
        game.repairs["role_reveals_unreadable"] += 1
        return
    for name, entry in reveals.items():
        game.repairs["role_reveal_entries"] += 1
        failed = not isinstance(entry, dict) or entry.get("error") is not None
        score = None if failed else _number(entry.get("prompt_mean_score"))
        if name not in game.players:
            game.repairs["role_reveal_entries_of_unknown_players"] += 1
        elif score is None:
            game.repairs["role_reveal_entries_without_score"] += 1
        else:
            game.players[name] = replace(game.players[name], role_reveal_score=score)


def _number(value: Any) -> float | None:
    if type(value) not in (int, float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond the largest double
        return None


def _collect_words(game: Game, reasoning: dict[str, Any]) -> None:
    """Everything said or thought, so that the log's parser cannot mistake it for structure."""
    for statement in game.statements:
        game.words.update(filter(None, (statement.text, statement.question, statement.reasoning)))
    game.words.update(_texts(reasoning))
    game.words.update(_texts([entry.action for entries in game.activations.values() for entry in entries]))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def action_names(action: Any) -> tuple[str, str] | None:
    """Target and question of a callout, or None where `action` is none (a statement, a vote, PASS)."""
    if isinstance(action, str) and action.lstrip().startswith("{"):
        try:
            action = orjson.loads(action)
        except orjson.JSONDecodeError:
            return None
    if not isinstance(action, dict) or is_pass(action):
        return None
    target, question = action.get("target"), action.get("question")
    if not isinstance(target, str) or not target.strip():
        return None
    return clean(target).strip(), clean(question) if isinstance(question, str) else ""


def is_pass(action: Any) -> bool:
    """The player was asked whether to call on somebody and did not want to."""
    if isinstance(action, dict):
        action = action.get("target")
    return isinstance(action, str) and squash(action).strip(" .!\"'").upper() == "PASS"
