"""Read one shard of a corpus of Mafia logs into tables."""

from pathlib import Path

from probeline.compute.jobs import job

with job(snakemake):
    # Imported here: the job has set the number of threads by now.
    from probeline.logs.ingest_mafia import ingest_mafia
    from probeline.logs.shards import files_of_shard

    spec, root = snakemake.params.spec, Path(snakemake.params.spec["root"])
    inputs = [Path(file) for file in snakemake.input.logs]
    files = files_of_shard(root, inputs, spec["unreadable"], spec["simulated"])
    ingest_mafia(files, root, Path(snakemake.output.tables), spec["retracted"])
