"""The events of one game in the order in which they happened, joined from statistics and log.

What happened is taken from `game_stats.json` where it is recorded there (statements, victims, tallies); who
voted for whom, callouts, seer checks and the true prompts come from `llm_log.txt`; see `votes` for games
without one.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from probeline.logs.llm_log import Call
from probeline.logs.responses import Answer, as_text, spellings, squash
from probeline.logs.werewolf import Activation, Game, Statement

_MOST_REPEATS = 1000
"""Occurrences of one text that an alignment considers; real games have at most 10."""


class Evidence(NamedTuple):
    """Where in the log an act stands."""

    call: Call
    response: str
    answer: Answer


@dataclass(slots=True)
class Act:
    """An event; the fields are those of `schema.EVENTS`."""

    type: str
    turn: int
    actor: str | None = None
    target: str | None = None
    text: str | None = None
    question: str | None = None
    reasoning: str | None = None
    valid: bool = True
    evidence: Evidence | None = None
    activation: Activation | None = None


def align(wanted: list[str], offered: list[list[str]]) -> list[int | None]:
    """The longest way to find the `wanted` texts in order among the `offered` ones.

    A longest common subsequence (Hunt and Szymanski 1977), so that one missing or additional text does
    not shift all that follow.

    Args:
        wanted: the texts to place.
        offered: the texts that each place may stand for.

    Returns:
        For each wanted text the index of its place, increasing, or None.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for index, texts in enumerate(offered):
        for text in dict.fromkeys(texts):
            if len(places[text]) < _MOST_REPEATS:
                places[text].append(index)
    ends: list[int] = []  # ends[k]: the smallest place at which k + 1 wanted texts can end
    chains: list[Any] = []  # chains[k]: (wanted, place, chain before it) of that end
    for position, text in enumerate(wanted):
        for place in reversed(places.get(text, [])):
            length = bisect_left(ends, place)
            link = (position, place, chains[length - 1] if length else None)
            if length == len(ends):
                ends.append(place)
                chains.append(link)
            else:
                ends[length], chains[length] = place, link
    found: list[int | None] = [None] * len(wanted)
    chain = chains[-1] if chains else None
    while chain:
        position, place, chain = chain
        found[position] = place
    return found


def by_player(items: Iterable[Any]) -> dict[str, list[Any]]:
    """Calls, or statements, per player, in order."""
    groups: dict[str, list[Any]] = defaultdict(list)
    for item in items:
        groups[item.player].append(item)
    return groups


def with_turns(calls: list[Call]) -> list[Call]:
    """The calls, with the turn of those whose prompt does not say it taken from their neighbours."""
    turn, day = 1, False
    for call in calls:
        night = call.phase == "NIGHT"
        if call.turn is None:
            call.turn = turn + (night and day)
        turn, day = call.turn, not night
    return calls


def reasoning_of(evidence: Evidence) -> str | None:
    """The private reasoning in a response, None where it has none."""
    reasoning = evidence.answer.reasoning
    words = None if reasoning is None else as_text(reasoning)
    return None if words is None or words.strip() in ("", "N/A") else words


def statement_acts(game: Game, calls: list[Call]) -> list[Act]:
    """Statements and replies in spoken order, each with the call that made it where the log has it.

    For each player the DAY DISCUSSION calls are aligned with the statements by their text. Any response of
    a call and any reading of it may be the one that the game used: its text decides.
    """
    acts = {id(statement): _statement_act(statement) for statement in game.statements}
    discussion = by_player(call for call in calls if call.phase.startswith("DAY DISCUSSION"))
    for player, statements in by_player(game.statements).items():
        own = discussion.get(player, [])
        offered = [[text for _, answer in call.readings for text in spellings(answer.action)] for call in own]
        wanted = [squash(statement.text) for statement in statements]
        for statement, text, place in zip(statements, wanted, align(wanted, offered), strict=True):
            if place is not None:
                _attach(acts[id(statement)], own[place], text)
    return [acts[id(statement)] for statement in game.statements]


def _statement_act(statement: Statement) -> Act:
    return Act(
        type="statement" if statement.called_by is None else "reply",
        turn=statement.turn,
        actor=statement.player,
        target=statement.called_by,
        text=statement.text,
        question=statement.question,
        reasoning=statement.reasoning,
    )


