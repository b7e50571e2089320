"""The rows of a Mafia game: what happened, as in the event table of Werewolf, and what may be trained on."""

from typing import Any

from probeline.logs.mafia import (
    DISCUSSION,
    NIGHT,
    VOTE,
    Entry,
    MafiaGame,
    Pair,
    begins_day,
    check_result,
    entries_of,
    killed_in,
    move_of,
    voted_out_in,
)
from probeline.schema import EVENTS

OF_A_NIGHT = ("night_kill", "night_vote", "seer_check", "protection")
NIGHT_ACTS = {"mafia": "night_vote", "detective": "seer_check", "doctor": "protection"}
_EMPTY: dict[str, Any] = {name: None for name, _, _ in EVENTS} | {"valid": True, "source": "stats"}


def event_rows(key: str, game: MafiaGame) -> list[dict[str, Any]]:
    """What happened in a game, rows of `schema.EVENTS`, in order.

    The player's acts are taken from the actions: their echo in the next observation is passed over. Only
    these have the actor's role and team. Turns are days, which all players see begin, each with the night
    before it: the player's own turns would tell who acts by night.
    """
    rows: list[dict[str, Any]] = []
    checks: dict[str, dict[str, Any]] = {}
    days = 0
    for pair in game.pairs:
        for phase, entry in pair.entries:
            days += begins_day(entry)
            row = _seen(game, phase, entry)
            if row is not None:
                rows.append(row | {"turn": _turn(row, days)})
            elif (result := check_result(entry)) is not None:
                _tell_result(checks, *result)
        if pair.action is not None:
            act = _own_act(game, pair, pair.action)
            rows.append(act | {"turn": _turn(act, days)})
            if rows[-1]["type"] == "seer_check" and "target" in rows[-1]:
                checks[rows[-1]["target"]] = rows[-1]
    return [{**_EMPTY, **row, "game": key, "event": position} for position, row in enumerate(rows)]


def _turn(row: dict[str, Any], days: int) -> int:
    return days + 1 if row["type"] in OF_A_NIGHT else max(days, 1)


def _seen(game: MafiaGame, phase: str, entry: Entry) -> dict[str, Any] | None:
    """The event that a message is; None for what only the game says, and for the player's echo."""
    if entry.player is not None:
        if entry.player == game.player:
            return None
        kind = {VOTE: "day_vote", NIGHT: "night_vote"}.get(phase, "statement")
        return {"actor": _name(entry.player)} | _words(game, kind, entry.text)
    for kind, victim in (("night_kill", killed_in(entry)), ("day_elimination", voted_out_in(entry))):
        if victim is not None:
            return {"type": kind} | _target(game, victim)
    return None


def _own_act(game: MafiaGame, pair: Pair, action: str) -> dict[str, Any]:
    kind = "statement"
    if pair.phase == VOTE:
        kind = "day_vote"
    elif pair.phase == NIGHT:
        kind = NIGHT_ACTS.get(game.role, "night_vote")
    known = game.role in ("mafia", "detective", "doctor", "villager")
    act = {
        "actor": None if game.player is None else _name(game.player),
        "actor_role": game.role if known else None,
        "actor_team": game.team if known else None,
    } | _words(game, kind, action)
    # The agent's fallback is no move of its model, but the game takes it where the number is valid.
    act["valid"] = not set(pair.faults) - ({"fallback"} if kind != "statement" else set())
    if known and act.get("target_team") is not None:
        act["same_team"] = act["target_team"] == game.team
    return act


def _words(game: MafiaGame, kind: str, text: str) -> dict[str, Any]:
    """Type, words and target of an act; a vote names its target, a statement has none."""
    text = text.strip()
    number = move_of(text)
    if kind == "statement":
        # The game puts brackets around what agents say; some agents do, too.
        inner = text[1:-1] if text[:1] == "[" and text[-1:] == "]" and number is None else text
        return {"type": kind, "text": inner}
    if number is None or number not in game.seats:
        return {"type": kind, "text": text, "valid": False}
    return {"type": kind, "text": _name(number)} | _target(game, number)


def _target(game: MafiaGame, number: int) -> dict[str, Any]:
    """Whom an act is about, with the role and team where the log says them."""
    seat = game.seats.get(number)
    known = {"unknown": None}
    return {
        "target": _name(number),
        "target_role": known.get(seat.role, seat.role) if seat else None,
        "target_team": known.get(seat.team, seat.team) if seat else None,
    }


def _tell_result(checks: dict[str, dict[str, Any]], number: int, is_mafia: bool) -> None:
    """Give the check that a message answers its result."""
    if row := checks.pop(_name(number), None):
        row["target_role"] = "mafia" if is_mafia else "not mafia"
        row["target_team"] = "mafia" if is_mafia else "village"
        row["same_team"] = not is_mafia


def _name(number: int) -> str:
    return f"Player {number}"


def action_rows(key: str, game: MafiaGame) -> list[dict[str, Any]]:
    """What the player did in each turn and what it had seen by then, rows of `schema.ACTIONS`."""
    rows = []
    for position, pair in enumerate(game.pairs):
        if pair.action is None:
            continue
        rows.append(
            {
                "game": key,
                "content": game.content,
                "played": game.played,
                "turn": pair.turn,
                "phase": pair.phase,
                "player": "unknown" if game.player is None else _name(game.player),
                "role": game.role,
                "team": game.team,
                "outcome": game.outcome,
                "rules": game.rules,
                "alive": " ".join(map(str, pair.alive)),
                "seen": _without_rules(pair.seen) if position == 0 else pair.seen,
                "action": pair.action,
                "targets": None if pair.targets is None else " ".join(map(str, pair.targets)),
                "target": None if pair.phase == DISCUSSION else move_of(pair.action),
                "dropped": pair.faults[0] if pair.faults else None,
            }
        )
    return rows


def _without_rules(seen: str) -> str:
    """The first observation but for its first message, which is `MafiaGame.rules`."""
    entries = entries_of(seen)
    if not entries or entries[0].player is not None:
        return seen
    head = seen.find(entries[0].text) + len(entries[0].text)
    return seen[head:].strip()
