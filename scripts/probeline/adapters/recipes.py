"""Recipes of adapters: their defaults, what each is made from, and what contradicts itself; nothing heavy."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from probeline.adapters.names import FOUR_BITS
from probeline.digests import canonical_digest
from probeline.errors import ProbelineError, near_misses

METHODS = ("sft", "dpo", "grpo")
LORA = {"rank": 16, "alpha": 32, "dropout": 0.0, "targets": "auto"}
DEFAULTS: dict[str, Any] = {
    "from": None,
    "merge": False,
    "lora": LORA,
    "epochs": 1,
    "max_steps": None,
    "learning_rate": 2.0e-4,
    "batch": 4,
    "accumulation": 4,
    "max_tokens": 2048,
    "warmup": 0.03,
    "weight_decay": 0.01,
    "checkpoints": [],
    "gradient_checkpointing": False,
    "quantization": None,
    "dtype": "auto",
    "threads": 2,
    "held_out": 64,
}
"""Of every method; `held_out` is the number of validation examples that are measured before and after."""
OWN_DEFAULTS: dict[str, dict[str, Any]] = {
    "sft": {},
    "dpo": {"learning_rate": 5.0e-5, "beta": 0.1},
    "grpo": {
        "learning_rate": 1.0e-5,
        "beta": 0.0,
        "generations": 4,
        "temperature": 1.0,
        "completion_tokens": 256,
        "reward": None,
        "judge": None,
    },
}
KINDS = {"sft": ("sft", "forecasts"), "dpo": ("preferences",), "grpo": ("forecasts", "prompts")}
"""Method → kinds of datasets that it trains on."""
REWARDS = {"tree": "forecasts", "judge": "prompts"}
"""Reward → kind of the dataset that it is reckoned on."""
PLACE = ("gpu", "timeout", "memory", "report_to")
"""What says where and how long a recipe may run and tells of it, and changes nothing of what it makes."""
COMMON = ("method", "model", "dataset", "grid", *DEFAULTS, *PLACE)
HEX = 8


def recipe_points(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every recipe that is trained: those of the config, and of each grid its points.

    Args:
        recipes: as the config declares them.

    Returns:
        Name → its keys as written. A point is called `<recipe>@<8 hex digits of its own settings>`.
    """
    points: dict[str, dict[str, Any]] = {}
    for name, recipe in recipes.items():
        plain = {key: value for key, value in recipe.items() if key != "grid"}
        if "grid" in recipe:
            for values in grid_values(recipe["grid"]):
                points[point_name(name, values)] = plain | values
        else:
            points[name] = plain
    return points


