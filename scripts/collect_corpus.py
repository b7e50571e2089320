"""Merge the shards of a corpus into its tables and its quality report."""

from pathlib import Path

from probeline.compute.jobs import job

with job(snakemake):
    # Imported here: the job has set the number of threads by now.
    from probeline.logs.ingest import collect_corpus

    shards = [Path(manifest).parent for manifest in snakemake.input.shards]
    collect_corpus(shards, Path(snakemake.output.quality).parent)
