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
    wildcard_constraints:
        corpus=either(corpora_of("werewolf")),
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
        quality=report(
            "data/processed/{corpus}/quality.json",
            caption="../report/corpus.rst",
            category="Corpora",
            labels={"corpus": "{corpus}"},
        ),
        quarantine="data/processed/{corpus}/quarantine.jsonl",
        manifest="data/processed/{corpus}/manifest.json",
    log:
        "logs/collect_corpus/{corpus}.log",
    benchmark:
        "benchmarks/collect_corpus/{corpus}.tsv"
    wildcard_constraints:
        corpus=either(corpora_of("werewolf")),
    threads: 1
    params:
        spec=lambda wildcards: {"code": code_of("collect_corpus")},
    message:
        "Merge the shards of {wildcards.corpus} into its tables and its quality report."
    script:
        "../scripts/collect_corpus.py"


rule ingest_mafia:
    input:
        logs=log_files_of,
    output:
        record="data/processed/{corpus}/shards/{shard}.lineage.json",
        tables=directory("data/processed/{corpus}/shards/{shard}"),
        manifest="data/processed/{corpus}/shards/{shard}/manifest.json",
    log:
        "logs/ingest_mafia/{corpus}/{shard}.log",
    benchmark:
        "benchmarks/ingest_mafia/{corpus}/{shard}.tsv"
    wildcard_constraints:
        corpus=either(corpora_of("mafia")),
    threads: 1
    params:
        spec=lambda wildcards: files_spec(wildcards, code_of("ingest_mafia")),
    message:
        "Read {wildcards.shard} of the Mafia logs of {wildcards.corpus}."
    script:
        "../scripts/ingest_mafia.py"


rule collect_mafia:
    input:
        shards=shards_of_corpus,
    output:
        record="data/processed/{corpus}.lineage.json",
        events="data/processed/{corpus}/events.parquet",
        games="data/processed/{corpus}/games.parquet",
        actions="data/processed/{corpus}/actions.parquet",
        quality=report(
            "data/processed/{corpus}/quality.json",
            caption="../report/corpus.rst",
            category="Corpora",
            labels={"corpus": "{corpus}"},
        ),
        quarantine="data/processed/{corpus}/quarantine.jsonl",
        manifest="data/processed/{corpus}/manifest.json",
    log:
        "logs/collect_mafia/{corpus}.log",
    benchmark:
        "benchmarks/collect_mafia/{corpus}.tsv"
    wildcard_constraints:
        corpus=either(corpora_of("mafia")),
    threads: 1
    params:
        spec=lambda wildcards: {"code": code_of("collect_mafia")},
    message:
        "Merge the shards of {wildcards.corpus} into its tables and its quality report."
    script:
        "../scripts/collect_mafia.py"


rule ingest_forecasts:
    input:
        logs=log_files_of,
    output:
        record="data/processed/{corpus}/shards/{shard}.lineage.json",
        tables=directory("data/processed/{corpus}/shards/{shard}"),
        manifest="data/processed/{corpus}/shards/{shard}/manifest.json",
    log:
        "logs/ingest_forecasts/{corpus}/{shard}.log",
    benchmark:
        "benchmarks/ingest_forecasts/{corpus}/{shard}.tsv"
    wildcard_constraints:
        corpus=either(corpora_of("forecast")),
    threads: 1
    params:
        spec=lambda wildcards: files_spec(wildcards, code_of("ingest_forecasts")),
    message:
        "Read {wildcards.shard} of the forecasting cases of {wildcards.corpus}."
    script:
        "../scripts/ingest_forecasts.py"


rule collect_forecasts:
    input:
        shards=shards_of_corpus,
    output:
        record="data/processed/{corpus}.lineage.json",
        cases="data/processed/{corpus}/cases.parquet",
        levels="data/processed/{corpus}/levels.parquet",
        quality=report(
            "data/processed/{corpus}/quality.json",
            caption="../report/corpus.rst",
            category="Corpora",
            labels={"corpus": "{corpus}"},
        ),
        quarantine="data/processed/{corpus}/quarantine.jsonl",
        manifest="data/processed/{corpus}/manifest.json",
    log:
        "logs/collect_forecasts/{corpus}.log",
    benchmark:
        "benchmarks/collect_forecasts/{corpus}.tsv"
    wildcard_constraints:
        corpus=either(corpora_of("forecast")),
    threads: 1
    params:
        spec=lambda wildcards: {"code": code_of("collect_forecasts")},
    message:
        "Merge the shards of {wildcards.corpus} into its tables and its quality report."
    script:
        "../scripts/collect_forecasts.py"


rule ingest_support:
    input:
        logs=log_files_of,
    output:
        record="data/processed/{corpus}/shards/{shard}.lineage.json",
        tables=directory("data/processed/{corpus}/shards/{shard}"),
        manifest="data/processed/{corpus}/shards/{shard}/manifest.json",
    log:
        "logs/ingest_support/{corpus}/{shard}.log",
    benchmark:
        "benchmarks/ingest_support/{corpus}/{shard}.tsv"
    wildcard_constraints:
        corpus=either(corpora_of("support")),
    threads: 1
    params:
        spec=lambda wildcards: files_spec(wildcards, code_of("ingest_support")),
    message:
        "Read {wildcards.shard} of the support dialogues of {wildcards.corpus}."
    script:
        "../scripts/ingest_support.py"


rule collect_support:
    input:
        shards=shards_of_corpus,
    output:
        record="data/processed/{corpus}.lineage.json",
        dialogues="data/processed/{corpus}/dialogues.parquet",
        rows="data/processed/{corpus}/rows.parquet",
        quality=report(
            "data/processed/{corpus}/quality.json",
            caption="../report/corpus.rst",
            category="Corpora",
            labels={"corpus": "{corpus}"},
        ),
        quarantine="data/processed/{corpus}/quarantine.jsonl",
        manifest="data/processed/{corpus}/manifest.json",
    log:
        "logs/collect_support/{corpus}.log",
    benchmark:
        "benchmarks/collect_support/{corpus}.tsv"
    wildcard_constraints:
        corpus=either(corpora_of("support")),
    threads: 1
    params:
        spec=lambda wildcards: {"code": code_of("collect_support")},
    message:
        "Merge the shards of {wildcards.corpus} into its tables and its quality report."
    script:
        "../scripts/collect_support.py"
