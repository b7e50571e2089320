# Names, parameters and code identity that the rules share; no rules.
# Parsed by every command, also by `snakemake -n`: nothing here may import anything heavy.

import re
import sys
import time
from functools import cache, wraps
from pathlib import Path

from snakemake.exceptions import WorkflowError

# What is digested is what runs, here and in the jobs: this checkout's library, not the one that the
# environment was made from.
SOURCES = Path(workflow.basedir) / "scripts"
sys.path.insert(0, str(SOURCES))

from probeline.adapters.headline import run_headlines
from probeline.adapters.recipes import (
    adapter_manifest,
    dataset_manifest,
    grids,
    lineage_of,
    made_from,
    recipe_points,
    settings_of,
)
from probeline.activations.reuse import remove_orphans
from probeline.compute.remote.before_run import let_go, prepare_modal
from probeline.compute.remote.settings import runs_on_modal
from probeline.compute.remote.weights import is_fetched_there
from probeline.activations.machine import may_have_cuda, processor_has_bfloat16
from probeline.config import (
    ROLE_MASKED,
    SCHEMA,
    SHIFTS,
    adapted_names,
    adapter_of,
    adapter_path,
    base_model,
    check_config,
    check_files,
    check_gpus,
    check_groups,
    check_profile,
    check_target,
    datasets_with_rubrics,
    extracted_names,
    is_simulated,
    local_model_files,
    method_settings,
    parse_probe_name,
    recipe_named,
    swept_methods,
    transfer_concepts,
)
from probeline.digests import canonical_digest, in_key_order, shard_name, shard_of
from probeline.errors import ProbelineError
from probeline.evaluation.plans import plan_comparison, plan_evaluation
from probeline.forecasting.expected import read_perplexities
from probeline.experiments import NO_EXPERIMENT, experiment_of
from probeline.lineage.code import code_closure, run_jobs_from
from probeline.lineage.failures import not_made
from probeline.lineage.graph import read_lineage
from probeline.lineage.lock import hold_workflow_lock
from probeline.lineage.planned_run import check_budget, check_judges, spent_line
from probeline.lineage.root import root_digest
from probeline.lineage.unfinished import mark_unfinished
from probeline.logs.formats import (
    FILE_FORMATS,
    simulated_unit,
    unit_key,
)
from probeline.logs.listing import (
    can_be_input,
    contents_of,
    file_contents,
    find_duplicates,
    game_files,
    list_files,
    list_games,
)
from probeline.logs.retracted import (
    read_retractions,
    retracted_games,
    retracted_units,
)
from probeline.logs.shards import identity
from probeline.logs.simulate_werewolf import simulated_game_key
from probeline.logs.summary import data_summary
from probeline.models.adapter import adapter_files
from probeline.probes.summary import run_summary
from probeline.stat_cache import StatCache


def in_words(function):
    """Let a fault of the user's end the run with its text alone."""

    @wraps(function)
    def guarded(*arguments):
        try:
            return function(*arguments)
        except ProbelineError as error:
            raise WorkflowError(str(error)) from None

    return guarded


def on_modal(rule_name):
    """1 where a rule's body runs on Modal, else 0."""
    return int(runs_on_modal(rule_name, config))


def fetched_on_modal(wildcards):
    """1 for a model that goes from the hub straight to Modal, where alone its weights are needed."""
    there = is_fetched_there(config["models"][wildcards.model])
    return int(there and on_modal("extract_activations"))


STARTED = time.time()
run_jobs_from(SOURCES)

in_words(check_config)(config, SOURCES.parent / SCHEMA)
in_words(check_gpus)(config)
in_words(check_profile)(sys.argv[1:], config)
# Snakemake knows its targets only after parsing, and then says just MissingRuleException.
for word in sys.argv[1:]:
    in_words(check_target)(word, config)

SHARDS = [shard_name(index, config["shards"]) for index in range(config["shards"])]
# One extraction job may take several shards of dialogues, neighbours: then it loads the model once for them.
EXTRACTIONS = config["activations"].get("shards", len(SHARDS))
ACTIVATION_SHARDS = [shard_name(index, EXTRACTIONS) for index in range(EXTRACTIONS)]
# A concept, or its twin whose input does not tell the actor's role.
EXTRACTED = extracted_names(config)
# Those that probe shifts compare to: of a concept, with an adapter on the model.
ADAPTED = in_words(adapted_names)(config)
EXTRACTION_JOBS = {
    f"{concept}--{shard}"
    for concept in [*EXTRACTED, *ADAPTED]
    for shard in ACTIVATION_SHARDS
}
RESULTS_OF_GAMES = Path(".probeline/activations")


