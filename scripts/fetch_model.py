"""Fetch a model at its pinned version into data/models."""

from pathlib import Path

from probeline.compute.jobs import job

source, output = snakemake.params.spec["source"], Path(snakemake.output.model)
with job(snakemake, hub=True):
    # Imported here: the job has set the number of threads by now.
    if snakemake.resources.modal:
        from probeline.compute.remote.weights import fetch_there

        fetch_there(source, output)
    else:
        from probeline.models.fetch import fetch_model

        fetch_model(source, output)
