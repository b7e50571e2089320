"""Merge the shards of a corpus of forecasting cases into its tables and its quality report."""

from pathlib import Path

from probeline.compute.jobs import job

with job(snakemake):
    # Imported here: the job has set the number of threads by now.
    from probeline.logs.ingest_forecasts import collect_forecasts

    shards = [Path(manifest).parent for manifest in snakemake.input.shards]
    collect_forecasts(shards, Path(snakemake.output.quality).parent)
