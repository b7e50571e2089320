"""Volumes of the loopback server: committed files as 8 MiB blocks, and one view per container."""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from grpclib import GRPCError, Status

BLOCK = 8 * 1024 * 1024


class Store:
    """Contents by SHA-256, each written once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def path(self, sha256: str) -> Path:
        return self.folder / sha256

    def __contains__(self, sha256: str) -> bool:
        return self.path(sha256).exists()

    def put(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 not in self:
            partial = self.path(f"{sha256}.partial")
            partial.write_bytes(data)
            partial.rename(self.path(sha256))
        return sha256

    def get(self, sha256: str) -> bytes:
        return self.path(sha256).read_bytes()


@dataclass(frozen=True)
class File:
    """A committed file; a block leaves out the zero bytes that it ends in."""

    size: int
    blocks: tuple[str, ...]
    mode: int
    mtime: int


def clean(path: str) -> str:
    """A path inside a volume, without the leading slash; "" is the volume itself."""
    parts = [part for part in PurePosixPath("/", path).parts[1:] if part != "."]
    if ".." in parts:
        raise GRPCError(Status.INVALID_ARGUMENT, f"path {path!r} leaves the volume")
    return "/".join(parts)


@dataclass
class Volume:
    """The committed state, seen by the client and by containers that start or reload."""

    id: str
    name: str
    version: int
    store: Store
    created: float = field(default_factory=time.time)
    files: dict[str, File] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)

    def digest(self, path: str) -> str:
        whole = hashlib.sha256()
        for block in self.blocks(self.files[path]):
            whole.update(block)
        return whole.hexdigest()

    def blocks(self, file: File) -> Iterator[bytes]:
        for number, sha256 in enumerate(file.blocks):
            yield self.store.get(sha256).ljust(min(BLOCK, file.size - number * BLOCK), b"\0")

    def add(self, path: str, file: File) -> None:
        self.files[path] = file
        self.folders.update(str(parent) for parent in PurePosixPath(path).parents if str(parent) != ".")

    def add_from(self, path: str, source: Path) -> None:
        """Commit one file of a view."""
        status = source.stat()
        blocks = []
        with source.open("rb") as stream:
            while block := stream.read(BLOCK):
                blocks.append(self.store.put(block.rstrip(b"\0")))
        self.add(path, File(status.st_size, tuple(blocks), status.st_mode & 0o777, int(status.st_mtime)))

    def entries(self, path: str, recursive: bool) -> Iterator[tuple[str, File | None]]:
        """Path and file (None for a folder) of what lies at a path."""
        path = clean(path)
        if path in self.files:
            yield path, self.files[path]
            return
        if path and path not in self.folders:
            raise GRPCError(Status.NOT_FOUND, f"No such file or directory: {path!r}")
        prefix = f"{path}/" if path else ""
        for name in sorted(self.files.keys() | self.folders):
            rest = name.removeprefix(prefix)
            if name.startswith(prefix) and rest and (recursive or "/" not in rest):
                yield name, self.files.get(name)

    def remove(self, path: str, recursive: bool) -> None:
        path = clean(path)
        if self.files.pop(path, None):
            return
        if path and path not in self.folders:
            raise GRPCError(Status.NOT_FOUND, f"No such file or directory: {path!r}")
        if not recursive:
            raise GRPCError(Status.INVALID_ARGUMENT, f"{path!r} is a directory; remove it recursively")
        prefix = f"{path}/" if path else ""
        self.files = {name: file for name, file in self.files.items() if not name.startswith(prefix)}
        self.folders = {name for name in self.folders if name != path and not name.startswith(prefix)}


class View:
    """One container's copy of a volume: its writes stay here until commit, others' come at reload."""

    def __init__(self, volume: Volume, folder: Path, read_only: bool, part: str) -> None:
        self.volume, self.folder, self.read_only, self.part = volume, folder, read_only, clean(part)
        self.known: dict[str, tuple[File, tuple[int, int, int]]] = {}
        self.known_folders: set[str] = set()
        folder.mkdir(parents=True)
        if self.part:
            (folder / self.part).mkdir(parents=True)
        self.reload()

    @property
    def source(self) -> Path:
        """What is bound at the mount path."""
        return self.folder / self.part

    def reload(self) -> None:
        """Bring in what was committed since; what was written here and not committed stays."""
        changed = self.changed()
        committed = dict(self.volume.files)
        for path in self.known.keys() - committed.keys() - changed:
            (self.folder / path).unlink(missing_ok=True)
            del self.known[path]
        for path in self.known_folders - self.volume.folders:
            folder = self.folder / path
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        for path in sorted(self.volume.folders):
            (self.folder / path).mkdir(parents=True, exist_ok=True)
        self.known_folders = set(self.volume.folders)
        for path, file in committed.items():
            if path in changed or (path in self.known and self.known[path][0] == file):
                continue
            self.write(self.folder / path, file)
            self.known[path] = (file, self.stamp(path))

    def write(self, target: Path, file: File) -> None:
        partial = target.with_name(f".{target.name}.partial")
        if (
            self.read_only
            and len(file.blocks) == 1
            and self.volume.store.path(file.blocks[0]).stat().st_size == file.size
        ):
            partial.hardlink_to(self.volume.store.path(file.blocks[0]))
        else:
            with partial.open("wb") as stream:
                for block in self.volume.blocks(file):
                    stream.write(block)
            partial.chmod(file.mode or 0o644)
            os.utime(partial, (file.mtime, file.mtime))
        partial.replace(target)

    def stamp(self, path: str) -> tuple[int, int, int]:
        status = (self.folder / path).stat()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def present(self) -> set[str]:
        """Paths of the regular files in the view."""
        found = (path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink())
        return {path.relative_to(self.folder).as_posix() for path in found}

    def changed(self) -> set[str]:
        """Paths written or removed here since the last commit or reload."""
        present = self.present()
        written = {
            path for path in present if path not in self.known or self.stamp(path) != self.known[path][1]
        }
        return written | (self.known.keys() - present)

    def commit(self) -> list[str]:
        """Make this container's changes the committed state; the last writer of a file wins.

        Returns:
            The paths that were written or removed.
        """
        if self.read_only:
            return []
        changed = sorted(self.changed())
        for path in changed:
            if (self.folder / path).is_file():
                self.volume.add_from(path, self.folder / path)
                self.known[path] = (self.volume.files[path], self.stamp(path))
            else:
                self.volume.files.pop(path, None)
                del self.known[path]
        folders = {
            path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_dir()
        }
        self.volume.folders |= folders
        self.volume.folders -= self.known_folders - folders
        self.known_folders = folders
        return changed

    def open_files(self, processes: list[int]) -> list[str]:
        """Files of the view that a process holds open."""
        inside = {(self.folder / path).stat()[1:3]: path for path in self.present()}
        held = set()
        for process in processes:
            for kind in ("fd", "map_files"):  # opened, mapped into memory
                for entry in Path(f"/proc/{process}/{kind}").glob("*"):
                    with contextlib.suppress(OSError):
                        held.add(entry.stat()[1:3])
        return sorted(inside[file] for file in held & inside.keys())

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
