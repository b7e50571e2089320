"""A rule's body on Modal: its inputs go there, it runs there (or has run), and its output comes back."""

import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probeline.activations.machine import decisive_variables
from probeline.compute.body import Body
from probeline.compute.jobs import artifact_of, judge_of, named_inputs
from probeline.compute.remote import calls
from probeline.compute.remote.connection import in_words, require_connection
from probeline.compute.remote.deploy import find_or_deploy, lock_digest, python_version
from probeline.compute.remote.facts import facts_of
from probeline.compute.remote.interrupts import Interrupts
from probeline.compute.remote.layout import (
    CONTENT,
    DONE,
    JOB,
    LOG,
    MODELS,
    WEIGHTS_VOLUME,
    artifact_entry,
    run_folder,
)
from probeline.compute.remote.places import forget_places, keep_entry, places_of
from probeline.compute.remote.pools import open_pool
from probeline.compute.remote.secrets import secret_of_judge
from probeline.compute.remote.settings import ALONE, Settings, settings_of
from probeline.compute.remote.store import Store, VanishedError
from probeline.compute.remote.weights import fetch_there
from probeline.digests import canonical_digest
from probeline.errors import ProbelineError
from probeline.files import MANIFEST, json_bytes, read_json
from probeline.lineage.hashing import STAT_CACHE, digests_of
from probeline.models.adapter import FILES as ADAPTER_FILES
from probeline.stat_cache import StatCache

if TYPE_CHECKING:
    import modal

log = logging.getLogger(__name__)

HELD = ("model", "adapter")
"""Inputs that lie on the weights volume, and stay in a container's memory."""
ATTEMPTS = 3


@dataclass(frozen=True)
class Job:
    """One job, as it goes to Modal.

    Attributes:
        key: names it by all that its result depends on.
        description: what job.json holds; for each file of the inputs, where it lies on which volume.
        contents: SHA-256 → file, of the inputs that do not lie there as the output of another job.
        folders: role → folder on the weights volume, of what a container holds in memory.
        local_folders: role → the same here.
        judge: how the judge is to be asked, which is no part of the result; None without one.
    """

    key: str
    description: dict[str, Any]
    contents: dict[str, Path]
    folders: dict[str, str]
    local_folders: dict[str, Path]
    judge: dict[str, Any] | None = None


def run_remotely(snakemake: Any, body: Body, threads: int) -> dict[str, Any]:
    """Run a rule's body on Modal, and bring what it made to where the rule wants it.

    Args:
        snakemake: what Snakemake hands to the rule's script.
        body: a function of a module of the package.
        threads: of numeric libraries, as in the params.

    Returns:
        What the record says of it: where it ran, on what, how long, and what it cost.

    Raises:
        ProbelineError: whatever went wrong on the way or there, in words.
    """
    if snakemake.rule == "fetch_model":
        return fetch_there(snakemake.params.spec["source"], Path(artifact_of(snakemake)))
    settings = settings_of(snakemake.rule, snakemake.config, Path(artifact_of(snakemake)).name)
    job = describe(snakemake, body, threads, settings.gpu)
    require_connection()
    with Interrupts() as interrupts, in_words():
        anew = partial(describe, snakemake, body, threads, settings.gpu, use_made=False)
        place = _Place(settings, Store(), calls.Journal(artifact_of(snakemake)), interrupts)
        done = _brought(job, anew, place, Path(artifact_of(snakemake)))
    return facts_of(done["run"])


@dataclass(frozen=True)
class _Place:
    """What there is to run a job with.

    Attributes:
        settings: of the container.
        store: the volumes.
        journal: remembers the call.
        interrupts: says when to end.
    """

    settings: Settings
    store: Store
    journal: calls.Journal
    interrupts: Interrupts


def _brought(job: Job, anew: Callable[[], Job], place: _Place, output: Path) -> dict[str, Any]:
    """Run a job unless it was run; bring its output here.

    Args:
        job: what is run.
        anew: gives the job with all of its inputs among those that are sent.
        place: what there is to run it with.
        output: the folder to make.

    Returns:
        What the volume says of it: its files, and the facts of the run.
    """
    try:
        return _fetched(job, anew, place, output)
    except VanishedError as error:
        log.warning("%s The job is run again.", error)
    place.store.forget(run_folder(job.key))
    place.journal.clear()
    return _fetched(job, anew, place, output)


def _fetched(job: Job, anew: Callable[[], Job], place: _Place, output: Path) -> dict[str, Any]:
    store = place.store
    done = _done(job.key, store)
    if done is None:
        done = _run(job, anew, place)
    else:
        log.info("It was run on Modal already: its output comes from the volume.")
        # The call that this project's earlier run has left is paid for by it.
        done["run"]["reused"] = place.journal.read().get("key") != job.key
        _cancel_other(job.key, place.journal)
        calls.replay(done["run"]["call"], store.lines(f"{run_folder(job.key)}/{LOG}"))
    store.fetch(done["files"], output)
    keep_entry(_listed(done["entry"], store))
    place.journal.clear()
    return done