def either(names):
    """A pattern that fits these names and nothing else; without a name, nothing at all."""
    return "|".join(map(re.escape, names)) or "(?!)"


# Every recipe that is trained; of a grid its points.
RECIPES = recipe_points(config["recipes"])
GRIDS = grids(config["recipes"])


def recipes_of(method):
    """The recipes of a method."""
    return [name for name, recipe in RECIPES.items() if recipe["method"] == method]


def corpora_of(format_name):
    """The corpora of a format."""
    corpora = config["corpora"].items()
    return [name for name, corpus in corpora if corpus["format"] == format_name]


def datasets_of(kind):
    """The datasets for fine-tuning of a kind."""
    datasets = config["datasets"].items()
    return [name for name, dataset in datasets if dataset["kind"] == kind]


wildcard_constraints:
    corpus="|".join(config["corpora"]),
    shard="|".join(SHARDS),
    model="|".join(config["models"]),
    concept="|".join(map(re.escape, EXTRACTED)),
    method="|".join(config["methods"]),
    layers=r"\d+(_\d+)*",
    transfer=either(config["transfers"]),
    comparison=either(config["comparisons"]),
    shift=either(config.get("probe_shifts", {})),


@cache
def code_of(rule_name):
    """Content digests of a rule's script and of all local code that it imports."""
    return code_closure(SOURCES / f"{rule_name}.py", SOURCES)


# A fault that an input function raises can be lost: where the input exists, Snakemake takes it as it is,
# and old results would pass for those of a mistyped root. So these are looked at now.
in_words(check_files)(config, SOURCES.parent / "config/templates")


@cache
@in_words
def games_by_shard(corpus):
    """Shard → the games dealt to it, sorted keys."""
    corpus_config = config["corpora"][corpus]
    games = {shard: [] for shard in SHARDS}
    if is_simulated(corpus, corpus_config):
        keys = map(simulated_game_key, range(corpus_config["simulated_games"]))
    else:
        keys = list_games(root_of(corpus), corpus)
    for key in sorted(keys):
        if "{" in key or "}" in key:
            raise ProbelineError(
                "Snakemake takes braces in a path for wildcards. "
                f"Rename the folder {key} of corpora.{corpus}.root."
            )
        games[SHARDS[shard_of(key, len(SHARDS))]].append(key)
    return games


def root_of(corpus):
    return Path(config["corpora"][corpus]["root"]).expanduser()


RETRACTIONS = in_words(read_retractions)()


@cache
def cache_of_digests():
    return StatCache(Path(".probeline/stat-cache.sqlite"))


@cache
@in_words
def listed_files(corpus):
    """The files of a corpus, from the names alone."""
    files = list_files(root_of(corpus), corpus, config["corpora"][corpus]["format"])
    for file in files:
        if "{" in file or "}" in file:
            raise ProbelineError(
                "Snakemake takes braces in a path for wildcards. "
                f"Rename the file {file} of corpora.{corpus}.root."
            )
    return files


@cache
@in_words
def files_of(corpus):
    """The files of a corpus, and the digest of the content of each that can be read."""
    files = listed_files(corpus)
    return files, file_contents(root_of(corpus), files, cache_of_digests())


@cache
@in_words
def retracted_files_of(corpus):
    """Key of a Mafia game → why it is taken out; a file is one game there, and its key is its content's."""
    if not RETRACTIONS or config["corpora"][corpus]["format"] != "mafia":
        return {}
    contents = {}
    if not is_simulated(corpus, config["corpora"][corpus]):
        contents = {
            unit_key(content): content for content in files_of(corpus)[1].values()
        }
    return retracted_games(corpus, contents, RETRACTIONS)


@cache
def simulated_keys(corpus):
    """The keys of the games of a simulated Mafia corpus, by index: all are simulated to know one."""
    from probeline.logs.simulated_contents import simulated_mafia_contents

    count = config["corpora"][corpus]["simulated_games"]
    return [
        unit_key(content) for content in simulated_mafia_contents(config["seed"], count)
    ]


@cache
@in_words
def files_by_shard(corpus):
    """Shard → the files dealt to it, by content: names decide nothing, and copies fall together."""
    files, contents = files_of(corpus)
    dealt = {shard: [] for shard in SHARDS}
    for file in files:
        if file in contents and unit_key(contents[file]) in retracted_files_of(corpus):
            continue
        # What cannot be read has no content; the job says so.
        key = unit_key(contents[file]) if file in contents else file
        dealt[SHARDS[shard_of(key, len(SHARDS))]].append(file)
    return dealt


