"""Score every token of the test games that hold a probe's worst errors."""

from probeline.bodies.score_tokens import score_tokens
from probeline.compute.jobs import job

with job(snakemake, threads=snakemake.params.spec["threads"]) as run:
    run(score_tokens)
