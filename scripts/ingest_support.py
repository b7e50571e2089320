"""Read one shard of a corpus of support dialogues into tables."""

from pathlib import Path

from probeline.compute.jobs import job

with job(snakemake):
    # Imported here: the job has set the number of threads by now.
    from probeline.logs.ingest_support import ingest_support
    from probeline.logs.shards import files_of_shard

    spec, root = snakemake.params.spec, Path(snakemake.params.spec["root"])
    inputs = [Path(file) for file in snakemake.input.logs]
    files = files_of_shard(root, inputs, spec["unreadable"], spec["simulated"])
    ingest_support(files, root, Path(snakemake.output.tables), spec["retracted"])
