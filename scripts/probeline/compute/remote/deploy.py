"""The deployed app: found by what it is made of, and deployed where it is not there yet."""

import fcntl
import importlib
import logging
import platform
from pathlib import Path
from typing import Any

from probeline.compute.remote.connection import in_words
from probeline.compute.remote.settings import TRAINING
from probeline.digests import canonical_digest, sha256_file
from probeline.errors import ProbelineError
from probeline.lineage.code import code_closure

log = logging.getLogger(__name__)

SCRIPTS = Path(__file__).parents[3]
LOCK_FILE = SCRIPTS.parent / "constraints.txt"
DEPLOYING = Path(".probeline/modal/deploy.lock")
BODIES = (
    *("extract_activations", "train_probe", "sweep_probes", "evaluate_transfer", "evaluate_probe_shift"),
    *("score_tokens", "evaluate_adapter", "compare_adapters"),
    *TRAINING,
)
"""Rules whose bodies can run there."""


def lock_digest() -> str:
    """Digest of the lock file that the containers' packages come from."""
    if not LOCK_FILE.is_file():
        raise ProbelineError(
            f"{LOCK_FILE.name} is not beside scripts/: work on Modal needs a checkout of the project."
        )
    return sha256_file(LOCK_FILE)


def python_version() -> str:
    """That of both sides, as far as it matters."""
    return ".".join(platform.python_version_tuple()[:2])


def app_name() -> str:
    """The name of the app that runs this code with these packages: another one for any that differs."""
    sources = code_closure(Path(__file__).with_name("modal_app.py"), SCRIPTS, excluded=())
    for rule in BODIES:
        sources |= code_closure(SCRIPTS / f"{rule}.py", SCRIPTS)
    identity = {"code": sources, "lock": lock_digest(), "python": python_version()}
    return f"probeline-{canonical_digest(identity)[:16]}"


def find_or_deploy() -> str:
    """See that the app is there; the first of several processes deploys it.

    Returns:
        Its name.

    Raises:
        ProbelineError: it cannot be deployed, in words.
    """
    name = app_name()
    with in_words():
        if not is_deployed(name):
            DEPLOYING.parent.mkdir(parents=True, exist_ok=True)
            with DEPLOYING.open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not is_deployed(name):
                    deploy(name)
    return name


def is_deployed(name: str) -> bool:
    """Whether there is an app of this name, with what we call in it."""
    import modal

    try:
        for cls in ("Model", "Task", "Weights"):
            modal.Cls.from_name(name, cls).hydrate()
    except modal.exception.NotFoundError:
        return False
    return True


def deploy(name: str) -> None:
    """Deploy the app under a name. The first time, the service builds the image, which takes minutes."""
    import modal

    log.info("Deploying %s on Modal; a new constraints.txt takes minutes, once.", name)
    module: Any = importlib.import_module("probeline.compute.remote.modal_app")
    try:
        module.app.deploy(name=name)
    except modal.exception.ImageBuildError as error:
        raise ProbelineError(f"Modal could not build the image from {LOCK_FILE.name}: {error}") from error