@cache
@in_words
def duplicates_of(corpus):
    """Game → the copy of it that is kept, over the whole corpus."""
    games = sorted(game for shard in games_by_shard(corpus).values() for game in shard)
    kept = [game for game in games if game not in retracted_of(corpus)]
    return find_duplicates(root_of(corpus), kept, cache_of_digests())


@cache
@in_words
def retracted_of(corpus):
    """Game → why it is taken out, over the whole corpus; also a copy that was added since then."""
    if not RETRACTIONS:
        return {}
    games = sorted(game for shard in games_by_shard(corpus).values() for game in shard)
    if not is_simulated(corpus, config["corpora"][corpus]):
        contents = contents_of(root_of(corpus), games, cache_of_digests())
        return retracted_games(corpus, contents, RETRACTIONS)
    # What is simulated has no content before it is made.
    reasons = retracted_games(corpus, {}, RETRACTIONS)
    return {game: reasons[game] for game in games if game in reasons}


def games_to_read(wildcards):
    """The games of a shard but for those that are taken out."""
    games = games_by_shard(wildcards.corpus)[wildcards.shard]
    return [game for game in games if game not in retracted_of(wildcards.corpus)]


def simulated_spec(wildcards):
    corpus = config["corpora"][wildcards.corpus]
    count, simulated_format = corpus["simulated_games"], corpus["format"]
    if simulated_format in FILE_FORMATS:
        shard = SHARDS.index(wildcards.shard)
        units = [simulated_unit(simulated_format, i) for i in range(count)]
        indices = [
            i for i, unit in enumerate(units) if shard_of(unit, len(SHARDS)) == shard
        ]
    else:
        dealt = set(games_to_read(wildcards))
        indices = [i for i in range(count) if simulated_game_key(i) in dealt]
    return {
        "format": simulated_format,
        "seed": config["seed"],
        "indices": indices,
        "code": code_of("simulate_logs"),
    }


def raw_logs_of(wildcards):
    """The logs of one shard, file by file; for a simulated corpus the manifest of the shard."""
    root = root_of(wildcards.corpus)
    if is_simulated(wildcards.corpus, config["corpora"][wildcards.corpus]):
        return f"{root}/{wildcards.shard}/manifest.json"
    games = games_to_read(wildcards)
    return [str(file) for game in games for file in game_files(root, game)]


def ingest_spec(wildcards):
    games, retracted = games_to_read(wildcards), retracted_of(wildcards.corpus)
    shard = SHARDS.index(wildcards.shard)
    simulated = is_simulated(wildcards.corpus, config["corpora"][wildcards.corpus])
    root = root_of(wildcards.corpus)
    duplicates = {} if simulated else duplicates_of(wildcards.corpus)
    return {
        "root": str(root / wildcards.shard if simulated else root),
        "shard": shard,
        "shards": len(SHARDS),
        "games": identity(games),
        "duplicates": {game: duplicates[game] for game in games if game in duplicates},
        # Those of this shard alone: a retraction touches no other.
        "retracted": {
            game: reason
            for game, reason in retracted.items()
            if shard_of(game, len(SHARDS)) == shard
        },
        "code": code_of("ingest_werewolf"),
    }


def log_files_of(wildcards):
    """The logs of one shard of a corpus of files; for a simulated one the manifest of the shard."""
    corpus, root = config["corpora"][wildcards.corpus], root_of(wildcards.corpus)
    if is_simulated(wildcards.corpus, corpus):
        return f"{root}/{wildcards.shard}/manifest.json"
    files = files_by_shard(wildcards.corpus)[wildcards.shard]
    return [str(root / file) for file in files if can_be_input(root / file)]


def retracted_here(wildcards):
    """Key → why it is taken out, for what would be in this shard; a retraction touches no other.

    Where a file holds several cases or dialogues, their shards are not known before they are read: such a
    retraction touches all shards of the corpora of its format, and no other corpus.
    """
    corpus = config["corpora"][wildcards.corpus]
    if corpus["format"] != "mafia":
        return retracted_units(corpus["format"], config["corpora"], RETRACTIONS)
    retracted = retracted_files_of(wildcards.corpus)
    shard_by_key = {key: shard_of(key, len(SHARDS)) for key in retracted}
    if retracted and is_simulated(wildcards.corpus, corpus):
        shard_by_key = {
            key: shard_of(simulated_unit("mafia", i), len(SHARDS))
            for i, key in enumerate(simulated_keys(wildcards.corpus))
        }
    shard = SHARDS.index(wildcards.shard)
    return {
        key: reason
        for key, reason in retracted.items()
        if shard_by_key.get(key) == shard
    }


