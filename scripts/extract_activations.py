"""Read the residual stream of one shard of dialogues."""

from pathlib import Path

from probeline.compute.jobs import job

spec = snakemake.params.spec
with job(snakemake.log[0], threads=spec["threads"]):
    # Imported here: the job has set the number of threads by now.
    from probeline.activations.extract import extract_activations

    extract_activations(
        dialogues=Path(snakemake.input.dialogues).parent,
        model=Path(snakemake.input.model).parent,
        output=Path(snakemake.output.activations),
        layers=spec["layers"],
        dtype=spec["dtype"],
        store_dtype=spec["store"],
        threads=spec["threads"],
    )
