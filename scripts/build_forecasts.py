"""Build the forecasting examples of a corpus, and the report on their leaks."""

from pathlib import Path

from probeline.compute.jobs import job

with job(snakemake):
    # Imported here: the job has set the number of threads by now.
    from probeline.datasets.forecasts import build_forecasts

    spec, model = snakemake.params.spec, snakemake.input.get("model")
    build_forecasts(
        corpus=Path(snakemake.input.corpus).parent,
        output=Path(snakemake.output.dataset),
        dataset=spec["dataset"],
        splits=spec["splits"],
        seed=spec["seed"],
        model=Path(model).parent if model else None,
        simulated=spec["simulated"],
    )