def _attach(act: Act, call: Call, text: str) -> None:
    response, answer = next(
        (response, answer) for response, answer in call.readings if text in spellings(answer.action)
    )
    act.evidence = Evidence(call, response, answer)
    act.reasoning = act.reasoning or reasoning_of(act.evidence)
    if call.caller is not None:
        act.type = "reply"
        act.target = act.target or call.caller
        act.question = act.question or call.question


def attach_scores(game: Game, calls: list[Call], acts: list[Act], counts: Counter[str]) -> None:
    """Give each act of the log the scores that the game's own probe logged for its call.

    `player_activations` holds one entry per scored call of a player, in order; where the numbers differ,
    the actions decide.
    """
    entry_of: dict[int, Activation] = {}
    scored = by_player(call for call in calls if call.scored)
    for player, entries in game.activations.items():
        own = scored.get(player, [])
        places: list[int | None] = list(range(len(own)))
        if len(own) != len(entries):
            offered = [spellings(entry.action) for entry in entries]
            places = align([_likely(call) for call in own], offered)
        entry_of |= {
            call.index: entries[place] for call, place in zip(own, places, strict=True) if place is not None
        }
        counts["activation_entries_unplaced"] += len(entries) - sum(place is not None for place in places)
    for act in acts:
        if act.evidence:
            act.activation = entry_of.get(act.evidence.call.index)


def _likely(call: Call) -> str:
    return squash(as_text(call.readings[0][1].action)) if call.readings else ""


def in_order(
    game: Game, nights: list[Act], talk: list[Act], callouts: list[Act], votes: list[Act]
) -> list[Act]:
    """All acts by turn: night votes, seer checks, victim, discussion, day votes, elimination."""
    ranked: list[tuple[int, int, Act]] = []
    ranked += [(act.turn, 0 if act.type == "night_vote" else 1, act) for act in nights]
    ranked += [(kill.turn, 2, Act("night_kill", kill.turn, target=kill.victim)) for kill in game.kills]
    ranked += [(act.turn, 3, act) for act in _conversation(talk, callouts)]
    ranked += [(act.turn, 4, act) for act in votes]
    ranked += [
        (elimination.turn, 5, Act("day_elimination", elimination.turn, target=elimination.victim))
        for elimination in game.eliminations
    ]
    return [act for _, _, act in sorted(ranked, key=lambda item: item[:2])]


def _conversation(talk: list[Act], callouts: list[Act]) -> list[Act]:
    """Statements and replies with the callouts among them: before their reply, else where they were made."""
    before: dict[int, list[Act]] = defaultdict(list)
    after: dict[int, list[Act]] = defaultdict(list)
    waiting = list(callouts)
    for position, act in enumerate(talk):
        if act.type == "reply":
            before[position].append(_callout_of(act, waiting))
    for callout in waiting:
        after[_place(callout, talk)].append(callout)
    ordered = after[-1]
    for position, act in enumerate(talk):
        ordered += [*before[position], act, *after[position]]
    return ordered


def _callout_of(reply: Act, waiting: list[Act]) -> Act:
    """The callout that a reply answers, taken from `waiting`; made from the reply where there is none."""
    for index, callout in enumerate(waiting):
        if (callout.turn, callout.actor, callout.target) == (reply.turn, reply.target, reply.actor) and (
            reply.question is None or squash(callout.text or "") == squash(reply.question)
        ):
            reply.question = reply.question or callout.text
            return waiting.pop(index)
    return Act("callout", reply.turn, actor=reply.target, target=reply.actor, text=reply.question)


def _place(callout: Act, talk: list[Act]) -> int:
    """The position in `talk` of the last act before an unanswered callout, or -1."""
    last = -1
    for position, act in enumerate(talk):
        if act.turn > callout.turn:
            break
        if callout.evidence is None or act.evidence is None:
            earlier = act.turn < callout.turn or act.actor == callout.actor
        else:
            earlier = act.evidence.call.index < callout.evidence.call.index
        if earlier:
            last = position
    return last
