"""Before anything of a run starts: can what goes to Modal run there? Asked in a process of its own."""

import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probeline.errors import ProbelineError

POOLS = Path(".probeline/modal/pools")
UNPREPARED = "What runs on Modal could not be prepared: see above."


def prepare_modal(dag: Any, config: Mapping[str, Any]) -> None:
    """See that there is a token, an answer, the app, volumes and secrets, if a run has work for Modal.

    Args:
        dag: Snakemake's graph of jobs.
        config: of the run.

    Raises:
        ProbelineError: something is missing; says what, and what makes it.
    """
    if config["compute"] != "modal":
        return
    from probeline.compute.remote.interrupts import tell_jobs
    from probeline.compute.remote.weights import is_fetched_there

    jobs = [job for job in dag.jobs if dag.needrun(job) and job.resources.get("modal")]
    fetches = [job for job in jobs if job.rule.name == "fetch_model"]
    secret = any(is_fetched_there(job.params.spec["source"]) for job in fetches)
    if jobs:
        words = ["--secret"] if secret else []
        done = subprocess.run(
            [sys.executable, "-m", __name__, *words], stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise ProbelineError(done.stdout.strip() or UNPREPARED)
        tell_jobs()


def let_go() -> None:
    """At the end of a run, keep no container warm that it has used."""
    if any(POOLS.glob("*.json")):
        subprocess.run([sys.executable, "-m", "probeline.compute.remote.after_run"], check=False)


def main(arguments: list[str]) -> int:
    """Prepare; what is wrong goes to standard output."""
    from probeline.compute.remote.connection import in_words, require_connection
    from probeline.compute.remote.deploy import find_or_deploy
    from probeline.compute.remote.store import Store
    from probeline.compute.remote.weights import SECRET, SECRET_KEY

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("modal", "hpack", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        require_connection(answer=True)
        with in_words():
            find_or_deploy()
            Store()
            if "--secret" in arguments:
                import modal

                modal.Secret.from_name(SECRET, required_keys=[SECRET_KEY]).hydrate()
    except ProbelineError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
