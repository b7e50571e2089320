"""Calls that survive this process: a journal remembers each, and the next run takes it up again."""

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from probeline.compute.remote.deploy import app_name
from probeline.errors import ProbelineError
from probeline.files import write_json

log = logging.getLogger(__name__)

CALLS = Path(".probeline/modal/calls")
SECONDS_BETWEEN_LOOKS = 5
SECONDS_FOR_LAST_LINES = 3
SECONDS_OF_SILENCE = 20
"""An answer takes SECONDS_BETWEEN_LOOKS at most."""
PATIENCE = 600
"""Seconds for which a connection may be away while a call runs on."""
CANCELLED = "The call was cancelled on Modal, and not from here. Run the same command again."


class CallEndedError(ProbelineError):
    """The service has ended a call without a result: there is nothing to take up any more."""


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


def wait(call_id: str, timeout: int, written: Callable[[], Iterable[str]]) -> Mapping[str, Any]:
    """The value of a call, however long it takes; its log lines come here meanwhile.

    Args:
        call_id: of what is waited for.
        timeout: the limit of one attempt, in seconds.
        written: gives all lines of the job, from a file, when it has ended.

    Raises:
        CallEndedError: the service ended it; in words.
        modal.exception.Error: it could not be waited for; what became of it is not known.
    """
    import modal

    call: modal.FunctionCall[Any] = modal.FunctionCall.from_id(call_id)
    follower = Follower(call_id)
    silence = _Silence()
    lost_since = None
    try:
        while True:
            silence.ends()
            try:
                answer = call.get(timeout=SECONDS_BETWEEN_LOOKS)
                for line in written():
                    follower.take(line)
                follower.stop(0)
                return answer
            except TimeoutError:
                lost_since = None  # it runs on
            except (
                modal.exception.ConnectionError,
                modal.exception.ServiceError,
                modal.exception.InternalError,
            ) as error:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > PATIENCE:
                    raise
                log.warning("The connection to Modal is away (%s); the call runs on.", error)
                time.sleep(SECONDS_BETWEEN_LOOKS)
            except modal.exception.InputCancellation as error:
                raise CallEndedError(CANCELLED) from error
            except Exception as error:  # Modal raises, and the container; what ends a call is told in words
                if words := _end(error, timeout):
                    raise CallEndedError(words) from error
                raise
    finally:
        silence.is_over()
        follower.stop(SECONDS_FOR_LAST_LINES)


class _Silence:
    """Says once that the service does not answer: the client tries for minutes before it says so itself."""

    def __init__(self) -> None:
        self._timer = threading.Timer(0, lambda: None)

    def ends(self) -> None:
        """An answer has come; the next one is waited for."""
        self._timer.cancel()
        self._timer = threading.Timer(SECONDS_OF_SILENCE, self._say)
        self._timer.daemon = True
        self._timer.start()

    def is_over(self) -> None:
        """Nothing more is waited for."""
        self._timer.cancel()

    def _say(self) -> None:
        log.warning(
            "Modal has not answered for %d seconds. The call runs on there; when Modal answers again, this "
            "goes on, or the next run of the same command does. Ctrl-C ends the waiting.",
            SECONDS_OF_SILENCE,
        )


def _end(error: Exception, timeout: int) -> str:
    """How a call has ended, in words; nothing if the error is not about that."""
    from modal import exception

    text = str(error)
    if isinstance(error, exception.FunctionTimeoutError):
        return (
            f"The container was stopped after {timeout} s, the limit of one job. Raise modal.timeout, or "
            "shards in the config; what was done is kept on the volume."
        )
    if isinstance(error, exception.OutputExpiredError | exception.NotFoundError):
        return "Modal has dropped this call and its result. Run the same command again."
    if isinstance(error, exception.RemoteError | exception.InternalFailure):
        if "cancel" in text.lower():
            return CANCELLED
        return (
            f"The container on Modal was lost, also when the job was tried again ({text}). Most often its "
            "memory is used up: raise modal.memory, or shards in the config. The same command goes on from "
            "what was done."
        )
    if isinstance(error, exception.Error) and not isinstance(error, exception.ExecutionError):
        return ""
    lines = "".join(traceback.format_exception(error))[-4000:]
    return f"On Modal, the job ended with {type(error).__name__}: {text}\n{lines}"


def replay(call_id: str, lines: Iterable[str]) -> None:
    """Log the lines of a call that has ended."""
    seen = Lines(call_id)
    for line in lines:
        seen.take(line)


class Lines:
    """Log lines of a call, each taken once, whichever way it comes.

    Args:
        call_id: of the call.
    """

    def __init__(self, call_id: str) -> None:
        self._call_id = call_id
        self._seen: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def take(self, line: str) -> None:
        """Log a line of a container, if it is this call's and was not seen yet."""
        try:
            found = orjson.loads(line)
            place = (str(found["attempt"]), int(found["number"]))
            mine = found["call"] == self._call_id
            level, text = int(found["level"]), str(found["text"])
        except (ValueError, KeyError, TypeError):
            if line.strip():
                log.info("container: %s", line.rstrip())
            return
        with self._lock:
            new = mine and place not in self._seen
            self._seen.add(place)
        if new:
            log.log(level, "%s", text)


class Follower(Lines):
    """Writes a call's log lines into ours, while it runs."""

    def __init__(self, call_id: str) -> None:
        super().__init__(call_id)
        self._stopped = False
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def stop(self, patience: float) -> None:
        """No more lines, once those that are on their way have come.

        Args:
            patience: seconds to wait for them.
        """
        if not self._stopped:
            self._thread.join(patience)
        self._stopped = True
        # What ends while it waits for more lines is of no interest any more.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)

    def _follow(self) -> None:
        from modal import exception

        try:
            try:
                self._take_all(self._stream_of_call())
            except exception.UnimplementedError:
                # Of a service that has no logs of a call: those of all calls, from which ours are picked.
                self._take_all(self._stream_of_app())
        except Exception as error:
            # The lines are in a file on the volume, too, and come with the result.
            log.debug("No log stream: %s", error)

    def _take_all(self, lines: Iterable[str]) -> None:
        for line in lines:
            if self._stopped:
                return
            self.take(line)

    def _stream_of_call(self) -> Iterator[str]:
        import modal

        for entry in modal.FunctionCall.from_id(self._call_id).logs.stream():
            yield from entry.message.splitlines()

    def _stream_of_app(self) -> Iterator[str]:
        import modal

        for entry in modal.App.lookup(app_name()).logs.stream():
            yield from (line for line in entry.message.splitlines() if line.startswith("{"))
