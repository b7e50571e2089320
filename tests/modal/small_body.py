"""A rule's body in miniature: it needs no model, so that a test of what surrounds it takes little time.

A test copies it into its project's package, since containers get that package and nothing else.
"""

import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from probeline.compute.body import BodyFiles
from probeline.files import atomic_directory, write_json, write_manifest


def write_numbers(spec: Mapping[str, Any], files: BodyFiles) -> None:
    with atomic_directory(files.output) as draft:
        write_json(draft / "numbers.json", list(range(spec["count"])))
        (draft / "inner").mkdir()
        (draft / "inner/input.txt").write_bytes(files.inputs["text"][0].read_bytes())
        write_manifest(draft, "sweep", {"headline": {"count": spec["count"]}})


def run(artifact: str, text: str) -> None:
    """Run it on Modal as Snakemake would have it run."""
    from probeline.compute.remote.backend import run_remotely
    from probeline.compute.remote.deploy import find_or_deploy
    from probeline.compute.remote.pools import close_pools
    from probeline.config import load_config

    config = load_config()
    job = SimpleNamespace(
        rule="sweep_probes",
        config={**config, "compute": "modal"},
        input={"text": text},
        output=SimpleNamespace(record=f"{artifact}.lineage.json"),
        params=SimpleNamespace(spec={"count": 100}),
    )
    find_or_deploy()
    run_remotely(job, write_numbers, threads=1)
    close_pools()


if __name__ == "__main__":
    from probeline.bodies import small_body

    small_body.run(*sys.argv[1:])
