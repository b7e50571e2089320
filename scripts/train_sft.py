"""Tune a model on examples of what it should say."""

import os

from probeline.bodies.train_sft import train_sft
from probeline.compute.jobs import job

os.environ["PROBELINE_REPORT_TO"] = snakemake.resources.report_to

with job(snakemake, threads=snakemake.params.spec["threads"]) as run:
    run(train_sft)
