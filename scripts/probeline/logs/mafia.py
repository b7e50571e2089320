"""One player's log of a Secret Mafia game, checked field by field and joined turn by turn.

An observation is everything that the player has seen so far, so each holds the one before; only what is new
in it says which phase it is. System lines begin with `[GAME]`, what players say with `[Player N]`; texts may
span lines and hold brackets. Error logs hold people's file paths: nothing of them is ever read.
"""

import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from probeline.errors import ProbelineError
from probeline.logs.reading import content_digest, kind_of, parse_json, part_digest, take

MAX_TURNS = 300
"""More observations (the longest real logs have about 20) are no log of one game."""
MAX_RULES = 20_000
"""More characters (real ones have some thousand) are no rules; every row of a game repeats them."""
MAX_TARGETS = 100
"""More valid targets (real lists have 6) are no list; every row repeats its own."""
MAX_MESSAGES = 20_000
"""More messages (real logs have some hundred) are no log of one game either."""
MAX_NUMBER = 10_000
"""Larger numbers name no player and no turn."""

DISCUSSION, NIGHT, VOTE, UNKNOWN = "discussion", "night", "vote", "unknown"
PHASES = (DISCUSSION, NIGHT, VOTE)
OUTCOMES = ("win", "loss", "timeout", "error")
MAFIA, VILLAGE = "mafia", "village"
ROLES = ("mafia", "detective", "doctor", "villager")
FAULTS = {
    "fallback": "the action is `[0]` alone, what the agent sent when its model had not answered",
    "number_in_discussion": "a number where words were asked for",
    "prose_in_vote_or_night": "words where one player's number was asked for",
    "target_not_valid": "the number is not in the last list of valid ones",
    "empty": "the action is empty",
    "phase_unknown": "nothing has said yet which phase it is",
}
"""Why an action is kept from training; where several apply, the first counts."""

_ENTRY = re.compile(r"^\[(?:GAME|Player (\d{1,4}))\][^\S\n]?", re.MULTILINE)
_NUMBER = r"\s*(?:player\s*)?(\d{1,4})\s*"
_MOVE = re.compile(rf"\[{_NUMBER}\]|{_NUMBER}", re.IGNORECASE | re.ASCII)
_NUMBERS = re.compile(r"\[(\d{1,4})\]", re.ASCII)
_DAY_BREAKS = "Day breaks"
_PHASE_LINES = {
    "Night has fallen": NIGHT,
    "Night phase": NIGHT,
    _DAY_BREAKS: DISCUSSION,
    "Voting phase": VOTE,
}
_KILLED = re.compile(r"Player (\d{1,4}) was killed during the night", re.ASCII)
_VOTED_OUT = re.compile(r"Player (\d{1,4}) was eliminated by vote", re.ASCII)
_CHECKED = re.compile(r"Player (\d{1,4}) IS( NOT)? a Mafia member", re.ASCII)
_OUT_FOR_MOVE = re.compile(
    r"Player (\d{1,4}) (?:has been|was) eliminated by making an invalid move", re.ASCII
)


@dataclass(slots=True)
class Seat:
    """A player as this log knows them; role and team are `unknown` where it does not say."""

    role: str = UNKNOWN
    team: str = UNKNOWN
    survived: bool = True


class Entry(NamedTuple):
    """A message within an observation: of a player by number, or of the game (None)."""

    player: int | None
    text: str


@dataclass(slots=True)
class Pair:
    """An observation joined with the action that answered it.

    Attributes:
        turn: as logged, from 0.
        phase: one of PHASES, or `unknown`.
        seen: what is new since the observation before, without the echo of the player's own act.
        entries: the same, message by message, each with the phase it belongs to.
        alive: numbers of the players of whom nothing has said that they are out.
        action: what the player sent; None where the log has none for this turn.
        targets: numbers of the last list of valid ones; None in a discussion or where there was no list.
        faults: keys of FAULTS, in their order.
    """

    turn: int
    phase: str
    seen: str
    entries: list[tuple[str, Entry]]
    alive: list[int]
    action: str | None
    targets: list[int] | None
    faults: list[str]


