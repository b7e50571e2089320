"""Rules' bodies in miniature: they need no model, so that a test of what surrounds them takes little time.

A test copies it into its project's package, since containers get that package and nothing else.
"""

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from probeline.compute.body import Body, BodyFiles
from probeline.files import atomic_directory, write_json, write_manifest

log = logging.getLogger("probeline.bodies.small_body")


def write_numbers(spec: Mapping[str, Any], files: BodyFiles) -> None:
    """Write an artifact of its own and of its input."""
    log.info("Numbers are written.")
    with atomic_directory(files.output) as draft:
        write_json(draft / "numbers.json", list(range(spec["count"])))
        (draft / "inner").mkdir()
        (draft / "inner/input.txt").write_bytes(files.inputs["text"][0].read_bytes())
        write_manifest(draft, "sweep", {"headline": {"count": spec["count"]}})


def fail_once(spec: Mapping[str, Any], files: BodyFiles) -> None:
    """Fail with an exception that nobody expects, but not when it is run again."""
    kept = _kept(files)
    if not kept.exists():
        kept.touch()
        raise LookupError("there is no such word")
    write_numbers(spec, files)


def take_memory(spec: Mapping[str, Any], files: BodyFiles) -> None:
    """Ask for more than any machine has."""
    bytearray(2**60)


def sleep(spec: Mapping[str, Any], files: BodyFiles) -> None:
    """Run until it is ended."""
    time.sleep(600)


def count(spec: Mapping[str, Any], files: BodyFiles) -> None:
    """Each attempt takes ten steps, keeps them, and is at work until it is lost; the last one finishes."""
    kept = _kept(files)
    before = int(kept.read_text()) if kept.exists() else 0
    log.info("%d steps were taken before.", before)
    kept.write_text(str(before + 10))
    while before + 10 < spec["count"]:
        files.commit()
        time.sleep(0.05)
    write_numbers(spec, files)


def ask_judge(spec: Mapping[str, Any], files: BodyFiles) -> None:
    """Have a judge score one completion."""
    from probeline.judges import JudgeRequest, open_judge

    assert files.judge is not None
    with open_judge(spec["judge"]["name"], files.judge, files.output.parent / "rewards.sqlite") as judge:
        scores = judge.scores([JudgeRequest("user: Hi", "Good.", "Hello.", "Hello!")])
    with atomic_directory(files.output) as draft:
        write_json(draft / "scores.json", scores)
        write_manifest(draft, "sweep", {})


def _kept(files: BodyFiles) -> Path:
    files.work.mkdir(parents=True, exist_ok=True)
    return files.work / files.name.replace("/", "--")


def run(
    artifact: str,
    text: str,
    body: Body = write_numbers,
    spec: Mapping[str, Any] | None = None,
    configfiles: Sequence[Path] = (),
    **settings: Any,
) -> dict[str, Any]:
    """Run a body on Modal as Snakemake would have it run.

    Args:
        artifact: what it makes.
        text: its input: a file, or the manifest of an artifact.
        body: which one.
        spec: its parameters.
        configfiles: laid over the project's config.
        settings: of the config's `modal`.

    Returns:
        What the record says of it.
    """
    from probeline.compute.remote.backend import run_remotely
    from probeline.config import load_config

    config = load_config(configfiles)
    job = SimpleNamespace(
        rule="sweep_probes",
        config={**config, "compute": "modal", "modal": config["modal"] | settings},
        input={"text": text},
        output=SimpleNamespace(record=f"{artifact}.lineage.json"),
        params=SimpleNamespace(spec={"count": 100, **(spec or {})}),
    )
    return run_remotely(job, body, threads=1)


def main(artifact: str, text: str) -> None:
    """Deploy, run the first body, and let go of its container."""
    from probeline.compute.remote.deploy import find_or_deploy
    from probeline.compute.remote.pools import close_pools

    find_or_deploy()
    run(artifact, text)
    close_pools()


if __name__ == "__main__":
    from probeline.bodies import small_body

    small_body.main(*sys.argv[1:])
