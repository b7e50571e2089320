"""Make one shard of a simulated corpus."""

from pathlib import Path

from probeline.compute.jobs import job

with job(snakemake):
    # Imported here: the job has set the number of threads by now.
    from probeline.logs.simulate import simulate_logs

    spec = snakemake.params.spec
    simulate_logs(spec["format"], spec["seed"], spec["indices"], Path(snakemake.output.logs))
