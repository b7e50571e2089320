"""The way to the service: is there a token, does it answer, and what its errors mean."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from probeline.errors import ProbelineError

SECONDS_TO_ANSWER = 5
NO_TOKEN = (
    "There is no token for Modal. Make one with `modal token new`, or set MODAL_TOKEN_ID and "
    "MODAL_TOKEN_SECRET; without an account, compute: local runs everything here."
)
BAD_TOKEN = (
    "Modal refused the token. Make a new one with `modal token new`, or correct MODAL_TOKEN_ID and "
    "MODAL_TOKEN_SECRET."
)
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy")


def require_connection() -> None:
    """See that there is a token and that the server's port answers: the client alone would try for a minute.

    Raises:
        ProbelineError: not so, in words.
    """
    from modal.config import config

    if not config["token_id"] or not config["token_secret"]:
        raise ProbelineError(NO_TOKEN)
    url = config["server_url"]
    parts = urlsplit(url)
    if any(os.environ.get(name) for name in PROXIES):
        return  # nothing of the service answers here directly
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise ProbelineError(unreachable(url, error)) from error


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
    for secret, variable in (("huggingface-secret", "HF_TOKEN"), ("gemini-secret", "GEMINI_API_KEY")):
        if secret in text or variable in text:
            return (
                f"The Modal secret {secret} with {variable} is missing. Make it with "
                f"`modal secret create {secret} {variable}=…`. ({text})"
            )
    if "olume" in text:
        return f"A Modal volume is missing: `probeline remote deploy` makes both. ({text})"
    return f"Modal does not find it: {text}. `probeline remote deploy` makes what runs there."
