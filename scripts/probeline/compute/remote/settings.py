"""What the config says of work on Modal; where work runs is no part of its result."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from probeline.compute.prices import gpu_text
from probeline.config import base_model

RULES_WITH_MODEL = ("extract_activations",)
"""Rules whose containers hold the model on a GPU; the others compute on processors."""
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


def settings_of(rule: str, config: Mapping[str, Any]) -> Settings:
    """The settings of a rule that runs on Modal."""
    modal, gpu = config["modal"], None
    if rule in RULES_WITH_MODEL:
        gpu = config["models"][base_model(config)].get("gpu", modal["gpu"])
    keys = ("cpu", "memory", "containers", "timeout", "retries", "idle")
    return Settings(gpu=gpu_text(gpu), **{key: modal[key] for key in keys})


def runs_on_modal(rule: str, config: Mapping[str, Any]) -> bool:
    """Whether the config has a rule run on Modal."""
    return config["compute"] == "modal" and rule in config["modal"]["rules"]
