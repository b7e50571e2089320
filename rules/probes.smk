rule train_probe:
    input:
        activations=activations_of,
        dialogues=dialogues_of,
        quality=quality_of,
    output:
        probe=directory("results/probes/{concept}_{method}_l{layers}"),
        detector="results/probes/{concept}_{method}_l{layers}/detector.pt",
        metrics="results/probes/{concept}_{method}_l{layers}/metrics.json",
        scores="results/probes/{concept}_{method}_l{layers}/scores.parquet",
        manifest="results/probes/{concept}_{method}_l{layers}/manifest.json",
    log:
        "logs/train_probe/{concept}_{method}_l{layers}.log",
    benchmark:
        "benchmarks/train_probe/{concept}_{method}_l{layers}.tsv"
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
