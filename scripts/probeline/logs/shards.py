"""Which games of a corpus belong to which shard, said the same way while parsing and in a job."""

from collections.abc import Collection
from pathlib import Path

from probeline.digests import canonical_digest, shard_of
from probeline.errors import ProbelineError
from probeline.logs.listing import files_under, list_games


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


def files_of_shard(
    root: Path, inputs: list[Path], unreadable: list[str], simulated: str | None
) -> list[Path]:
    """The files of logs that a job reads.

    Args:
        root: the folder of the corpus, or of the shard of a simulated one.
        inputs: those that Snakemake may read; for a simulated corpus the manifest of the shard alone.
        unreadable: paths relative to `root` of those that it may not read, for the job to report.
        simulated: how the names of a simulated corpus's files end; None for a real one.
    """
    if simulated is not None:
        return [root / file for file in files_under(root, simulated)]
    return sorted([*inputs, *(root / file for file in unreadable)])
