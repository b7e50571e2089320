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


rule evaluate_probe_shift:
    input:
        probe=probe_of_shift,
        activations=activations_of_shift,
        adapted=adapted_activations_of_shift,
        dialogues=dialogues_of_shift,
        games=games_of_adapter,
    output:
        record=f"results/evaluation/{SHIFTS}/{{shift}}.lineage.json",
        evaluation=directory(f"results/evaluation/{SHIFTS}/{{shift}}"),
        metrics=report(
            f"results/evaluation/{SHIFTS}/{{shift}}/metrics.json",
            caption="../report/probe_shift.rst",
            category="Probe shifts",
            labels={"shift": "{shift}", "what": "numbers"},
        ),
        table=f"results/evaluation/{SHIFTS}/{{shift}}/shift.parquet",
        picture=f"results/evaluation/{SHIFTS}/{{shift}}/shift.png",
        drawing=report(
            f"results/evaluation/{SHIFTS}/{{shift}}/shift.svg",
            caption="../report/probe_shift.rst",
            category="Probe shifts",
            labels={"shift": "{shift}", "what": "figure"},
        ),
        manifest=f"results/evaluation/{SHIFTS}/{{shift}}/manifest.json",
    log:
        "logs/evaluate_probe_shift/{shift}.log",
    benchmark:
        "benchmarks/evaluate_probe_shift/{shift}.tsv"
    threads: 0 if on_modal("evaluate_probe_shift") else 1
    resources:
        modal=on_modal("evaluate_probe_shift"),
    params:
        spec=shift_spec,
    message:
        "Score a probe on the model with an adapter on it for the probe shift {wildcards.shift}."
    script:
        "../scripts/evaluate_probe_shift.py"


rule evaluate_adapter:
    input:
        model=model_to_evaluate,
        adapters=adapters_to_evaluate,
        datasets=datasets_to_evaluate,
    output:
        record="results/evaluation/adapters/{recipe}.lineage.json",
        evaluation=directory("results/evaluation/adapters/{recipe}"),
        metrics=report(
            "results/evaluation/adapters/{recipe}/metrics.json",
            caption="../report/adapter_evaluation.rst",
            category="Evaluations of adapters",
            labels={"recipe": "{recipe}", "what": "numbers"},
        ),
        samples="results/evaluation/adapters/{recipe}/samples.jsonl",
        report="results/evaluation/adapters/{recipe}/REPORT.md",
        drawing=report(
            "results/evaluation/adapters/{recipe}/comparison.svg",
            caption="../report/adapter_evaluation.rst",
            category="Evaluations of adapters",
            labels={"recipe": "{recipe}", "what": "figure"},
        ),
        manifest="results/evaluation/adapters/{recipe}/manifest.json",
    log:
        "logs/evaluate_adapter/{recipe}.log",
    benchmark:
        "benchmarks/evaluate_adapter/{recipe}.tsv"
    wildcard_constraints:
        recipe=either(RECIPES),
    threads: 0 if on_modal("evaluate_adapter") else config["evaluation"]["adapters"]["threads"]
    resources:
        gpu=int(may_have_cuda() and not on_modal("evaluate_adapter")),
        modal=on_modal("evaluate_adapter"),
    params:
        spec=evaluation_spec,
    message:
        "Compare {wildcards.recipe} with what it was made from, on held-out data."
    script:
        "../scripts/evaluate_adapter.py"


rule compare_adapters:
    input:
        model=model_to_evaluate,
        adapters=adapters_to_evaluate,
        folders=folders_to_evaluate,
        datasets=datasets_to_evaluate,
    output:
        record="results/evaluation/comparisons/{comparison}.lineage.json",
        evaluation=directory("results/evaluation/comparisons/{comparison}"),
        metrics=report(
            "results/evaluation/comparisons/{comparison}/metrics.json",
            caption="../report/adapter_evaluation.rst",
            category="Comparisons of adapters",
            labels={"comparison": "{comparison}", "what": "numbers"},
        ),
        samples="results/evaluation/comparisons/{comparison}/samples.jsonl",
        report="results/evaluation/comparisons/{comparison}/REPORT.md",
        drawing=report(
            "results/evaluation/comparisons/{comparison}/comparison.svg",
            caption="../report/adapter_evaluation.rst",
            category="Comparisons of adapters",
            labels={"comparison": "{comparison}", "what": "figure"},
        ),
        manifest="results/evaluation/comparisons/{comparison}/manifest.json",
    log:
        "logs/compare_adapters/{comparison}.log",
    benchmark:
        "benchmarks/compare_adapters/{comparison}.tsv"
    threads: 0 if on_modal("compare_adapters") else config["evaluation"]["adapters"]["threads"]
    resources:
        gpu=int(may_have_cuda() and not on_modal("compare_adapters")),
        modal=on_modal("compare_adapters"),
    params:
        spec=comparison_spec,
    message:
        "Compare the adapters of {wildcards.comparison} on held-out data."
    script:
        "../scripts/compare_adapters.py"


rule compare_grid:
    input:
        adapters=points_of_grid,
    output:
        record="results/evaluation/grids/{grid}.lineage.json",
        evaluation=directory("results/evaluation/grids/{grid}"),
        table=report(
            "results/evaluation/grids/{grid}/grid.json",
            caption="../report/grid.rst",
            category="Grids",
            labels={"recipe": "{grid}", "what": "numbers"},
        ),
        report="results/evaluation/grids/{grid}/REPORT.md",
        manifest="results/evaluation/grids/{grid}/manifest.json",
    log:
        "logs/compare_grid/{grid}.log",
    benchmark:
        "benchmarks/compare_grid/{grid}.tsv"
    wildcard_constraints:
        grid=either(GRIDS),
    params:
        spec=grid_spec,
    message:
        "Set the points of the grid of {wildcards.grid} beside each other."
    script:
        "../scripts/compare_grid.py"


rule adapter_evaluations:
    input:
        expand("results/evaluation/adapters/{name}", name=RECIPES),
        expand("results/evaluation/grids/{name}", name=GRIDS),
        expand("results/evaluation/comparisons/{name}", name=config["comparisons"]),
    message:
        "All evaluations of adapters are made."


rule evaluation:
    input:
        expand("results/evaluation/{name}", name=config["targets"]["transfers"]),
        expand(
            "results/evaluation/adapters/{name}",
            name=config["targets"].get("evaluations", []),
        ),
        expand(
            "results/evaluation/comparisons/{name}",
            name=config["targets"].get("comparisons", []),
        ),
        expand(
            "results/evaluation/{folder}/{name}",
            folder=SHIFTS,
            name=config["targets"].get("probe_shifts", []),
        ),
    message:
        "The evaluations of targets are made."
