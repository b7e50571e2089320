"""Which games of a corpus belong to which shard, said the same way while parsing and in a job."""

from collections.abc import Collection
from pathlib import Path

from probeline.digests import canonical_digest, shard_of
from probeline.errors import ProbelineError
from probeline.logs.listing import list_games


def identity(games: list[str]) -> str:
    """Digest of a list of games: the list itself would fill the screen when Snakemake says what changed."""
    return canonical_digest(games)[:16]


def games_of_shard(
    root: Path, corpus: str, shard: int, shards: int, expected: str, retracted: Collection[str]
) -> list[str]:
    """The games that are dealt to a shard and not retracted, sorted.

    Args:
        root: the folder of the corpus.
        corpus: its name in the config.
        shard: number of the shard, from 0.
        shards: number of shards.
        expected: their `identity` when the run was planned.
        retracted: keys of games that are taken out of the inputs.

    Raises:
        ProbelineError: games came or went since then.
    """
    if expected == identity([]):
        return []  # A shard of few simulated games may have no folder to list.
    dealt = [game for game in list_games(root, corpus) if shard_of(game, shards) == shard]
    games = [game for game in dealt if game not in retracted]
    if identity(games) != expected:
        raise ProbelineError(
            f"Games were added to {root} or removed from it while the run was going on. "
            "Run the same command again."
        )
    return games
