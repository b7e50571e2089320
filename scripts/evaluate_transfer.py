"""Train probes on some games and test them on games of another kind."""

from pathlib import Path

from probeline.compute.jobs import job

with job(snakemake):
    # Imported here: the job has set the number of threads by now.
    from probeline.probes.transfer import by_concept, evaluate_transfer

    evaluate_transfer(
        activations=by_concept(snakemake.input.activations),
        dialogues=by_concept(snakemake.input.dialogues),
        output=Path(snakemake.output.evaluation),
        spec=snakemake.params.spec,
    )
