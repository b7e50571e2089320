rule train_sft:
    input:
        dataset=dataset_of_recipe,
        model=model_of_recipe,
        merged=merged_of_recipe,
        start=start_of_recipe,
    output:
        record="results/adapters/{recipe}.lineage.json",
        adapter=directory("results/adapters/{recipe}"),
        summary=report(
            "results/adapters/{recipe}/training_summary.json",
            caption="../report/adapter.rst",
            category="Adapters",
            labels={"recipe": "{recipe}", "what": "numbers"},
        ),
        curves=report(
            "results/adapters/{recipe}/curves.svg",
            caption="../report/adapter.rst",
            category="Adapters",
            labels={"recipe": "{recipe}", "what": "curves"},
        ),
        manifest="results/adapters/{recipe}/manifest.json",
    log:
        "logs/train_sft/{recipe}.log",
    benchmark:
        "benchmarks/train_sft/{recipe}.tsv"
    wildcard_constraints:
        recipe=either(recipes_of("sft")),
    threads: threads_of_recipe
    resources:
        gpu=int(may_have_cuda() and not on_modal("train_sft")),
        modal=on_modal("train_sft"),
        timeout=timeout_of_recipe,
        report_to=report_to_of_recipe,
    params:
        spec=lambda wildcards: recipe_spec(wildcards, code_of("train_sft")),
    message:
        "Tune a model on examples: {wildcards.recipe}."
    script:
        "../scripts/train_sft.py"


rule train_dpo:
    input:
        dataset=dataset_of_recipe,
        model=model_of_recipe,
        merged=merged_of_recipe,
        start=start_of_recipe,
    output:
        record="results/adapters/{recipe}.lineage.json",
        adapter=directory("results/adapters/{recipe}"),
        summary=report(
            "results/adapters/{recipe}/training_summary.json",
            caption="../report/adapter.rst",
            category="Adapters",
            labels={"recipe": "{recipe}", "what": "numbers"},
        ),
        curves=report(
            "results/adapters/{recipe}/curves.svg",
            caption="../report/adapter.rst",
            category="Adapters",
            labels={"recipe": "{recipe}", "what": "curves"},
        ),
        manifest="results/adapters/{recipe}/manifest.json",
    log:
        "logs/train_dpo/{recipe}.log",
    benchmark:
        "benchmarks/train_dpo/{recipe}.tsv"
    wildcard_constraints:
        recipe=either(recipes_of("dpo")),
    threads: threads_of_recipe
    resources:
        gpu=int(may_have_cuda() and not on_modal("train_dpo")),
        modal=on_modal("train_dpo"),
        timeout=timeout_of_recipe,
        report_to=report_to_of_recipe,
    params:
        spec=lambda wildcards: recipe_spec(wildcards, code_of("train_dpo")),
    message:
        "Tune a model on preference pairs: {wildcards.recipe}."
    script:
        "../scripts/train_dpo.py"


rule train_grpo:
    input:
        dataset=dataset_of_recipe,
        model=model_of_recipe,
        merged=merged_of_recipe,
        start=start_of_recipe,
    output:
        record="results/adapters/{recipe}.lineage.json",
        adapter=directory("results/adapters/{recipe}"),
        summary=report(
            "results/adapters/{recipe}/training_summary.json",
            caption="../report/adapter.rst",
            category="Adapters",
            labels={"recipe": "{recipe}", "what": "numbers"},
        ),
        rewards="results/adapters/{recipe}/rewards.jsonl",
        curves=report(
            "results/adapters/{recipe}/curves.svg",
            caption="../report/adapter.rst",
            category="Adapters",
            labels={"recipe": "{recipe}", "what": "curves"},
        ),
        manifest="results/adapters/{recipe}/manifest.json",
    log:
        "logs/train_grpo/{recipe}.log",
    benchmark:
        "benchmarks/train_grpo/{recipe}.tsv"
    wildcard_constraints:
        recipe=either(recipes_of("grpo")),
    threads: threads_of_recipe
    resources:
        gpu=int(may_have_cuda() and not on_modal("train_grpo")),
        modal=on_modal("train_grpo"),
        timeout=timeout_of_recipe,
        report_to=report_to_of_recipe,
    params:
        spec=lambda wildcards: recipe_spec(wildcards, code_of("train_grpo")),
    message:
        "Tune a model on rewards: {wildcards.recipe}."
    script:
        "../scripts/train_grpo.py"


rule adapters:
    input:
        expand("results/adapters/{recipe}/manifest.json", recipe=RECIPES),
    message:
        "All adapters are made."