@dataclass(slots=True)
class MafiaGame:
    """A game as one player saw it.

    `content` is the digest of the whole log, `played` that of what was seen and done alone. `repairs` counts
    what was mended or left out, by reason.
    """

    content: str
    played: str
    player: int | None
    role: str
    team: str
    outcome: str
    winner: str
    turns: int
    rules: str
    seats: dict[int, Seat] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)
    repairs: Counter[str] = field(default_factory=Counter)


def read_mafia(data: bytes) -> MafiaGame:
    """The game in the bytes of a log.

    Raises:
        ProbelineError: it is no such log; the text says why and names the field.
    """
    repairs: Counter[str] = Counter()
    log = parse_json(data, repairs)
    if not isinstance(log, dict):
        raise ProbelineError(f"the file holds {kind_of(log)}, expected an object")
    observations = _texts(take(log, "observations", list), "observations", "content")
    actions = _texts(take(log, "actions", list), "actions", "action")
    turns = _total_turns(log, len(observations), repairs)
    content = content_digest(log, data, standard=not repairs["files_nonstandard_json"])
    first = observations[0][1] if observations else ""
    rules = _rules(first)
    if len(rules) > MAX_RULES:
        raise ProbelineError(f"the first message has {len(rules)} characters, more than {MAX_RULES}")
    player = _player(log, rules)
    role, team = _role_and_team(log, rules, repairs)
    outcome, winner = _outcome(log, player, team, repairs)
    played = part_digest([[text for _, text in rows] for rows in (observations, actions)])
    game = MafiaGame(content, played, player, role, team, outcome, winner, turns, rules, repairs=repairs)
    _seat_players(game)
    _join(game, observations, actions)
    return game


def _texts(rows: list[Any], name: str, field: str) -> list[tuple[int, str]]:
    """Turn and text of each entry."""
    return [(_turn(row, where), take(row, field, str, where=where)) for row, where in _rows(rows, name)]


def _total_turns(log: dict[str, Any], observations: int, repairs: Counter[str]) -> int:
    """How many turns the log says there were; where it says nothing sound, as many as it shows."""
    told = log.get("total_turns")
    if type(told) is int and 0 <= told <= MAX_NUMBER:
        return told
    repairs["total_turns_counted"] += 1
    return observations


def _rows(rows: list[Any], name: str) -> Iterator[tuple[Any, str]]:
    if len(rows) > MAX_TURNS:
        raise ProbelineError(f"{name} has {len(rows)} entries, more than {MAX_TURNS}")
    return ((row, f"{name}[{position}]") for position, row in enumerate(rows))


def _turn(row: Any, where: str) -> int:
    turn = take(row, "turn", int, where=where)
    if not 0 <= turn <= MAX_NUMBER:
        raise ProbelineError(f"{where}.turn is out of bounds, expected 0 to {MAX_NUMBER}")
    return int(turn)


