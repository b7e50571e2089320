"""Preference pairs of Mafia: two legal acts under one prompt, the better one of a comparable player.

A pair shows the prompt of the chosen act alone. The rejected act was done by a player of the same role in the
same phase at the same stage of another game of the same split, and would have been legal under that prompt.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from probeline.datasets.accounts import by_reason, write_games
from probeline.datasets.lengths import length_check
from probeline.datasets.mafia_acts import DISCUSSION, Act, read_acts
from probeline.datasets.mafia_files import (
    by_split,
    shown,
    write_balance,
    write_compliance,
    write_statistics,
)
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
        dataset: its declaration: optionally quality and max_tokens.
        splits: the shares of train, validation and test.
        seed: another seed parts the games differently.
        model: folder of the model whose chat template the pairs are measured in.
        simulated: whether the corpus is.
    """
    counts: Counter[str] = Counter()
    acts = read_acts(corpus, dataset.get("quality", {}), splits, seed, counts)
    unpaired: Counter[str] = Counter()
    found = make_pairs(acts, unpaired)
    lengths: Counter[str] = Counter()
    fits = length_check(model, dataset.get("max_tokens"), lengths)
    pairs = [pair for pair in found if fits(_chats(pair))]
    chosen, both = [pair.chosen for pair in pairs], [act for pair in pairs for act in pair]
    good = sum(act.lacks is None for act in acts)
    with atomic_directory(output) as draft:
        write_json_lines(draft / DATASET_FILE, [_row(pair) for pair in pairs])
        write_statistics(draft, corpus, counts, acts, good, len(pairs))
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
            "pairs_excluded": by_reason(lengths),
            # Why not more: each act that could be chosen is in a pair, in `pairs_excluded` or here.
            "not_chosen": dict(sorted(unpaired.items())),
            "splits": by_split(chosen),
            "types": dict(sorted(Counter(act.phase for act in chosen).items())),
        }
        write_manifest(draft, "preferences", {**facts, "declaration": dict(dataset)})
    _log.info("%d pairs from %d legal acts; not chosen: %s", len(pairs), len(acts), facts["not_chosen"])


def make_pairs(acts: list[Act], unpaired: Counter[str]) -> list[Pair]:
    """Pair the best acts with the worst comparable ones; each act is in one pair at most.

    Args:
        acts: legal ones of decided games.
        unpaired: gets why acts that could be chosen are not, by reason.

    Returns:
        Pairs in the order of the chosen acts in `acts`.
    """
    groups: dict[tuple[Any, ...], list[Act]] = defaultdict(list)
    for act in acts:
        groups[act.split, act.phase, act.role, act.turn // TURNS_PER_STAGE].append(act)
    pairs = []
    for group in groups.values():
        pairs += _pairs_of(group, unpaired)
    place = {(act.game, act.turn): position for position, act in enumerate(acts)}
    return sorted(pairs, key=lambda pair: place[pair.chosen.game, pair.chosen.turn])


def _pairs_of(group: list[Act], unpaired: Counter[str]) -> list[Pair]:
    """Pairs among comparable acts, the best with the worst first."""
    rising = sorted(group, key=lambda act: (act.rank, act.game, act.turn))
    free = dict.fromkeys(range(len(rising)))
    pairs = []
    for best in reversed(range(len(rising))):
        chosen = rising[best]
        if chosen.lacks is not None:
            continue
        if best not in free:
            unpaired["is_rejected_in_another_pair"] += 1
            continue
        lower = [place for place in free if rising[place].rank < chosen.rank]
        worst = next((place for place in lower if _is_legal_for(rising[place], chosen)), None)
        if worst is None:
            unpaired["no_lower_act_left" if not lower else "no_lower_act_is_legal_there"] += 1
            continue
        del free[best], free[worst]
        pairs.append(Pair(chosen, rising[worst]))
    return pairs


def _is_legal_for(rejected: Act, chosen: Act) -> bool:
    """Whether an act could have been done under another's prompt, and differs from what was done there."""
    if rejected.game == chosen.game or rejected.output.strip() == chosen.output.strip():
        return False
    if chosen.phase == DISCUSSION:
        return True
    return rejected.target in chosen.targets and rejected.target != chosen.target


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
