"""Read the residual stream of one or more shards of dialogues."""

from probeline.bodies.extract_activations import extract_activations
from probeline.compute.jobs import job

with job(snakemake, threads=snakemake.params.spec["threads"]) as run:
    run(extract_activations)
