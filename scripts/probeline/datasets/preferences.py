"""Preference pairs of Mafia: two legal acts under one prompt, the better one of a comparable player.

A pair shows the prompt of the chosen act alone. The rejected act was done by a player of the same role in the
same phase at the same stage of another game of the same split, and would have been legal under that prompt.
Two moves are written in one form. No prompt stands in two splits, and no act is both chosen and rejected
under one prompt.
"""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from probeline.datasets.accounts import by_reason, warn_if_empty, write_games
from probeline.datasets.lengths import length_check
from probeline.datasets.mafia_acts import DISCUSSION, Act, named_in, read_acts
from probeline.datasets.mafia_files import (
    by_split,
    shown,
    write_balance,
    write_compliance,
    write_statistics,
)
from probeline.digests import canonical_digest
from probeline.files import atomic_directory, write_json_lines, write_manifest

_log = logging.getLogger(__name__)

DATASET_FILE = "mafia_dpo_dataset.jsonl"
TURNS_PER_STAGE = 5
"""A night, three rounds and a vote: acts of one stage saw about as much of their game."""


class Pair(NamedTuple):
    """Two acts; the prompt is the chosen one's."""

    chosen: Act
    rejected: Act


def build_preferences(
    corpus: Path,
    output: Path,
    dataset: Mapping[str, Any],
    splits: Mapping[str, Any],
    seed: int,
    *,
    model: Path | None = None,
    simulated: bool = False,
) -> None:
    """Make the preference pairs of a corpus, their statistics, balance table and compliance manifest.

    Args:
        corpus: folder with its actions.parquet and quality.json.
        output: the folder to make, whole or not at all.
        dataset: its declaration: optionally quality, min_gap and max_tokens.
        splits: the shares of train, validation and test.
        seed: another seed parts the games differently.
        model: folder of the model whose chat template the pairs are measured in.
        simulated: whether the corpus is.
    """
    counts: Counter[str] = Counter()
    acts = read_acts(corpus, dataset.get("quality", {}), splits, seed, counts)
    unpaired: Counter[str] = Counter()
    found = make_pairs(acts, unpaired, dataset.get("min_gap", 0))
    left_out: Counter[str] = Counter()
    fits = length_check(model, dataset.get("max_tokens"), left_out)
    pairs = [pair for pair in without_contradictions(found, left_out) if fits(_chats(pair))]
    chosen, both = [pair.chosen for pair in pairs], [act for pair in pairs for act in pair]
    good = sum(act.lacks is None for act in acts)
    with atomic_directory(output) as draft:
        write_json_lines(draft / DATASET_FILE, [_row(pair) for pair in pairs])
        write_statistics(draft, corpus, counts, acts, pairs=len(pairs))
        write_balance(draft, chosen)
        texts = ((act.game, act.turn, act.output) for act in both)
        write_compliance(draft, corpus, texts, simulated=simulated)
        write_games(draft, shown(both))
        facts = {
            "simulated": simulated,
            "entries": counts["entries"],
            "acts": len(acts),
            "could_be_chosen": good,
            "pairs": len(pairs),
            "excluded": by_reason(counts),
            "pairs_excluded": by_reason(left_out),
            # Why not more: each act that could be chosen is in a pair, in `pairs_excluded` or here.
            "not_chosen": dict(sorted(unpaired.items())),
            "splits": by_split(chosen),
            "types": dict(sorted(Counter(act.phase for act in chosen).items())),
        }
        write_manifest(draft, "preferences", {**facts, "declaration": dict(dataset)})
    _log.info("%d pairs from %d legal acts; not chosen: %s", len(pairs), len(acts), facts["not_chosen"])
    warn_if_empty(output, {DATASET_FILE: by_split(chosen)}, corpus)


