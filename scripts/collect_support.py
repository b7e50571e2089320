"""Merge the shards of a corpus of support dialogues into its tables and its quality report."""

from pathlib import Path

from probeline.compute.jobs import job

with job(snakemake):
    # Imported here: the job has set the number of threads by now.
    from probeline.logs.ingest_support import collect_support

    shards = [Path(manifest).parent for manifest in snakemake.input.shards]
    collect_support(shards, Path(snakemake.output.quality).parent)
