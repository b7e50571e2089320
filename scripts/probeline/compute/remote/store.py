"""The two volumes, as seen from here: files go there by content, once, and come back verified."""

import fcntl
import io
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
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


class VanishedError(ProbelineError):
    """A file that should be on a volume is not there."""


def volume(name: str) -> "modal.Volume":
    """One of the two volumes, which deploying has made.

    Raises:
        modal.exception.NotFoundError: it was deleted. Made anew, it would not be that of the containers.
    """
    import modal

    return modal.Volume.from_name(name).hydrate()


class Store:
    """Both volumes.

    Raises:
        modal.exception.NotFoundError: one of them is missing.

    Attributes:
        data: inputs by content, runs and what they made.
        weights: models.
        sent: bytes sent by this object.
    """

    def __init__(self) -> None:
        self.data = volume(DATA_VOLUME)
        self.weights = volume(WEIGHTS_VOLUME)
        self.sent = 0

    def read(
        self,
        path: str,
        of: "modal.Volume | None" = None,
        wrong_with: Callable[[bytes], str] = lambda data: "",
    ) -> bytes | None:
        """A small file of a volume; None if it is not there.

        Args:
            path: its place there.
            of: the volume; by default that of the data.
            wrong_with: says what is wrong with what came, nothing if it is whole.

        Raises:
            ProbelineError: it never comes whole.
        """
        found = [b""]

        def fetch() -> str:
            found[0] = b"".join((of or self.data).read_file(path))
            return wrong_with(found[0])

        try:
            _fetch_whole(path, fetch)
        except VanishedError:
            return None
        return found[0]

    def read_json(
        self,
        path: str,
        of: "modal.Volume | None" = None,
        wrong_with: Callable[[Any], str] = lambda value: "",
    ) -> Any:
        """The value of a JSON file on a volume; None if it is not there.

        Args:
            path: its place there.
            of: the volume; by default that of the data.
            wrong_with: says what is wrong with the value, nothing if it is whole.

        Raises:
            ProbelineError: it never comes whole.
        """

        def wrong(data: bytes) -> str:
            try:
                return wrong_with(orjson.loads(data))
            except orjson.JSONDecodeError:
                return "it is no JSON"

        data = self.read(path, of, wrong)
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

    def send(self, contents: Mapping[str, Path], again: Collection[str] = ()) -> None:
        """Put files under the name of their content, those that are not there.

        Args:
            contents: SHA-256 → file.
            again: places where a file is, but not the one that should be.
        """
        present = self.names(CONTENT)
        places = {f"{CONTENT}/{digest}": file for digest, file in contents.items()}
        self.put(
            {
                place: file
                for place, file in places.items()
                if Path(place).name not in present or place in again
            }
        )

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

    def put_folder(self, files: Mapping[str, Path], at: str) -> None:
        """Put a model or adapter on the weights volume, unless it is there.

        Args:
            files: name → file; the last comes last, and tells that all are there.
            at: the folder on the volume.
        """
        *others, last = files
        with _alone():
            if last in self.names(at, self.weights):
                return
            self.put({f"{at}/{name}": files[name] for name in others}, self.weights)
            self.put({f"{at}/{last}": files[last]}, self.weights)

    def fetch(
        self,
        files: Files,
        output: Path,
        of: "modal.Volume | None" = None,
        others: Mapping[str, bytes] | None = None,
    ) -> None:
        """Bring files here, as a folder that appears whole or not at all.

        Args:
            files: name → `at` and `sha256`.
            output: the folder.
            of: the volume; by default that of the data.
            others: name → content of what is put beside them.

        Raises:
            VanishedError: a file is not on the volume.
            ProbelineError: a file is not what it should be, also after it was fetched again.
        """
        with atomic_directory(output) as draft:
            for name, file in files.items():
                target = draft / name
                if not target.resolve().is_relative_to(draft.resolve()):
                    raise ProbelineError(f"The volume names a file outside of {output}: {name}.")
                target.parent.mkdir(parents=True, exist_ok=True)
                self._fetch_file(file, target, of or self.data)
            for name, data in (others or {}).items():
                (draft / name).write_bytes(data)

    def _fetch_file(self, file: Mapping[str, Any], target: Path, of: "modal.Volume") -> None:
        def fetch() -> str:
            with target.open("wb") as stream:
                of.read_file_into_fileobj(file["at"], stream)
            return "" if sha256_file(target) == file["sha256"] else "its digest is another one"

        _fetch_whole(file["at"], fetch)

    def forget(self, folder: str) -> None:
        """Remove a folder of the data volume, of which something has vanished."""
        import modal

        with suppress(modal.exception.NotFoundError, FileNotFoundError):
            self.data.remove_file(folder, recursive=True)


def _fetch_whole(place: str, fetch: Callable[[], str]) -> None:
    """Fetch a file until nothing is wrong with it.

    Args:
        place: where it lies on its volume.
        fetch: fetches it, and says what is wrong with what came.

    Raises:
        VanishedError: it is not there.
        ProbelineError: it never comes whole.
    """
    import aiohttp

    import modal

    for attempt in range(1, DOWNLOADS + 1):
        try:
            wrong = fetch()
        except (modal.exception.NotFoundError, FileNotFoundError):
            raise VanishedError(f"{place} is not on the volume any more.") from None
        except modal.exception.AuthError:
            raise
        except (OSError, ValueError, aiohttp.ClientError, modal.exception.Error) as error:
            wrong = f"{type(error).__name__}: {error}"
        if not wrong:
            return
        log.warning("%s came damaged (%s), attempt %d of %d.", place, wrong, attempt, DOWNLOADS)
    raise ProbelineError(
        f"{place} came damaged from the volume {DOWNLOADS} times ({wrong}). It is kept there: look at the "
        "network, and run the same command again."
    )


@contextmanager
def _alone() -> Iterator[None]:
    """One process at a time sends a model: several jobs would send the same gigabytes."""
    UPLOADING.parent.mkdir(parents=True, exist_ok=True)
    with UPLOADING.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