def files_spec(wildcards, code):
    corpus, root = config["corpora"][wildcards.corpus], root_of(wildcards.corpus)
    simulated = is_simulated(wildcards.corpus, corpus)
    files = [] if simulated else files_by_shard(wildcards.corpus)[wildcards.shard]
    return {
        "root": str(root / wildcards.shard if simulated else root),
        "simulated": FILE_FORMATS[corpus["format"]] if simulated else None,
        "unreadable": [file for file in files if not can_be_input(root / file)],
        "retracted": retracted_here(wildcards),
        "code": code,
    }


def shards_of_corpus(wildcards):
    return expand(
        "data/processed/{corpus}/shards/{shard}/manifest.json",
        corpus=wildcards.corpus,
        shard=SHARDS,
    )


def experiments_of(corpus):
    if config["corpora"][corpus]["format"] in FILE_FORMATS:
        if not is_simulated(corpus, config["corpora"][corpus]):
            listed_files(corpus)  # A mistyped root is found out now.
        return {NO_EXPERIMENT}
    games = games_by_shard(corpus).values()
    return {experiment_of(game) for dealt in games for game in dealt}


in_words(check_groups)(
    config, {name: experiments_of(name) for name in config["corpora"]}
)


def declaration_of(wildcards):
    """What the config says of a concept, also for its role-masked twin."""
    return config["probes"][wildcards.concept.removesuffix(ROLE_MASKED)]


def corpus_shard_of(wildcards):
    corpus = declaration_of(wildcards)["corpus"]
    return f"data/processed/{corpus}/shards/{wildcards.shard}/manifest.json"


def template_of(wildcards):
    concept = declaration_of(wildcards)
    name = concept.get("template", config["corpora"][concept["corpus"]]["format"])
    return f"config/templates/{name}.yaml"


def model_files_of(wildcards):
    """The files of a model that lies in a folder of the user's: weights edited there are seen."""
    return in_words(local_model_files)(config["models"][wildcards.model])


def model_spec(wildcards):
    source = config["models"][wildcards.model]
    if "path" in source:
        source = {**source, "path": str(Path(source["path"]).expanduser())}
    # The depth is checked against the model, and makes no other model of it.
    return {
        "source": in_key_order(
            {key: value for key, value in source.items() if key not in ("depth", "gpu")}
        ),
        "code": code_of("fetch_model"),
    }


def dialogues_spec(wildcards):
    # Whether there is a twin changes nothing in either of the two.
    concept = declaration_of(wildcards)
    return {
        "concept": in_key_order(
            {key: concept[key] for key in concept if key != "role_masked"}
        ),
        "role_masked": wildcards.concept.endswith(ROLE_MASKED),
        "splits": config["splits"],
        "seed": config["seed"],
        "code": code_of("build_dialogues"),
    }


def table_to_train_on(wildcards):
    """The manifest of the corpus that a dataset for fine-tuning is made of."""
    corpus = config["datasets"][wildcards.dataset]["corpus"]
    return f"data/processed/{corpus}/manifest.json"


def model_to_render(wildcards):
    """The manifest of the model whose chat template and tokenizer a dataset is measured with, if it is."""
    model = config["datasets"][wildcards.dataset].get("model")
    return [] if model is None else f"data/models/{model}/manifest.json"


def dataset_spec(wildcards, code):
    dataset = config["datasets"][wildcards.dataset]
    corpus = config["corpora"][dataset["corpus"]]
    return {
        "dataset": dataset,
        "simulated": is_simulated(dataset["corpus"], corpus),
        "splits": config["splits"],
        "seed": config["seed"],
        "code": code,
    }


def rubrics_to_judge_by(wildcards):
    """The manifest of the rubrics that a judge has written for a dataset, if it asks for them."""
    if wildcards.dataset not in datasets_with_rubrics(config):
        return []
    return f"data/processed/rubrics/{wildcards.dataset}/manifest.json"


def judge_spec(name):
    """A judge, as params of a rule: what decides about its answers; jobs find in the config how to ask it."""
    decisive = ("kind", "url", "model", "temperature")
    settings = config["judges"][name]
    return {
        "name": name,
        "settings": {key: settings[key] for key in decisive if key in settings},
    }


