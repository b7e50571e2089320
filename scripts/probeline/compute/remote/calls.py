"""Calls that survive this process: a journal remembers each, and the next run takes it up again."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from probeline.errors import ProbelineError
from probeline.files import write_json

if TYPE_CHECKING:
    import modal

log = logging.getLogger(__name__)

CALLS = Path(".probeline/modal/calls")
SECONDS_BETWEEN_LOOKS = 5
SECONDS_FOR_LAST_LINES = 3
PATIENCE = 600
"""Seconds for which a connection may be away while a call runs on."""


class Journal:
    """What is known of a job's call.

    Args:
        name: the artifact's path.
    """

    def __init__(self, name: str) -> None:
        self._path = CALLS / f"{name.replace('/', '--')}.json"

    def read(self) -> dict[str, Any]:
        """`call` and `key` of a call that is not known to have ended; empty if there is none."""
        try:
            return orjson.loads(self._path.read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            return {}

    def write(self, call: str, key: str) -> None:
        """Remember a call, at once."""
        write_json(self._path, {"call": call, "key": key})

    def clear(self) -> None:
        """Forget it: its result is here, or it was cancelled."""
        self._path.unlink(missing_ok=True)


def journalled() -> dict[str, str]:
    """Journal file → id of each call that is not known to have ended."""
    found = {}
    for path in sorted(CALLS.glob("*.json")):
        if call := Journal(path.stem).read().get("call"):
            found[path.stem] = call
    return found


def cancel(call_id: str) -> None:
    """Cancel a call; one that has ended already is left as it is."""
    import modal

    try:
        modal.FunctionCall.from_id(call_id).cancel()
    except (modal.exception.NotFoundError, modal.exception.ConflictError):
        log.info("The call %s had ended already.", call_id)


def wait(
    call: "modal.FunctionCall[Any]", key: str, timeout: int, written: Callable[[], Iterable[str]]
) -> Mapping[str, Any]:
    """The value of a call, however long it takes; its log lines come here meanwhile.

    Args:
        call: what is waited for.
        key: of the job.
        timeout: the limit of one attempt, in seconds.
        written: gives all lines of the job, from a file, when it has ended.

    Raises:
        ProbelineError: the service ended it; in words.
    """
    import modal

    follower = Follower(call, key)
    lost_since = None
    try:
        while True:
            try:
                answer = call.get(timeout=SECONDS_BETWEEN_LOOKS)
                for line in written():
                    follower.take(line)
                return answer
            except modal.exception.FunctionTimeoutError as error:
                raise ProbelineError(
                    f"The container was stopped after {timeout} s, the limit of one job. Raise "
                    "modal.timeout, or shards in the config; what was done is kept on the volume."
                ) from error
            except modal.exception.OutputExpiredError as error:
                raise ProbelineError("Modal has dropped the result of this call. Run it again.") from error
            except TimeoutError:
                lost_since = None  # it runs on
            except (modal.exception.ConnectionError, modal.exception.ServiceError) as error:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > PATIENCE:
                    raise
                log.warning("The connection to Modal is away (%s); the call runs on.", error)
                time.sleep(SECONDS_BETWEEN_LOOKS)
            except modal.exception.InputCancellation as error:
                raise ProbelineError(
                    "The call was cancelled on Modal. Run the same command again."
                ) from error
    finally:
        follower.stop()


class Follower:
    """Writes a call's log lines into ours, while it runs."""

    def __init__(self, call: "modal.FunctionCall[Any]", key: str) -> None:
        self._call = call
        self._key = key
        self._seen: set[tuple[str, int]] = set()
        self._stopped = False
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more lines, once those that are on their way have come."""
        self._stopped = True
        self._thread.join(SECONDS_FOR_LAST_LINES)

    def _follow(self) -> None:
        import modal

        try:
            for entry in self._call.logs.stream():
                if self._stopped:
                    return
                for line in entry.message.splitlines():
                    self.take(line)
        except modal.exception.Error as error:
            # The lines are in a file on the volume, too, and come with the result.
            log.debug("No log stream: %s", error)

    def take(self, line: str) -> None:
        """Log a line of the container, if it is this job's and was not seen yet."""
        try:
            found = orjson.loads(line)
            place = (str(found["attempt"]), int(found["number"]))
            mine, level, text = found["probeline"] == self._key, int(found["level"]), str(found["text"])
        except (ValueError, KeyError, TypeError):
            if line.strip():
                log.info("container: %s", line.rstrip())
            return
        if mine and place not in self._seen:
            self._seen.add(place)
            log.log(level, "%s", text)
