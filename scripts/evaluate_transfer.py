"""Train probes on some games and test them on games of another kind."""

from probeline.bodies.evaluate_transfer import evaluate_transfer
from probeline.compute.jobs import job

with job(snakemake) as run:
    run(evaluate_transfer)
