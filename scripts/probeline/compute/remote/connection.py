"""The way to the service: is there a token, does it answer, and what its errors mean."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from probeline.errors import ProbelineError

SECONDS_TO_ANSWER = 4
NO_TOKEN = (
    "There is no token for Modal. Make one with `modal token new`, or set MODAL_TOKEN_ID and "
    "MODAL_TOKEN_SECRET; without an account, compute: local runs everything here."
)
BAD_TOKEN = (
    "Modal refused the token. Make a new one with `modal token new`, or correct MODAL_TOKEN_ID and "
    "MODAL_TOKEN_SECRET."
)


def require_connection(answer: bool = False) -> None:
    """See that there is a token and that the server's port answers: the client alone would try for a minute.

    Args:
        answer: ask something, too: a port may be open and nobody speak.

    Raises:
        ProbelineError: not so, in words.
    """
    from modal.config import config

    if not config["token_id"] or not config["token_secret"]:
        raise ProbelineError(NO_TOKEN)
    fault: OSError | None = None
    # By default there are two, with a comma between; the client takes the one that answers.
    for url in config["server_url"].split(","):
        server = urlsplit(url)
        host, port = server.hostname or "", server.port or (443 if server.scheme == "https" else 80)
        proxies = {} if config["disable_api_proxy"] or proxy_bypass(host) else getproxies()
        if server.scheme in proxies or "all" in proxies:
            break  # nothing of the service answers here directly
        try:
            socket.create_connection((host, port), SECONDS_TO_ANSWER).close()
            break
        except OSError as error:
            fault = error
    else:
        raise ProbelineError(unreachable(config["server_url"], fault or OSError("no address"))) from fault
    if answer:
        _require_answer(config["server_url"])


def _require_answer(url: str) -> None:
    """Ask for a volume that need not be there; what is answered counts for nothing, but that it is."""
    import modal
    from probeline.compute.remote.layout import DATA_VOLUME

    said = within(SECONDS_TO_ANSWER, modal.Volume.from_name(DATA_VOLUME).hydrate)
    if said is None:
        raise ProbelineError(unreachable(url, TimeoutError("it is open and says nothing")))
    with in_words():
        if isinstance(said, Exception) and not isinstance(said, modal.exception.NotFoundError):
            raise said


def within(seconds: float, ask: Callable[[], Any]) -> Any:
    """The answer, or the exception that came instead; None where neither came in time."""
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # of another thread, where it would be lost: the caller raises it
            answers.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answers:
        # What is given up here complains at the end of the process that it was given up.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    return answers[0] if answers else None


def unreachable(url: str, error: Exception) -> str:
    """That the server does not answer."""
    reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
    return (
        f"Modal does not answer at {url} ({reason}). Look at the network, and at MODAL_SERVER_URL if it is "
        "set; what was made so far is kept, and the same command goes on from there."
    )


@contextmanager
def in_words() -> Iterator[None]:
    """Turn the client's exceptions into faults that say what to do."""
    import aiohttp
    from modal.config import config

    from modal import exception

    try:
        yield
    except exception.AuthError as error:
        raise ProbelineError(f"{BAD_TOKEN} ({error})") from error
    except exception.NotFoundError as error:
        raise ProbelineError(_not_found(str(error))) from error
    except exception.PermissionDeniedError as error:
        raise ProbelineError(f"Modal does not permit it: {error}") from error
    except exception.ResourceExhaustedError as error:
        raise ProbelineError(
            f"A limit of the Modal workspace is reached: {error}. Wait, or lower modal.containers."
        ) from error
    except (exception.ConnectionError, exception.ServiceError, aiohttp.ClientError) as error:
        raise ProbelineError(unreachable(config["server_url"], error)) from error


def _not_found(text: str) -> str:
    """What is missing, and what makes it."""
    if "ecret" in text:
        return f"A Modal secret is missing: `probeline remote doctor` says what makes it. ({text})"
    if "olume" in text:
        return f"A Modal volume is missing: `probeline remote deploy` makes both. ({text})"
    return f"Modal does not find it: {text}. `probeline remote deploy` makes what runs there."
