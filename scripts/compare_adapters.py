"""Compare adapters and checkpoints with each other, on held-out data."""

from probeline.bodies.compare_adapters import compare_adapters
from probeline.compute.jobs import job

with job(snakemake, threads=snakemake.params.spec["threads"]) as run:
    run(compare_adapters)
