"""Compare a recipe's adapter with what it was made from, on held-out data."""

from probeline.bodies.evaluate_adapter import evaluate_adapter
from probeline.compute.jobs import job

with job(snakemake, threads=snakemake.params.spec["threads"]) as run:
    run(evaluate_adapter)
