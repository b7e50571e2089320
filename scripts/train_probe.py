"""Fit a probe on the training games and test it on games it never saw."""

from probeline.bodies.train_probe import train_probe
from probeline.compute.jobs import job

with job(snakemake) as run:
    run(train_probe)