def rubrics_spec(wildcards):
    dataset = config["datasets"][wildcards.dataset]
    return {
        "dataset": {key: dataset[key] for key in dataset if key != "rubrics"},
        "splits": config["splits"],
        "seed": config["seed"],
        "judge": judge_spec(dataset["rubrics"]),
        "code": code_of("write_rubrics"),
    }


def dialogues_to_extract(wildcards):
    """The shards of dialogues that one shard of activations is made of."""
    concept, _ = ADAPTED.get(wildcards.concept, (wildcards.concept, None))
    together = len(SHARDS) // EXTRACTIONS
    first = ACTIVATION_SHARDS.index(wildcards.shard) * together
    return expand(
        "data/processed/dialogues/{concept}/{shard}/manifest.json",
        concept=concept,
        shard=SHARDS[first : first + together],
    )


def adapter_files_of(wildcards):
    """The files of the adapter on the model, if there is one; of a recipe's its manifest."""
    _, adapter = ADAPTED.get(wildcards.concept, (None, adapter_of(config)))
    if adapter is None:
        return []
    if recipe_named(adapter, config):
        return adapter_manifest(adapter)
    return list(map(str, adapter_files(adapter_path(adapter, config))))


def activations_spec(wildcards):
    layers = config["activations"]["layers"]
    dtype = config["activations"]["dtype"]
    if dtype == "auto":
        native = (
            processor_has_bfloat16()
            or may_have_cuda()
            or on_modal("extract_activations")
        )
        dtype = "bfloat16" if native else "float32"
    return {
        "layers": None if layers == "all" else layers,
        "token_layers": config["activations"]["token_layers"],
        "dtype": dtype,
        "store": config["activations"]["store"],
        "threads": config["activations"]["threads"],
        "token_budget": config["activations"]["token_budget"],
        "engine": ENGINE,
        "code": code_of("extract_activations"),
    }


# Only this code decides about the bits of what is computed: after an edit of any other, results are reused.
ENGINE = canonical_digest(
    code_closure(SOURCES / "probeline/activations/engine.py", SOURCES)
)


def dialogues_of(wildcards):
    return expand(
        "data/processed/dialogues/{concept}/{shard}/manifest.json",
        concept=wildcards.concept,
        shard=SHARDS,
    )


def activations_of(wildcards):
    return expand(
        "results/activations/{concept}/{shard}/manifest.json",
        concept=wildcards.concept,
        shard=ACTIVATION_SHARDS,
    )


def twin_of(wildcards):
    """The name of a concept's role-masked twin, in a list; an empty one where it has none."""
    twin = wildcards.concept + ROLE_MASKED
    return [twin] if twin in EXTRACTED else []


def role_masked_dialogues_of(wildcards):
    return expand(
        "data/processed/dialogues/{twin}/{shard}/manifest.json",
        twin=twin_of(wildcards),
        shard=SHARDS,
    )


def role_masked_activations_of(wildcards):
    return expand(
        "results/activations/{twin}/{shard}/manifest.json",
        twin=twin_of(wildcards),
        shard=ACTIVATION_SHARDS,
    )


def quality_of(wildcards):
    return f"data/processed/{declaration_of(wildcards)['corpus']}/quality.json"


def evaluation_of_probes():
    """The settings of evaluation but for those of adapters, which no probe depends on."""
    evaluation = config["evaluation"].items()
    return {key: value for key, value in evaluation if key != "adapters"}


def probe_spec(wildcards):
    layers = [int(layer) for layer in wildcards.layers.split("_")]
    return {
        "concept": wildcards.concept,
        "method": wildcards.method,
        "layers": layers,
        "model": base_model(config),
        "seed": config["seed"],
        **method_settings(wildcards.method, layers, config),
        **evaluation_of_probes(),
        "code": code_of("train_probe"),
    }


def tokens_spec(wildcards):
    """With the settings of the extraction, so that scores are the stored ones."""
    settings = activations_spec(wildcards)
    return {
        "concept": wildcards.concept,
        "games": config["report"]["transcripts"],
        **{key: settings[key] for key in ("dtype", "threads", "token_budget")},
        "code": code_of("score_tokens"),
    }


def activations_to_transfer(wildcards):
    return expand(
        "results/activations/{concept}/{shard}/manifest.json",
        concept=transfer_concepts(config["transfers"][wildcards.transfer]),
        shard=ACTIVATION_SHARDS,
    )


def dialogues_to_transfer(wildcards):
    return expand(
        "data/processed/dialogues/{concept}/{shard}/manifest.json",
        concept=transfer_concepts(config["transfers"][wildcards.transfer]),
        shard=SHARDS,
    )


