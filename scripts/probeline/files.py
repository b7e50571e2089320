"""Writing that is whole or not there at all, and the manifest of every artifact."""

import errno
import glob
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from probeline.digests import sha256_file
from probeline.errors import ProbelineError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MANIFEST = "manifest.json"


def json_bytes(value: Any) -> bytes:
    """Readable JSON with sorted keys: equal values, equal bytes. NaN is written as null."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


@contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Turn "no space left" and "quota exceeded" under `path` into words and a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        free = ""
        with suppress(OSError):
            free = f" ({shutil.disk_usage(_existing(path)).free / 1e6:.0f} MB free)"
        raise ProbelineError(
            f"The disk is full{free}: {path} could not be written. Nothing half-written was left. "
            "Free some space and run the same command again: what is complete is kept."
        ) from error


def _existing(path: Path) -> Path:
    return next(parent for parent in [path, *path.absolute().parents] if parent.exists())


@contextmanager
def draft_beside(path: Path) -> Iterator[Path]:
    """Yield a free path beside `path`, on its filesystem; whatever lies there at the end is removed.

    One job at a time makes an artifact, so older drafts are what killed jobs have left: they go first.
    """
    with explain_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for abandoned in path.parent.glob(f".{glob.escape(path.name)}.tmp-*"):
            _remove(abandoned)
        draft = path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")
        try:
            yield draft
        finally:
            _remove(draft)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old content or the new one, never a part of it."""
    with draft_beside(path) as draft:
        draft.write_bytes(data)
        flush(draft)
        draft.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, whole or not at all."""
    write_bytes(path, json_bytes(value))


def read_json(path: Path, remedy: str = "Delete it to have it made again.") -> Any:
    """The value in a JSON file.

    Args:
        path: the file.
        remedy: what the error advises; a file of the user's is not made again.

    Raises:
        ProbelineError: the file is missing or no JSON; the text names it.
    """
    try:
        return orjson.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ProbelineError(f"{path} does not exist.") from error
    except orjson.JSONDecodeError as error:
        raise ProbelineError(f"{path} is not valid JSON ({error}). {remedy}") from error


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object per line, keys sorted, whole or not at all."""
    write_bytes(path, b"".join(orjson.dumps(row, option=orjson.OPT_SORT_KEYS) + b"\n" for row in rows))


def write_parquet(path: Path, table: "pa.Table") -> None:
    """Write a table with fixed settings: equal tables, equal bytes."""
    import pyarrow.parquet as pq

    with draft_beside(path) as draft:
        pq.write_table(table.replace_schema_metadata(None), draft, compression="zstd", write_statistics=False)
        flush(draft)
        draft.replace(path)


def open_parquet(path: Path) -> "pq.ParquetFile":
    """A table that another stage wrote.

    Raises:
        ProbelineError: it is not there, or damaged; the text names it and the remedy.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise ProbelineError(f"{path} does not exist. Run the same command again to have it made.") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise ProbelineError(
            f"{path} is damaged ({error}). Delete {path.parent} to have it made again."
        ) from error


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a draft folder beside `path`; on success it replaces `path`, on failure it is removed.

    The draft lies on the same filesystem and is flushed before the rename, so that after a power
    failure or a kill `path` is the complete old artifact, the complete new one, or absent.
    """
    with draft_beside(path) as draft, draft_beside(path) as replaced:
        draft.mkdir()
        yield draft
        for file in sorted(draft.rglob("*")):
            if file.is_file():
                flush(file)
        if path.is_dir():
            # Snakemake creates declared directories before the job. A rename keeps the old one whole.
            path.rename(replaced)
        draft.rename(path)
        flush(path.parent)


def flush(path: Path) -> None:
    """Have the disk keep what was written to a file or folder, also through a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_manifest(
    directory: Path, kind: str, facts: Mapping[str, Any], names: Sequence[str] | None = None
) -> None:
    """Write `manifest.json`: what the artifact is, and size and digest of each of its files.

    Args:
        directory: the artifact, complete but for its manifest.
        kind: what it is (`dialogues`, `activations`, `probe`, …).
        facts: what the next stage or a person needs to know about it; JSON values only.
        names: the artifact's files, where `directory` holds others too; by default all that it holds.
    """
    paths = [directory / name for name in names] if names is not None else directory.rglob("*")
    files = {
        file.relative_to(directory).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
        for file in sorted(paths)
        if file.is_file() and file.name != MANIFEST
    }
    write_json(directory / MANIFEST, {"kind": kind, **facts, "files": files})
