# What the rules of adapters read, and their params; no rules.

from probeline.adapters.recipes import (
    adapter_manifest,
    dataset_manifest,
    made_from,
    settings_of,
)
from probeline.digests import in_key_order


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
    return {
        "name": wildcards.recipe,
        "recipe": in_key_order(recipe),
        "kind": config["datasets"][recipe["dataset"]]["kind"],
        # As others know it, too, where it is on the hub.
        "model_name": model.get("hub", recipe["model"]),
        "dtype": dtype_of(recipe["dtype"], rule_name),
        "threads": recipe["threads"],
        **({"judge": judge_spec(recipe["judge"])} if recipe.get("judge") else {}),
        "seed": config["seed"],
        "code": code,
    }
