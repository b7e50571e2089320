"""Fetch a model at its pinned version into data/models."""

from probeline.bodies.fetch_model import fetch_model
from probeline.compute.jobs import job

with job(snakemake, hub=True) as run:
    run(fetch_model)
