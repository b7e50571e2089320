"""Cross-validate every method on every layer, so that a layer can be chosen without the test games."""

from pathlib import Path

from probeline.compute.jobs import job

with job(snakemake):
    # Imported here: the job has set the number of threads by now.
    from probeline.probes.sweep import sweep_probes

    sweep_probes(
        activations=[Path(manifest).parent for manifest in snakemake.input.activations],
        dialogues=[Path(manifest).parent for manifest in snakemake.input.dialogues],
        output=Path(snakemake.output.sweep),
        spec=snakemake.params.spec,
        # Layers side by side: no bit depends on how many.
        workers=snakemake.threads,
    )
