rule simulate_logs:
    output:
        record="data/simulated/{corpus}/{shard}.lineage.json",
        logs=directory("data/simulated/{corpus}/{shard}"),
        manifest="data/simulated/{corpus}/{shard}/manifest.json",
    log:
        "logs/simulate_logs/{corpus}/{shard}.log",
    benchmark:
        "benchmarks/simulate_logs/{corpus}/{shard}.tsv"
    threads: 1
    params:
        spec=simulated_spec,
    message:
        "Simulate {wildcards.shard} of the corpus {wildcards.corpus}."
    script:
        "../scripts/simulate_logs.py"


rule ingest_werewolf:
    input:
        logs=raw_logs_of,
    output:
        record="data/processed/{corpus}/shards/{shard}.lineage.json",
        tables=directory("data/processed/{corpus}/shards/{shard}"),
        manifest="data/processed/{corpus}/shards/{shard}/manifest.json",
    log:
        "logs/ingest_werewolf/{corpus}/{shard}.log",
    benchmark:
        "benchmarks/ingest_werewolf/{corpus}/{shard}.tsv"
    threads: 1
    params:
        spec=ingest_spec,
    message:
        "Read {wildcards.shard} of the Werewolf logs of {wildcards.corpus}."
    script:
        "../scripts/ingest_werewolf.py"


rule collect_corpus:
    input:
        shards=expand(
            "data/processed/{{corpus}}/shards/{shard}/manifest.json", shard=SHARDS
        ),
    output:
        record="data/processed/{corpus}.lineage.json",
        events="data/processed/{corpus}/events.parquet",
        games="data/processed/{corpus}/games.parquet",
        quality="data/processed/{corpus}/quality.json",
        quarantine="data/processed/{corpus}/quarantine.jsonl",
        manifest="data/processed/{corpus}/manifest.json",
    log:
        "logs/collect_corpus/{corpus}.log",
    benchmark:
        "benchmarks/collect_corpus/{corpus}.tsv"
    threads: 1
    params:
        spec=lambda wildcards: {"code": code_of("collect_corpus")},
    message:
        "Merge the shards of {wildcards.corpus} into its tables and its quality report."
    script:
        "../scripts/collect_corpus.py"
