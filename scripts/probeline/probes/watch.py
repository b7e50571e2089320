"""A probe that scores a model's words while the model generates them, in the same forward passes.

    live = LiveProbe.load(Path("results/probes/collusion_lr_l22"))
    answer = live.watch("What do you say?", on_token=lambda token: print(token.text, token.score, token.mean))

A model of one's own, with a loop of one's own around `generate`, is watched by a `Monitor`. A token is scored
when the model reads it, which is one step after it was chosen: no pass is added but one for the last token.
"""

import math
from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probeline.errors import ProbelineError
from probeline.models.render import UnrenderableChatError, load_tokenizer, render_chat
from probeline.probes.detector import Detector, load_detector, reads_all_layers
from probeline.probes.score import (
    Score,
    chat,
    check_model,
    model_folder,
    read_model,
    read_probe,
)

if TYPE_CHECKING:
    import torch

# What would be generated where the answer begins.
ANSWER = "x"
# Settings of `generate` under which a token that was run may not be one that is kept, or not a generated one,
# and what each is where it is off.
UNSCORABLE = {
    "num_beams": 1,
    "guidance_scale": 1,
    "prefill_chunk_size": None,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
    "use_mtp": None,
    "assistant_model": None,
    "custom_generate": None,
}
# What torch takes as a seed.
SEEDS = 2**64


@dataclass(frozen=True)
class TokenScore:
    """What a probe says of one generated token.

    Attributes:
        sequence: its row in the batch.
        token: its id.
        text: what has become readable with it; a token that ends within a character has none yet.
        score: of its own activation.
        mean: the score of the sequence so far, as `score_text` would give it; None as long as there is only
            white space.
    """

    sequence: int
    token: int
    text: str
    score: float
    mean: float | None


