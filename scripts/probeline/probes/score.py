"""Using a trained probe on new text."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from probeline.errors import ProbelineError, near_misses
from probeline.files import MANIFEST, read_json
from probeline.models.adapter import adapter_digest
from probeline.models.render import Messages, RenderedChat, load_tokenizer
from probeline.probes.detector import Detector, load_detector, require_model_name

if TYPE_CHECKING:
    from probeline.activations.engine import ActivationEngine

QUESTION = "What do you say?"
MODELS = Path("data/models")
# Most tokens in one row: from here on, longer rows are no faster.
TOKEN_BUDGET = 2048
# What a probe's manifest says at least, and a model's.
PROBE_FACTS: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "method": (str,),
    "layers": (list,),
    "dtype": (str,),
    "weights_sha256": (str, NoneType),
    "adapter_sha256": (str, NoneType),
}
MODEL_FACTS: dict[str, tuple[type, ...]] = {
    "hidden_size": (int,),
    "max_length": (int,),
    "weights_sha256": (str,),
}
NAMES: dict[type, str] = {str: "a text", list: "a list", int: "a whole number", NoneType: "null"}
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Score:
    """What a probe says of a text.

    Attributes:
        score: of the mean activation over the text's tokens; larger means label 1.
        probability: calibrated probability of label 1.
        label: 1 from the probe's threshold on, else 0.
        tokens: the text, without white space at its ends, cut into its tokens; a token that holds only a
            later part of a character is empty. None unless asked for.
        token_scores: the score of each token's own activation; None unless asked for.
    """

    score: float
    probability: float
    label: int
    tokens: tuple[str, ...] | None = None
    token_scores: tuple[float, ...] | None = None


@dataclass(frozen=True)
class _Rendered:
    """A text in its chat, and the tokens of the chat that are the text's."""

    chat: RenderedChat
    span: range

    def tokens(self) -> tuple[str, ...]:
        """The text's part in each of its tokens; one after the other, they are the text."""
        first, last = self.chat.message_bounds[-1]
        content = self.chat.text[first:last]
        first, last = last - len(content.lstrip()), first + len(content.rstrip())
        ends = [min(self.chat.offsets[position][1], last) for position in self.span]
        return tuple(self.chat.text[start:end] for start, end in zip([first, *ends[:-1]], ends, strict=True))


