rule fetch_model:
    output:
        model=directory("data/models/{model}"),
        manifest="data/models/{model}/manifest.json",
    log:
        "logs/fetch_model/{model}.log",
    benchmark:
        "benchmarks/fetch_model/{model}.tsv"
    threads: 1
    params:
        spec=lambda wildcards: {
            "source": config["models"][wildcards.model],
            "code": code_of("fetch_model"),
        },
    message:
        "Fetch the model {wildcards.model} at its pinned version."
    script:
        "../scripts/fetch_model.py"
