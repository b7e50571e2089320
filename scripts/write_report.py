"""Put everything that the targets name on one page."""

from pathlib import Path

from probeline.compute.jobs import job, named_inputs

with job(snakemake):
    # Imported here: the job has set the number of threads by now.
    from probeline.reports.write import write_report

    write_report(snakemake.params.spec, named_inputs(snakemake), Path(snakemake.output.page))
