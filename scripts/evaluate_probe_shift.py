"""Score a probe on the model with an adapter on it."""

from probeline.bodies.evaluate_probe_shift import evaluate_probe_shift
from probeline.compute.jobs import job

with job(snakemake) as run:
    run(evaluate_probe_shift)
