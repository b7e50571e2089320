"""The pools of warm containers that a run has used: when it ends, nothing is kept warm for it."""

import fcntl
import logging
import warnings
from pathlib import Path
from typing import Any

import orjson

from probeline.compute.remote.secrets import Secret
from probeline.digests import canonical_digest
from probeline.files import write_json

log = logging.getLogger(__name__)

POOLS = Path(".probeline/modal/pools")
SHORTEST = 2
"""Seconds: the service keeps a container for no less."""


def open_pool(
    app: str,
    cls: str,
    options: dict[str, Any],
    arguments: dict[str, Any],
    retries: int,
    secret: Secret | None = None,
) -> Any:
    """An instance of a deployed class, whose containers stay warm for as long as the options say.

    Args:
        app: name of the app.
        cls: name of the class.
        options: of `with_options`, JSON values.
        arguments: the class's parameters.
        retries: attempts after the first.
        secret: whose variable the containers get.
    """
    given = {"app": app, "cls": cls, "options": options, "arguments": arguments, "retries": retries}
    if secret is not None:
        given["secret"] = list(secret)
    instance = instance_of(given)
    note = POOLS / f"{canonical_digest(given)[:16]}.json"
    POOLS.mkdir(parents=True, exist_ok=True)
    # Jobs that start together would take each other's draft of the note for an abandoned one.
    with note.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not note.is_file():
            # An earlier run has let go of it at its end.
            _keep_warm(instance, options["scaledown_window"])
            write_json(note, given)
    return instance


def close_pools() -> None:
    """Let all containers end that wait for more work of this project's runs."""
    for note in sorted(POOLS.glob("*.json")):
        _keep_warm(instance_of(orjson.loads(note.read_bytes())), SHORTEST)
        note.unlink()


def instance_of(given: dict[str, Any]) -> Any:
    """The instance of a deployed class that a note of its pool describes."""
    import modal

    retries = modal.Retries(max_retries=given["retries"], initial_delay=1.0)
    cls = modal.Cls.from_name(given["app"], given["cls"])
    # In one order, whether they come from a note or not: another one is another pool to the service.
    arguments = dict(sorted(given["arguments"].items()))
    options = dict(given["options"])
    if "secret" in given:
        name, variable = given["secret"]
        options["secrets"] = [modal.Secret.from_name(name, required_keys=[variable])]
    return cls.with_options(retries=retries, **options)(**arguments)


def _keep_warm(instance: Any, seconds: int) -> None:
    import modal

    # Of a class this is the way; that it goes through a deprecated one of functions is the client's affair.
    warnings.filterwarnings("ignore", ".*update_autoscaler", modal.exception.DeprecationError)
    try:
        instance.update_autoscaler(scaledown_window=seconds)
    except (modal.exception.UnimplementedError, modal.exception.NotFoundError) as error:
        # Then a container ends after the time that it was started with.
        log.debug("The pool stays as it is: %s", error)
