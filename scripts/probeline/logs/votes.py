"""Who voted for whom, by night and by day, and whether that agrees with what the game counted.

How the game counts (found out from its logs):

- By day every vote counts under the very text that the model gave, even a sentence ("Player3 votes for
  Player5") or a dead player's name; `day_elimination.votes` is that tally. The text with most votes wins,
  the first voted among equals; where it is no living player, nobody is eliminated and nothing is recorded.
- By night only votes that name a possible victim count, and the victim is drawn among equals. Where at
  least one does, all votes are recorded; where none does, the victim is drawn and `werewolf_votes` missing.

A vote is valid when the game can act on it: by day when it is among the prompt's `Options:`; by night
likewise, unless the recorded victim shows that the game accepted any living player.
"""

from collections import Counter, defaultdict
from itertools import pairwise

from probeline.logs.llm_log import Call
from probeline.logs.responses import as_text, spellings, squash
from probeline.logs.timeline import Act, Evidence, align, reasoning_of
from probeline.logs.werewolf import Activation, Game, NightKill, action_names, is_pass

NIGHT_ROLES = ("werewolf", "seer")


def night_acts(game: Game, calls: list[Call], counts: Counter[str]) -> list[Act]:
    """Night votes and seer checks from the log."""
    acts = []
    for call in calls:
        if call.phase == "NIGHT" and call.readings:
            kind = {"werewolf": "night_vote", "seer": "seer_check"}.get(game.players[call.player].role)
            if kind is None:
                counts["night_calls_of_other_roles"] += 1
            else:
                acts.append(_vote(game, kind, call, 0))
    _judge_nights(game, [act for act in acts if act.type == "night_vote"], counts)
    return acts


def night_acts_from_stats(game: Game, counts: Counter[str]) -> list[Act]:
    """Night votes as `werewolf_votes` records them; seer checks are not recorded."""
    acts = [
        Act("night_vote", kill.turn, actor=wolf, target=game.named(text, wolf), text=text)
        for kill in game.kills
        for wolf, text in (kill.votes or {}).items()
    ]
    for act in acts:
        act.valid = act.text in _victims(game, act.turn)
    _judge_nights(game, acts, counts)
    return acts


def _victims(game: Game, turn: int) -> list[str]:
    return [name for name in game.living(turn, by_day=False) if game.players[name].team == "village"]


def _vote(game: Game, kind: str, call: Call, reading: int) -> Act:
    evidence = Evidence(call, *call.readings[reading])
    text = as_text(evidence.answer.action).strip()
    turn = call.turn or 1
    options = call.options
    if options is None:
        options = [name for name in game.living(turn, by_day=kind == "day_vote") if name != call.player]
    return Act(
        type=kind,
        turn=turn,
        actor=call.player,
        target=game.named(text, call.player),
        text=text,
        reasoning=reasoning_of(evidence),
        valid=text in options,
        evidence=evidence,
    )


def _judge_nights(game: Game, votes: list[Act], counts: Counter[str]) -> None:
    """Accept votes for any living player in nights whose victim can only be explained that way."""
    per_turn: dict[int, list[Act]] = defaultdict(list)
    for vote in votes:
        per_turn[vote.turn].append(vote)
    for kill in game.kills:
        cast = per_turn.get(kill.turn, [])
        _compare_with_stats(kill, cast, counts)
        living = game.living(kill.turn, by_day=False)
        named = [vote for vote in cast if vote.text in living and vote.text != vote.actor]
        accepted = [vote for vote in cast if vote.valid]
        if kill.victim in _top(accepted):
            counts["night_kills_by_options"] += 1
        elif kill.victim in _top(named):
            counts["night_kills_by_living"] += 1
            for vote in named:
                vote.valid = True
        elif not accepted:
            counts["night_kills_drawn"] += 1
        else:
            counts["night_kills_unexplained"] += 1


def _compare_with_stats(kill: NightKill, cast: list[Act], counts: Counter[str]) -> None:
    texts = {vote.actor: vote.text for vote in cast}
    for wolf, text in (kill.votes or {}).items():
        same = squash(texts.get(wolf) or "") == squash(text)
        counts["night_votes_as_recorded" if same else "night_votes_other_than_recorded"] += 1


