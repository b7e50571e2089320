"""Fetch a model at its pinned version into data/models."""

from pathlib import Path

from probeline.compute.jobs import job

with job(snakemake, hub=True):
    # Imported here: the job has set the number of threads by now.
    from probeline.models.fetch import fetch_model

    fetch_model(snakemake.params.spec["source"], Path(snakemake.output.model))
