"""Using a trained probe on new text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probeline.errors import ProbelineError
from probeline.files import MANIFEST, read_json
from probeline.models.adapter import adapter_digest
from probeline.models.render import load_tokenizer
from probeline.probes.detector import Detector, load_detector

if TYPE_CHECKING:
    from probeline.activations.engine import ActivationEngine

QUESTION = "What do you say?"
TOKEN_BUDGET = 4096


@dataclass(frozen=True)
class Score:
    """What a probe says of a text.

    Attributes:
        score: of the mean activation over the text's tokens; larger means label 1.
        probability: calibrated probability of label 1.
        label: 1 from the probe's threshold on, else 0.
        tokens: the text's tokens as they stand in it; None unless asked for.
        token_scores: the score of each token's own activation; None unless asked for.
    """

    score: float
    probability: float
    label: int
    tokens: tuple[str, ...] | None = None
    token_scores: tuple[float, ...] | None = None


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
    def load(cls, directory: Path, model: Path, threads: int = 1, adapter: Path | None = None) -> "Probe":
        """Load a probe and its model.

        Args:
            directory: the probe, made by `train_probe`.
            model: the model's folder, made by `fetch_model`.
            threads: processor threads.
            adapter: the folder of the adapter on the model, where the probe was trained with one.

        Raises:
            ProbelineError: the model has another width than the probe was trained on, or other weights, or
                another adapter.
        """
        detector = load_detector(directory)
        facts, model_facts = read_json(directory / MANIFEST), read_json(model / MANIFEST)
        detector.require_width(model_facts["hidden_size"], model.name)
        # A detector that was imported without its model beside it names no weights.
        if facts["weights_sha256"] not in (None, model_facts["weights_sha256"]):
            raise ProbelineError(
                f"The probe was trained on {detector.model}, but {model} has other weights. "
                "Use the model that it was trained on."
            )
        if facts["adapter_sha256"] != adapter_digest(adapter):
            wanted = "without an adapter" if facts["adapter_sha256"] is None else "with another adapter"
            raise ProbelineError(
                f"The probe was trained on {detector.model} {wanted}. Give the one it was trained with: "
                "--adapter FOLDER."
            )
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
            ProbelineError: no token in the text, more than the model takes, or a chat that it cannot show.
        """
        from probeline.activations.engine import SpannedSequence
        from probeline.models.render import UnrenderableChatError, render_chat, token_span

        system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        messages = [
            *system,
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": text},
        ]
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
        single = [range(position, position + 1) for position in span] if return_token_scores else []
        # A pass of its own for every text: in a batch, the last bits would depend on its neighbours.
        means = self.engine.game_means([SpannedSequence(rendered.input_ids, (span, *single))])
        columns = [self.engine.layers.index(layer) for layer in self.detector.layers]
        scores = self.detector.scores(means[:, columns])
        tokens = tuple(rendered.text[slice(*rendered.offsets[position])] for position in span)
        return Score(
            score=float(scores[0]),
            probability=float(self.detector.probability(scores[:1])[0]),
            label=int(scores[0] >= self.detector.threshold),
            tokens=tokens if return_token_scores else None,
            token_scores=tuple(scores[1:].tolist()) if return_token_scores else None,
        )

    def score_batch(
        self, texts: Sequence[str], system_prompt: str = "", return_token_scores: bool = False
    ) -> list[Score]:
        """Score several texts, each as `score_text` does; a text's score does not depend on the others."""
        from probeline.progress import progress

        return [
            self.score_text(text, system_prompt, return_token_scores)
            for text in progress(texts, "Scoring", len(texts), "text")
        ]
