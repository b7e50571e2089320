"""What an evaluation or a comparison of adapters compares and reads, from the config alone; nothing heavy."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from probeline.adapters.recipes import check_recipe, grids, lineage_of, made_from, recipe_points, settings_of
from probeline.errors import ProbelineError, near_misses
from probeline.models.adapter import FOLDER_NAME

BASE = "base"
FAMILIES = {"sft": "mafia", "preferences": "mafia", "forecasts": "forecasts", "prompts": "support"}
"""Kind of a dataset → how what is trained on it is evaluated."""
READ = {"mafia": ("sft", "preferences"), "forecasts": ("forecasts",), "support": ("prompts",)}
"""Family → kinds of datasets that are read."""
BARE: dict[str, Any] = {
    "recipe": None,
    "step": None,
    "merged": [],
    "whole": False,
    "stage": None,
    "folder": None,
}
"""A system but for its name; `folder` is the place of its folder among those that the rule reads."""
MOST = 8
"""Systems of a comparison: all pairs are compared."""


class Plan(NamedTuple):
    """What is compared on what.

    Attributes:
        family: mafia, forecasts or support.
        model: key of `models`.
        systems: declarations, as `evaluation.systems.systems_of` takes them, with `stage`.
        pairs: of their names.
        adapters: recipes whose artifacts are read.
        datasets: name and kind of each that is read.
        folders: of adapters that no recipe makes.
        judge: key of `judges` that is asked, or None.
    """

    family: str
    model: str
    systems: list[dict[str, Any]]
    pairs: list[list[str]]
    adapters: list[str]
    datasets: list[list[str]]
    folders: list[str]
    judge: str | None


def plan_evaluation(recipe: str, config: Mapping[str, Any]) -> Plan:
    """A recipe against the base and the recipes that it started from, and its checkpoints where asked.

    Args:
        recipe: its name.
        config: checked.
    """
    recipes = recipe_points(config["recipes"])
    chain = lineage_of(recipe, recipes)[::-1]
    steps: list[str] = []
    if config["evaluation"]["adapters"]["checkpoints"]:
        steps = [f"{recipe}@{step}" for step in _kept_steps(recipe, config)]
    names = [BASE, *chain[:-1], *steps, recipe]
    return _plan(names, [[name, recipe] for name in names[:-1]], recipe, config)


def _kept_steps(recipe: str, config: Mapping[str, Any]) -> list[int]:
    """The steps at which a recipe keeps a checkpoint, but for its last one, which is what it ends with.

    Raises:
        ProbelineError: that depends on the number of its examples.
    """
    recipes = recipe_points(config["recipes"])
    kept, steps = recipes[recipe].get("checkpoints", []), settings_of(recipe, recipes)["max_steps"]
    if isinstance(kept, list):
        return sorted(step for step in kept if step != steps)
    if steps is None:
        raise ProbelineError(
            f"recipes.{recipe}.checkpoints is {{every: {kept['every']}}}, and without max_steps it is not "
            "known how many those are: list their steps, give max_steps, or set "
            "evaluation.adapters.checkpoints to false and name some of them in a comparison."
        )
    return list(range(kept["every"], steps, kept["every"]))


def plan_comparison(name: str, config: Mapping[str, Any]) -> Plan:
    """The systems of a comparison, each with each.

    Args:
        name: a key of `comparisons`.
        config: checked.
    """
    names = config["comparisons"][name]["of"]
    first = next(found for one in names if (found := split_name(one, config)[0]) is not None)
    shown = [Path(one).name if is_folder(one) else one for one in names]
    return _plan(names, [list(pair) for pair in combinations(shown, 2)], first, config)


def is_folder(name: str) -> bool:
    """Whether a system of a comparison is the folder of an adapter that no recipe makes."""
    return "/" in name


def compared_folders(config: Mapping[str, Any]) -> list[str]:
    """The folders of adapters that comparisons name."""
    named = (name for comparison in config.get("comparisons", {}).values() for name in comparison["of"])
    return [name for name in named if is_folder(name)]


def _plan(names: Sequence[str], pairs: list[list[str]], lead: str, config: Mapping[str, Any]) -> Plan:
    recipes = recipe_points(config["recipes"])
    family = family_of(lead, config)
    settings = config["evaluation"]["adapters"]
    judge = {"support": recipes[lead].get("judge") or settings["judge"], "forecasts": settings["match_judge"]}
    folders = [name for name in names if is_folder(name)]
    systems = [
        BARE | {"name": Path(name).name, "folder": folders.index(name)}
        if is_folder(name)
        else _system(name, config)
        for name in names
    ]
    own = [system["recipe"] for system in systems if system["recipe"] is not None]
    merged = [one for system in systems for one in system["merged"]]
    return Plan(
        family,
        settings_of(lead, recipes)["model"],
        systems,
        pairs,
        list(dict.fromkeys([*own, *merged])),
        _datasets(family, lead, config),
        folders,
        judge.get(family),
    )


def _system(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    recipes = recipe_points(config["recipes"])
    recipe, step = split_name(name, config)
    if recipe is None:
        return BARE | {"name": BASE, "stage": BASE}
    settings = settings_of(recipe, recipes)
    return {
        "name": name,
        "recipe": recipe,
        "step": step,
        "merged": made_from(recipe, recipes)[0],
        "whole": settings["lora"] is None,
        "stage": None if step is not None else _stage(settings),
        "folder": None,
    }


def _stage(settings: Mapping[str, Any]) -> str | None:
    """What the reference system calls a training of this method and length, if it has one like it."""
    if settings["method"] == "grpo":
        return "GRPO"
    epochs = settings["epochs"]
    if settings["method"] == "dpo" or settings["max_steps"] is not None:
        return None
    return f"SFT {epochs} epoch{'s' * (epochs != 1)}"


def family_of(recipe: str, config: Mapping[str, Any]) -> str:
    """How a recipe is evaluated, by the dataset that it learns from."""
    recipes = recipe_points(config["recipes"])
    return FAMILIES[config["datasets"][recipes[recipe]["dataset"]]["kind"]]


def _datasets(family: str, recipe: str, config: Mapping[str, Any]) -> list[list[str]]:
    """Of each kind that is read the dataset that the recipe, or one it is from, learned from.

    For Mafia, examples and pairs are both looked at: where the recipe knows of one kind alone, the other is
    taken from the same corpus.
    """
    recipes, datasets = recipe_points(config["recipes"]), config["datasets"]
    learned = [recipes[name]["dataset"] for name in lineage_of(recipe, recipes)]
    corpus = datasets[learned[0]]["corpus"]
    beside = [name for name, declared in datasets.items() if declared["corpus"] == corpus]
    found = []
    for kind in READ[family]:
        names = [name for name in [*learned, *beside] if datasets[name]["kind"] == kind]
        found += [[names[0], kind]] if names else []
    return found


def split_name(name: str, config: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """Recipe and step of `<recipe>[@<step>]`: no recipe for the base or a folder, no step for the end.

    Raises:
        ProbelineError: there is no such recipe, or it keeps no such checkpoint.
    """
    if name == BASE or is_folder(name):
        return None, None
    recipes = recipe_points(config["recipes"])
    if name in recipes:
        return name, None
    recipe, found, step = name.rpartition("@")
    if not found or not step.isascii() or not step.isdigit() or recipe not in recipes:
        check_recipe(name, config["recipes"])
        raise ProbelineError(f"{name!r} is a grid: name one of its points. {near_misses(name, recipes)}")
    kept, at = recipes[recipe].get("checkpoints", []), int(step)
    if at not in kept if isinstance(kept, list) else at % kept["every"]:
        raise ProbelineError(
            f"{recipe} keeps no checkpoint of step {at}: its checkpoints are {kept}. Add it there."
        )
    return recipe, at


def comparison_faults(config: Mapping[str, Any]) -> list[str]:
    """What comparisons ask for and the config lacks, or what cannot be compared."""
    faults = []
    for name, comparison in config.get("comparisons", {}).items():
        try:
            faults += _faults_of(f"comparisons.{name}", comparison["of"], config)
        except ProbelineError as error:
            faults.append(f"comparisons.{name}.of: {error}")
    for key in ("judge", "match_judge"):
        judge = config["evaluation"]["adapters"][key]
        if judge is not None and judge not in config["judges"]:
            near = near_misses(judge, config["judges"])
            faults.append(f"evaluation.adapters.{key} is {judge!r}. {near}")
    points = recipe_points(config["recipes"])
    trained = points | grids(config["recipes"])
    comparisons = config.get("comparisons", {})
    for key, allowed in (("adapters", trained), ("evaluations", points), ("comparisons", comparisons)):
        faults += [
            f"targets.{key}: unknown {key.removesuffix('s')} {target!r}. {near_misses(target, allowed)}"
            for target in config["targets"].get(key, [])
            if target not in allowed
        ]
    return faults


def _faults_of(at: str, names: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    recipes = recipe_points(config["recipes"])
    named = [found for name in names if (found := split_name(name, config)[0]) is not None]
    if not named:
        return [f"{at}.of names no recipe, which says what is held out and of which model the base is."]
    shown = [Path(name).name if is_folder(name) else name for name in names]
    folders = [Path(name).name for name in names if is_folder(name)]
    odd = [name for name in folders if not FOLDER_NAME.fullmatch(name)]
    if odd:
        return [
            f"{at}.of: the report calls an adapter after its folder, so let {odd[0]!r} have letters, digits, "
            "points, hyphens and underscores only."
        ]
    if len(set(shown)) < len(shown):
        return [f"{at}.of names two systems {max(shown, key=shown.count)}: rename a folder."]
    if len(names) > MOST:
        return [f"{at}.of names {len(names)}; at most {MOST} are compared, each with each."]
    models = {recipe: settings_of(recipe, recipes)["model"] for recipe in named}
    if len(set(models.values())) > 1:
        return [f"{at}.of mixes adapters of several models: {models}. Compare those of one."]
    corpora = {recipe: config["datasets"][recipes[recipe]["dataset"]]["corpus"] for recipe in named}
    families = {recipe: family_of(recipe, config) for recipe in named}
    if len(set(families.values())) > 1 or len(set(corpora.values())) > 1:
        return [f"{at}.of mixes adapters that learned from several corpora: {corpora}. Compare those of one."]
    return []


def check_evaluated(folder: str, name: str, config: Mapping[str, Any]) -> None:
    """Refuse a name in results/evaluation/<folder> that the config does not declare.

    Args:
        folder: adapters, comparisons or grids.
        name: as it was asked for.
        config: checked.

    Raises:
        ProbelineError: names the near misses, and how such a thing is declared.
    """
    if folder == "comparisons":
        declared = config["comparisons"]
        if name not in declared:
            raise ProbelineError(
                f"Unknown comparison {name!r}. {near_misses(name, declared)} "
                "They are declared under comparisons: in the config."
            )
    elif folder == "grids":
        declared = grids(config["recipes"])
        if name not in declared:
            raise ProbelineError(
                f"{name!r} is no recipe with a grid. {near_misses(name, declared)} "
                "A recipe gets one by, for example, `grid: {learning_rate: [1.0e-5, 1.0e-4]}`."
            )
    elif split_name(name, config)[0] is None or name not in recipe_points(config["recipes"]):
        raise ProbelineError(
            f"Only recipes are evaluated by themselves: declare `comparisons: {{mine: {{of: [base, "
            f"{name}]}}}}` and ask for results/evaluation/comparisons/mine."
        )
