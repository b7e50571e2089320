"""Build the prompts of a corpus of support dialogues."""

from pathlib import Path

from probeline.compute.jobs import job

with job(snakemake):
    # Imported here: the job has set the number of threads by now.
    from probeline.datasets.prompts import build_prompts

    spec, model = snakemake.params.spec, snakemake.input.get("model")
    build_prompts(
        corpus=Path(snakemake.input.corpus).parent,
        output=Path(snakemake.output.dataset),
        dataset=spec["dataset"],
        splits=spec["splits"],
        seed=spec["seed"],
        model=Path(model).parent if model else None,
        simulated=spec["simulated"],
    )
