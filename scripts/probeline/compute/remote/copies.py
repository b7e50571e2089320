"""The artifacts that lie on the data volume: those made there, and those sent there; list, send, bring."""

import difflib
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from probeline.compute.remote.layout import ARTIFACTS, CONTENT, MODELS, WEIGHTS_VOLUME, artifact_entry
from probeline.compute.remote.places import keep_entry, kept_entries, places_of
from probeline.compute.remote.store import Files, Store
from probeline.digests import sha256_bytes, sha256_file
from probeline.errors import ProbelineError, near_misses
from probeline.files import MANIFEST, json_bytes, read_json, write_bytes
from probeline.lineage.hashing import STAT_CACHE, digests_of, files_of
from probeline.lineage.records import read_record, record_path
from probeline.stat_cache import StatCache

LISTED = ("results/probes/", "results/adapters/")
"""What a list names unless all is asked for."""
PLACES = ("results", "data")
"""Folders of the project that hold artifacts."""
READS_AT_ONCE = 16


@dataclass(frozen=True)
class Copy:
    """An artifact on the data volume.

    Attributes:
        name: its path in the project.
        kind: what its manifest calls it.
        made: when, in seconds since 1970.
        headline: its headline figures; empty where it has none.
        files: file → bytes, sha256 and place.
        record: bytes, sha256 and place of its lineage record; empty where it was not sent along.
    """

    name: str
    kind: str
    made: int
    headline: Mapping[str, Any]
    files: Files
    record: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file["bytes"] for file in self.files.values())


def copy_names(store: Store) -> list[str]:
    """The paths of all artifacts on the data volume."""
    from modal.types import FileEntryType

    import modal

    try:
        entries = store.data.listdir(ARTIFACTS, recursive=True)
    except (modal.exception.NotFoundError, FileNotFoundError):
        return []
    files = [PurePosixPath(entry.path.lstrip("/")) for entry in entries if entry.type == FileEntryType.FILE]
    names = [file.relative_to(ARTIFACTS).as_posix().removesuffix(".json") for file in files]
    return sorted(name for name in names if is_place(name))


def list_copies(store: Store, names: Iterable[str]) -> tuple[list[Copy], list[str]]:
    """What the data volume says of artifacts.

    Returns:
        The artifacts, and what is wrong with those of which it says nothing that can be used.
    """

    def read(name: str) -> Copy | str:
        try:
            return _read_copy(store, name)
        except ProbelineError as error:
            return str(error)

    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        found = list(pool.map(read, names))
    return [copy for copy in found if isinstance(copy, Copy)], [
        said for said in found if isinstance(said, str)
    ]


def find_copy(store: Store, wanted: str) -> Copy:
    """The artifact of a path, or of the last part of one.

    Raises:
        ProbelineError: there is none, with those of similar names; or several have this name.
    """
    names = copy_names(store)
    path = wanted.rstrip("/")
    found = [path] if path in names else [name for name in names if PurePosixPath(name).name == path]
    if len(found) > 1:
        raise ProbelineError(f"{wanted} is the name of several: {', '.join(found)}. Give the path of one.")
    if not found:
        known = {name if "/" in path else PurePosixPath(name).name: name for name in names}
        # Those of other kinds are many: only the closest of them are named.
        listed = {short for short, name in known.items() if name.startswith(LISTED)}
        listed |= {*difflib.get_close_matches(path, known)}
        raise ProbelineError(
            f"No artifact {wanted} is on Modal. {near_misses(path, listed)} `probeline remote list --all` "
            f"names all {len(names):,}."
        )
    return _read_copy(store, found[0])


def is_place(name: str) -> bool:
    """Whether an artifact can have this path in the project: what a volume says must lead nowhere else."""
    parts = PurePosixPath(name).parts
    return len(parts) > 1 and parts[0] in PLACES and ".." not in parts


def _read_copy(store: Store, name: str) -> Copy:
    """What an entry says.

    Raises:
        ProbelineError: it says nothing that can be used.
    """
    value = store.read_json(artifact_entry(name), wrong_with=_fault)
    if value is None:
        raise ProbelineError(f"{artifact_entry(name)} is not on the data volume any more.")
    return _copy(name, value)


