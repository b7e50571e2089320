"""The deployed app: containers that hold a model, those that hold none, and the one that fetches weights.

The one file that containers begin with. What differs from run to run (GPU, limits, secrets) comes with the
call, by `with_options`: a decorator whose arguments differ between here and there breaks the container.
"""

import os
import platform
from pathlib import Path
from typing import Any

import modal.experimental

import modal
from probeline.compute.remote.layout import DATA, DATA_VOLUME, WEIGHTS, WEIGHTS_VOLUME
from probeline.digests import sha256_file

LOCK = Path(__file__).parents[4] / "constraints.txt"
LOCK_VARIABLE = "PROBELINE_LOCK"
"""Tells a container which lock file its packages are from."""
SECONDS_TO_LOAD = 3600
"""For the largest models; by default, the service gives up a container that takes five minutes to start."""
# In a container the lock file is not there, but what its image was built with is.
LOCK_DIGEST = sha256_file(LOCK) if LOCK.is_file() else os.environ.get(LOCK_VARIABLE, "")

image = (
    modal.Image.debian_slim(python_version=".".join(platform.python_version_tuple()[:2]))
    .pip_install_from_requirements(str(LOCK))
    .env({LOCK_VARIABLE: LOCK_DIGEST, "HF_HUB_DISABLE_TELEMETRY": "1"})
    .add_local_python_source("probeline")
)
data = modal.Volume.from_name(DATA_VOLUME, create_if_missing=True, version=2)
weights = modal.Volume.from_name(WEIGHTS_VOLUME, create_if_missing=True, version=2)
app = modal.App("probeline", image=image, include_source=False)


@app.cls(
    volumes={str(DATA): data, str(WEIGHTS): weights.with_mount_options(read_only=True)},
    startup_timeout=SECONDS_TO_LOAD,
)
class Model:
    """Bodies that need a model: it is loaded once for all calls that a container serves.

    Attributes:
        model: its folder on the weights volume.
        adapter: that of an adapter on it, or nothing.
        dtype: number type of the weights.
        threads: processor threads.
        variables: JSON of what else decides about bits: the caller's `decisive_variables`.
    """

    model: str = modal.parameter()
    adapter: str = modal.parameter()
    dtype: str = modal.parameter()
    threads: int = modal.parameter()
    variables: str = modal.parameter()

    @modal.enter()
    def load(self) -> None:
        """Load the model."""
        from probeline.compute.remote.container import Container

        self.container = Container(data, self.threads, self.variables)
        adapter = WEIGHTS / self.adapter if self.adapter else None
        self.container.hold(weights, WEIGHTS / self.model, adapter, self.dtype)

    @modal.method()
    def run(self, call: dict[str, Any]) -> dict[str, Any]:
        """Run one job; see `Container.run`."""
        answer = self.container.run(call | {"id": modal.current_function_call_id()})
        if self.container.is_broken:
            modal.experimental.stop_fetching_inputs()
        return answer


@app.cls(volumes={str(DATA): data})
class Task:
    """Bodies that need no model.

    Attributes:
        threads: processor threads.
        variables: JSON of what else decides about bits: the caller's `decisive_variables`.
    """

    threads: int = modal.parameter()
    variables: str = modal.parameter()

    @modal.enter()
    def start(self) -> None:
        """Set the threads, before anything numeric is imported."""
        from probeline.compute.remote.container import Container

        self.container = Container(data, self.threads, self.variables)

    @modal.method()
    def run(self, call: dict[str, Any]) -> dict[str, Any]:
        """Run one job; see `Container.run`."""
        return self.container.run(call | {"id": modal.current_function_call_id()})


@app.cls(
    volumes={str(DATA): data, str(WEIGHTS): weights.with_mount_options(read_only=True)},
    single_use_containers=True,
)
class Training:
    """Bodies that train, or evaluate adapters: each loads its model itself, in a container of its own.

    A further attempt goes on from what the one before has saved.

    Attributes:
        threads: processor threads.
        variables: JSON of what else decides about bits: the caller's `decisive_variables`.
    """

    threads: int = modal.parameter()
    variables: str = modal.parameter()

    @modal.enter()
    def start(self) -> None:
        """Set the threads, before anything numeric is imported."""
        from probeline.compute.remote.container import Container

        self.container = Container(data, self.threads, self.variables)

    @modal.method()
    def run(self, call: dict[str, Any]) -> dict[str, Any]:
        """Run one job; see `Container.run`."""
        return self.container.run(call | {"id": modal.current_function_call_id()})


@app.cls(volumes={str(WEIGHTS): weights})
class Weights:
    """Fills the weights volume; the only one that may ask the Hugging Face hub."""

    @modal.method()
    def fetch(self, call: dict[str, Any]) -> dict[str, Any]:
        """Fetch a model; see `fetch_weights`."""
        from probeline.compute.remote.container import fetch_weights

        return fetch_weights(call | {"id": modal.current_function_call_id()}, weights)