@dataclass(frozen=True)
class Probe:
    """A detector together with the model whose activations it reads.

    Attributes:
        detector: the trained detector.
        facts: the probe's manifest.
        tokenizer: of the model.
        engine: the model, up to the deepest layer that the detector reads.
        max_length: most tokens that the model takes.
    """

    detector: Detector
    facts: dict[str, Any]
    tokenizer: Any
    engine: "ActivationEngine"
    max_length: int

    @classmethod
    def load(
        cls, directory: Path, model: Path | None = None, threads: int = 1, adapter: Path | None = None
    ) -> "Probe":
        """Load a probe and its model.

        Args:
            directory: the probe, made by `train_probe`.
            model: the model's folder, made by `fetch_model`; by default the one in data/models.
            threads: processor threads.
            adapter: the folder of the adapter on the model, where the probe was trained with one.

        Raises:
            ProbelineError: there is no such probe or model, or the model has another width than the probe was
                trained on, or other weights, or another adapter.
        """
        facts = read_probe(directory)
        model = model_folder(facts, model)
        model_facts = read_model(model)
        detector = load_detector(directory)
        check_model(detector, facts, model, model_facts, adapter)
        # Only now: it takes seconds to import.
        from probeline.activations.engine import ActivationEngine

        layers = sorted(detector.layers)
        engine = ActivationEngine(model, layers, facts["dtype"], threads, TOKEN_BUDGET, adapter=adapter)
        return cls(detector, facts, load_tokenizer(model), engine, model_facts["max_length"])

    def score_text(self, text: str, system_prompt: str = "", return_token_scores: bool = False) -> Score:
        """Score a text as the assistant's answer to "What do you say?".

        Args:
            text: what is scored.
            system_prompt: the system message before it; none when empty.
            return_token_scores: score every token as well.

        Raises:
            ProbelineError: no token in the text, more than the model takes, a chat that it cannot show, or a
                score that is not finite.
        """
        return self.score_batch([text], system_prompt, return_token_scores)[0]

    def score_batch(
        self,
        texts: Sequence[str],
        system_prompt: str = "",
        return_token_scores: bool = False,
        batch_size: int | None = None,
    ) -> list[Score]:
        """Score several texts, each as `score_text` does.

        Texts of a batch go through the model together, without padding: what they begin with in common is
        run once. Whatever else is in its batch, a score is the same to 1e-4 in float32; in bfloat16 it
        was the same to 1e-14 on the processors that we tried.

        Args:
            texts: what is scored.
            system_prompt: the system message before each; none when empty.
            return_token_scores: score every token as well.
            batch_size: most texts in one batch; by default as many as fill one row of the engine. With 1,
                no other text can change as much as the last bit of a score.

        Raises:
            ProbelineError: as `score_text` does; with several texts, it says which one cannot be shown.
                Nothing has been run then.
        """
        from probeline.progress import progress

        if batch_size is not None and batch_size < 1:
            raise ProbelineError(f"batch_size is {batch_size}; at least 1 text is scored at a time.")
        rendered = []
        for number, text in enumerate(texts, 1):
            try:
                rendered.append(self._render(text, system_prompt))
            except ProbelineError as error:
                raise ProbelineError(f"Text {number}: {error}" if len(texts) > 1 else str(error)) from error
        scores: list[Score] = []
        batches = list(_batches(rendered, batch_size))
        for batch in progress(batches, "Scoring", len(batches), "batch"):
            scores += self._score(batch, return_token_scores)
        return scores

    def _render(self, text: str, system_prompt: str) -> _Rendered:
        """A text in its chat, checked."""
        from probeline.models.render import UnrenderableChatError, render_chat, token_span

        messages = chat(text, system_prompt)
        try:
            rendered = render_chat(self.tokenizer, messages)
        except UnrenderableChatError as error:
            raise ProbelineError(f"The text cannot be shown to {self.detector.model}: it {error}.") from error
        span = token_span(rendered, len(messages) - 1, 0, len(text))
        if span is None:
            raise ProbelineError("There is nothing to score: the text is empty.")
        if span.stop > self.max_length:
            raise ProbelineError(
                f"The text and what precedes it are {span.stop} tokens, but {self.detector.model} takes "
                f"{self.max_length}. Score a shorter text."
            )
        return _Rendered(rendered, span)

    def _score(self, batch: Sequence[_Rendered], return_token_scores: bool) -> list[Score]:
        """The scores of texts that go through the model together."""
        from probeline.activations.engine import SpannedSequence

        sequences = []
        for text in batch:
            single = [range(place, place + 1) for place in text.span] if return_token_scores else []
            sequences.append(SpannedSequence(text.chat.input_ids, (text.span, *single)))
        means = self.engine.game_means(sequences)
        columns = [self.engine.layers.index(layer) for layer in self.detector.layers]
        scores = self.detector.scores(means[:, columns])
        probabilities = self.detector.probability(scores)
        found = []
        place = 0
        for text, sequence in zip(batch, sequences, strict=True):
            after = place + len(sequence.spans)
            found.append(
                Score(
                    score=float(scores[place]),
                    probability=float(probabilities[place]),
                    label=int(scores[place] >= self.detector.threshold),
                    tokens=text.tokens() if return_token_scores else None,
                    token_scores=tuple(scores[place + 1 : after].tolist()) if return_token_scores else None,
                )
            )
            place = after
        return found


def chat(text: str, system_prompt: str, question: str = QUESTION) -> Messages:
    """A text as the answer to a question.

    Raises:
        ProbelineError: something in it is no valid Unicode.
    """
    try:
        f"{text}{system_prompt}{question}".encode()
    except UnicodeEncodeError as error:
        raise ProbelineError("The text is no valid Unicode: it holds half of a surrogate pair.") from error
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, {"role": "user", "content": question}, {"role": "assistant", "content": text}]