def _listed(entry: dict[str, Any], store: Store) -> dict[str, Any]:
    """An artifact's entry on the volume, which names what is in use here, and may have named another."""
    path = artifact_entry(entry["name"])
    listed = store.read_json(path)
    if listed is not None and listed["files"] == entry["files"]:
        return listed
    store.put({path: json_bytes(entry)})
    return entry


def _done(key: str, store: Store) -> dict[str, Any] | None:
    """What the volume says of a job that was run, and is whole; None if it was not."""

    def wrong_with(done: Any) -> str:
        told = {name: value for name, value in done.items() if name != "digest"}
        return "" if done["digest"] == canonical_digest(told) else "its digest is another one"

    return store.read_json(f"{run_folder(key)}/{DONE}", wrong_with=wrong_with)


def describe(snakemake: Any, body: Body, threads: int, gpu: str | None, use_made: bool = True) -> Job:
    """The job with the digests of all that it reads.

    Args:
        snakemake: what Snakemake hands to the rule's script.
        body: what is run.
        threads: of numeric libraries.
        gpu: what it is run on, which decides about bits.
        use_made: whether the outputs of other jobs are taken to be on the volume still.
    """
    inputs = named_inputs(snakemake)
    listed = {path: None for role, paths in inputs.items() if role not in HELD for path in _files(paths)}
    cache = StatCache(STAT_CACHE)
    try:
        found = dict(zip(listed, digests_of([*listed], cache), strict=True))
        local_folders = {role: inputs[role][0].parent for role in HELD if inputs.get(role)}
        folders = {role: _place(folder, cache) for role, folder in local_folders.items()}
    finally:
        cache.close()
    sizes = {path: path.stat().st_size for path in found}
    identity = {
        "name": artifact_of(snakemake),
        "body": f"{body.__module__}:{body.__name__}",
        "spec": snakemake.params.spec,
        "inputs": {
            role: [_held_name(role, path) if role in HELD else path.as_posix() for path in paths]
            for role, paths in inputs.items()
        },
        "digests": {path.as_posix(): digest for path, digest in found.items()} | folders,
        "threads": threads,
        "gpu": gpu,
        "variables": decisive_variables(),
        "lock": lock_digest(),
        "python": python_version(),
    }
    artifacts = {path.parent for path in found if path.name == MANIFEST}
    if not use_made:
        forget_places(artifacts)
    made = places_of(artifacts)
    files = {
        path.as_posix(): {
            "bytes": sizes[path],
            "sha256": digest,
            "at": made.get(str(digest), f"{CONTENT}/{digest}"),
            "volume": "data",
        }
        for path, digest in found.items()
    }
    for role, folder in local_folders.items():
        files |= _held_files(role, folder, folders[role])
    contents = {digest: path for path, digest in found.items() if digest and digest not in made}
    # Where a file lies on the volume changes nothing.
    key = canonical_digest(identity)
    return Job(key, {**identity, "files": files}, contents, folders, local_folders, judge_of(snakemake))


def _files(paths: list[Path]) -> list[Path]:
    """The files of inputs: of an artifact all, of anything else itself."""
    found: list[Path] = []
    for path in paths:
        found.append(path)
        if path.name == MANIFEST:
            found += [path.parent / name for name in read_json(path)["files"]]
    return found


def _place(folder: Path, cache: StatCache) -> str:
    """Where a model or adapter lies on the weights volume: where it was fetched, or by its digest."""
    manifest = folder / MANIFEST
    if (folder / ADAPTER_FILES[0]).is_file():
        adapter = digests_of([folder / name for name in _adapter_names(folder)], cache)
        return f"{MODELS}/{canonical_digest(adapter)}/{folder.name}"
    facts = read_json(manifest)
    if "weights_at" in facts:
        return facts["weights_at"]
    return f"{MODELS}/{digests_of([manifest], cache)[0]}/{folder.name}"


def _adapter_names(folder: Path) -> list[str]:
    """The files of an adapter that are sent; one that a recipe has made has a manifest."""
    return [*ADAPTER_FILES, *([MANIFEST] if (folder / MANIFEST).is_file() else [])]


def _held_name(role: str, path: Path) -> str:
    """What a file of a model or adapter is called in a container, wherever it lies here."""
    return f"{role}/{path.parent.name}/{path.name}"


def _held_files(role: str, folder: Path, at: str) -> dict[str, dict[str, Any]]:
    """The files of a model or adapter, as they lie on the weights volume; weights may be there alone."""
    sizes: dict[str, int | None]
    if role == "model":
        facts = read_json(folder / MANIFEST)
        sizes = {name: file["bytes"] for name, file in facts["files"].items()}
        # That of a model that was fetched there lists the weights, too.
        sizes[MANIFEST] = None if "weights_at" in facts else (folder / MANIFEST).stat().st_size
    else:
        sizes = {name: (folder / name).stat().st_size for name in _adapter_names(folder)}
    return {
        _held_name(role, folder / name): {"bytes": size, "at": f"{at}/{name}", "volume": "weights"}
        for name, size in sizes.items()
    }