def _fault(value: Any) -> str:
    """What is wrong with an entry, nothing if all of it can be used: it has no digest that would tell."""
    try:
        copy = _copy("", value)
        datetime.fromtimestamp(copy.made, UTC)  # is there such a moment?
        return "" if copy.files else "it names no file"
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError):
        return "it is no entry of an artifact"


def _copy(name: str, entry: Any) -> Copy:
    record = entry.get("record")
    return Copy(
        name=name,
        kind=str(entry.get("kind", "")),
        made=int(entry["made"]),
        headline=dict(entry.get("headline") or {}),
        files={
            file: {**facts, "bytes": int(facts["bytes"]), "sha256": facts["sha256"], "at": facts["at"]}
            for file, facts in entry["files"].items()
        },
        record={key: record[key] for key in ("bytes", "sha256", "at")} if record else {},
    )


def download(store: Store, copy: Copy, output: Path) -> tuple[bool, str]:
    """Bring an artifact here, with its record; what is here already and differs is left as it is.

    Args:
        store: the volumes.
        copy: what is brought.
        output: the folder to make.

    Returns:
        Whether anything was fetched, and what is to be said of its record.

    Raises:
        ProbelineError: something else is at this path; or a file could not be fetched whole.
    """
    present = os.path.lexists(output) and not _is_empty(output)
    if present and (difference := _difference(copy, output)):
        raise ProbelineError(
            f"{output} is here and is another one than that on Modal: {difference}. Nothing was fetched. "
            "Move it away, or name another place with --output."
        )
    if not present:
        on_weights = any(file.get("volume") == "weights" for file in copy.files.values())
        store.fetch(copy.files, output, store.weights if on_weights else None)
    if output.as_posix() == copy.name:
        keep_entry(asdict(copy))
    return not present, _bring_record(store, copy, record_path(output))


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not files_of(path)


def _difference(copy: Copy, output: Path) -> str:
    """How a folder differs from a copy; nothing if it holds all that the copy does."""
    for name, file in copy.files.items():
        path = output / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != file["bytes"] or sha256_file(path) != file["sha256"]:
            return f"{name} differs"
    return ""


def _bring_record(store: Store, copy: Copy, path: Path) -> str:
    if not copy.record:
        return (
            "" if path.exists() else "Its record was not sent along: what is known of its origin is missing."
        )
    if path.is_file():
        same = sha256_file(path) == copy.record["sha256"]
        return "" if same else f"{path} is another one than that on Modal, and was left as it is."
    wanted = copy.record["sha256"]
    data = store.read(
        copy.record["at"], wrong_with=lambda found: "" if sha256_bytes(found) == wanted else "another digest"
    )
    if data is None:
        return (
            f"Its record is not on Modal any more: `probeline remote upload {copy.name}`, where it was made."
        )
    write_bytes(path, data)
    return f"{path} came along."


def upload(store: Store, artifact: Path) -> Copy:
    """Send an artifact that was made here, and its record: of each only what is not there yet.

    Raises:
        ProbelineError: it is no artifact, or not what its manifest says.
    """
    name = own_name(artifact)
    artifact, facts = Path(name), read_json(Path(name) / MANIFEST)
    digests = _checked(artifact, facts)
    before = _before(store, name)
    if facts.get("kind") == "model":
        files = _put_model(store, artifact, digests)
    else:
        files = _put(store, artifact, digests, before)
    record = record_path(artifact)
    described: dict[str, Any] = {}
    if record.is_file():
        digest = sha256_file(record)
        store.send({digest: record})
        described = _described(record, digest, f"{CONTENT}/{digest}")
    made = _made(record, before)
    copy = Copy(name, str(facts.get("kind", "")), made, facts.get("headline") or {}, files, described)
    if before is None or replace(before, made=made) != copy:
        # The entry comes last: an artifact that is listed is there whole.
        store.put({artifact_entry(name): json_bytes(asdict(copy))})
    return copy