class Monitor:
    """Scores each token that a model generates; attached to the model as long as the `with` block lasts.

        with Monitor(model, detector, tokenizer, on_token=print) as monitor:
            sequences = monitor.generate(**tokenizer(prompts, return_tensors="pt", padding=True))
        monitor.scores()

    Within the block, the model's own `generate` is watched as well; then the last token is left unscored
    unless it ends the sequence, as nothing is run after it. A prompt (whatever comes as several tokens, or
    before all others) begins anew. The model has to keep its keys and values (`use_cache`), and may try no
    beams, drafts or guidance, nor read a prompt in chunks: `Monitor.generate` refuses them, the model's own
    `generate` cannot be asked.

    Attributes:
        tokens: for each sequence of the batch, its tokens so far.
    """

    def __init__(
        self,
        model: Any,
        detector: Detector,
        tokenizer: Any,
        on_token: Callable[[TokenScore], None] | None = None,
        ends: Collection[int] | None = None,
    ) -> None:
        """Prepare the detector for the model.

        Args:
            model: a decoder with head, of transformers.
            detector: trained on its activations.
            tokenizer: the model's, a fast one.
            on_token: called with each token as soon as it is scored.
            ends: ids of tokens that end a sequence and are no part of it; by default those of the model's
                generation config. `Monitor.generate` knows those that its settings name, too.

        Raises:
            ProbelineError: another width or fewer layers than the detector was trained on.
        """
        from probeline.activations.loading import decoder_blocks

        config = model.config.get_text_config()
        detector.require_width(config.hidden_size, config.model_type)
        self._blocks = decoder_blocks(model)
        deepest = max(detector.layers)
        if deepest > len(self._blocks):
            raise ProbelineError(
                f"The probe reads layer {deepest}; the model has {len(self._blocks)} layers."
            )
        self.tokens: list[list[TokenScore]] = []
        self._model, self._detector, self._tokenizer, self._on_token = model, detector, tokenizer, on_token
        self._given_ends = set(ends or ())
        self._ends = _end_ids(model.generation_config) if ends is None else self._given_ends
        self._maps = {
            layer: _ScoreMap(detector, number, _device(self._blocks[max(layer, 1) - 1]))
            for number, layer in enumerate(detector.layers)
        }
        self._rest = _Rest(detector) if reads_all_layers(detector) else None
        self._linear = all(head.hidden_weight is None for head in detector.heads)
        self._blank: dict[int, bool] = {}
        self._handles: list[Any] = []
        self._running: list[_Running] = []
        self._ids: torch.Tensor | None = None
        self._parts: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []

    def __enter__(self) -> "Monitor":
        if self._handles:
            raise ProbelineError("This monitor is attached already.")
        self._handles = [self._model.register_forward_pre_hook(self._before_pass, with_kwargs=True)]
        for layer in sorted(self._maps):
            if layer == 0:
                hook = partial(self._before_block, layer)
                self._handles.append(self._blocks[0].register_forward_pre_hook(hook, with_kwargs=True))
            else:
                hook = partial(self._after_block, layer)
                self._handles.append(self._blocks[layer - 1].register_forward_hook(hook))
        return self

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def generate(self, input_ids: "torch.Tensor", attention_mask: "torch.Tensor", **settings: Any) -> Any:
        """Generate as the model does, and score all that is generated.

        Args:
            input_ids: int64 [batch, tokens], filled up on the left.
            attention_mask: [batch, tokens], 0 at the filler.
            settings: of the model's `generate`.

        Returns:
            int64 [batch, tokens]: the prompts and what follows them, `num_return_sequences` rows for each.

        Raises:
            ProbelineError: beams, drafts, guidance or a prompt in chunks, which run tokens that are not kept
                or not generated, whether set here or in a generation config; or not attached.
        """
        if not self._handles:
            raise ProbelineError("The monitor is not attached: use `with Monitor(...) as monitor:`.")
        effective = _effective(self._model, settings)
        _check_scorable(effective, settings)
        before, self._ends = self._ends, self._given_ends | _end_ids(effective)
        try:
            return self._generate(input_ids, attention_mask, settings)
        finally:
            self._ends = before

    def _generate(
        self, input_ids: "torch.Tensor", attention_mask: "torch.Tensor", settings: dict[str, Any]
    ) -> Any:
        """Generate, and run the last token as well."""
        import torch

        found = self._model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            **(settings | {"return_dict_in_generate": True}),
        )
        attention_mask = attention_mask.repeat_interleave(len(found.sequences) // len(input_ids), dim=0)
        last = found.sequences[:, -1:]
        open_ended = [
            running.open and token not in self._ends
            for running, token in zip(self._running, last[:, 0].tolist(), strict=True)
        ]
        if found.sequences.shape[1] > input_ids.shape[1] and any(open_ended):
            new = attention_mask.new_ones(len(last), found.sequences.shape[1] - input_ids.shape[1])
            mask = torch.cat([attention_mask, new], dim=1)
            with torch.no_grad():
                self._model(
                    input_ids=last,
                    attention_mask=mask,
                    position_ids=mask.cumsum(1)[:, -1:] - 1,
                    past_key_values=found.past_key_values,
                    use_cache=True,
                )
        return found.sequences

    def scores(self) -> list[Score]:
        """For each sequence its score over what was generated, as `score_text` would give it, with tokens.

        Raises:
            ProbelineError: a sequence of white space only, or of nothing, or a score that is not finite.
        """
        import numpy as np

        found = []
        for number, tokens in enumerate(self.tokens):
            mean = tokens[-1].mean if tokens else None
            if mean is None:
                raise ProbelineError(f"There is nothing to score: answer {number + 1} holds no word.")
            _require_finite([mean, *(token.score for token in tokens)], self._detector)
            found.append(
                Score(
                    score=mean,
                    probability=float(self._detector.probability(np.array([mean]))[0]),
                    label=int(mean >= self._detector.threshold),
                    tokens=_whole(tokens),
                    token_scores=tuple(token.score for token in tokens),
                )
            )
        return found

    def _before_pass(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if kwargs.get("use_cache") is False:
            raise ProbelineError("A monitor needs the model's cache: generate with use_cache=True.")
        cache = kwargs.get("past_key_values")
        self._parts, self._values, self._ids = [], [], None
        if ids is None or ids.shape[1] > 1 or cache is None or cache.get_seq_length() == 0:
            self._begin(0 if ids is None else len(ids))
            return
        if not self._running:
            self._begin(len(ids))
        self._ids = ids

    def _begin(self, sequences: int) -> None:
        self._running = [_Running(self._tokenizer) for _ in range(sequences)]
        self.tokens = [[] for _ in range(sequences)]

    def _before_block(self, layer: int, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._measure(layer, args[0] if args else kwargs["hidden_states"])

    def _after_block(self, layer: int, block: Any, args: tuple[Any, ...], output: Any) -> None:
        self._measure(layer, output[0] if isinstance(output, tuple) else output)

    def _measure(self, layer: int, hidden: "torch.Tensor") -> None:
        """Score one layer, hidden: [batch, 1, width]; after the deepest one, the token."""
        if self._ids is None:
            return
        values = hidden[:, -1].float()
        self._parts.append(self._maps[layer](values))
        if not self._linear:
            self._values.append(values)
        if len(self._parts) == len(self._maps):
            self._record(self._ids[:, 0].tolist())

    def _record(self, ids: list[int]) -> None:
        """Keep a pass's scores, one for each sequence that has not ended."""
        import numpy as np

        scores = self._parts[0]
        for other in self._parts[1:]:
            scores = scores + other.to(scores.device)
        if self._rest is not None:
            scores = self._rest(scores)
        for number, (token, score) in enumerate(zip(ids, scores.tolist(), strict=True)):
            running = self._running[number]
            running.open = running.open and token not in self._ends
            if not running.open:
                continue
            # The mean of a linear probe's scores is its score of the mean; of another one it is not.
            part: Any = (
                score
                if self._linear
                else np.stack([values[number].cpu() for values in self._values], dtype=np.float64)
            )
            running.add(part, self._is_blank(token))
            found = TokenScore(number, token, running.decode(token), score, self._mean(running))
            self.tokens[number].append(found)
            if self._on_token is not None:
                self._on_token(found)

    def _is_blank(self, token: int) -> bool:
        """Whether a token is white space only."""
        if token not in self._blank:
            self._blank[token] = not self._tokenizer.decode([token]).strip()
        return self._blank[token]

    def _mean(self, running: "_Running") -> float | None:
        """The score of a sequence so far."""
        mean = running.mean()
        if mean is None or self._linear:
            return mean
        by_depth = sorted(self._maps)
        columns = [by_depth.index(layer) for layer in self._detector.layers]
        return float(self._detector.scores(mean[None, columns])[0])


class _ScoreMap:
    """One layer's part of a score: scaler, head and the scaling of its scores, folded into as few products.

    Of an mlp over all layers side by side, it is the layer's part [n, hidden] of what its hidden layer gets.

    Args:
        detector: whose part it is.
        number: of the layer in it.
        device: where the layer's activations are.
    """

    def __init__(self, detector: Detector, number: int, device: "torch.device") -> None:
        import torch

        def tensor(values: Any) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        mean, scale = detector.scaler_mean[number], detector.scaler_scale[number]
        self._hidden: tuple[torch.Tensor, torch.Tensor] | None = None
        self._part: tuple[torch.Tensor, torch.Tensor] | None = None
        if reads_all_layers(detector):
            whole = detector.heads[0].hidden_weight
            assert whole is not None
            weight = whole.reshape(*detector.scaler_scale.shape, -1)[number] / scale[:, None]
            self._part = tensor(weight), tensor(-mean @ weight)
            return
        head = detector.heads[number]
        share = 1 / (detector.score_scale[number] * len(detector.layers))
        bias = (head.bias - detector.score_mean[number]) * share
        direction = head.direction * share
        if head.hidden_weight is not None and head.hidden_bias is not None:
            weight = head.hidden_weight / scale[:, None]
            self._hidden = tensor(weight), tensor(head.hidden_bias - mean @ weight)
        else:
            direction = direction / scale
            bias -= mean @ direction
        self._direction, self._bias = tensor(direction), tensor(bias)

    def __call__(self, values: "torch.Tensor") -> "torch.Tensor":
        """Scores [n] of activations [n, width], or their part [n, hidden]."""
        import torch

        if self._part is not None:
            weight, bias = self._part
            return torch.addmm(bias, values, weight)
        if self._hidden is not None:
            weight, bias = self._hidden
            values = torch.addmm(bias, values, weight).relu_()
        return torch.addmv(self._bias, values, self._direction)


class _Rest:
    """What makes a score of the layers' parts together: the rest of an mlp over all layers side by side.

    Args:
        detector: that has one head for several layers.
    """

    def __init__(self, detector: Detector) -> None:
        import torch

        (head,) = detector.heads
        scale = float(detector.score_scale[0])
        self._hidden_bias = torch.tensor(head.hidden_bias, dtype=torch.float32)
        self._direction = torch.tensor(head.direction / scale, dtype=torch.float32)
        self._bias = (head.bias - float(detector.score_mean[0])) / scale

    def __call__(self, parts: "torch.Tensor") -> "torch.Tensor":
        """Scores [n] of the sum of the layers' parts [n, hidden]."""
        hidden_bias, direction = (each.to(parts.device) for each in (self._hidden_bias, self._direction))
        return (parts + hidden_bias).relu() @ direction + self._bias


class _Running:
    """A sequence so far: the mean of what was added, but for white space at its ends, as in `token_span`.

    Attributes:
        open: no token has ended it yet.
    """

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers.decoders import DecodeStream

        self.open = True
        self._tokenizer, self._stream = tokenizer.backend_tokenizer, DecodeStream()
        self._sum: Any = 0.0
        self._since_word: Any = 0.0
        self._count = self._count_since_word = 0

    def add(self, part: Any, blank: bool) -> None:
        """Add a score, or activations."""
        if blank and not self._count:
            return
        self._since_word = self._since_word + part
        self._count_since_word += 1
        if not blank:
            self._sum = self._sum + self._since_word
            self._count += self._count_since_word
            self._since_word, self._count_since_word = 0.0, 0

    def mean(self) -> Any:
        """The mean, None before the first word."""
        return self._sum / self._count if self._count else None

    def decode(self, token: int) -> str:
        """What has become readable with a token."""
        return self._stream.step(self._tokenizer, token) or ""


@dataclass(frozen=True)
class LiveProbe:
    """A detector together with the whole model that it watches.

    Attributes:
        detector: the trained detector.
        facts: the probe's manifest.
        tokenizer: of the model.
        model: a decoder with head.
        max_length: most tokens that the model takes.
    """

    detector: Detector
    facts: dict[str, Any]
    tokenizer: Any
    model: Any
    max_length: int

    @classmethod
    def load(
        cls, directory: Path, model: Path | None = None, threads: int = 1, adapter: Path | None = None
    ) -> "LiveProbe":
        """Load a probe and its model, as `Probe.load` does."""
        facts = read_probe(directory)
        model = model_folder(facts, model)
        model_facts = read_model(model)
        detector = load_detector(directory)
        check_model(detector, facts, model, model_facts, adapter)
        import torch

        torch.set_num_threads(threads)
        loaded = _load_model(model, facts["dtype"], adapter)
        return cls(detector, facts, load_tokenizer(model), loaded, model_facts["max_length"])

    def watch(
        self,
        prompt: str,
        system_prompt: str = "",
        max_new_tokens: int = 100,
        seed: int | None = None,
        on_token: Callable[[TokenScore], None] | None = None,
    ) -> Score:
        """Let the model answer, and score the answer while it is generated.

        Args:
            prompt: the user's message.
            system_prompt: the system message before it; none when empty.
            max_new_tokens: most tokens of the answer.
            seed: draw the tokens with it, from 0 to 2^64 - 1; by default each is the likeliest one.
            on_token: called with each token as soon as it is scored.

        Returns:
            The score of the answer, with its tokens.

        Raises:
            ProbelineError: a prompt that the model cannot be shown, a seed out of range, or an answer without
                a word.
        """
        import torch

        if seed is not None and not 0 <= seed < SEEDS:
            raise ProbelineError(f"The seed is {seed}; give a whole number from 0 to {SEEDS - 1}.")

        inputs = self._inputs(prompt, system_prompt)
        room = self.max_length - inputs["input_ids"].shape[1]
        if not 1 <= max_new_tokens <= room:
            raise ProbelineError(
                f"max_new_tokens is {max_new_tokens}; {self.detector.model} takes {self.max_length} tokens, "
                f"so after this prompt at least 1 and at most {max(room, 0)} can follow."
            )
        if seed is not None:
            torch.manual_seed(seed)
        with Monitor(self.model, self.detector, self.tokenizer, on_token) as monitor:
            monitor.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=seed is not None)
        return monitor.scores()[0]

    def _inputs(self, prompt: str, system_prompt: str) -> dict[str, "torch.Tensor"]:
        """The chat up to the answer, in just the form in which `score_text` shows it."""
        try:
            rendered = render_chat(self.tokenizer, chat(ANSWER, system_prompt, prompt))
        except UnrenderableChatError as error:
            raise ProbelineError(
                f"The prompt cannot be shown to {self.detector.model}: it {error}."
            ) from error
        # A space before the answer is a part of its first token.
        before = rendered.text[: rendered.message_starts[-1]].rstrip(" ")
        encoding = self.tokenizer(
            before, add_special_tokens=not self.tokenizer.chat_template, return_tensors="pt", verbose=False
        )
        return {name: encoding[name].to(self.model.device) for name in ("input_ids", "attention_mask")}


class Suspicion:
    """Ranks a game's players by the mean of their scores so far.

    Example:
        >>> suspicion = Suspicion()
        >>> for player, score in [("Ann", 0.5), ("Ben", 2.0), ("Ann", 1.5), ("Cem", -1.0)]:
        ...     mean = suspicion.update(player, score)
        >>> suspicion.ranking()
        [('Ben', 2.0), ('Ann', 1.0), ('Cem', -1.0)]
    """

    def __init__(self) -> None:
        self._totals: dict[str, tuple[float, int]] = {}

    def update(self, player: str, score: float) -> float:
        """Add the score of what a player has said; returns the player's mean so far."""
        total, count = self._totals.get(player, (0.0, 0))
        self._totals[player] = total, count = total + score, count + 1
        return total / count

    def ranking(self) -> list[tuple[str, float]]:
        """Players with their means, the most suspected first; ties by name."""
        means = [(player, total / count) for player, (total, count) in self._totals.items()]
        return sorted(means, key=lambda entry: (-entry[1], entry[0]))


def _effective(model: Any, settings: dict[str, Any]) -> Any:
    """The generation config that `generate` makes of its keywords, of the config given and of the model's."""
    from transformers import GenerationConfig

    effective = deepcopy(settings.get("generation_config")) or GenerationConfig()
    effective.update(**model.generation_config.to_dict(), defaults_only=True, allow_custom_entries=True)
    effective.update(**settings)
    return effective


def _check_scorable(effective: Any, settings: dict[str, Any]) -> None:
    for name, off in UNSCORABLE.items():
        value = getattr(effective, name, settings.get(name))
        if value is not None and value is not False and value != off:
            raise ProbelineError(
                f"A monitor scores one token at a time: leave {name} out, or set {name}={off} if a "
                "generation config has it."
            )


def _end_ids(config: Any) -> set[int]:
    """The tokens of a generation config that end a sequence, and what fills up the row behind them."""
    import torch

    named = [value for value in (config.eos_token_id, config.pad_token_id) if value is not None]
    return {token for value in named for token in torch.as_tensor(value).flatten().tolist()}


def _whole(tokens: list[TokenScore]) -> tuple[str, ...]:
    """The texts of tokens; a character that several make up stands with the first of them."""
    texts = [""] * len(tokens)
    first = 0
    for number, token in enumerate(tokens):
        if token.text:
            texts[first] = token.text
            first = number + 1
    return tuple(texts)


def _load_model(model: Path, dtype: str, adapter: Path | None) -> Any:
    """A decoder with its head, and its adapter, on the GPU if there is one."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        model,
        dtype=getattr(torch, dtype),
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    if adapter is not None:
        from peft import PeftModel

        # That it fits was checked when the probe was trained: it is the same one, by its digest.
        loaded = PeftModel.from_pretrained(loaded, str(adapter)).get_base_model()
    try:
        return loaded.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")
    except torch.OutOfMemoryError as error:
        raise ProbelineError(
            f"The GPU's memory does not hold the model {model.name} in {dtype}. Use a larger GPU, or the "
            "processor: set CUDA_VISIBLE_DEVICES to nothing."
        ) from error


def _device(block: Any) -> "torch.device":
    """Where a block's activations are."""
    device: torch.device = next(block.parameters()).device
    return device


def _require_finite(scores: Sequence[float], detector: Detector) -> None:
    """Refuse scores that say nothing.

    Raises:
        ProbelineError: one is NaN or infinite.
    """
    wrong = next((score for score in scores if not math.isfinite(score)), None)
    if wrong is not None:
        raise ProbelineError(
            f"A score is {wrong}, not a finite number: the weights of {detector.model} or the numbers of the "
            "probe are damaged or too large."
        )