def _run(job: Job, anew: Callable[[], Job], place: _Place) -> dict[str, Any]:
    """Take up the call of an earlier run, or start one; wait for it.

    Args:
        job: what is run.
        anew: gives the job with all of its inputs among those that are sent.
        place: what there is to run it with.

    Returns:
        What the volume says of the job when it is done.

    Raises:
        ProbelineError: it failed; in words.
    """
    journal = place.journal
    _cancel_other(job.key, journal)
    known = journal.read()
    again: Collection[str] = ()
    for _ in range(ATTEMPTS):
        if known:
            log.info("Taking up the call %s of an earlier run.", known["call"])
        call_id = known["call"] if known else _started(job, place, again)
        try:
            answer = _waited(call_id, job.key, place)
        except calls.CallEndedError as error:
            journal.clear()
            if not known:
                raise
            # What became of it while nobody looked is no reason to fail now.
            log.warning("%s It is started anew.", error)
            known = {}
            continue
        done = _done(job.key, place.store) if answer.get("done") else None
        if done is not None:
            return done
        journal.clear()
        known = {}
        if not answer.get("done") and "missing" not in answer:
            raise ProbelineError(_said(answer))
        log.info("Files are not on the volume as they were: what the job needs is sent again.")
        again, job = answer.get("missing", ()), anew()
    raise ProbelineError("Files that were sent are not on the volume. Run the same command again.")


def _cancel_other(key: str, journal: calls.Journal) -> None:
    """End the call that an earlier run has left, if it is of another job: nobody wants its result."""
    known = journal.read()
    if known.get("key") not in (None, key):
        log.info("What it reads was changed: the call of the earlier run is cancelled.")
        calls.cancel(known["call"])
        journal.clear()


def _waited(call_id: str, key: str, place: _Place) -> Mapping[str, Any]:
    """What a call answers; told to end, it is cancelled."""
    try:
        written = partial(place.store.lines, f"{run_folder(key)}/{LOG}")
        return calls.wait(call_id, place.settings.timeout, written)
    except KeyboardInterrupt:
        log.warning("Cancelling the call on Modal.")
        calls.cancel(call_id)
        place.journal.clear()
        raise


def _started(job: Job, place: _Place, again: Collection[str]) -> str:
    _send(job, place.store, again)
    with place.interrupts.deferred():
        call_id: str = _start(job, place.settings).object_id
        place.journal.write(call_id, job.key)
    log.info("Runs on Modal, %s (call %s).", place.settings.gpu or "without a GPU", call_id)
    return call_id


def _send(job: Job, store: Store, again: Collection[str] = ()) -> None:
    """Send what the job reads, as far as it is not there; some places `again`."""
    for role, folder in job.local_folders.items():
        at = job.folders[role]
        if any(folder.glob("*.safetensors")):
            made = role == "model"
            names = [*read_json(folder / MANIFEST)["files"], MANIFEST] if made else _adapter_names(folder)
            store.put_folder({name: folder / name for name in names}, at)
        elif MANIFEST not in store.names(at, store.weights):
            raise ProbelineError(
                f"The weights of {folder.name} are neither here nor on the volume {WEIGHTS_VOLUME}. Delete "
                f"{folder} to have them fetched again."
            )
    store.send(job.contents, again)
    store.put({f"{run_folder(job.key)}/{JOB}": json_bytes(job.description)})


def _start(job: Job, settings: Settings) -> "modal.FunctionCall[Any]":
    """Send the job to a container that holds its model, or to one that holds none."""
    options: dict[str, Any] = {
        "cpu": settings.cpu,
        "memory": int(settings.memory * 1024),
        "timeout": settings.timeout,
        "max_containers": settings.containers,
        "scaledown_window": settings.idle,
    }
    if settings.gpu is not None:
        options["gpu"] = settings.gpu
    variables = json.dumps(job.description["variables"], sort_keys=True)
    arguments: dict[str, Any] = {"threads": job.description["threads"], "variables": variables}
    cls = "Task"
    if job.description["body"].rpartition(":")[2] in ALONE:
        cls = "Training"
    elif job.folders:
        cls = "Model"
        arguments |= {
            "model": job.folders["model"],
            "adapter": job.folders.get("adapter", ""),
            "dtype": job.description["spec"]["dtype"],
        }
    secret = secret_of_judge(job.judge)
    container = open_pool(find_or_deploy(), cls, options, arguments, settings.retries, secret)
    return container.run.spawn(
        {
            "key": job.key,
            "lock": job.description["lock"],
            "python": job.description["python"],
            "resources": {"gpu": settings.gpu, "cpu": settings.cpu, "memory": settings.memory},
            "timeout": settings.timeout,
            "judge": job.judge,
        }
    )


def _said(answer: Any) -> str:
    """What a container says that went wrong."""
    if "skew" in answer:
        return (
            f"What runs on Modal is not what is here: {answer['skew']}. Deploy it anew with "
            "`probeline remote deploy`, and run the same command again."
        )
    if "exception" in answer:
        return (
            f"On Modal, the job ended with {answer['exception']}\n{answer['traceback']}\nThis is a defect of "
            "Probeline, not of your data."
        )
    return str(answer["fault"])
