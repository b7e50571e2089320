"""Read one shard of a corpus of Werewolf logs into tables."""

from pathlib import Path

from probeline.compute.jobs import job

with job(snakemake.log[0]):
    # Imported here: the job has set the number of threads by now.
    from probeline.logs.ingest import ingest_werewolf

    spec = snakemake.params.spec
    ingest_werewolf(spec["games"], Path(spec["root"]), spec["duplicates"], Path(snakemake.output.tables))