def entries_of(text: str) -> list[Entry]:
    """The messages in what a player sees; what stands before the first belongs to none."""
    found = list(_ENTRY.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return [
        Entry(None if match[1] is None else int(match[1]), text[match.end() : end].strip())
        for match, end in zip(found, ends, strict=False)
    ]


def _rules(first: str) -> str:
    """The game's first message to the player: who they are, and the rules."""
    entries = entries_of(first)
    return entries[0].text if entries and entries[0].player is None else ""


def _player(log: dict[str, Any], rules: str) -> int | None:
    logged = log.get("player_id")
    if type(logged) is int and 0 <= logged <= MAX_NUMBER:
        return logged
    told = re.search(r"You are Player (\d{1,4})", rules, re.ASCII)
    return int(told[1]) if told else None


def _role_and_team(log: dict[str, Any], rules: str, repairs: Counter[str]) -> tuple[str, str]:
    logged = log.get("role")
    role = logged.strip().lower().removeprefix("role.") if isinstance(logged, str) else UNKNOWN
    if role not in ROLES:
        told = re.search(r"^Your role:\s*(\w+)", rules, re.MULTILINE)
        role = told[1].lower() if told and told[1].lower() in ROLES else UNKNOWN
        repairs["roles_from_observation"] += role != UNKNOWN
        repairs["roles_unknown"] += role == UNKNOWN
    if role == UNKNOWN:
        return UNKNOWN, UNKNOWN
    return role, MAFIA if role == "mafia" else VILLAGE


def _outcome(log: dict[str, Any], player: int | None, team: str, repairs: Counter[str]) -> tuple[str, str]:
    """The true outcome for the player, and the winner: what the game said goes before what was logged."""
    logged = log.get("outcome")
    told = _end_of_game(log, player)
    reason = told.get("reason") if isinstance(told.get("reason"), str) else ""
    assert isinstance(reason, str)
    if reason.strip(" \t\n.!").lower() == "timeout":
        outcome, winner = "timeout", "timeout"
    elif "mafia wins" in reason.lower() or "village wins" in reason.lower():
        winner = MAFIA if "mafia wins" in reason.lower() else VILLAGE
        own = told.get("outcome") if told.get("outcome") in ("win", "loss") else logged
        outcome = str(own) if team == UNKNOWN else "win" if team == winner else "loss"
    else:
        outcome, winner = take(log, "outcome", str), UNKNOWN
    if outcome not in OUTCOMES:
        raise ProbelineError(f"outcome is none of {', '.join(OUTCOMES)}")
    repairs["outcomes_mended"] += outcome != logged
    repairs["outcomes_unknown"] += logged not in OUTCOMES
    return outcome, outcome if winner == UNKNOWN and outcome == "error" else winner


def _end_of_game(log: dict[str, Any], player: int | None) -> dict[str, Any]:
    """What the game said of its end: of this player, or what it said of all whom it speaks of."""
    info = log.get("game_info")
    if not isinstance(info, dict):
        return {}
    if str(player) in info:
        told = info[str(player)]
        return told if isinstance(told, dict) else {}
    entries = [entry for entry in info.values() if isinstance(entry, dict)]
    if len(entries) == 1 and player is None:
        return entries[0]
    reasons = {entry["reason"] for entry in entries if isinstance(entry.get("reason"), str)}
    return {"reason": reasons.pop()} if len(reasons) == 1 else {}


def _seat_players(game: MafiaGame) -> None:
    """Who plays, with what the rules and the logged role say of their roles."""
    seated = re.search(r"^Players:(.*)$", game.rules, re.MULTILINE)
    mates = re.search(r"^Your teammates are:(.*)$", game.rules, re.MULTILINE)
    numbers = _players_in(seated[1]) if seated else []
    if game.player is not None:
        numbers.append(game.player)
    game.seats = {number: Seat() for number in sorted(set(numbers))}
    pack = set(_players_in(mates[1])) if mates and game.team == MAFIA else set()
    for number, seat in game.seats.items():
        if number == game.player:
            seat.role, seat.team = game.role, game.team
        elif number in pack:
            seat.role, seat.team = "mafia", MAFIA
        elif pack:
            seat.team = VILLAGE


def _players_in(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"Player (\d{1,4})", text, re.ASCII)]


def _join(game: MafiaGame, observations: list[tuple[int, str]], acts: list[tuple[int, str]]) -> None:
    """Each observation with the action of its turn, its phase and the moves that were allowed."""
    actions: dict[int, deque[str]] = defaultdict(deque)
    for turn, act in acts:
        actions[turn].append(act)
    before, phase, targets, messages, action = "", UNKNOWN, None, 0, None
    for turn, content in observations:
        new = content
        if content.startswith(before):
            new = content[len(before) :]
        else:
            game.repairs["observations_not_cumulative"] += 1
        before = content
        # What the player said can look like a message of the game: without it, before anything is read.
        new = _without_echo(new, game.player, action)
        entries = []
        for entry in entries_of(new):
            phase, targets = _after(entry, phase, targets)
            entries.append((phase, entry))
            _note_fate(game, entry)
        messages += len(entries)
        if messages > MAX_MESSAGES:
            raise ProbelineError(f"observations hold more than {MAX_MESSAGES} messages")
        action = actions[turn].popleft() if actions.get(turn) else None
        faults = [] if action is None else action_faults(action, phase, targets)
        alive = [number for number, seat in game.seats.items() if seat.survived]
        game.pairs.append(Pair(turn, phase, new.strip(), entries, alive, action, targets, faults))
    game.repairs["observations"] += len(observations)
    game.repairs["observations_without_action"] += sum(pair.action is None for pair in game.pairs)
    game.repairs["actions_without_observation"] += sum(map(len, actions.values()))


