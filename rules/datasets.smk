rule build_dialogues:
    input:
        corpus=corpus_shard_of,
        template=template_of,
    output:
        record="data/processed/dialogues/{concept}/{shard}.lineage.json",
        dialogues=directory("data/processed/dialogues/{concept}/{shard}"),
        manifest="data/processed/dialogues/{concept}/{shard}/manifest.json",
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


rule datasets:
    input:
        expand("data/processed/{corpus}/quality.json", corpus=config["corpora"]),
        expand(
            "data/processed/dialogues/{concept}/{shard}/manifest.json",
            concept=EXTRACTED,
            shard=SHARDS,
        ),
