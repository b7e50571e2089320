"""Judges of completions: language models behind endpoints, and one of this machine.

A judge that fails says nothing: the score is None, to be masked, and is never remembered and never 0.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from probeline.judges.cache import CACHE, Answer, AnswerCache
from probeline.judges.chat import CONCURRENCY, ChatJudge, endpoint_of, require_key
from probeline.judges.questions import (
    SCORE,
    TEMPLATES,
    Asked,
    JudgeRequest,
    Question,
    RubricRequest,
    conversation_text,
    rubric_question,
    score_question,
)

if TYPE_CHECKING:
    from probeline.judges.asking import Asking

__all__ = [
    "CACHE",
    "Judge",
    "JudgeRequest",
    "RubricRequest",
    "conversation_text",
    "open_judge",
    "require_key",
]

WAIT = 1.0


class Judge:
    """A judge with its memory; made by `open_judge`.

    Attributes:
        name: its key under `judges` in the config.
        asked: what of it decides about its answers.
        counts: questions asked, cached, repeated, retried and failed, see `asking.Asking`.
    """

    def __init__(
        self, name: str, asked: Asked, asking: "Asking", cache: AnswerCache, template: str | None
    ) -> None:
        self.name = name
        self.asked = asked
        self.counts: Counter[str] = asking.counts
        self._asking = asking
        self._cache = cache
        self._template = template

    def described(self) -> dict[str, str]:
        """Its name, and what decides about its scores: kind, endpoint, model and version of the template."""
        asked = self.asked
        return {
            "name": self.name,
            "kind": asked.kind,
            "endpoint": asked.endpoint,
            "model": asked.model,
            "template": self._template or TEMPLATES[SCORE][0],
        }

    def scores(self, requests: Sequence[JudgeRequest]) -> list[float | None]:
        """A score in 0..1 for each request; None where all attempts have failed: to be masked, not 0.

        Raises:
            ProbelineError: the judge cannot be asked at all: refused key, unknown model, damaged cache.
        """
        questions = [score_question(request, self.asked, self._template) for request in requests]
        return cast(list[float | None], self._asking.answers(questions))

    def rubrics(self, requests: Sequence[RubricRequest]) -> list[str | None]:
        """A rubric for each request; None where all attempts have failed.

        Raises:
            ProbelineError: the judge cannot be asked at all, or writes no rubrics.
        """
        return cast(
            list[str | None],
            self._asking.answers([rubric_question(request, self.asked) for request in requests]),
        )

    def close(self) -> None:
        """Release the cache."""
        self._cache.close()

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_judge(name: str, settings: Mapping[str, Any], cache: Path = CACHE) -> Judge:
    """A judge that is ready to be asked.

    Args:
        name: its key under `judges` in the config.
        settings: what stands there.
        cache: the file in which all runs remember answers; made where it is not there.

    Raises:
        ProbelineError: its key is missing, or the cache cannot be used.
    """
    answer: Callable[[Question], Answer]
    if settings["kind"] == "local":
        from probeline.judges.local import TEMPLATE, LocalJudge

        local = LocalJudge()
        asked, answer, template, concurrency = (
            Asked("local", "", local.digest, 0.0),
            local.answer,
            TEMPLATE,
            1,
        )
    else:
        chat = ChatJudge(name, settings)
        temperature = float(settings.get("temperature", 0.0))
        asked = Asked(settings["kind"], endpoint_of(settings), settings["model"], temperature)
        answer, template, concurrency = chat.answer, None, settings.get("concurrency", CONCURRENCY)
    # Imported here: the workflow asks for keys while it is planned, and need not load the rest.
    from probeline.judges.asking import Asking

    answers = AnswerCache(cache)
    asking = Asking(name, answers, answer, concurrency, settings.get("wait", WAIT))
    return Judge(name, asked, asking, answers, template)