def transfer_spec(wildcards):
    transfer = config["transfers"][wildcards.transfer]
    return {
        **transfer,
        "model": base_model(config),
        "seed": config["seed"],
        **method_settings(transfer["method"], transfer["layers"], config),
        **evaluation_of_probes(),
        "code": code_of("evaluate_transfer"),
    }


def shift_of(wildcards):
    """A declared probe shift: the parts of its probe's name, and its adapter."""
    shift = config["probe_shifts"][wildcards.shift]
    return parse_probe_name(shift["probe"], config), shift["adapter"]


def probe_of_shift(wildcards):
    return f"results/probes/{config['probe_shifts'][wildcards.shift]['probe']}/manifest.json"


def activations_of_shift(wildcards):
    """Those of the model itself, which the probe was trained on."""
    return expand(
        "results/activations/{concept}/{shard}/manifest.json",
        concept=shift_of(wildcards)[0].concept,
        shard=ACTIVATION_SHARDS,
    )


def adapted_activations_of_shift(wildcards):
    name, adapter = shift_of(wildcards)
    called = (name.concept, str(adapter))
    return expand(
        "results/activations/{name}/{shard}/manifest.json",
        name=[name for name, of in ADAPTED.items() if of == called],
        shard=ACTIVATION_SHARDS,
    )


def dialogues_of_shift(wildcards):
    return expand(
        "data/processed/dialogues/{concept}/{shard}/manifest.json",
        concept=shift_of(wildcards)[0].concept,
        shard=SHARDS,
    )


def games_of_adapter(wildcards):
    """The datasets that the adapter of a probe shift was trained on; none for one from elsewhere."""
    adapter = shift_of(wildcards)[1]
    if recipe_named(adapter, config) is None:
        return []
    datasets = [RECIPES[name]["dataset"] for name in lineage_of(adapter, RECIPES)]
    return [dataset_manifest(config, name) for name in dict.fromkeys(datasets)]


def shift_spec(wildcards):
    name, adapter = shift_of(wildcards)
    return {
        "concept": name.concept,
        "method": name.method,
        "layers": list(name.layers),
        "adapter": adapter,
        "model": base_model(config),
        "seed": config["seed"],
        **method_settings(name.method, name.layers, config),
        **evaluation_of_probes(),
        "code": code_of("evaluate_probe_shift"),
    }


def sweep_spec(wildcards):
    sweeps, evaluation = config["sweeps"], config["evaluation"]
    used = ("bootstrap", "min_samples", "max_samples")
    return {
        "concept": wildcards.concept,
        "methods": swept_methods(config),
        "layers": sweeps["layers"],
        "folds": sweeps["folds"],
        "by": config["splits"]["by"],
        "model": base_model(config),
        "seed": config["seed"],
        **{key: evaluation[key] for key in used if key in evaluation},
        "code": code_of("sweep_probes"),
    }


def dataset_of_recipe(wildcards):
    """The manifest of the dataset that a recipe learns from."""
    return dataset_manifest(config, RECIPES[wildcards.recipe]["dataset"])


def model_of_recipe(wildcards):
    """The manifest of the model that a recipe tunes."""
    model = settings_of(wildcards.recipe, RECIPES)["model"]
    return f"data/models/{model}/manifest.json"


def merged_of_recipe(wildcards):
    """The manifests of the adapters that are merged into the model first, in this order."""
    return list(map(adapter_manifest, made_from(wildcards.recipe, RECIPES)[0]))


def start_of_recipe(wildcards):
    """The manifest of the adapter that a recipe trains on, if there is one."""
    start = made_from(wildcards.recipe, RECIPES)[1]
    return [] if start is None else adapter_manifest(start)


def timeout_of_recipe(wildcards):
    """Seconds that a training may take; it saves what it has before they are over."""
    return RECIPES[wildcards.recipe].get("timeout", NO_LIMIT)


def threads_of_recipe(wildcards):
    """Cores that a training takes: as many as its threads; none while it waits for Modal."""
    settings = settings_of(wildcards.recipe, RECIPES)
    return 0 if on_modal(f"train_{settings['method']}") else settings["threads"]


def report_to_of_recipe(wildcards):
    """Where a training is reported besides its log: a resource, as params would train anew."""
    return RECIPES[wildcards.recipe].get("report_to") or ""


# About a month: resources are numbers.
NO_LIMIT = 2_592_000


