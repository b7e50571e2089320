rule extract_activations:
    input:
        dialogues=dialogues_to_extract,
        model=f"data/models/{base_model(config)}/manifest.json",
        adapter=adapter_files_of,
    output:
        record="results/activations/{concept}/{shard}.lineage.json",
        activations=directory("results/activations/{concept}/{shard}"),
        manifest="results/activations/{concept}/{shard}/manifest.json",
    log:
        "logs/extract_activations/{concept}/{shard}.log",
    benchmark:
        "benchmarks/extract_activations/{concept}/{shard}.tsv"
    wildcard_constraints:
        concept=either([*EXTRACTED, *ADAPTED]),
        shard="|".join(ACTIVATION_SHARDS),
    threads: 0 if on_modal("extract_activations") else 1
    resources:
        gpu=int(may_have_cuda() and not on_modal("extract_activations")),
        modal=on_modal("extract_activations"),
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
            concept=EXTRACTED,
            shard=ACTIVATION_SHARDS,
        ),
    message:
        "The activations of all concepts are made."
