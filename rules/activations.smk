rule extract_activations:
    input:
        dialogues="data/processed/dialogues/{concept}/{shard}/manifest.json",
        model=f"data/models/{config['model']}/manifest.json",
    output:
        activations=directory("results/activations/{concept}/{shard}"),
        manifest="results/activations/{concept}/{shard}/manifest.json",
    log:
        "logs/extract_activations/{concept}/{shard}.log",
    benchmark:
        "benchmarks/extract_activations/{concept}/{shard}.tsv"
    threads: 1
    params:
        spec=activations_spec,
    message:
        "Read the residual stream of {wildcards.shard} of the dialogues for {wildcards.concept}."
    script:
        "../scripts/extract_activations.py"


rule activations:
    input:
        expand(
            "results/activations/{concept}/{shard}/manifest.json",
            concept=config["probes"],
            shard=SHARDS,
        ),
