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
    from probeline.compute.remote.secrets import secrets_of

    jobs = [job for job in dag.jobs if dag.needrun(job) and job.resources.get("modal")]
    if jobs:
        words = [f"{secret.name}={secret.variable}" for secret in secrets_of(jobs, config)]
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
    """Prepare, and look for secrets, each `name=VARIABLE`; what is wrong goes to standard output."""
    from probeline.compute.remote.connection import in_words, require_connection
    from probeline.compute.remote.deploy import find_or_deploy
    from probeline.compute.remote.secrets import Secret, require_secret
    from probeline.compute.remote.store import Store

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("modal", "hpack", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        require_connection(answer=True)
        with in_words():
            for word in arguments:
                require_secret(Secret(*word.split("=")))
            find_or_deploy()
            Store()
    except ProbelineError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
