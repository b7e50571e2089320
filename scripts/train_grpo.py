"""Tune a model on rewards for what it says."""

import os

from probeline.bodies.train_grpo import train_grpo
from probeline.compute.jobs import job

os.environ["PROBELINE_REPORT_TO"] = snakemake.resources.report_to

with job(snakemake, threads=snakemake.params.spec["threads"]) as run:
    run(train_grpo)
