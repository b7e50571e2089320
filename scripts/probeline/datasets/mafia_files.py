"""What every dataset for fine-tuning on Mafia holds beside its examples: statistics, balance, compliance."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from probeline.datasets.accounts import Shown
from probeline.datasets.dialogues import SPLITS
from probeline.datasets.mafia_acts import DECIDED, ROLE_WORDS, Act
from probeline.digests import sha256_file
from probeline.files import open_parquet, read_json, write_bytes, write_json

COMPLIANCE = (
    "Every output is an action as it was logged; no text was rewritten, shortened or generated.",
    "Every prompt is what the game told the player, with its phase, its turn and the valid targets.",
    "Timeouts, errors and illegal moves are left out; every exclusion is counted by its reason.",
    "Training, validation and test hold different games.",
)


def write_statistics(
    output: Path, corpus: Path, counts: Mapping[str, int], acts: list[Act], examples: int, pairs: int
) -> None:
    """Write dataset_statistics.json.

    Args:
        output: the dataset.
        corpus: folder with the quality.json of the corpus.
        counts: of `read_acts`.
        acts: legal ones of decided games.
        examples: number of examples for supervised fine-tuning.
        pairs: number of preference pairs.
    """
    quality = read_json(corpus / "quality.json")
    write_json(
        output / "dataset_statistics.json",
        {
            "total_processed_games": quality["games"],
            "total_entries": counts["entries"],
            "total_high_quality_entries": sum(act.lacks is None for act in acts),
            "total_sft_examples": examples,
            "total_dpo_examples": pairs,
            "role_distribution": quality["roles"],
            "outcome_distribution": quality["outcomes"],
        },
    )


def write_balance(output: Path, acts: Iterable[Act]) -> None:
    """Write balance_table.csv: games and examples by role and outcome."""
    examples, games = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    seen = set()
    for act in acts:
        cell = act.role, "win" if act.won else "loss"
        examples[cell] += 1
        games[cell] += act.game not in seen
        seen.add(act.game)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("role", "outcome", "games", "examples"))
    for role in ROLE_WORDS:
        table.writerows((role, end, games[role, end], examples[role, end]) for end in DECIDED)
    write_bytes(output / "balance_table.csv", text.getvalue().encode())


def write_compliance(
    output: Path, corpus: Path, outputs: Iterable[tuple[str, int, str]], *, simulated: bool
) -> None:
    """Write compliance.json: what the examples keep to, checked once more against the table.

    Args:
        output: the dataset.
        corpus: folder with its actions.parquet.
        outputs: game, turn and text of everything that is to be learned, or to be avoided.
        simulated: whether the corpus is.
    """
    table = corpus / "actions.parquet"
    with open_parquet(table) as file:
        rows = file.read(columns=["game", "turn", "action"]).to_pylist()
    logged = {(row["game"], row["turn"], row["action"]) for row in rows}
    texts = list(outputs)
    write_json(
        output / "compliance.json",
        {
            "data": {"file": table.name, "sha256": sha256_file(table)},
            "simulated": simulated,
            "rules": list(COMPLIANCE),
            "texts": len(texts),
            "rewritten": sum(text not in logged for text in texts),
        },
    )


def shown(acts: Iterable[Act]) -> Iterator[Shown]:
    """The games that acts are from."""
    return (Shown(act.game, act.content, act.split) for act in acts)


def by_split(acts: Iterable[Act]) -> dict[str, int]:
    """Number of examples in each split."""
    counts = Counter(act.split for act in acts)
    return {split: counts[split] for split in SPLITS}
