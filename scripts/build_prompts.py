"""Build the prompts of a corpus of support dialogues."""

from pathlib import Path

from probeline.compute.jobs import job

with job(snakemake):
    # Imported here: the job has set the number of threads by now.
    from probeline.datasets.prompts import build_prompts, read_rubrics

    spec, model = snakemake.params.spec, snakemake.input.get("model")
    rubrics = snakemake.input.get("rubrics")
    build_prompts(
        corpus=Path(snakemake.input.corpus).parent,
        output=Path(snakemake.output.dataset),
        dataset=spec["dataset"],
        splits=spec["splits"],
        seed=spec["seed"],
        model=Path(model).parent if model else None,
        simulated=spec["simulated"],
        rubrics=read_rubrics(Path(rubrics).parent / "rubrics.jsonl") if rubrics else None,
    )
