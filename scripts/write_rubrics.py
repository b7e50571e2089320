"""Have a judge write a rubric for each prompt of a dataset."""

from pathlib import Path

from probeline.compute.jobs import job, judge_of

with job(snakemake):
    # Imported here: the job has set the number of threads by now.
    from probeline.datasets.rubrics import write_rubrics

    spec, model = snakemake.params.spec, snakemake.input.get("model")
    write_rubrics(
        corpus=Path(snakemake.input.corpus).parent,
        output=Path(snakemake.output.rubrics),
        dataset=spec["dataset"],
        splits=spec["splits"],
        seed=spec["seed"],
        judge=spec["judge"] | {"settings": judge_of(snakemake)},
        model=Path(model).parent if model else None,
    )
