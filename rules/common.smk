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

from probeline.activations.machine import may_have_cuda, processor_has_bfloat16
from probeline.activations.reuse import remove_orphans
from probeline.adapters.headline import run_headlines
from probeline.adapters.recipes import grids, recipe_points
from probeline.compute.remote.before_run import let_go, prepare_modal
from probeline.compute.remote.settings import runs_on_modal
from probeline.compute.remote.weights import is_fetched_there
from probeline.config import (
    SCHEMA,
    SHIFTS,
    adapted_names,
    base_model,
    check_config,
    check_gpus,
    check_profile,
    check_target,
    datasets_with_rubrics,
    extracted_names,
)
from probeline.digests import shard_name
from probeline.errors import ProbelineError
from probeline.lineage.code import code_closure, remember_code, run_jobs_from
from probeline.lineage.failures import not_made
from probeline.lineage.graph import read_lineage
from probeline.lineage.lock import hold_workflow_lock
from probeline.lineage.planned_run import check_budget, check_judges, spent_line
from probeline.lineage.root import root_digest
from probeline.lineage.unfinished import mark_unfinished
from probeline.logs.summary import data_summary
from probeline.probes.summary import run_summary


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


def dtype_of(setting, rule_name):
    """Number type of a rule; `auto` is bfloat16 where its machine has it."""
    if setting != "auto":
        return setting
    native = processor_has_bfloat16() or may_have_cuda() or on_modal(rule_name)
    return "bfloat16" if native else "float32"


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


remember_code(Path(".probeline/code.json"))


@cache
def code_of(rule_name):
    """Content digests of a rule's script and of all local code that it imports."""
    return code_closure(SOURCES / f"{rule_name}.py", SOURCES)


include: "inputs/logs.smk"
include: "inputs/models.smk"
include: "inputs/datasets.smk"
include: "inputs/activations.smk"
include: "inputs/probes.smk"
include: "inputs/adapters.smk"
include: "inputs/evaluation.smk"
include: "inputs/reports.smk"


def print_summary():
    """The last lines of a run: what was read and built, headline figures of every result, what was paid."""
    data = data_summary(Path("data/processed"), STARTED)
    summary = run_summary(Path("results"), STARTED)
    adapters = run_headlines(Path("results"), STARTED)
    spent = spent_line(STARTED) if config["compute"] == "modal" else ""
    page = Path("results/report.html")
    written = page.exists() and page.stat().st_mtime >= STARTED
    shown = f"Report: {page}" if written else ""
    for part in filter(None, (data, summary, adapters, shown, spent)):
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
