# What the rules of evaluation read, and their params; no rules.

from pathlib import Path

from probeline.adapters.recipes import adapter_manifest, dataset_manifest, lineage_of
from probeline.config import (
    base_model,
    parse_probe_name,
    recipe_named,
    transfer_concepts,
)
from probeline.digests import in_key_order
from probeline.evaluation.plans import plan_comparison, plan_evaluation
from probeline.forecasting.expected import read_perplexities
from probeline.models.adapter import adapter_files


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
        # The order of its groups is that of the matrix.
        **{key: transfer[key] for key in sorted(transfer)},
        "model": base_model(config),
        "seed": config["seed"],
        **settings_of_probe(transfer["method"], transfer["layers"]),
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
        **settings_of_probe(name.method, name.layers),
        "code": code_of("evaluate_probe_shift"),
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
    return in_words(read_perplexities)(SOURCES.parent / "config/costs/forecasts.yaml")


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
            **in_key_order({key: settings[key] for key in (*read, *forecasts)}),
            "bootstrap": config["evaluation"]["bootstrap"],
        },
        "dtype": dtype_of(settings["dtype"], rule_name),
        "threads": settings["threads"],
        "seed": config["seed"],
        "code": code,
    }
