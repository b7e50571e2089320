"""What happens inside a container: a job is run as it would be on the caller's machine. No modal here."""

import gc
import importlib
import json
import logging
import os
import platform
import re
import resource
import secrets
import shutil
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

from probeline.compute.body import BodyFiles
from probeline.compute.jobs import OUT_OF_MEMORY_SIGNS, prepare_process
from probeline.compute.remote.layout import (
    DATA,
    DONE,
    JOB,
    LOG,
    MODELS,
    OUTPUT,
    SOURCES,
    WEIGHTS,
    WORK,
    artifact_entry,
    run_folder,
)
from probeline.digests import canonical_digest, sha256_file
from probeline.errors import ProbelineError
from probeline.files import MANIFEST, read_json, write_json
from probeline.lineage.code import code_digest
from probeline.lineage.environment import environment, hardware

if TYPE_CHECKING:
    from collections.abc import Iterator

    from probeline.activations.engine import HeldDecoder

SHARE_OF_COMMITS = 0.05
"""Of a job's time: a container that is lost loses the work of twenty commits' time at most."""


log = logging.getLogger(__name__)


SCRATCH = "probeline-job-"
"""Begins the name of the folder that a job works in."""
BODIES = "probeline.bodies."
"""Begins the name of the module of a body."""
MOST_NAMED = 20
"""Files that an answer names; it is small."""


class Volume(Protocol):
    """What is asked of a volume."""

    def commit(self) -> None:
        """Make what was written visible to others."""

    def reload(self) -> None:
        """See what others have written."""