def _after(entry: Entry, phase: str, targets: list[int] | None) -> tuple[str, list[int] | None]:
    """Phase and valid targets once a message was read."""
    if entry.player is not None:
        return phase, targets
    for beginning, begun in _PHASE_LINES.items():
        if entry.text.startswith(beginning):
            # One list may name a player twice.
            listed = list(dict.fromkeys(map(int, _NUMBERS.findall(entry.text))))
            if len(listed) > MAX_TARGETS:
                raise ProbelineError(f"observations list {len(listed)} targets, more than {MAX_TARGETS}")
            return begun, listed or None
    return phase, targets


def _note_fate(game: MafiaGame, entry: Entry) -> None:
    if entry.player is not None:
        return
    for pattern in (_KILLED, _VOTED_OUT, _OUT_FOR_MOVE):
        if (match := pattern.match(entry.text)) and int(match[1]) in game.seats:
            game.seats[int(match[1])].survived = False
    game.repairs["eliminated_for_invalid_moves"] += bool(_OUT_FOR_MOVE.match(entry.text))
    game.repairs["invalid_moves"] += "attempted an invalid move" in entry.text


def _without_echo(new: str, player: int | None, action: str | None) -> str:
    """What is new but for the player's own act, which the game repeats first, as it is or in brackets.

    Where it repeats it in other words, these end with the next message.
    """
    text = new.lstrip()
    for act in () if action is None else (action, action.strip()):
        for echo in (f"[Player {player}] {act}", f"[Player {player}] [{act}]"):
            if text == echo or text.startswith(echo + "\n"):
                return text[len(echo) :]
    found = list(_ENTRY.finditer(new))
    if (
        found
        and found[0][1] is not None
        and int(found[0][1]) == player
        and not new[: found[0].start()].strip()
    ):
        return new[found[1].start() if len(found) > 1 else len(new) :]
    return new


def move_of(action: str) -> int | None:
    """The number of the player that an action names and does nothing else; None for prose."""
    match = _MOVE.fullmatch(action.strip())
    return int(match[1] or match[2]) if match else None


def action_faults(action: str, phase: str, targets: list[int] | None) -> list[str]:
    """Why an action is kept from training, keys of FAULTS in their order; none for a good one.

    Args:
        action: as it was sent.
        phase: one of PHASES, or `unknown`.
        targets: the valid ones by number; None where the game gave no list.
    """
    move = move_of(action)
    by_number = phase in (NIGHT, VOTE)
    found = {
        "fallback": action.strip() == "[0]",
        "number_in_discussion": phase == DISCUSSION and move is not None,
        "prose_in_vote_or_night": by_number and move is None and bool(action.strip()),
        "target_not_valid": by_number and move is not None and move not in (targets or []),
        "empty": not action.strip(),
        "phase_unknown": phase == UNKNOWN,
    }
    return [fault for fault in FAULTS if found[fault]]


def begins_day(entry: Entry) -> bool:
    """Whether a message of the game begins a day."""
    return entry.player is None and entry.text.startswith(_DAY_BREAKS)


def killed_in(entry: Entry) -> int | None:
    """Whom a message of the game says to have been killed by night."""
    return _named(_KILLED, entry)


def voted_out_in(entry: Entry) -> int | None:
    """Whom a message of the game says to have been voted out."""
    return _named(_VOTED_OUT, entry)


def _named(pattern: re.Pattern[str], entry: Entry) -> int | None:
    match = pattern.match(entry.text) if entry.player is None else None
    return int(match[1]) if match else None


def check_result(entry: Entry) -> tuple[int, bool] | None:
    """Whom a message of the game says to be a mafia member, or not to be."""
    match = _CHECKED.match(entry.text) if entry.player is None else None
    return (int(match[1]), match[2] is None) if match else None
