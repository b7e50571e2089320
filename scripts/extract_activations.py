"""Read the residual stream of one or more shards of dialogues."""

from pathlib import Path

from probeline.compute.jobs import job

spec = snakemake.params.spec
concept, shard = snakemake.wildcards.concept, snakemake.wildcards.shard
with job(snakemake, threads=spec["threads"]):
    # Imported here: the job has set the number of threads by now.
    from probeline.activations.extract import Settings, Workplace, extract_activations
    from probeline.activations.memory import keep_freed_memory

    keep_freed_memory()
    adapter = snakemake.input.get("adapter")
    extract_activations(
        dialogues=[Path(manifest).parent for manifest in snakemake.input.dialogues],
        model=Path(snakemake.input.model).parent,
        output=Path(snakemake.output.activations),
        settings=Settings(
            layers=spec["layers"],
            dtype=spec["dtype"],
            store_dtype=spec["store"],
            threads=spec["threads"],
            token_layers=spec["token_layers"],
            token_budget=spec["token_budget"],
        ),
        adapter=Path(adapter[0]).parent if adapter else None,
        workplace=Workplace(Path(".probeline/activations"), f"{concept}--{shard}", spec["engine"]),
        figures=Path("benchmarks/extract_activations") / concept / f"{shard}.json",
    )
