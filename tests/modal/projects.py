"""Projects that run on the loopback service as a user's would on Modal."""

import os
import subprocess
import sys

from tests.modal.loopback import Server
from tests.workflow.conftest import TINY, Project

PROBE = "results/probes/trust_lr_l2"


def on_modal(*words: str, config: tuple[str, ...] = (TINY,)) -> list[str]:
    """The words of a run with the profile of Modal."""
    base = (sys.executable, "-m", "snakemake", "--cores", "2", *words)
    return [*base, "--profile", "profiles/modal", "--configfile", *config]


def run_on_modal(
    project: Project, server: Server, *words: str, config: tuple[str, ...] = (TINY,), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run with GPU rules on the loopback service, with what a shell would have set for Modal."""
    return subprocess.run(
        on_modal(*words, config=config),
        cwd=project.folder,
        env=client_environment(server, **variables),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def client_environment(server: Server, **variables: str) -> dict[str, str]:
    """This process's environment, turned to the loopback service."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
    return others | server.environment() | variables