class Container:
    """One container, for all jobs that it runs.

    Args:
        data: the data volume.
        threads: of numeric libraries; nothing numeric may have been imported before.
        variables: JSON of more settings of theirs.

    Attributes:
        is_broken: whether it should serve no more jobs: another container may do better.
    """

    def __init__(self, data: Volume, threads: int, variables: str) -> None:
        os.environ.update(json.loads(variables))
        prepare_process(threads)
        self._data = data
        self._threads = threads
        self._held: HeldDecoder | None = None
        self._fault: dict[str, Any] = {}
        self.is_broken = False
        # What came before the first job is paid with it.
        self._start_seconds = 0.0
        self._started = time.monotonic()

    def hold(self, weights: Volume, model: Path, adapter: Path | None, dtype: str) -> None:
        """Load a model for all jobs. A fault is told to each job: raised here, it would be tried again.

        Args:
            weights: the weights volume.
            model: a folder on it.
            adapter: that of an adapter on it, if there is one.
            dtype: number type of the weights.
        """
        _reload(weights)
        try:
            from probeline.activations.engine import HeldDecoder

            self._held = HeldDecoder(model, dtype, self._threads, adapter=adapter)
            print(f"Loaded {model.name} in {time.monotonic() - self._started:.1f} s.", flush=True)
        except Exception as error:  # whatever a model's files or the GPU raise: each job is told
            self._fault = fault(error)
            # What may pass is not told to more than one job.
            self.is_broken = "fault" not in self._fault
        self._start_seconds = time.monotonic() - self._started

    def run(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """Run one job, unless it was run already.

        Args:
            call: its `id`, `key` of the job, `lock` and `python` of the caller, and `resources` paid for.

        Returns:
            `done`: true; or what is wrong: `missing`, paths on the volume that should have been sent;
            `skew`, in words; `fault`, a fault of the user's in words; `exception` with `traceback`. They are
            returned because what is raised is tried again, and paid for again.
        """
        if self._fault:
            return self._fault
        _reload(self._data)
        folder = DATA / run_folder(call["key"])
        if (folder / DONE).is_file():
            return {"done": True}
        try:
            job = read_json(folder / JOB)
            if words := _skew(call, job):
                return {"skew": words}
            missing = [file["at"] for file in job["files"].values() if not _is_there(file)]
        except Exception as error:  # returned, as above: what is raised is tried again, and paid for again
            return fault(error)
        if missing:
            return {"missing": missing[:MOST_NAMED]}
        with _logged(call["id"], folder / LOG) as attempt:
            if attempt > 1:
                log.info("Attempt %d: what the one before has left on the volume is used.", attempt)
            took = _commit(self._data)  # this attempt's first line
            commit = _RareCommits(self._data, took)
            answer: dict[str, Any] = {"done": True}
            try:
                self._run_body(call, job, folder, commit)
            except _VolumeError:
                raise
            except Exception as error:  # a body may raise anything, and the next job must find this alive
                answer = fault(error)
                # After such an error, nothing runs on that GPU in this process.
                self.is_broken = "CUDA error" in str(error)
            if "done" not in answer:
                # Files that the exception held open would be in the way of the next job's reload, too.
                gc.collect()
                commit.now()  # what was done so far, and the log
        return answer

    def _run_body(
        self, call: Mapping[str, Any], job: Mapping[str, Any], folder: Path, commit: "_RareCommits"
    ) -> None:
        module, _, name = job["body"].partition(":")
        if not module.startswith(BODIES):
            # Others may write to the volume, too.
            raise ProbelineError(f"{job['body']} is no body of a rule.")
        body = getattr(importlib.import_module(module), name)
        output = folder / OUTPUT / Path(job["name"]).name
        started, processor = time.monotonic(), _processor_seconds()
        with TemporaryDirectory(prefix=SCRATCH) as scratch:
            inputs = _laid_out(job, Path(scratch))
            figures = Path(scratch) / "figures.json"
            # Not on the volume: a commit is refused while a file on it is open.
            made = Path(scratch) / job["name"]
            body(
                job["spec"],
                BodyFiles(
                    name=job["name"],
                    inputs=inputs,
                    output=made,
                    work=DATA / WORK,
                    work_name=call["key"][:16],
                    figures=figures,
                    seconds=call.get("timeout"),
                    workers=max(1, int(call["resources"]["cpu"])),
                    commit=commit,
                    judge=call.get("judge"),
                    held=self._held,
                ),
            )
            measured = read_json(figures) if figures.is_file() else None
            shutil.copytree(made, output, dirs_exist_ok=True)
        run = _measured(call, started, processor, self._threads)
        run |= {"startSeconds": round(self._start_seconds, 3), "figures": measured}
        self._start_seconds = 0.0
        files = _described(output, folder)
        entry = {"name": job["name"], "made": int(time.time()), "files": files} | _headline(output)
        done = {"files": files, "run": run, "entry": entry}
        write_json(DATA / artifact_entry(job["name"]), entry)
        write_json(folder / DONE, done | {"digest": canonical_digest(done)})
        _commit(self._data)


def _measured(call: Mapping[str, Any], started: float, processor: float, threads: int) -> dict[str, Any]:
    """What a call took, and on what.

    Args:
        call: as it came.
        started: moment of its start on the monotonic clock.
        processor: processor seconds of this process until then.
        threads: of numeric libraries.
    """
    return {
        "seconds": round(time.monotonic() - started, 3),
        "startSeconds": 0.0,
        "processorSeconds": round(_processor_seconds() - processor, 3),
        "peakBytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "environment": environment() | {"hardware": hardware(threads)},
        "figures": None,
        "call": call["id"],
        **call["resources"],
    }


def fault(error: Exception) -> dict[str, Any]:
    """What went wrong, as a value: nothing of it is tried again."""
    # The caller knows nothing of a container's folders.
    text = re.sub(r"/\S*?/" + SCRATCH + r"[^/\s]*/", "", str(error))
    if isinstance(error, ProbelineError):
        return {"fault": text}
    if any(isinstance(one, MemoryError) or _says_out_of_memory(one) for one in _chain(error)):
        return {
            "fault": "The container's memory is used up. Raise modal.memory or use a larger GPU (modal.gpu, "
            f"or gpu of the model), or raise shards in the config. ({type(error).__name__}: {text[:300]})"
        }
    lines = "".join(traceback.format_exception(error))
    return {"exception": f"{type(error).__name__}: {text[:1000]}", "traceback": lines[-4000:]}


def _says_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up."""
    return any(sign in str(error) for sign in OUT_OF_MEMORY_SIGNS)


def _chain(error: BaseException | None) -> "Iterator[BaseException]":
    """An error, and those that led to it: a lack of memory has many names by the time it arrives."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def fetch_weights(call: Mapping[str, Any], volume: Volume) -> dict[str, Any]:
    """Fetch a model onto the weights volume, unless it is there already.

    Args:
        call: its `id`, `source` as `fetch_model` takes it, `name` of the model, `resources` paid for.
        volume: the weights volume.

    Returns:
        `model`, its folder on the volume, and `run`, what was measured; or `fault`, or `exception` with
        `traceback`.
    """
    prepare_process(threads=1, hub=True)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    started, processor = time.monotonic(), _processor_seconds()
    _reload(volume)
    entry = WEIGHTS / SOURCES / f"{canonical_digest([call['source'], call['name']])}.json"
    try:
        if not entry.is_file():
            from probeline.models.fetch import fetch_model

            draft = WEIGHTS / MODELS / f"fetching-{secrets.token_hex(4)}"
            try:
                fetch_model(call["source"], draft / call["name"])
                target = WEIGHTS / MODELS / sha256_file(draft / call["name"] / MANIFEST)
                if not target.exists():
                    draft.rename(target)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
            write_json(entry, {"model": (target / call["name"]).relative_to(WEIGHTS).as_posix()})
            volume.commit()
        return read_json(entry) | {"run": _measured(call, started, processor, threads=1)}
    except Exception as error:  # returned: what is raised is tried again, and paid for again
        return fault(error)


def _skew(call: Mapping[str, Any], job: Mapping[str, Any]) -> str:
    """How this container differs from what the caller has; nothing if it does not."""
    python = ".".join(platform.python_version_tuple()[:2])
    if call["python"] != python:
        return f"the container has Python {python}, and here it is {call['python']}"
    if call["lock"] != os.environ.get("PROBELINE_LOCK"):
        return "the container's packages are those of another constraints.txt"
    for name, digest in job["spec"].get("code", {}).items():
        source = Path(__file__).parents[3] / Path(name).relative_to("scripts")
        # The script itself is no part of the package.
        if "/" in name.removeprefix("scripts/") and (not source.is_file() or code_digest(source) != digest):
            return f"the container's {name} is another one"
    return ""


def _is_there(file: Mapping[str, Any]) -> bool:
    root = WEIGHTS if file["volume"] == "weights" else DATA
    path = root / file["at"]
    if not path.is_file() or file["bytes"] not in (None, path.stat().st_size):
        return False
    # Of weights, which containers can only read, the size will do.
    return "sha256" not in file or sha256_file(path) == file["sha256"]


def _laid_out(job: Mapping[str, Any], scratch: Path) -> dict[str, list[Path]]:
    """The job's inputs under their own names, as links into the volumes."""
    for name, file in job["files"].items():
        link = scratch / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ProbelineError(f"{name} is no path in a project.")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((WEIGHTS if file["volume"] == "weights" else DATA) / file["at"])
    return {role: [scratch / name for name in names] for role, names in job["inputs"].items()}


def _described(output: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Size, digest and place on the volume of each file that a job made."""
    run = folder.relative_to(DATA)
    return {
        file.relative_to(output).as_posix(): {
            "bytes": file.stat().st_size,
            "sha256": sha256_file(file),
            "at": (run / file.relative_to(folder)).as_posix(),
        }
        for file in sorted(output.rglob("*"))
        if file.is_file()
    }


def _headline(output: Path) -> dict[str, Any]:
    """What lists say of an artifact beside its name."""
    facts = read_json(output / MANIFEST) if (output / MANIFEST).is_file() else {}
    return {key: facts[key] for key in ("kind", "headline") if key in facts}


def _processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


class _RareCommits:
    """Commits a volume, but not more often than is worth it.

    Args:
        volume: what is committed.
        took: seconds that the last commit took.
    """

    def __init__(self, volume: Volume, took: float) -> None:
        self._volume = volume
        self._took = took
        self._last = time.monotonic()

    def __call__(self) -> None:
        if self._took < SHARE_OF_COMMITS * (time.monotonic() - self._last):
            self.now()

    def now(self) -> None:
        """Commit; if that fails, the work goes on."""
        started = time.monotonic()
        try:
            self._volume.commit()
        except Exception as error:
            # A commit also reloads, which fails while files are open; what was written is kept then.
            # Whatever else it is, the commit at the end of the job says.
            log.debug("A commit on the way: %s", error)
        self._last = time.monotonic()
        self._took = self._last - started


def _commit(volume: Volume) -> float:
    """Commit; the seconds that it took. What goes wrong is tried again, by another container."""
    started = time.monotonic()
    try:
        volume.commit()
    except Exception as error:  # Modal does not say what its volumes raise
        raise _VolumeError(
            f"The data volume could not be committed ({type(error).__name__}: {error})."
        ) from error
    return time.monotonic() - started


class _VolumeError(Exception):
    """The volume fails; not an exception of the service's client, which would be taken for one from there."""


def _reload(volume: Volume) -> None:
    """See what others have written. What goes wrong is tried again, by another container."""
    try:
        volume.reload()
    except Exception as error:  # as above
        raise _VolumeError(f"A volume could not be read anew ({type(error).__name__}: {error}).") from error


@contextmanager
def _logged(call: str, file: Path) -> "Iterator[int]":
    """Every log line goes to the caller while the job runs, and into a file, should a line get lost.

    Yields:
        Which attempt at the call this is, as far as the file knows.
    """
    handler = _Lines(call, file)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in ("httpx", "transformers", "torch", "matplotlib", "fsspec", "modal", "hpack"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield handler.attempts
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()


class _Lines(logging.Handler):
    """Numbered lines that name their call: those of several share one stream.

    Attributes:
        attempts: at the call, with this one.
    """

    def __init__(self, call: str, file: Path) -> None:
        super().__init__()
        self._call = call
        self._attempt = secrets.token_hex(4)
        self._number = 0
        self._file = file
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        self.attempts = 1 + sum(f'"call": "{call}"' in line and '"number": 1,' in line for line in lines)
        self.emit(logging.makeLogRecord({"levelno": logging.DEBUG, "msg": "An attempt begins."}))

    def emit(self, record: logging.LogRecord) -> None:
        self._number += 1
        line = json.dumps(
            {
                "call": self._call,
                "attempt": self._attempt,
                "number": self._number,
                "level": record.levelno,
                "text": self.format(record),
            }
        )
        print(line, flush=True)
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(line + "\n")
