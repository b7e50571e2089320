"""Fit a probe on the training games and test it on games it never saw."""

from pathlib import Path

from probeline.compute.jobs import job

with job(snakemake):
    # Imported here: the job has set the number of threads by now.
    from probeline.probes.train import train_probe

    train_probe(
        activations=[Path(manifest).parent for manifest in snakemake.input.activations],
        dialogues=[Path(manifest).parent for manifest in snakemake.input.dialogues],
        quality=Path(snakemake.input.quality),
        output=Path(snakemake.output.probe),
        spec=snakemake.params.spec,
        role_masked_activations=[Path(file).parent for file in snakemake.input.role_masked_activations],
        role_masked_dialogues=[Path(file).parent for file in snakemake.input.role_masked_dialogues],
    )
