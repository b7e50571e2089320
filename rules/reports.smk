rule score_tokens:
    input:
        probe="results/probes/{concept}_{method}_l{layers}/manifest.json",
        dialogues=dialogues_of,
        model=f"data/models/{base_model(config)}/manifest.json",
        adapter=adapter_files_of,
    output:
        record="results/transcripts/{concept}_{method}_l{layers}.lineage.json",
        transcripts=directory("results/transcripts/{concept}_{method}_l{layers}"),
        tokens="results/transcripts/{concept}_{method}_l{layers}/tokens.parquet",
        table="results/transcripts/{concept}_{method}_l{layers}/transcripts.parquet",
        manifest="results/transcripts/{concept}_{method}_l{layers}/manifest.json",
    log:
        "logs/score_tokens/{concept}_{method}_l{layers}.log",
    benchmark:
        "benchmarks/score_tokens/{concept}_{method}_l{layers}.tsv"
    wildcard_constraints:
        concept="|".join(config["probes"]),
    threads: 0 if on_modal("score_tokens") else 1
    resources:
        gpu=int(may_have_cuda() and not on_modal("score_tokens")),
        modal=on_modal("score_tokens"),
    params:
        spec=tokens_spec,
    message:
        "Score every token of the games with the worst errors of {wildcards.concept}_{wildcards.method}_l{wildcards.layers}."
    script:
        "../scripts/score_tokens.py"


rule write_report:
    input:
        corpora=corpora_to_report,
        activations=activations_to_report,
        probes=probes_to_report,
        transcripts=transcripts_to_report,
        sweeps=sweeps_to_report,
        transfers=transfers_to_report,
        shifts=shifts_to_report,
        adapters=adapters_to_report,
        trained=trained_to_report,
        grids=grids_to_report,
        evaluations=evaluations_to_report,
        comparisons=comparisons_to_report,
    output:
        record="results/report.html.lineage.json",
        page=report(
            "results/report.html",
            caption="../report/report.rst",
            category="Report",
            labels={"what": "everything that the targets name"},
        ),
    log:
        "logs/write_report/report.log",
    benchmark:
        "benchmarks/write_report/report.tsv"
    threads: 1
    params:
        spec=report_spec(),
    message:
        "Put everything that the targets name on one page."
    script:
        "../scripts/write_report.py"


rule report:
    input:
        "results/report.html",
    message:
        "The report of everything that the config names is made."