def _top(votes: list[Act]) -> list[str | None]:
    """The texts with most votes, in the order of voting."""
    tally = Counter(vote.text for vote in votes)
    most = max(tally.values(), default=0)
    return [text for text, count in tally.items() if count == most]


def callouts(game: Game, calls: list[Call], counts: Counter[str]) -> list[Act]:
    """Callouts from the log; who passes makes no event."""
    acts = []
    for call in calls:
        if call.phase != "PLAYER CALLOUT" or not call.readings:
            continue
        evidence, names = _readable_callout(call)
        if names is None:
            counts["callouts_passed" if is_pass(evidence.answer.action) else "callouts_unreadable"] += 1
            continue
        target, question = names
        valid = target in game.players and target != call.player
        counts["callouts_invalid"] += not valid
        acts.append(
            Act(
                "callout",
                call.turn or 1,
                actor=call.player,
                target=game.named(target, call.player),
                text=question,
                reasoning=reasoning_of(evidence),
                valid=valid,
                evidence=evidence,
            )
        )
    return acts


def _readable_callout(call: Call) -> tuple[Evidence, tuple[str, str] | None]:
    """The first reading that names a target; the likeliest one where none does."""
    first = Evidence(call, *call.readings[0])
    if is_pass(first.answer.action):
        return first, None
    for response, answer in call.readings:
        if names := action_names(answer.action):
            return Evidence(call, response, answer), names
    return first, None


def day_votes(game: Game, calls: list[Call], counts: Counter[str]) -> list[Act]:
    """Day votes from the log: of each call the last response; the first where only that fits the tally."""
    cast: dict[int, dict[str, Call]] = defaultdict(dict)
    for call in calls:
        if call.phase == "DAY VOTE" and call.readings:
            counts["day_votes_superseded"] += call.player in cast[call.turn or 1]
            cast[call.turn or 1][call.player] = call
    votes: list[Act] = []
    for turn, ballots in sorted(cast.items()):
        last = [_vote(game, "day_vote", call, 0) for call in ballots.values()]
        first = [_vote(game, "day_vote", call, _first_response(call)) for call in ballots.values()]
        if not tally_agrees(game, turn, last) and tally_agrees(game, turn, first):
            counts["tallies_by_first_response"] += 1
            last = first
        votes += last
    return votes


def _first_response(call: Call) -> int:
    return next(i for i, (response, _) in enumerate(call.readings) if response == call.readings[-1][0])


def tally_agrees(game: Game, turn: int, votes: list[Act]) -> str | None:
    """How the votes of a turn reproduce the tally: `all` of them, only the `valid` ones, or None."""
    tallies = [elimination.tally for elimination in game.eliminations if elimination.turn == turn]
    if len(tallies) != 1:
        return None
    tally: Counter[str] = Counter()
    for text, count in tallies[0].items():
        tally[squash(text)] += count
    if Counter(squash(vote.text or "") for vote in votes) == tally:
        return "all"
    if Counter(squash(vote.text or "") for vote in votes if vote.valid) == tally:
        return "valid"
    return None


def check_tallies(game: Game, votes: list[Act], counts: Counter[str]) -> None:
    """Count the tallies that the votes reproduce, and the eliminations that they explain."""
    for elimination in game.eliminations:
        cast = [vote for vote in votes if vote.turn == elimination.turn]
        counts["tallies"] += 1
        agreement = tally_agrees(game, elimination.turn, cast) if cast else None
        if agreement:
            counts["tallies_matched"] += 1
            counts["tallies_matched_by_valid_votes_only"] += agreement == "valid"
            counts["eliminations_explained"] += _top(cast)[0] == elimination.victim
        elif cast:
            counts["tallies_mismatched"] += 1
        else:
            counts["tallies_without_votes"] += 1
    counted = {elimination.turn for elimination in game.eliminations}
    counts["day_votes_without_tally"] += sum(vote.turn not in counted for vote in votes)


