"""Build one shard of the labelled dialogues of a concept."""

from pathlib import Path

import yaml

from probeline.compute.jobs import job

with job(snakemake):
    # Imported here: the job has set the number of threads by now.
    from probeline.datasets.dialogues import build_dialogues

    spec = snakemake.params.spec
    build_dialogues(
        corpus_shard=Path(snakemake.input.corpus).parent,
        output=Path(snakemake.output.dialogues),
        concept_name=snakemake.wildcards.concept,
        concept=spec["concept"],
        template=yaml.safe_load(Path(snakemake.input.template).read_text()),
        splits=spec["splits"],
        seed=spec["seed"],
        role_masked=spec["role_masked"],
    )
