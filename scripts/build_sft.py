"""Build a dataset of Mafia examples for supervised fine-tuning."""

from pathlib import Path

from probeline.compute.jobs import job

with job(snakemake):
    # Imported here: the job has set the number of threads by now.
    from probeline.datasets.sft import build_sft

    spec, model = snakemake.params.spec, snakemake.input.get("model")
    build_sft(
        corpus=Path(snakemake.input.corpus).parent,
        output=Path(snakemake.output.dataset),
        dataset=spec["dataset"],
        splits=spec["splits"],
        seed=spec["seed"],
        model=Path(model).parent if model else None,
        simulated=spec["simulated"],
    )
