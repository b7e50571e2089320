"""The judge that asks nobody: similarity to the reference, and checks that need no language model.

It knows nothing of what is right. It serves to try things out, and where nothing may leave the machine.
"""

import re

from probeline.judges.parsing import NoAnswerError
from probeline.judges.questions import RUBRIC, Question
from probeline.models.sentences import sentence_model

TEMPLATE = "local-1"
"""Version of all that decides about a score but the model."""
SIMILARITY, CHECKS = 0.7, 0.3
DIGITS = 6
"""Of a score: the last bits of an embedding depend on the processor."""
FREE_WORDS = 20
"""That a reply may have however short the reference is."""

_WORD = re.compile(r"\w+")
_OTHER_SPEAKER = re.compile(r"^\s*(user|customer|human)\s*:", re.IGNORECASE | re.MULTILINE)


class LocalJudge:
    """all-MiniLM-L6-v2 and `checks`.

    Attributes:
        digest: of the embedding model.
    """

    def __init__(self) -> None:
        self._model = sentence_model()
        self.digest = self._model.digest

    def answer(self, question: Question) -> float:
        """0.7 · max(0, cosine to the reference) + 0.3 · mean of `checks`; 0 for a completion without words.

        Raises:
            NoAnswerError: there is no reference, or a rubric was asked for.
        """
        texts = question.texts
        if question.purpose == RUBRIC:
            raise NoAnswerError("the local judge writes no rubrics", again=False)
        if not texts["reference"].strip():
            raise NoAnswerError("no reference", again=False)
        if not _WORD.search(texts["completion"]):
            return 0.0
        cosine = min(1.0, max(0.0, self._model.similarity(texts["reference"], texts["completion"])))
        met = checks(texts["completion"], texts["reference"])
        return round(SIMILARITY * cosine + CHECKS * sum(met.values()) / len(met), DIGITS)


def checks(completion: str, reference: str) -> dict[str, float]:
    """What the generic rubric asks for, as far as words alone tell it, each from 0 to 1.

    `concise`: as long as the reference or 20 words, falling to 0 at three times that; `asks`: a question
    where the reference has one, and none where it has none; `new`: share of three words in a row that were
    not said before; `own_part`: does not go on as the customer.
    """
    words = [word.casefold() for word in _WORD.findall(completion)]
    allowed = max(FREE_WORDS, len(_WORD.findall(reference)))
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return {
        "concise": min(1.0, max(0.0, (3 * allowed - len(words)) / (2 * allowed))),
        "asks": float(("?" in completion) == ("?" in reference)),
        "new": len(set(runs)) / len(runs) if runs else 1.0,
        "own_part": float(_OTHER_SPEAKER.search(completion) is None),
    }
