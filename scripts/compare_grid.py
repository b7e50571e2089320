"""Set the points of a recipe's grid beside each other."""

from pathlib import Path

from probeline.compute.jobs import job

with job(snakemake):
    # Imported here: the job has set the number of threads by now.
    from probeline.evaluation.grids import compare_grid

    spec = snakemake.params.spec
    compare_grid(
        recipe=spec["recipe"],
        points=spec["points"],
        adapters=[Path(manifest).parent for manifest in snakemake.input.adapters],
        output=Path(snakemake.output.evaluation),
    )