def read_probe(directory: Path) -> dict[str, Any]:
    """The manifest of a probe, with all that scoring needs to know.

    Raises:
        ProbelineError: there is no probe in this folder, or not one of this version.
    """
    if not (directory / MANIFEST).exists():
        raise ProbelineError(
            f"{directory} holds no probe. Make it first, for example: snakemake --cores 4 {directory}"
        )
    facts: dict[str, Any] = read_json(directory / MANIFEST)
    if not isinstance(facts, dict) or facts.get("kind") != "probe":
        raise ProbelineError(f"{directory / MANIFEST} is not the manifest of a probe.")
    _require_facts(directory / MANIFEST, "probe", facts, PROBE_FACTS)
    if facts["dtype"] not in DTYPES:
        raise _of_another_version(
            directory / MANIFEST,
            "probe",
            f"its dtype is {facts['dtype']}. {near_misses(facts['dtype'], DTYPES)}",
        )
    # What a reader is told about the probe; one that was imported has not been tested.
    headline = facts.get("headline", {})
    known = isinstance(headline, dict) and isinstance(headline.get("verdict", ""), str)
    auroc = headline.get("auroc", {}) if known else None
    if not isinstance(auroc, dict) or not isinstance(auroc.get("value"), int | float | None):
        raise _of_another_version(
            directory / MANIFEST, "probe", "its headline is not a verdict and an auroc with its value."
        )
    return facts


def read_model(folder: Path) -> dict[str, Any]:
    """The manifest of a model, with all that scoring needs to know.

    Raises:
        ProbelineError: it is not one of this version.
    """
    facts = read_json(folder / MANIFEST)
    _require_facts(folder / MANIFEST, "model", facts, MODEL_FACTS)
    return dict(facts)


def _require_facts(path: Path, kind: str, facts: Any, needed: dict[str, tuple[type, ...]]) -> None:
    if not isinstance(facts, dict):
        raise _of_another_version(path, kind, "it is no JSON object.")
    for key, types in needed.items():
        if key not in facts:
            raise _of_another_version(path, kind, f"{key!r} is missing.")
        if not isinstance(facts[key], types):
            names = " or ".join(NAMES[allowed] for allowed in types)
            raise _of_another_version(path, kind, f"{key!r} is {json.dumps(facts[key])[:60]}, not {names}.")


def _of_another_version(path: Path, kind: str, reason: str) -> ProbelineError:
    return ProbelineError(
        f"{path} is not that of a {kind} of this version: {reason} "
        f"Make {path.parent} again, or import it again."
    )


def model_folder(facts: dict[str, Any], model: Path | None) -> Path:
    """The folder of a probe's model: the one given, or that of its name in data/models.

    Raises:
        ProbelineError: it does not hold a model; says how to make it.
    """
    require_model_name(facts["model"])
    folder = model or MODELS / facts["model"]
    if (folder / MANIFEST).exists():
        return folder
    there = sorted(found.parent.name for found in folder.parent.glob(f"*/{MANIFEST}"))
    raise ProbelineError(
        f"{folder} does not hold the model {facts['model']}, which the probe reads. "
        f"{near_misses(folder.name, there) if there else ''}{' ' if there else ''}"
        f"Make it with: snakemake --cores 4 {MODELS / facts['model'] / MANIFEST} "
        "(or name the folder that has it: --model FOLDER)"
    )


def check_model(
    detector: Detector, facts: dict[str, Any], model: Path, model_facts: dict[str, Any], adapter: Path | None
) -> None:
    """Refuse a model that the probe was not trained on.

    Raises:
        ProbelineError: another width, other weights, or another adapter.
    """
    detector.require_width(model_facts["hidden_size"], model.name)
    # A detector that was imported without its model beside it names no weights.
    if facts["weights_sha256"] not in (None, model_facts["weights_sha256"]):
        raise ProbelineError(
            f"The probe was trained on {detector.model}, but {model} has other weights. "
            "Use the model that it was trained on."
        )
    if facts["adapter_sha256"] != adapter_digest(adapter):
        if facts["adapter_sha256"] is None:
            raise ProbelineError(f"The probe was trained on {detector.model} alone: leave --adapter out.")
        other = "an" if adapter is None else "another"
        raise ProbelineError(
            f"The probe was trained on {detector.model} with {other} adapter. "
            "Give the one it was trained with: --adapter FOLDER."
        )


def _batches(texts: Sequence[_Rendered], batch_size: int | None) -> Iterator[list[_Rendered]]:
    """Texts that follow each other, together as long as they fill one row."""
    batch: list[_Rendered] = []
    tokens = 0
    for text in texts:
        full = tokens + len(text.span) > TOKEN_BUDGET or len(batch) == batch_size
        if batch and full:
            yield batch
            batch, tokens = [], 0
        batch.append(text)
        tokens += len(text.span)
    if batch:
        yield batch
