"""What a job ran on and with: versions, hardware, and the state of the repository."""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from probeline.activations.machine import processor
from probeline.digests import sha256_file
from probeline.lineage.git import git

LOCK = Path("constraints.txt")
PACKAGES = (
    *("snakemake", "torch", "transformers", "tokenizers", "safetensors", "peft", "trl", "accelerate"),
    *("numpy", "scipy", "scikit-learn", "pandas", "pyarrow", "orjson", "modal", "dvc"),
)
"""Those that results can depend on; the lock file pins the rest."""
SOURCES = ("Snakefile", "rules", "scripts", "config")


def environment() -> dict[str, Any]:
    """Python, platform and the versions of the packages that matter."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "packages": versions,
    }


def hardware(threads: int) -> dict[str, Any]:
    """Processor, threads, and the GPUs if the job has used CUDA."""
    gpus: list[str] = []
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"processor": processor(), "cores": os.cpu_count(), "threads": threads, "gpus": gpus}


def lock_file() -> dict[str, Any] | None:
    """The lock file as a dependency; None where there is none."""
    if not LOCK.is_file():
        return None
    return {"name": LOCK.name, "digest": {"sha256": sha256_file(LOCK)}, "annotations": {"role": "lock"}}


def repository() -> dict[str, Any] | None:
    """The commit as a dependency, with the sources that differ from it; None outside a git repository."""
    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    changed = (
        git("--no-optional-locks", "status", "--porcelain", "--untracked-files=all", "--", *SOURCES) or ""
    )
    dirty = sorted(line[3:] for line in changed.splitlines())
    return {
        "name": "repository",
        "digest": {"gitCommit": commit.strip()},
        "annotations": {"role": "source", "dirty": dirty},
    }
