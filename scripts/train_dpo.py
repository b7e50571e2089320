"""Tune a model on pairs of what it should rather say, and rather not."""

import os

from probeline.bodies.train_dpo import train_dpo
from probeline.compute.jobs import job

os.environ["PROBELINE_REPORT_TO"] = snakemake.resources.report_to

with job(snakemake, threads=snakemake.params.spec["threads"]) as run:
    run(train_dpo)