class Moves:
    """A player's `player_activations`, in call order, placed in the game by its statements.

    Between a player's last statement of a day and the first of the next stand its vote and, for werewolves
    and the seer, its act of the night between; callouts are told apart by their form. What stands there in
    another number is left alone.
    """

    def __init__(self, game: Game, player: str, talk: list[Act]) -> None:
        self.player = player
        self.entries = game.activations.get(player, [])
        self.talk = [act for act in talk if act.actor == player]
        places = align(
            [squash(act.text or "") for act in self.talk], [spellings(e.action) for e in self.entries]
        )
        self.anchors = [
            (act.turn, place) for act, place in zip(self.talk, places, strict=True) if place is not None
        ]
        for act, place in zip(self.talk, places, strict=True):
            act.activation = None if place is None else self.entries[place]
        self.votes: dict[int, Activation] = {}
        self.nights: dict[int, Activation] = {}
        self.callouts: list[tuple[int, Activation]] = []
        nights = {kill.turn for kill in game.kills if _acts_by_night(game, player, kill)}
        bounds = [(0, -1), *self.anchors, (0, len(self.entries))]
        for (turn, start), (after, end) in pairwise(bounds):
            self._read_gap(turn, after, self.entries[start + 1 : end], nights)

    def _read_gap(self, turn: int, after: int, gap: list[Activation], nights: set[int]) -> None:
        moves = [entry for entry in gap if not _is_callout(entry)]
        self.callouts += [(turn or after, entry) for entry in gap if action_names(entry.action)]
        if turn == after:
            return  # between two statements of one day nobody votes
        expected: list[tuple[dict[int, Activation], int]] = [(self.votes, turn)] if turn else []
        expected += [(self.nights, turn + 1)] if turn + 1 in nights else []
        if len(moves) == len(expected) and after in (0, turn + 1):
            for (kind, when), entry in zip(expected, moves, strict=True):
                kind[when] = entry

    def callout_acts(self, game: Game) -> list[Act]:
        """The player's callouts."""
        acts = []
        for turn, entry in self.callouts:
            if (names := action_names(entry.action)) and turn:
                valid = names[0] in game.players and names[0] != self.player
                acts.append(
                    Act(
                        "callout",
                        turn,
                        actor=self.player,
                        target=game.named(names[0], self.player),
                        text=names[1],
                        valid=valid,
                        activation=entry,
                    )
                )
        return acts


def _acts_by_night(game: Game, player: str, kill: NightKill) -> bool:
    role = game.players[player].role
    # The seer looks after the kill, the werewolves vote before it.
    return role in NIGHT_ROLES and player in game.living(kill.turn, by_day=role == "seer")


def _is_callout(entry: Activation) -> bool:
    action = entry.action
    return not isinstance(action, str) or action.lstrip().startswith("{") or is_pass(action)


def day_votes_from_stats(game: Game, moves: dict[str, Moves], counts: Counter[str]) -> list[Act]:
    """Day votes rebuilt from `player_activations`, of the turns whose tally they reproduce exactly."""
    votes = []
    for elimination in game.eliminations:
        turn = elimination.turn
        voters = game.living(turn, by_day=True)
        cast = {voter: moves[voter].votes[turn] for voter in voters if turn in moves[voter].votes}
        rebuilt = [_stats_vote(game, turn, voter, entry, voters) for voter, entry in cast.items()]
        if not game.activations:
            counts["turns_without_voters_no_activations"] += 1
        elif len(cast) < len(voters):
            counts["turns_without_voters_ambiguous"] += 1
        elif tally_agrees(game, turn, rebuilt) != "all":
            counts["turns_without_voters_tally_differs"] += 1
        else:
            votes += rebuilt
            continue
        counts["day_votes_without_voter"] += sum(elimination.tally.values())
    return votes


def _stats_vote(game: Game, turn: int, voter: str, entry: Activation, living: list[str]) -> Act:
    text = as_text(entry.action).strip()
    return Act(
        "day_vote",
        turn,
        actor=voter,
        target=game.named(text, voter),
        text=text,
        valid=text in living and text != voter,
        activation=entry,
    )
