"""Read one shard of a corpus of Werewolf logs into tables."""

from pathlib import Path

from probeline.compute.jobs import job

with job(snakemake):
    # Imported here: the job has set the number of threads by now.
    from probeline.logs.ingest import ingest_werewolf
    from probeline.logs.shards import games_of_shard

    spec = snakemake.params.spec
    root = Path(spec["root"])
    games = games_of_shard(
        root,
        snakemake.wildcards.corpus,
        spec["shard"],
        spec["shards"],
        spec["games"],
        spec["retracted"],
    )
    ingest_werewolf(games, root, spec["duplicates"], Path(snakemake.output.tables), spec["retracted"])