def grids(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Each recipe with a grid → its points by name, with what each of them sets.

    Args:
        recipes: as the config declares them.
    """
    return {
        name: {point_name(name, values): values for values in grid_values(recipe["grid"])}
        for name, recipe in recipes.items()
        if "grid" in recipe
    }


def grid_values(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """The settings of every point of a grid, in the order of its lists."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def point_name(recipe: str, values: Mapping[str, Any]) -> str:
    """The name of a point of a grid, told from what it sets."""
    return f"{recipe}@{canonical_digest(dict(values))[:HEX]}"


def lineage_of(name: str, recipes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A recipe and those that it is made from, the first one last.

    Raises:
        ProbelineError: `from` names no recipe, or leads back to where it began.
    """
    chain = [name]
    while (start := recipes[chain[-1]].get("from")) is not None:
        if start in chain:
            ring = " from ".join([*chain[chain.index(start) :], start])
            raise ProbelineError(f"recipes.{chain[-1]}.from goes in a circle: {ring}.")
        if start not in recipes:
            raise ProbelineError(
                f"recipes.{chain[-1]}.from is {start!r}. {near_misses(start, recipes)} "
                "A recipe starts from one that has no grid, or from one point of it."
            )
        chain.append(start)
    return chain


def made_from(name: str, recipes: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], str | None]:
    """What a recipe's training begins with.

    Args:
        name: of the recipe.
        recipes: `recipe_points`.

    Returns:
        Recipes whose adapters are merged into the model first, in this order; and the one whose adapter is
        trained on, None for a new adapter.
    """
    merged: list[str] = []
    start: str | None = None
    for one in reversed(lineage_of(name, recipes)):
        below = recipes[one].get("from")
        if below is not None and recipes[one].get("merge", False):
            merged, start = [*merged, below], None
        else:
            start = below
    return merged, start


def settings_of(name: str, recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All settings of a recipe that decide about what it makes, with their defaults.

    Args:
        name: of the recipe.
        recipes: `recipe_points`.
    """
    recipe = recipes[name]
    settings = DEFAULTS | OWN_DEFAULTS[recipe["method"]]
    settings |= {key: value for key, value in recipe.items() if key not in PLACE}
    settings["model"] = model_of(name, recipes)
    start = made_from(name, recipes)[1]
    if start is not None:
        # It is trained on: its shape is what it is.
        settings["lora"] = settings_of(start, recipes)["lora"] | (recipe.get("lora") or {})
    elif settings["lora"] is not None:
        settings["lora"] = LORA | settings["lora"]
    if settings["method"] == "dpo" and settings["lora"] is not None:
        # Next to its reference it trains without, whatever the adapter was trained with before.
        settings["lora"] = settings["lora"] | {"dropout": LORA["dropout"]}
    # Set back to null, they are what they are without being set.
    settings["epochs"] = settings["epochs"] or DEFAULTS["epochs"]
    return settings


def model_of(name: str, recipes: Mapping[str, Mapping[str, Any]]) -> str:
    """The key of `models` that a recipe tunes."""
    return str(recipes[lineage_of(name, recipes)[-1]]["model"])


def check_recipe(name: str, recipes: Mapping[str, Mapping[str, Any]], what: str = "") -> None:
    """Refuse a name that is no recipe's.

    Args:
        name: as it was written.
        recipes: as the config declares them.
        what: where it was written.

    Raises:
        ProbelineError: names the near misses.
    """
    points = recipe_points(recipes)
    if name in recipes or name in points:
        return
    raise ProbelineError(
        f"Unknown recipe {name!r}{what and f' in {what}'}. {near_misses(name, {*recipes, *points})} "
        "They are declared under recipes: in the config."
    )


def check_trained(name: str, recipes: Mapping[str, Mapping[str, Any]], target: str) -> None:
    """Refuse the path of an adapter that no training makes.

    Args:
        name: of the adapter.
        recipes: as the config declares them.
        target: where it was asked for.

    Raises:
        ProbelineError: there is no such recipe, or it is a grid, whose points are trained.
    """
    check_recipe(name, recipes, target)
    if name in grids(recipes):
        points = ", ".join(f"results/adapters/{point}" for point in grids(recipes)[name])
        raise ProbelineError(
            f"{name} has a grid, and no adapter of its own: ask for results/evaluation/grids/{name}, which "
            f"compares its points, or for one of them: {points}."
        )


def recipe_faults(config: Mapping[str, Any]) -> list[str]:
    """What recipes ask for and the config lacks, and what contradicts itself in them."""
    faults: list[str] = []
    for name, recipe in config["recipes"].items():
        faults += _grid_faults(name, recipe)
    if faults:
        return faults
    recipes = recipe_points(config["recipes"])
    for name in recipes:
        try:
            lineage_of(name, recipes)
        except ProbelineError as error:
            faults.append(str(error))
    if faults:
        return faults
    for name in recipes:
        faults += _source_faults(name, recipes, config)
        faults += _method_faults(name, recipes[name], config)
    return faults or [fault for name in recipes for fault in _four_bit_faults(name, recipes, config)]


def _four_bit_faults(name: str, recipes: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Where weights of four bits cannot be, or would not be those that are evaluated."""
    from probeline.activations.machine import may_have_cuda

    at, settings = f"recipes.{name}", settings_of(name, recipes)
    if settings["quantization"] is None:
        return []
    if merged := made_from(name, recipes)[0]:
        return [
            f"{at}.quantization: {' and '.join(merged)} would be merged into weights of four bits, which is "
            "another model than the one it is evaluated on. Set it to null."
        ]
    elsewhere = config["compute"] == "modal" and f"train_{settings['method']}" in config["modal"]["rules"]
    here = may_have_cuda() and find_spec("bitsandbytes") is not None
    return [] if elsewhere or here else [f"{at}.{FOUR_BITS}"]


def _grid_faults(name: str, recipe: Mapping[str, Any]) -> list[str]:
    allowed = [*DEFAULTS, *OWN_DEFAULTS[recipe["method"]], "dataset"]
    fixed = ("from", "merge", "checkpoints", "held_out")
    allowed = [key for key in allowed if key not in fixed]
    return [
        f"recipes.{name}.grid: {key} cannot be varied. {near_misses(key, allowed)}"
        for key in recipe.get("grid", {})
        if key not in allowed
    ]


def _source_faults(name: str, recipes: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """What a recipe starts from and what it learns from."""
    recipe, faults = recipes[name], []
    at = f"recipes.{name}"
    if "from" not in recipe:
        if "model" not in recipe:
            faults.append(f"{at} lacks model, a key of models, or from, a recipe to start from.")
        elif recipe["model"] not in config["models"]:
            faults.append(
                f"{at}.model is {recipe['model']!r}. {near_misses(recipe['model'], config['models'])}"
            )
        if recipe.get("merge", False):
            faults.append(f"{at}.merge: there is nothing to merge without from, a recipe to start from.")
    else:
        root = recipes[lineage_of(name, recipes)[-1]].get("model")
        if recipe.get("model", root) != root:
            faults.append(
                f"{at} is from {recipe['from']}, an adapter of {root}, and cannot tune {recipe['model']}: "
                "leave model out."
            )
        if recipes[recipe["from"]].get("lora", LORA) is None:
            faults.append(f"{at}.from is {recipe['from']}, which has no adapter: its lora is null.")
        faults += _shape_faults(name, recipe)
    kinds, dataset = KINDS[recipe["method"]], recipe.get("dataset")
    fitting = [key for key, declared in config["datasets"].items() if declared["kind"] in kinds]
    if dataset is None:
        faults.append(f"{at} lacks dataset, one of: {', '.join(fitting)}.")
    elif dataset not in config["datasets"]:
        faults.append(f"{at}.dataset is {dataset!r}. {near_misses(dataset, fitting)}")
    elif dataset not in fitting:
        kind = config["datasets"][dataset]["kind"]
        faults.append(
            f"{at}.dataset is {dataset!r}, of the kind {kind}; {recipe['method']} trains on the kind "
            f"{' or '.join(kinds)}. {near_misses(dataset, fitting)}"
        )
    return faults


def _shape_faults(name: str, recipe: Mapping[str, Any]) -> list[str]:
    """An adapter that is trained on has its shape already."""
    if recipe.get("merge", False) or "lora" not in recipe:
        return []
    lora = recipe["lora"]
    if lora is None:
        return [
            f"recipes.{name}.lora is null, but the adapter of {recipe['from']} is trained on: leave it out."
        ]
    given = [key for key in lora if key != "dropout"]
    if not given:
        return []
    return [
        f"recipes.{name}.lora.{given[0]}: the adapter of {recipe['from']} is trained on and keeps its shape. "
        "Leave it out, or set merge: true for a new adapter."
    ]


def _method_faults(name: str, recipe: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Keys of other methods, and numbers that cannot go together."""
    at, method = f"recipes.{name}", recipe["method"]
    allowed = [*COMMON, *OWN_DEFAULTS[method]]
    foreign = [key for key in recipe if key not in allowed]
    if foreign:
        owner = next(other for other in METHODS if foreign[0] in OWN_DEFAULTS[other])
        return [f"{at}.{foreign[0]}: {method} has no such setting, {owner} has. Leave it out."]
    faults = []
    if recipe.get("epochs") and recipe.get("max_steps"):
        faults.append(
            f"{at} sets both epochs and max_steps. Leave one of them out; one that another file sets is "
            "taken back with null, such as max_steps: null."
        )
    steps, kept = recipe.get("max_steps"), recipe.get("checkpoints", [])
    last = kept["every"] if isinstance(kept, Mapping) else max(kept, default=0)
    if steps and last > steps:
        faults.append(f"{at}.checkpoints asks for step {last}, but max_steps is {steps}.")
    lora = recipe.get("lora", LORA)
    if method == "dpo" and lora and lora.get("dropout"):
        faults.append(f"{at}.lora.dropout: dpo trains without, next to its reference. Leave it out.")
    if lora is None and recipe.get("quantization"):
        faults.append(
            f"{at}.quantization: 4-bit weights cannot be tuned themselves. Give lora, or leave it out."
        )
    if method != "grpo":
        return faults
    settings = DEFAULTS | OWN_DEFAULTS["grpo"] | dict(recipe)
    group, held = settings["generations"], settings["batch"] * settings["accumulation"]
    if group < 2:
        faults.append(
            f"{at}.generations is {group}: a group needs 2 or more, else there is nothing to compare."
        )
    elif held % group:
        faults.append(
            f"{at}: batch times accumulation is {held}, which generations, {group}, does not divide: "
            f"a step takes whole groups. The next that fits is {held + group - held % group}."
        )
    longest, said = settings["max_tokens"], settings["completion_tokens"]
    if said >= longest:
        faults.append(
            f"{at}: max_tokens is {longest}, prompt and completion together, and completion_tokens {said}: "
            "no prompt fits. Raise max_tokens."
        )
    if lora is None and settings["beta"]:
        faults.append(f"{at}.beta needs lora: without an adapter there is no reference model to compare to.")
    return faults + _reward_faults(at, settings, config)


def _reward_faults(at: str, settings: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    reward, judges = settings["reward"], config.get("judges", {})
    if reward is None:
        return [f"{at} lacks reward: tree or judge."]
    kind = config["datasets"].get(settings.get("dataset"), {}).get("kind")
    if kind in REWARDS.values() and kind != REWARDS[reward]:
        fitting = next(key for key, value in REWARDS.items() if value == kind)
        return [f"{at}.reward is {reward}, but a dataset of the kind {kind} has the reward {fitting}."]
    if reward == "judge" and settings["judge"] is None:
        return [f"{at} lacks judge, a key of judges. {near_misses('', judges)}"]
    if reward == "judge" and settings["judge"] not in judges:
        return [f"{at}.judge is {settings['judge']!r}. {near_misses(settings['judge'], judges)}"]
    if reward == "tree" and settings["judge"] is not None:
        return [f"{at}.judge: the reward tree asks no judge. Leave it out."]
    return []


def dataset_manifest(config: Mapping[str, Any], dataset: str) -> str:
    """Path of the manifest of a dataset."""
    return f"data/processed/{config['datasets'][dataset]['kind']}/{dataset}/manifest.json"


def adapter_manifest(recipe: str) -> str:
    """Path of the manifest of a recipe's adapter."""
    return str(Path("results/adapters") / recipe / "manifest.json")