def recipe_spec(wildcards, code):
    recipe = settings_of(wildcards.recipe, RECIPES)
    model, rule_name = config["models"][recipe["model"]], f"train_{recipe['method']}"
    dtype = recipe["dtype"]
    if dtype == "auto":
        native = processor_has_bfloat16() or may_have_cuda() or on_modal(rule_name)
        dtype = "bfloat16" if native else "float32"
    return {
        "name": wildcards.recipe,
        "recipe": in_key_order(recipe),
        "kind": config["datasets"][recipe["dataset"]]["kind"],
        # As others know it, too, where it is on the hub.
        "model_name": model.get("hub", recipe["model"]),
        "dtype": dtype,
        "threads": recipe["threads"],
        **({"judge": judge_spec(recipe["judge"])} if recipe.get("judge") else {}),
        "seed": config["seed"],
        "code": code,
    }


def points_of_grid(wildcards):
    """The manifests of the adapters of a grid's points."""
    return list(map(adapter_manifest, GRIDS[wildcards.grid]))


def grid_spec(wildcards):
    return {
        "recipe": wildcards.grid,
        "points": GRIDS[wildcards.grid],
        "code": code_of("compare_grid"),
    }


def plan_of(wildcards):
    """What an evaluation of a recipe, or a comparison of several, compares and reads."""
    if hasattr(wildcards, "recipe"):
        return plan_evaluation(wildcards.recipe, config)
    return plan_comparison(wildcards.comparison, config)


def model_to_evaluate(wildcards):
    return f"data/models/{plan_of(wildcards).model}/manifest.json"


def adapters_to_evaluate(wildcards):
    """The manifests of all adapters that are put on the model, or merged into it."""
    return list(map(adapter_manifest, plan_of(wildcards).adapters))


def folders_to_evaluate(wildcards):
    """The files of adapters that no recipe makes."""
    folders = [Path(folder).expanduser() for folder in plan_of(wildcards).folders]
    return [str(file) for folder in folders for file in adapter_files(folder)]


def datasets_to_evaluate(wildcards):
    """The manifests of the datasets whose test splits are held out."""
    return [dataset_manifest(config, name) for name, _ in plan_of(wildcards).datasets]


def expected_perplexities(wildcards):
    """What the reference system expects of forecasts; nothing for other adapters.

    Not the table itself: its prices are no part of an evaluation.
    """
    if plan_of(wildcards).family != "forecasts":
        return {}
    return in_words(read_perplexities)(Path("config/costs/forecasts.yaml"))


def evaluation_spec(wildcards):
    return spec_of_comparison(
        wildcards,
        "evaluate_adapter",
        f"Evaluation of {wildcards.recipe}",
        code_of("evaluate_adapter"),
    )


def comparison_spec(wildcards):
    return spec_of_comparison(
        wildcards,
        "compare_adapters",
        f"Comparison {wildcards.comparison}",
        code_of("compare_adapters"),
    )


def spec_of_comparison(wildcards, rule_name, title, code):
    plan, settings = plan_of(wildcards), config["evaluation"]["adapters"]
    dtype = settings["dtype"]
    if dtype == "auto":
        native = processor_has_bfloat16() or may_have_cuda() or on_modal(rule_name)
        dtype = "bfloat16" if native else "float32"
    # What else is set says which systems and judges there are, and they stand here themselves.
    read = ("examples", "samples", "completion_tokens", "temperature", "max_tokens")
    forecasts = ("similarity", "gates") if plan.family == "forecasts" else ()
    return {
        "title": title,
        "family": plan.family,
        "model_name": plan.model,
        "systems": plan.systems,
        "pairs": plan.pairs,
        "adapters": plan.adapters,
        "datasets": plan.datasets,
        **({} if plan.judge is None else {"judge": judge_spec(plan.judge)}),
        "expected": expected_perplexities(wildcards),
        "settings": {
            **{key: settings[key] for key in (*read, *forecasts)},
            "bootstrap": config["evaluation"]["bootstrap"],
        },
        "dtype": dtype,
        "threads": settings["threads"],
        "seed": config["seed"],
        "code": code,
    }


def targets_of(kind):
    """What a plain run makes of a kind, as the config names it."""
    return config["targets"].get(kind, [])


def concepts_to_report():
    """The concepts behind the probes, sweeps, transfers and probe shifts that the targets name, each once."""
    shifts = config.get("probe_shifts", {})
    probes = [*targets_of("probes")]
    probes += [shifts[name]["probe"] for name in targets_of("probe_shifts")]
    found = [parse_probe_name(name, config).concept for name in probes]
    found += targets_of("sweeps")
    for name in targets_of("transfers"):
        found += transfer_concepts(config["transfers"][name])
    return list(dict.fromkeys(found))