def send_records(store: Store) -> None:
    """Send the records of what was made on Modal and is here: they are written here, when a job has ended."""
    batch: dict[str, Path | bytes] = {}
    entries = []
    for entry in kept_entries():
        path = record_path(Path(entry["name"]))
        if not path.is_file():
            continue
        cost, digest = read_record(path).cost, sha256_file(path)
        # What came from the volume has the record of its making there.
        if cost["backend"] != "modal" or cost.get("reused") or (entry.get("record") or {}).get("sha256"):
            continue
        entries.append(entry | {"record": _described(path, digest, f"{CONTENT}/{digest}")})
        batch |= {f"{CONTENT}/{digest}": path, artifact_entry(entry["name"]): json_bytes(entries[-1])}
    store.put(batch)
    for entry in entries:
        keep_entry(entry)


def _before(store: Store, name: str) -> Copy | None:
    """What the volume says of an artifact so far; None where that cannot be used."""
    try:
        return _read_copy(store, name)
    except ProbelineError:
        return None


def own_name(path: Path) -> str:
    """The path of an artifact in the project, however it was written."""
    name = Path(os.path.relpath(path)).as_posix()
    if is_place(name) and (Path(name) / MANIFEST).is_file():
        return name
    inner = (
        sorted(file.parent.as_posix() for file in Path(name).glob(f"*/{MANIFEST}")) if is_place(name) else []
    )
    if inner:
        raise ProbelineError(
            f"{name} is no artifact, but holds {len(inner)}, such as {inner[0]}: name those: {name}/*."
        )
    there = [file.parent.as_posix() for place in PLACES for file in Path(place).glob(f"*/*/{MANIFEST}")]
    raise ProbelineError(
        f"{path} is no artifact of this project: those are folders in results/ or data/ with a {MANIFEST}. "
        f"{near_misses(name, there)}"
    )


def _checked(artifact: Path, facts: Mapping[str, Any]) -> dict[str, str]:
    """File → SHA-256 of all that a manifest names, and of itself."""
    names = [*facts["files"], MANIFEST]
    cache = StatCache(STAT_CACHE)
    try:
        digests = dict(zip(names, digests_of([artifact / name for name in names], cache), strict=True))
    finally:
        cache.close()
    for name, file in facts["files"].items():
        if digests[name] != file["sha256"]:
            what = "is missing" if digests[name] is None else "was changed after it was made"
            where = ""
            if facts.get("kind") == "model" and digests[name] is None:
                where = f" (or its weights are only on the volume {WEIGHTS_VOLUME}, where they are needed)"
            raise ProbelineError(
                f"{artifact} is not what its manifest says: {name} {what}{where}. Delete {artifact} and have "
                "it made again."
            )
    return {name: str(digest) for name, digest in digests.items()}


def _put(
    store: Store, artifact: Path, digests: Mapping[str, str], before: Copy | None
) -> dict[str, dict[str, Any]]:
    """Send the files that are not there: what was made there lies in the folder of its run."""
    places = places_of([artifact])
    if before is not None:
        places |= {file["sha256"]: file["at"] for file in before.files.values()}
    wanted = {places[digest] for digest in digests.values() if digest in places}
    there = {
        f"{folder}/{name}"
        for folder in {PurePosixPath(at).parent.as_posix() for at in wanted}
        for name in store.names(folder)
    }
    at = {
        digest: places[digest] if places.get(digest) in there else f"{CONTENT}/{digest}"
        for digest in digests.values()
    }
    store.send({digest: artifact / name for name, digest in digests.items() if at[digest] not in there})
    return {name: _described(artifact / name, digest, at[digest]) for name, digest in digests.items()}


def _put_model(store: Store, artifact: Path, digests: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """A model goes where the jobs look for it."""
    at = f"{MODELS}/{digests[MANIFEST]}/{artifact.name}"
    # The manifest comes last.
    names = sorted(digests, key=lambda name: (name == MANIFEST, name))
    store.put_folder({name: artifact / name for name in names}, at)
    return {
        name: _described(artifact / name, digest, f"{at}/{name}") | {"volume": "weights"}
        for name, digest in digests.items()
    }


def _described(file: Path, digest: str, at: str) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": digest, "at": at}


def _made(record: Path, before: Copy | None) -> int:
    """When an artifact was made: as its record says, or else when it was first there."""
    try:
        return int(datetime.fromisoformat(read_record(record).metadata["finishedOn"]).timestamp())
    except (ProbelineError, ValueError, KeyError):
        return before.made if before is not None else int(time.time())
