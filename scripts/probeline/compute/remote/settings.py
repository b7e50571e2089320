"""What the config says of work on Modal; where work runs is no part of its result."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from probeline.adapters.recipes import model_of, recipe_points
from probeline.compute.prices import gpu_text
from probeline.config import base_model
from probeline.evaluation.plans import plan_comparison, plan_evaluation

RULES_WITH_MODEL = ("extract_activations", "score_tokens")
"""Rules whose containers hold the model on a GPU."""
TRAINING = ("train_sft", "train_dpo", "train_grpo")
"""Rules that train on a GPU."""
EVALUATING = ("evaluate_adapter", "compare_adapters")
"""Rules that let adapters answer on a GPU."""
ALONE = (*TRAINING, *EVALUATING)
"""Rules that load the model themselves, each job in a container of its own; all others have no GPU."""
LONGEST = 86_400
"""Seconds: the service refuses a longer limit of one attempt."""


@dataclass(frozen=True)
class Settings:
    """The containers that a rule asks for.

    Attributes:
        gpu: type and count as Modal writes them (`H100:4`); None for none.
        cpu: cores.
        memory: GiB.
        containers: most at once.
        timeout: seconds of one attempt.
        retries: attempts after the first, where a container is lost.
        idle: seconds for which a container stays warm.
    """

    gpu: str | None
    cpu: float
    memory: float
    containers: int
    timeout: int
    retries: int
    idle: int


def settings_of(rule: str, config: Mapping[str, Any], name: str | None = None) -> Settings:
    """The settings of a rule that runs on Modal.

    Args:
        rule: its name.
        config: checked.
        name: of the recipe that is trained, or of what is evaluated. What a recipe says of GPU, memory and
            time goes before all else; an evaluation gets the GPU of its model, as that is loaded whole, and
            the most memory and time of its recipes.
    """
    modal, gpu = config["modal"], None
    recipes = recipe_points(config["recipes"]) if rule in ALONE else {}
    if rule in EVALUATING and name is not None:
        plan = (plan_evaluation if rule == "evaluate_adapter" else plan_comparison)(name, config)
        gpu = config["models"][plan.model].get("gpu", modal["gpu"])
        limits = [modal, *(recipes[recipe] for recipe in plan.adapters)]
        modal = modal | {key: max(one.get(key, 0) for one in limits) for key in ("memory", "timeout")}
    if rule in TRAINING and name is not None:
        own = {key: recipes[name][key] for key in ("gpu", "memory", "timeout") if key in recipes[name]}
        model = config["models"][model_of(name, recipes)]
        modal = modal | {"gpu": model.get("gpu", modal["gpu"])} | own
        gpu = modal["gpu"]
    if rule in RULES_WITH_MODEL:
        gpu = config["models"][base_model(config)].get("gpu", modal["gpu"])
    keys = ("cpu", "memory", "containers", "timeout", "retries", "idle")
    return Settings(gpu=gpu_text(gpu), **{key: modal[key] for key in keys})


def runs_on_modal(rule: str, config: Mapping[str, Any]) -> bool:
    """Whether the config has a rule run on Modal."""
    return config["compute"] == "modal" and rule in config["modal"]["rules"]
