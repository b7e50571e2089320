"""Asking many questions at once, each once: remembered answers, claims, and attempts after a failure."""

import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
)

from probeline.errors import ProbelineError
from probeline.judges.cache import Answer, AnswerCache
from probeline.judges.parsing import NoAnswerError
from probeline.judges.questions import Question
from probeline.progress import progress

ATTEMPTS = 5
"""The first, and four after failures."""
LONGEST_WAIT = 60.0
HOPELESS = 20
"""Failed questions one after the other, with no answer between them, after which a judge is asked no more."""
POLL = 0.1
"""Seconds between looks at a question that another process is asking."""

log = logging.getLogger(__name__)


class Asking:
    """How questions are put to one judge.

    Args:
        name: of the judge, for progress and messages.
        cache: where answers are remembered.
        answer: puts one question; called from several threads.
        concurrency: most questions under way at once.
        wait: seconds before the first further attempt; each later wait is twice as long.

    Attributes:
        counts: questions `asked`, `cached` (answered before, or meanwhile by another process), `repeated`
            in one call, `retried` (attempts after the first), and `failed: <reason>`.
    """

    def __init__(
        self,
        name: str,
        cache: AnswerCache,
        answer: Callable[[Question], Answer],
        concurrency: int,
        wait: float,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._name = name
        self._cache = cache
        self._answer = answer
        self._concurrency = concurrency
        self._wait = wait
        self._owner = secrets.token_hex(8)
        self._stopping = threading.Event()
        self._turn = threading.Lock()
        self._counting = threading.Lock()
        self._said: set[str] = set()
        self._failed_in_a_row = 0
        self._patient = False

    def answers(self, questions: Sequence[Question]) -> list[Answer | None]:
        """The answer to each question, None where all attempts have failed.

        Raises:
            ProbelineError: the judge cannot be asked at all: the text says why.
        """
        with self._turn:
            return self._answers(questions)

    def _answers(self, questions: Sequence[Question]) -> list[Answer | None]:
        keys = [question.key for question in questions]
        by_key = dict(zip(keys, questions, strict=True))
        found: dict[str, Answer | None] = dict(self._cache.known(list(by_key)))
        self.counts["cached"] += len(found)
        self.counts["repeated"] += len(keys) - len(by_key)
        # What is left of questions that were mostly answered before may well be those that never are.
        self._patient = bool(found)
        before = self.counts.copy()
        open_keys = [key for key in by_key if key not in found]
        if open_keys:
            with self._claims_held():
                found |= dict(progress(self._asked(open_keys, by_key), self._title, len(open_keys), "answer"))
            self._say(len(open_keys), self.counts - before)
        return [found[key] for key in keys]

    @property
    def _title(self) -> str:
        return f"asking the judge {self._name}"

    def _asked(self, keys: list[str], by_key: dict[str, Question]) -> Iterator[tuple[str, Answer | None]]:
        """Key and answer of each question, as they come."""
        self._stopping.clear()
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="judge")
        try:
            while keys:
                held_elsewhere = []
                for key, (done, answer) in zip(
                    keys, pool.map(lambda key: self._once(by_key[key]), keys), strict=True
                ):
                    if done:
                        yield key, answer
                    else:
                        held_elsewhere.append(key)
                if len(held_elsewhere) == len(keys):
                    time.sleep(POLL)
                keys = held_elsewhere
        finally:
            # Also where one has raised: those under way end soon, and the others do not begin.
            self._stopping.set()
            pool.shutdown(cancel_futures=True)

    def _once(self, question: Question) -> tuple[bool, Answer | None]:
        """Whether a question is done with, and its answer; it is not while another process asks it."""
        if self._stopping.is_set():
            return True, None
        key = question.key
        remembered, claimed = self._cache.claim(key, self._owner)
        if remembered is not None:
            self._count("cached")
            return True, remembered
        if not claimed:
            return False, None
        self._count("asked")
        try:
            answer = self._cache.store(question, self._owner, self._attempts(question))
        except NoAnswerError as failure:
            self._cache.release(self._owner, key)
            self._failed(failure)
            return True, None
        except BaseException:
            self._stopping.set()
            raise
        with self._counting:
            self._failed_in_a_row = 0
        return True, answer

    def _attempts(self, question: Question) -> Answer:
        retrying = Retrying(
            stop=stop_after_attempt(ATTEMPTS) | stop_when_event_set(self._stopping),
            wait=self._seconds,
            retry=retry_if_exception(lambda error: isinstance(error, NoAnswerError) and error.again),
            sleep=sleep_using_event(self._stopping),
            before_sleep=lambda state: self._count("retried"),
            reraise=True,
        )
        return retrying(self._answer, question)

    def _seconds(self, state: RetryCallState) -> float:
        """Exponential, or what the judge has asked for."""
        error = state.outcome.exception() if state.outcome else None
        asked = error.after if isinstance(error, NoAnswerError) else 0.0
        return min(max(asked, self._wait * 2 ** (state.attempt_number - 1)), LONGEST_WAIT)

    @contextmanager
    def _claims_held(self) -> Iterator[None]:
        """Renew the claims while questions are asked, however long an answer takes; end them afterwards."""
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(self._cache.lease / 3):
                self._cache.renew(self._owner)

        thread = threading.Thread(target=renew, name="judge-claims", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._cache.release(self._owner)

    def _failed(self, failure: NoAnswerError) -> None:
        self._count(f"failed: {failure.reason}")
        with self._counting:
            first = failure.reason not in self._said
            self._said.add(failure.reason)
            self._failed_in_a_row += not self._stopping.is_set()
            hopeless = self._failed_in_a_row >= HOPELESS and not self._patient
        if first:
            log.warning("The judge %s gives no answer: %s", self._name, failure)
        if hopeless:
            self._stopping.set()
            raise ProbelineError(
                f"The judge {self._name} has answered none of {HOPELESS} questions in a row; the last one: "
                f"{failure}. Look at judges.{self._name} in the config, and whether its endpoint is up; then "
                "run the same command again: what was answered is remembered."
            )

    def _count(self, what: str) -> None:
        with self._counting:
            self.counts[what] += 1

    def _say(self, number: int, counts: Counter[str]) -> None:
        failed = {name: count for name, count in counts.items() if name.startswith("failed: ")}
        log.info(
            "The judge %s: %d questions, %d of them asked, %d answered elsewhere meanwhile, %d attempts "
            "after the first, %d failed%s",
            self._name,
            number,
            counts["asked"],
            counts["cached"],
            counts["retried"],
            sum(failed.values()),
            "".join(f"; {name.removeprefix('failed: ')}: {count}" for name, count in sorted(failed.items())),
        )
