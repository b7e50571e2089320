"""What Mafia players did, as something to learn from: the prompt of each act and its quality."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from probeline.digests import canonical_digest, split_of
from probeline.logs.tables import rows_in
from probeline.schema import SPLITS

DISCUSSION = "discussion"
DECIDED = ("win", "loss")
INDICATORS = (
    *("analyze", "suspect", "trust", "evidence", "pattern", "alliance", "strategy", "reasoning", "logic"),
    *("deduce", "investigate", "protect", "coordinate", "timing", "reveal"),
)
ROLE_WORDS = {
    "detective": ("investigate", "evidence", "suspect"),
    "doctor": ("protect", "heal", "save"),
    "villager": ("vote", "discuss", "analyze"),
    "mafia": ("deflect", "mislead", "survive"),
}
# "Player 3", "player #3", "Players 0, 2 and 5"
_NAMED = re.compile(
    r"\b(?:players?\W{0,3}|p)[0-9]{1,4}\b(?:\W{1,3}(?:(?:and|or)\W{1,3})?[0-9]{1,4}\b)*", re.IGNORECASE
)
_NUMBER = re.compile("[0-9]+")
QUALITY = {"min_length": 50, "min_indicators": 2, "indicators": INDICATORS}
"""The quality filter, where the config says nothing else. It is for words: a vote has none."""


@dataclass(frozen=True, slots=True)
class Act:
    """An act that is legal and of a decided game.

    Attributes:
        game: key of its game.
        content: digest of that game's content.
        played: digest of what was played in it; games that share it share their split.
        split: of the game.
        turn: as logged.
        phase: discussion, night or vote.
        player: whose act it is: `Player 3`.
        role: of the player.
        won: whether the player won.
        instruction: the rules and the role, as the game told them.
        input: phase, turn, what the player has seen since its last act, and the valid targets.
        output: the action, as logged.
        alive: who is in the game, as far as the player knows, by number.
        targets: the valid ones by number; none in a discussion.
        target: the number that the action names; None in a discussion.
        quality: in 0..1, see `quality_of`.
        lacks: why the quality filter leaves it out; None where it does not.
        held_out: the split further held out in which an act that the filter keeps has the same prompt, word
            for word; None where there is none.
    """

    game: str
    content: str
    played: str
    split: str
    turn: int
    phase: str
    player: str
    role: str
    won: bool
    instruction: str
    input: str
    output: str
    alive: frozenset[int]
    targets: frozenset[int]
    target: int | None
    quality: float
    lacks: str | None
    held_out: str | None = None

    @property
    def rank(self) -> tuple[bool, float]:
        """A won game goes before quality; of moves alone quality says how they are written, and is none."""
        return self.won, self.quality if self.phase == DISCUSSION else 0.0

    @property
    def prompt(self) -> list[dict[str, str]]:
        """The chat before the action."""
        return [{"role": "system", "content": self.instruction}, {"role": "user", "content": self.input}]


def read_acts(
    corpus: Path, quality: Mapping[str, Any], splits: Mapping[str, Any], seed: int, counts: Counter[str]
) -> list[Act]:
    """The acts of a corpus that are legal and of decided games, in the order of the table.

    The split is that of what was played: a log of the same game with another time is no other game.

    Args:
        corpus: folder with its actions.parquet.
        quality: what differs from QUALITY.
        splits: the shares of train, validation and test; Mafia is parted by game, it has no experiments.
        seed: another seed parts the games differently.
        counts: gets `entries`, and why an entry is no act, as `excluded.<reason>`.
    """
    settings = {**QUALITY, **quality}
    fractions = {split: splits[split] for split in SPLITS}
    acts = []
    for row in rows_in(corpus / "actions.parquet"):
        counts["entries"] += 1
        reason = _exclusion(row)
        if reason is not None:
            counts[f"excluded.{reason}"] += 1
            continue
        acts.append(_act(row, settings, split_of(row["played"], fractions, seed)))
    held_out: dict[str, str] = {}
    for act in acts:
        if act.lacks is None:
            key = canonical_digest(act.prompt)
            held_out[key] = max(held_out.get(key, ""), act.split, key=("", *SPLITS).index)
    return [_told_apart(act, held_out) for act in acts]


def _told_apart(act: Act, held_out: Mapping[str, str]) -> Act:
    """The act, marked where its prompt is one of a split further held out, too."""
    further = act.split if act.lacks is not None else held_out[canonical_digest(act.prompt)]
    return act if further == act.split else replace(act, held_out=further)


def _exclusion(row: Mapping[str, Any]) -> str | None:
    if row["outcome"] not in DECIDED:
        return f"game_not_decided_{row['outcome']}"
    if row["dropped"] is not None:
        return str(row["dropped"])
    return "role_unknown" if row["role"] not in ROLE_WORDS else None


def _act(row: Mapping[str, Any], settings: Mapping[str, Any], split: str) -> Act:
    targets = [] if row["phase"] == DISCUSSION else [int(word) for word in (row["targets"] or "").split()]
    won = row["outcome"] == "win"
    return Act(
        **{name: row[name] for name in ("game", "content", "played", "turn", "phase", "player", "role")},
        split=split,
        won=won,
        instruction=row["rules"],
        input=prompt_input(row["phase"], row["turn"], row["seen"], targets),
        output=row["action"],
        alive=frozenset(map(int, row["alive"].split())),
        targets=frozenset(targets),
        target=None if row["phase"] == DISCUSSION else row["target"],
        quality=quality_of(row["action"], row["role"], settings["indicators"], won=won),
        lacks=_lack(row, settings),
    )


def prompt_input(phase: str, turn: int, seen: str | None, targets: Iterable[int]) -> str:
    """What stands above an act: phase, turn, what the player has seen since, and the valid targets."""
    lines = [f"Phase: {phase}", f"Turn: {turn}", "", seen or "Nothing happened since."]
    listed = ", ".join(f"[{number}]" for number in targets)
    if listed:
        lines += ["", f"Valid targets: {listed}"]
    return "\n".join(lines)


def _lack(row: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """Why the quality filter leaves out what was said; a vote or night act is legal by now, and enough."""
    if row["phase"] != DISCUSSION:
        return None
    if len(row["action"].strip()) < settings["min_length"]:
        return "too_short"
    if count_words(row["action"], settings["indicators"]) < settings["min_indicators"]:
        return "too_few_indicators"
    return None


def count_words(text: str, words: Iterable[str]) -> int:
    """How many of some words, or words that begin with them, a text holds, each counted once."""
    return sum(re.search(rf"\b{re.escape(word)}", text, re.IGNORECASE) is not None for word in words)


def named_in(text: str) -> set[int]:
    """Numbers of the players that a text names."""
    return {int(number) for names in _NAMED.findall(text) for number in _NUMBER.findall(names)}


def quality_of(action: str, role: str, indicators: Iterable[str], *, won: bool) -> float:
    """.5 + min(.3, .05 · indicators) + min(.2, characters / 1000) + .1 if won + min(.1, .02 · role words)."""
    strategic = count_words(action, indicators)
    fitting = count_words(action, ROLE_WORDS.get(role, ()))
    total = 0.5 + min(0.3, 0.05 * strategic) + min(0.2, len(action) / 1000)
    return round(min(1.0, total + 0.1 * won + min(0.1, 0.02 * fitting)), 6)
