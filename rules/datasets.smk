rule build_dialogues:
    input:
        corpus=corpus_shard_of,
        template=template_of,
    output:
        record="data/processed/dialogues/{concept}/{shard}.lineage.json",
        dialogues=directory("data/processed/dialogues/{concept}/{shard}"),
        manifest=report(
            "data/processed/dialogues/{concept}/{shard}/manifest.json",
            caption="../report/dialogues.rst",
            category="Dialogues",
            labels={"concept": "{concept}", "shard": "{shard}"},
        ),
    log:
        "logs/build_dialogues/{concept}/{shard}.log",
    benchmark:
        "benchmarks/build_dialogues/{concept}/{shard}.tsv"
    threads: 1
    params:
        spec=dialogues_spec,
    message:
        "Build {wildcards.shard} of the labelled dialogues for {wildcards.concept}."
    script:
        "../scripts/build_dialogues.py"


rule build_sft:
    input:
        corpus=table_to_train_on,
        model=model_to_render,
    output:
        record="data/processed/sft/{dataset}.lineage.json",
        dataset=directory("data/processed/sft/{dataset}"),
        manifest=report(
            "data/processed/sft/{dataset}/manifest.json",
            caption="../report/dataset.rst",
            category="Datasets for fine-tuning",
            labels={"dataset": "{dataset}", "what": "examples"},
        ),
    log:
        "logs/build_sft/{dataset}.log",
    benchmark:
        "benchmarks/build_sft/{dataset}.tsv"
    wildcard_constraints:
        dataset=either(datasets_of("sft")),
    threads: 1
    params:
        spec=lambda wildcards: dataset_spec(wildcards, code_of("build_sft")),
    message:
        "Build the examples {wildcards.dataset} for supervised fine-tuning."
    script:
        "../scripts/build_sft.py"


rule build_preferences:
    input:
        corpus=table_to_train_on,
        model=model_to_render,
    output:
        record="data/processed/preferences/{dataset}.lineage.json",
        dataset=directory("data/processed/preferences/{dataset}"),
        manifest=report(
            "data/processed/preferences/{dataset}/manifest.json",
            caption="../report/dataset.rst",
            category="Datasets for fine-tuning",
            labels={"dataset": "{dataset}", "what": "examples"},
        ),
    log:
        "logs/build_preferences/{dataset}.log",
    benchmark:
        "benchmarks/build_preferences/{dataset}.tsv"
    wildcard_constraints:
        dataset=either(datasets_of("preferences")),
    threads: 1
    params:
        spec=lambda wildcards: dataset_spec(wildcards, code_of("build_preferences")),
    message:
        "Build the preference pairs {wildcards.dataset}."
    script:
        "../scripts/build_preferences.py"


rule build_forecasts:
    input:
        corpus=table_to_train_on,
        model=model_to_render,
    output:
        record="data/processed/forecasts/{dataset}.lineage.json",
        dataset=directory("data/processed/forecasts/{dataset}"),
        manifest=report(
            "data/processed/forecasts/{dataset}/manifest.json",
            caption="../report/dataset.rst",
            category="Datasets for fine-tuning",
            labels={"dataset": "{dataset}", "what": "examples"},
        ),
    log:
        "logs/build_forecasts/{dataset}.log",
    benchmark:
        "benchmarks/build_forecasts/{dataset}.tsv"
    wildcard_constraints:
        dataset=either(datasets_of("forecasts")),
    threads: 1
    params:
        spec=lambda wildcards: dataset_spec(wildcards, code_of("build_forecasts")),
    message:
        "Build the forecasting examples {wildcards.dataset}, without their leaks."
    script:
        "../scripts/build_forecasts.py"


rule write_rubrics:
    input:
        corpus=table_to_train_on,
        model=model_to_render,
    output:
        record="data/processed/rubrics/{dataset}.lineage.json",
        rubrics=directory("data/processed/rubrics/{dataset}"),
        manifest=report(
            "data/processed/rubrics/{dataset}/manifest.json",
            caption="../report/dataset.rst",
            category="Datasets for fine-tuning",
            labels={"dataset": "{dataset}", "what": "rubrics"},
        ),
    log:
        "logs/write_rubrics/{dataset}.log",
    benchmark:
        "benchmarks/write_rubrics/{dataset}.tsv"
    wildcard_constraints:
        dataset=either(datasets_with_rubrics(config)),
    threads: 1
    params:
        spec=rubrics_spec,
    message:
        "Have a judge write rubrics for the prompts {wildcards.dataset}."
    script:
        "../scripts/write_rubrics.py"


rule build_prompts:
    input:
        corpus=table_to_train_on,
        model=model_to_render,
        rubrics=rubrics_to_judge_by,
    output:
        record="data/processed/prompts/{dataset}.lineage.json",
        dataset=directory("data/processed/prompts/{dataset}"),
        manifest=report(
            "data/processed/prompts/{dataset}/manifest.json",
            caption="../report/dataset.rst",
            category="Datasets for fine-tuning",
            labels={"dataset": "{dataset}", "what": "examples"},
        ),
    log:
        "logs/build_prompts/{dataset}.log",
    benchmark:
        "benchmarks/build_prompts/{dataset}.tsv"
    wildcard_constraints:
        dataset=either(datasets_of("prompts")),
    threads: 1
    params:
        spec=lambda wildcards: dataset_spec(wildcards, code_of("build_prompts")),
    message:
        "Build the prompts {wildcards.dataset} with their references and rubrics."
    script:
        "../scripts/build_prompts.py"


rule datasets:
    input:
        expand("data/processed/{corpus}/quality.json", corpus=config["corpora"]),
        expand(
            "data/processed/dialogues/{concept}/{shard}/manifest.json",
            concept=EXTRACTED,
            shard=SHARDS,
        ),
        [
            f"data/processed/{dataset['kind']}/{name}/manifest.json"
            for name, dataset in config["datasets"].items()
        ],
    message:
        "All tables, dialogues and datasets are made."