def recipes_to_report():
    """The recipes whose training is shown: those named, and those that are evaluated."""
    named = [*targets_of("adapters"), *targets_of("evaluations")]
    return [name for name in dict.fromkeys(named) if name in RECIPES]


def plans_to_report():
    """What the evaluations and comparisons that the targets name compare and read."""
    plans = [plan_evaluation(name, config) for name in targets_of("evaluations")]
    return plans + [plan_comparison(name, config) for name in targets_of("comparisons")]


def corpora_to_report(wildcards):
    """The corpora behind everything that the targets name, each once."""
    datasets = [
        RECIPES[name]["dataset"]
        for recipe in recipes_to_report() + points_to_report()
        for name in lineage_of(recipe, RECIPES)
    ]
    datasets += [name for plan in plans_to_report() for name, _ in plan.datasets]
    corpora = [config["probes"][concept]["corpus"] for concept in concepts_to_report()]
    corpora += [config["datasets"][name]["corpus"] for name in datasets]
    return expand(
        "data/processed/{corpus}/manifest.json", corpus=dict.fromkeys(corpora)
    )


def activations_to_report(wildcards):
    return expand(
        "results/activations/{concept}/{shard}/manifest.json",
        concept=concepts_to_report(),
        shard=ACTIVATION_SHARDS,
    )


def probes_to_report(wildcards):
    return expand("results/probes/{name}/manifest.json", name=targets_of("probes"))


def transcripts_to_report(wildcards):
    """The transcripts of the probes; none where the config asks for no game of them."""
    names = targets_of("probes") if config["report"]["transcripts"] else []
    return expand("results/transcripts/{name}/manifest.json", name=names)


def sweeps_to_report(wildcards):
    return expand("results/sweeps/{name}/manifest.json", name=targets_of("sweeps"))


def transfers_to_report(wildcards):
    return expand(
        "results/evaluation/{name}/manifest.json", name=targets_of("transfers")
    )


def shifts_to_report(wildcards):
    return expand(
        "results/evaluation/{folder}/{name}/manifest.json",
        folder=SHIFTS,
        name=targets_of("probe_shifts"),
    )


def adapters_to_report(wildcards):
    return list(map(adapter_manifest, recipes_to_report()))


def named_grids():
    """The recipes with a grid among the adapters that the targets name."""
    return [name for name in targets_of("adapters") if name in GRIDS]


def points_to_report():
    """The points of these grids."""
    return [point for name in named_grids() for point in GRIDS[name]]


def grids_to_report(wildcards):
    return expand("results/evaluation/grids/{name}/manifest.json", name=named_grids())


def evaluations_to_report(wildcards):
    return expand(
        "results/evaluation/adapters/{name}/manifest.json",
        name=targets_of("evaluations"),
    )


def comparisons_to_report(wildcards):
    return expand(
        "results/evaluation/comparisons/{name}/manifest.json",
        name=targets_of("comparisons"),
    )


def report_spec():
    corpora = config["corpora"].items()
    concepts = concepts_to_report()
    return {
        "model": base_model(config),
        "simulated": sorted(
            name for name, corpus in corpora if is_simulated(name, corpus)
        ),
        "labels": {name: config["probes"][name]["label"] for name in concepts},
        "errors": config["report"]["errors"],
        "code": code_of("write_report"),
    }


def print_summary():
    """The last lines of a run: what was read and built, headline figures of every result, what was paid."""
    data = data_summary(Path("data/processed"), STARTED)
    summary = run_summary(Path("results"), STARTED)
    adapters = run_headlines(Path("results"), STARTED)
    spent = spent_line(STARTED) if config["compute"] == "modal" else ""
    for part in filter(None, (data, summary, adapters, spent)):
        print(part, file=sys.stderr)


def print_failures():
    """The last lines of a run that failed: what was not made, and why."""
    failed = not_made(workflow.dag)
    if failed:
        print(failed, file=sys.stderr)


def track_versions():
    """Hand what the run has made to DVC, if the config says so and there is a DVC repository."""
    from probeline.lineage.versions import track_after_run

    said = track_after_run(config["versions"])
    if said:
        print(said, file=sys.stderr)


# The first page of Snakemake's report shows it; for that alone all records are read.
if any(word.partition("=")[0] == "--report" for word in sys.argv):
    config["root_digest"] = root_digest(read_lineage())
