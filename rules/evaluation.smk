rule evaluate_transfer:
    input:
        activations=activations_to_transfer,
        dialogues=dialogues_to_transfer,
    output:
        record="results/evaluation/{transfer}.lineage.json",
        evaluation=directory("results/evaluation/{transfer}"),
        metrics=report(
            "results/evaluation/{transfer}/metrics.json",
            caption="../report/transfer.rst",
            category="Transfers",
            labels={"transfer": "{transfer}", "what": "numbers"},
        ),
        table="results/evaluation/{transfer}/transfer.parquet",
        picture="results/evaluation/{transfer}/transfer.png",
        drawing=report(
            "results/evaluation/{transfer}/transfer.svg",
            caption="../report/transfer.rst",
            category="Transfers",
            labels={"transfer": "{transfer}", "what": "figure"},
        ),
        manifest="results/evaluation/{transfer}/manifest.json",
    log:
        "logs/evaluate_transfer/{transfer}.log",
    benchmark:
        "benchmarks/evaluate_transfer/{transfer}.tsv"
    threads: 0 if on_modal("evaluate_transfer") else 1
    resources:
        modal=on_modal("evaluate_transfer"),
    params:
        spec=transfer_spec,
    message:
        "Train and test probes for the transfer {wildcards.transfer}."
    script:
        "../scripts/evaluate_transfer.py"


rule evaluation:
    input:
        expand("results/evaluation/{name}", name=config["targets"]["transfers"]),
