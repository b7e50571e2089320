rule train_probe:
    input:
        activations=activations_of,
        dialogues=dialogues_of,
        role_masked_activations=role_masked_activations_of,
        role_masked_dialogues=role_masked_dialogues_of,
        quality=quality_of,
    output:
        probe=directory("results/probes/{concept}_{method}_l{layers}"),
        detector="results/probes/{concept}_{method}_l{layers}/detector.pt",
        metrics="results/probes/{concept}_{method}_l{layers}/metrics.json",
        scores="results/probes/{concept}_{method}_l{layers}/scores.parquet",
        suspects="results/probes/{concept}_{method}_l{layers}/suspects.parquet",
        manifest="results/probes/{concept}_{method}_l{layers}/manifest.json",
    log:
        "logs/train_probe/{concept}_{method}_l{layers}.log",
    benchmark:
        "benchmarks/train_probe/{concept}_{method}_l{layers}.tsv"
    wildcard_constraints:
        concept="|".join(config["probes"]),
    threads: 1
    params:
        spec=probe_spec,
    message:
        "Fit a {wildcards.method} probe for {wildcards.concept} on layers {wildcards.layers}, and test it."
    script:
        "../scripts/train_probe.py"


rule probes:
    input:
        expand("results/probes/{name}", name=config["targets"]["probes"]),
