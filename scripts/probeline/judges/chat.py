"""Language models behind endpoints that speak the protocol of OpenAI; Gemini's does, too."""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

from probeline.errors import ProbelineError
from probeline.judges.parsing import NoAnswerError, parse_rubric, parse_score
from probeline.judges.questions import SCORE, Question, chat_of

GEMINI = "https://generativelanguage.googleapis.com/v1beta/openai"
GEMINI_KEY = "GEMINI_API_KEY"
TIMEOUT = 60.0
CONCURRENCY = 8
NO_KEY = "none"
"""Sent where the config names no variable: without it, the client would send the user's OPENAI_API_KEY."""
AGAIN = (408, 409, 425, 429)
MOST_BYTES = 4 * 2**20
"""Of a response."""
MOST_SAID = 300
"""Characters of an endpoint's own words in a message."""


def endpoint_of(settings: Mapping[str, Any]) -> str:
    """The address of a judge, as it stands in keys and listings."""
    return str(settings.get("url", GEMINI)).rstrip("/")


def key_variable(settings: Mapping[str, Any]) -> str | None:
    """The environment variable that holds the key; None for an endpoint that wants none."""
    return settings.get("key", GEMINI_KEY if settings["kind"] == "gemini" else None)


def find_key(name: str, settings: Mapping[str, Any]) -> str | None:
    """The key of a judge, from the environment.

    Raises:
        ProbelineError: it is not there, or cannot be sent; the text names the variable, never the key.
    """
    variable = key_variable(settings)
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ProbelineError(
            f"The judge {name} needs a key, and the environment variable {variable} (judges.{name}.key) is "
            f"{'empty' if variable in os.environ else 'not set'}. Set it: export {variable}=...; or choose "
            "another judge: kind openai with an endpoint of your own, which may need no key, or kind local, "
            "which asks nobody (it scores, but writes no rubrics)."
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ProbelineError(
            f"What the environment variable {variable} (judges.{name}.key) holds is no key: it has white "
            "space or characters that cannot be sent. Set it anew."
        )
    return key


def require_key(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse a judge whose key is missing, before anything else is begun; one of this machine needs none.

    Raises:
        ProbelineError: names the environment variable, the config key and the alternatives.
    """
    if settings["kind"] != "local":
        find_key(name, settings)


class ChatJudge:
    """One model behind one endpoint.

    Args:
        name: its key under `judges`.
        settings: what stands there.

    Raises:
        ProbelineError: the key is missing.
    """

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self._key = find_key(name, settings)
        import openai

        logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for each request
        self._name = name
        self._variable = key_variable(settings)
        self._endpoint = endpoint_of(settings)
        self._model = settings["model"]
        self._temperature = settings.get("temperature", 0.0)
        self._timeout = float(settings.get("timeout", TIMEOUT))
        self._client = openai.OpenAI(
            api_key=self._key or NO_KEY,
            base_url=self._endpoint,
            timeout=self._timeout,
            max_retries=0,  # ours are counted
            # What is packed could be endless when it is unpacked.
            default_headers={"accept-encoding": "identity"},
            http_client=openai.DefaultHttpxClient(event_hooks={"response": [self._bound]}),
        )
        # Of the environment, nothing goes there but the key that the config names.
        self._client.organization = self._client.project = None

    def answer(self, question: Question) -> float | str:
        """The score or the rubric.

        Raises:
            NoAnswerError: there is no usable answer this time.
            ProbelineError: there never will be one.
        """
        text = self._say(chat_of(question))
        return parse_score(text) if question.purpose == SCORE else parse_rubric(self._without_key(text))

    def _bound(self, response: Any) -> None:
        """Have the body of a response end in time: the client's timeout is one of each piece."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise NoAnswerError("answer is packed")
        response.stream = bounded(response.stream, self._timeout)

    def _say(self, messages: list[dict[str, str]]) -> str:
        import openai

        try:
            reply: Any = self._client.chat.completions.create(
                model=self._model,
                temperature=self._temperature,
                messages=cast(Any, messages),
            )
        except openai.APITimeoutError:
            raise NoAnswerError("timeout") from None
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, NoAnswerError):
                raise error.__cause__ from None
            cause = type(error.__cause__).__name__ if error.__cause__ else ""
            raise NoAnswerError("connection", says=f"{self._endpoint} {cause}".strip()) from None
        except openai.APIStatusError as error:
            # Without the chain: the request in it holds the key.
            raise self._refused(error) from None
        except (openai.OpenAIError, ValueError, TypeError, RecursionError) as error:
            raise NoAnswerError("answer is not of the protocol", says=type(error).__name__) from None
        try:
            text = reply.choices[0].message.content
        except (AttributeError, IndexError, TypeError, KeyError):
            raise NoAnswerError("answer is not of the protocol") from None
        if text is None:
            raise NoAnswerError("empty answer")
        if not isinstance(text, str):
            raise NoAnswerError("answer is not of the protocol")
        return text

    def _refused(self, error: Any) -> Exception:
        """What an HTTP status means."""
        status, said = error.status_code, self._without_key(str(error.message))[:MOST_SAID]
        where = f"The judge {self._name} ({self._endpoint}, model {self._model})"
        # Gemini says 400 to a wrong key.
        if status in (401, 403) or (status == 400 and "api key" in said.lower()):
            field = f"judges.{self._name}.key"
            if not self._variable:
                return ProbelineError(
                    f"{where} wants a key: {said} None was sent: name the environment variable that holds it "
                    f"in {field}."
                )
            return ProbelineError(
                f"{where} refuses the key: {said} Look at the environment variable {self._variable} "
                f"({field})."
            )
        if status == 404:
            return ProbelineError(
                f"{where} is not known there: {said} Look at judges.{self._name}.model and .url."
            )
        if status == 402 or getattr(error, "code", None) == "insufficient_quota":
            return ProbelineError(f"{where} is not paid for: {said}")
        again = status in AGAIN or status >= 500
        return NoAnswerError(f"HTTP {status}", again, _retry_after(error.response), said)

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _retry_after(response: Any) -> float:
    """Seconds that the endpoint asks to wait; 0 where it says nothing, or a date."""
    try:
        return max(0.0, float(response.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0


def bounded(stream: Any, seconds: float) -> Any:
    """The body of a response, with an end: after so many seconds, and after MOST_BYTES."""
    import httpx2

    class Bounded(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            until, size = time.monotonic() + seconds, 0
            for piece in stream:
                size += len(piece)
                if size > MOST_BYTES:
                    raise NoAnswerError("answer is too long")
                if time.monotonic() > until:
                    raise NoAnswerError("timeout")
                yield piece

        def close(self) -> None:
            stream.close()

    return Bounded()
