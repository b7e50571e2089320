rule train_probe:
    input:
        activations=activations_of,
        dialogues=dialogues_of,
        role_masked_activations=role_masked_activations_of,
        role_masked_dialogues=role_masked_dialogues_of,
        quality=quality_of,
    output:
        record="results/probes/{concept}_{method}_l{layers}.lineage.json",
        probe=directory("results/probes/{concept}_{method}_l{layers}"),
        detector="results/probes/{concept}_{method}_l{layers}/detector.pt",
        metrics=report(
            "results/probes/{concept}_{method}_l{layers}/metrics.json",
            caption="../report/probe.rst",
            category="Probes",
            labels={
                "concept": "{concept}",
                "method": "{method}",
                "layers": "{layers}",
            },
        ),
        scores="results/probes/{concept}_{method}_l{layers}/scores.parquet",
        suspects="results/probes/{concept}_{method}_l{layers}/suspects.parquet",
        manifest="results/probes/{concept}_{method}_l{layers}/manifest.json",
    log:
        "logs/train_probe/{concept}_{method}_l{layers}.log",
    benchmark:
        "benchmarks/train_probe/{concept}_{method}_l{layers}.tsv"
    wildcard_constraints:
        concept="|".join(config["probes"]),
    threads: 0 if on_modal("train_probe") else 1
    resources:
        modal=on_modal("train_probe"),
    params:
        spec=probe_spec,
    message:
        "Fit a {wildcards.method} probe for {wildcards.concept} on layers {wildcards.layers}, and test it."
    script:
        "../scripts/train_probe.py"


rule sweep_probes:
    input:
        activations=activations_of,
        dialogues=dialogues_of,
    output:
        record="results/sweeps/{concept}.lineage.json",
        sweep=directory("results/sweeps/{concept}"),
        metrics=report(
            "results/sweeps/{concept}/sweep.json",
            caption="../report/sweep.rst",
            category="Sweeps",
            labels={"concept": "{concept}", "what": "numbers"},
        ),
        table="results/sweeps/{concept}/sweep.parquet",
        svg=report(
            "results/sweeps/{concept}/figure.svg",
            caption="../report/sweep.rst",
            category="Sweeps",
            labels={"concept": "{concept}", "what": "figure"},
        ),
        png="results/sweeps/{concept}/figure.png",
        manifest="results/sweeps/{concept}/manifest.json",
    log:
        "logs/sweep_probes/{concept}.log",
    benchmark:
        "benchmarks/sweep_probes/{concept}.tsv"
    wildcard_constraints:
        concept="|".join(config["probes"]),
    threads: 0 if on_modal("sweep_probes") else 4
    resources:
        modal=on_modal("sweep_probes"),
    params:
        spec=sweep_spec,
    message:
        "Cross-validate every method on every layer for {wildcards.concept}, without the test games."
    script:
        "../scripts/sweep_probes.py"


rule probes:
    input:
        expand("results/probes/{name}", name=config["targets"]["probes"]),
    message:
        "The probes of targets.probes are made."


rule sweeps:
    input:
        expand("results/sweeps/{concept}", concept=config["targets"]["sweeps"]),
    message:
        "The sweeps of targets.sweeps are made."