def make_pairs(acts: list[Act], unpaired: Counter[str], min_gap: float = 0) -> list[Pair]:
    """Pair the best acts with the worst comparable ones; each act is in one pair at most.

    Args:
        acts: legal ones of decided games.
        unpaired: gets why acts that could be chosen are not, by reason.
        min_gap: by which the quality of the chosen act is higher at least; with 0, a won game against a lost
            one is enough.

    Returns:
        Pairs in the order of the chosen acts in `acts`.
    """
    groups: dict[tuple[Any, ...], list[Act]] = defaultdict(list)
    for act in acts:
        groups[act.split, act.phase, act.role, act.turn // TURNS_PER_STAGE].append(act)
    pairs = []
    for group in groups.values():
        pairs += _pairs_of(group, unpaired, min_gap)
    place = {(act.game, act.turn): position for position, act in enumerate(acts)}
    return sorted(pairs, key=lambda pair: place[pair.chosen.game, pair.chosen.turn])


def _pairs_of(group: list[Act], unpaired: Counter[str], min_gap: float) -> list[Pair]:
    """Pairs among comparable acts, the best with the worst first."""
    rising = sorted(group, key=lambda act: (act.rank, act.game, act.turn))
    free = dict.fromkeys(range(len(rising)))
    pairs = []
    for best in reversed(range(len(rising))):
        chosen = rising[best]
        if chosen.lacks is not None:
            continue
        if chosen.held_out is not None:
            unpaired[f"prompt_in_{chosen.held_out}_too"] += 1
            continue
        if best not in free:
            unpaired["is_rejected_in_another_pair"] += 1
            continue
        lower = [place for place in free if rising[place].rank < chosen.rank]
        far = [place for place in lower if not min_gap or _gap(chosen, rising[place]) >= min_gap]
        legal = [place for place in far if _is_legal_for(rising[place], chosen)]
        worst = next((place for place in legal if _can_be_said_for(rising[place], chosen)), None)
        if worst is None:
            unsaid = "names_possible_players" if chosen.phase == DISCUSSION else "has_the_same_form"
            reason = unsaid if legal else "is_legal_there" if far else "is_far_enough" if lower else "left"
            unpaired[f"no_lower_act_{reason}"] += 1
            continue
        del free[best], free[worst]
        pairs.append(Pair(chosen, rising[worst]))
    return pairs


def _gap(chosen: Act, rejected: Act) -> float:
    """By how much one is of higher quality, without the noise of floats: .70 is .15 above .55."""
    return round(chosen.quality - rejected.quality, 6)


def _is_legal_for(rejected: Act, chosen: Act) -> bool:
    """Whether an act could have been done under another's prompt, and differs from what was done there."""
    if rejected.played == chosen.played or rejected.output.strip() == chosen.output.strip():
        return False
    if chosen.phase == DISCUSSION:
        return True
    return rejected.target in chosen.targets and rejected.target != chosen.target


def _can_be_said_for(rejected: Act, chosen: Act) -> bool:
    """Whether an act could have been put so under another's prompt.

    A move is to have the form of the other, `[3]` or `3`, so that a pair is not about brackets. In words,
    who is out could not be named, nor who speaks there, nor who speaks here, unless by the same number.
    """
    if chosen.phase != DISCUSSION:
        return _form(rejected.output) == _form(chosen.output)
    named = named_in(rejected.output)
    if rejected.player != chosen.player and named & named_in(f"{rejected.player} {chosen.player}"):
        return False
    return named <= chosen.alive


def _form(move: str) -> str:
    """How a move is written, whomever it names."""
    return re.sub("[0-9]+", "0", move.strip())


def without_contradictions(pairs: list[Pair], left_out: Counter[str]) -> Iterator[Pair]:
    """The pairs, each once, whose chosen act is not the rejected one of another pair with the same prompt.

    Args:
        pairs: of all splits.
        left_out: counts the others, as `excluded.<reason>`.
    """
    keys = [[(canonical_digest(pair.chosen.prompt), _meaning(act)) for act in pair] for pair in pairs]
    rejected = {key for _, key in keys}
    seen = set()
    for pair, (chosen, worse) in zip(pairs, keys, strict=True):
        if chosen in rejected:
            left_out["excluded.chosen_is_rejected_elsewhere"] += 1
        elif (chosen, worse) in seen:
            left_out["excluded.same_pair_twice"] += 1
        else:
            seen.add((chosen, worse))
            yield pair


def _meaning(act: Act) -> str:
    """What an act is, in whatever form: whom a move names, or the words."""
    return act.output.strip() if act.target is None else str(act.target)


def _chats(pair: Pair) -> list[list[dict[str, str]]]:
    prompt = pair.chosen.prompt
    return [[*prompt, {"role": "assistant", "content": act.output}] for act in pair]


def _row(pair: Pair) -> dict[str, Any]:
    chosen, rejected = pair
    return {
        "prompt": chosen.prompt,
        "chosen": [{"role": "assistant", "content": chosen.output}],
        "rejected": [{"role": "assistant", "content": rejected.output}],
        "type": chosen.phase,
        "game": chosen.game,
        "turn": chosen.turn,
        "rejected_game": rejected.game,
        "rejected_turn": rejected.turn,
        "chosen_quality": chosen.quality,
        "rejected_quality": rejected.quality,
        "role": chosen.role,
        "split": chosen.split,
    }
