"""The two volumes, as seen from here: files go there by content, once, and come back verified."""

import fcntl
import io
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from probeline.compute.remote.layout import CONTENT, DATA_VOLUME, WEIGHTS_VOLUME
from probeline.digests import sha256_file
from probeline.errors import ProbelineError
from probeline.files import atomic_directory

if TYPE_CHECKING:
    import modal

log = logging.getLogger(__name__)

UPLOADING = Path(".probeline/modal/upload.lock")
DOWNLOADS = 3
"""How often a file is fetched before it is given up."""

Files = Mapping[str, Mapping[str, Any]]
"""Name → bytes, sha256 and `at`, the place on the data volume."""


def volume(name: str) -> "modal.Volume":
    """One of the two volumes, made where it is missing."""
    import modal

    return modal.Volume.from_name(name, create_if_missing=True, version=2)


class Store:
    """Both volumes.

    Attributes:
        data: inputs by content, runs and what they made.
        weights: models.
        sent: bytes sent by this object.
    """

    def __init__(self) -> None:
        self.data = volume(DATA_VOLUME)
        self.weights = volume(WEIGHTS_VOLUME)
        self.sent = 0

    def read(self, path: str, of: "modal.Volume | None" = None) -> bytes | None:
        """A small file of a volume; None if it is not there."""
        import modal

        try:
            return b"".join((of or self.data).read_file(path))
        except (modal.exception.NotFoundError, FileNotFoundError):
            return None

    def read_json(self, path: str, of: "modal.Volume | None" = None) -> Any:
        """The value of a JSON file on a volume; None if it is not there."""
        data = self.read(path, of)
        return None if data is None else orjson.loads(data)

    def lines(self, path: str) -> list[str]:
        """The lines of a text on the data volume; none if it is not there."""
        return (self.read(path) or b"").decode(errors="replace").splitlines()

    def names(self, folder: str, of: "modal.Volume | None" = None) -> set[str]:
        """The names in a folder of a volume; none if it is not there."""
        import modal

        try:
            return {Path(entry.path).name for entry in (of or self.data).listdir(folder)}
        except (modal.exception.NotFoundError, FileNotFoundError):
            return set()

    def send(self, contents: Mapping[str, Path]) -> None:
        """Put files under the name of their content, those that are not there.

        Args:
            contents: SHA-256 → file.
        """
        present = self.names(CONTENT)
        absent = {digest: file for digest, file in contents.items() if digest not in present}
        self.put({f"{CONTENT}/{digest}": file for digest, file in absent.items()})

    def put(self, files: Mapping[str, Path | bytes], on: "modal.Volume | None" = None) -> None:
        """Write files to a volume.

        Args:
            files: place → what is put there.
            on: the volume; by default that of the data.
        """
        if not files:
            return
        size = sum(len(data) if isinstance(data, bytes) else data.stat().st_size for data in files.values())
        if size > 1e6:
            log.info("Sending %d files, %.1f MB.", len(files), size / 1e6)
        with (on or self.data).batch_upload(force=True) as batch:
            for place, data in files.items():
                batch.put_file(io.BytesIO(data) if isinstance(data, bytes) else data, f"/{place}")
        self.sent += size

    def put_folder(self, folder: Path, at: str) -> None:
        """Put a model on the weights volume, unless it is there: its manifest comes last and tells."""
        with _alone():
            if self.read_json(f"{at}/manifest.json", self.weights) is not None:
                return
            files = {
                file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()
            }
            manifest = files.pop("manifest.json")
            self.put({f"{at}/{name}": file for name, file in files.items()}, self.weights)
            self.put({f"{at}/manifest.json": manifest}, self.weights)

    def fetch(self, files: Files, output: Path, of: "modal.Volume | None" = None) -> None:
        """Bring files here, as a folder that appears whole or not at all.

        Raises:
            ProbelineError: a file is not what it should be, also after it was fetched again.
        """
        with atomic_directory(output) as draft:
            for name, file in files.items():
                target = draft / name
                if not target.resolve().is_relative_to(draft.resolve()):
                    raise ProbelineError(f"The volume names a file outside of {output}: {name}.")
                target.parent.mkdir(parents=True, exist_ok=True)
                self._fetch_file(file, target, of or self.data)

    def _fetch_file(self, file: Mapping[str, Any], target: Path, of: "modal.Volume") -> None:
        import modal

        wrong = ""
        for _ in range(DOWNLOADS):
            try:
                with target.open("wb") as stream:
                    of.read_file_into_fileobj(file["at"], stream)
                if sha256_file(target) == file["sha256"]:
                    return
                wrong = "its digest is another one"
            except (modal.exception.NotFoundError, FileNotFoundError):
                raise ProbelineError(
                    f"{file['at']} is not on the data volume any more. Run again with --forcerun to have it "
                    "made again."
                ) from None
            except (OSError, ValueError, modal.exception.Error) as error:
                wrong = f"{type(error).__name__}: {error}"
            log.warning("%s came damaged (%s): it is fetched again.", target.name, wrong)
        raise ProbelineError(
            f"{file['at']} could not be fetched from the data volume ({wrong}). It is kept there: run the "
            "same command again."
        )


@contextmanager
def _alone() -> Iterator[None]:
    """One process at a time sends a model: several jobs would send the same gigabytes."""
    UPLOADING.parent.mkdir(parents=True, exist_ok=True)
    with UPLOADING.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
