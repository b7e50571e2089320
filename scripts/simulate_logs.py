"""Make one shard of a simulated corpus."""

from pathlib import Path

from probeline.compute.jobs import job

with job(snakemake):
    # Imported here: the job has set the number of threads by now.
    from probeline.logs.simulate_werewolf import simulate_games

    spec = snakemake.params.spec
    simulate_games(spec["seed"], spec["indices"], Path(snakemake.output.logs))
