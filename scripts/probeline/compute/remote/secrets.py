"""The named secrets of Modal that hold keys. What they hold never comes here."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from probeline.compute.remote.weights import SECRET, SECRET_KEY, is_fetched_there
from probeline.errors import ProbelineError
from probeline.judges.chat import key_variable


class Secret(NamedTuple):
    """A secret that something on Modal needs.

    Attributes:
        name: in the Modal environment.
        variable: the environment variable that containers get from it.
    """

    name: str
    variable: str


HUB = Secret(SECRET, SECRET_KEY)


def secret_of_judge(settings: Mapping[str, Any] | None) -> Secret | None:
    """The secret with a judge's key; None for one that needs none.

    Its name is that of the variable: gemini-secret for GEMINI_API_KEY, my-lab-secret for MY_LAB_KEY.

    Args:
        settings: what the config says of the judge; None where there is no judge.
    """
    variable = None if settings is None or settings["kind"] == "local" else key_variable(settings)
    if variable is None:
        return None
    words = re.sub(r"(_API)?_(KEY|TOKEN)$", "", variable).lower().split("_")
    return Secret("-".join([*filter(None, words), "secret"]), variable)


def secrets_of(jobs: Iterable[Any], config: Mapping[str, Any]) -> list[Secret]:
    """The secrets that jobs of a run ask for on Modal.

    Args:
        jobs: of Snakemake's graph, those that go there.
        config: of the run.
    """
    found = set()
    for job in jobs:
        spec = job.params.get("spec") or {}
        if job.rule.name == "fetch_model":
            found.add(HUB if is_fetched_there(spec["source"]) else None)
        elif spec.get("judge"):
            found.add(secret_of_judge(config["judges"][spec["judge"]["name"]]))
    return sorted(secret for secret in found if secret is not None)


def require_secret(secret: Secret) -> None:
    """See that a secret is there with its variable.

    Raises:
        ProbelineError: it is not; says what makes it.
    """
    import modal

    try:
        modal.Secret.from_name(secret.name, required_keys=[secret.variable]).hydrate()
    except (modal.exception.NotFoundError, modal.exception.InvalidError) as error:
        raise ProbelineError(
            f"The Modal secret {secret.name} with {secret.variable} is missing. {made_by(secret)} ({error})"
        ) from error


def made_by(secret: Secret) -> str:
    """What makes a secret."""
    return f"`modal secret create {secret.name} {secret.variable}=…` makes it."
