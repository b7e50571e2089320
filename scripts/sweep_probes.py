"""Cross-validate every method on every layer, so that a layer can be chosen without the test games."""

from probeline.bodies.sweep_probes import sweep_probes
from probeline.compute.jobs import job

with job(snakemake) as run:
    run(sweep_probes)
