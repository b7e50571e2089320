rule fetch_model:
    input:
        folder=model_files_of,
    output:
        record="data/models/{model}.lineage.json",
        model=directory("data/models/{model}"),
        manifest="data/models/{model}/manifest.json",
    log:
        "logs/fetch_model/{model}.log",
    benchmark:
        "benchmarks/fetch_model/{model}.tsv"
    threads: 1
    resources:
        modal=fetched_on_modal,
    params:
        spec=model_spec,
    message:
        "Fetch the model {wildcards.model} at its pinned version."
    script:
        "../scripts/fetch_model.py"
