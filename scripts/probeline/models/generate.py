"""Completions of a model and of adapters on it, from one load, each independent of what runs beside it.

generator = Generator(Path("data/models/smollm2-135m"))
generator.load_adapter(Path("results/adapters/mafia_sft"))
answers = generator.generate([[{"role": "user", "content": "Who is it?"}]], seed=0, max_new_tokens=64)
generator.load_adapter(None)  # the bare base again, bit for bit
"""

import gc
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probeline.activations.machine import processor_has_bfloat16
from probeline.digests import canonical_digest, unit_interval
from probeline.errors import ProbelineError
from probeline.models.adapter import adapter_files, check_base
from probeline.models.render import (
    Messages,
    UnrenderableChatError,
    answer_tokens,
    load_tokenizer,
    prompt_tokens,
)
from probeline.progress import progress

if TYPE_CHECKING:
    import torch

    from probeline.models.rows import Memory

log = logging.getLogger(__name__)

DTYPES = ("auto", "float32", "bfloat16")
ROWS_ON_PROCESSOR, ROWS_ON_GPU = 8, 32
"""Sequences side by side in each step, always as many: the number decides about the bits."""


@dataclass
class _Sequence:
    """A completion on its way.

    Attributes:
        prompt: its tokens.
        key: what its draws are seeded with.
        memory: keys and values so far.
        tokens: that were chosen.
    """

    prompt: list[int]
    key: str
    memory: "Memory"
    tokens: list[int] = field(default_factory=list)


class Generator:
    """A base model in memory, and at most one adapter on it at a time.

    The base's weights are never written to: an adapter goes on a copy of the model's structure that shares
    them. So after any number of adapters, the base computes the same bits as before the first.

    Attributes:
        model: the base's folder.
        adapter: the folder of the adapter that is on it now, or None.
        rows: completions that run side by side; 1 where the bits would depend on their company.
    """

    def __init__(
        self, model: Path, dtype: str = "auto", threads: int = 1, *, merged: Sequence[Path] = ()
    ) -> None:
        """Load the base.

        Args:
            model: a folder with config, safetensors and tokenizer.
            dtype: number type of the weights, `float32`, `bfloat16`, or `auto`: bfloat16 where the hardware
                computes in it.
            threads: processor threads of each operation; they decide about bits.
            merged: adapters that are merged into the base, one after the other: what an adapter was
                trained on that was trained on a merged base.

        Raises:
            ProbelineError: the folder holds no whole model, an adapter does not fit, or the architecture
                cannot be run row by row.
        """
        import torch

        if dtype not in DTYPES:
            raise ProbelineError(f"dtype is {dtype!r}; give one of {', '.join(DTYPES)}.")
        torch.set_num_threads(threads)
        if not (model / "config.json").is_file():
            raise ProbelineError(
                f"{model} holds no model: it lacks config.json. Models of the config are made by "
                "`snakemake --cores 4 data/models/<name>`."
            )
        self.model, self._merged = model, tuple(merged)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        if dtype == "auto":
            dtype = "bfloat16" if self._device == "cuda" or processor_has_bfloat16() else "float32"
        self._tokenizer = load_tokenizer(model)
        self._base = self._load(getattr(torch, dtype), merged)
        self._max_length = getattr(self._base.config.get_text_config(), "max_position_embeddings", None)
        self._ends = self._end_ids()
        self.load_adapter(None)

    def close(self) -> None:
        """Let go of the model, as of two at once the memory may hold one only; nothing is asked any more."""
        import torch

        del self._base, self._adapted
        # Modules that are spread over several GPUs refer to themselves.
        gc.collect()
        if self._device == "cuda":
            torch.cuda.empty_cache()

    def _load(self, dtype: "torch.dtype", merged: Sequence[Path]) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        from probeline.models import loading, rows

        if self._device == "cuda":
            torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            loaded = loading.load_weights(AutoModelForCausalLM, self.model, dtype, self._device, rows.NAME)
        except (KeyError, ValueError) as error:
            if rows.NAME not in str(error):
                raise
            raise ProbelineError(rows.unsupported(self.model.name)) from error
        if loading.depends_on_the_row(loaded.config.get_text_config()):
            raise ProbelineError(rows.unsupported(type(loaded).__name__))
        for number, adapter in enumerate(merged):
            adapter_files(adapter)
            check_base(adapter, self.model, merged[:number])
            loaded = loading.put_adapter(loaded, adapter).merge_and_unload()
        spread = loading.needs_several_gpus(self.model, dtype, self._device)
        loaded.eval().requires_grad_(False)
        try:
            return loaded if spread else loaded.to(self._device)
        except torch.OutOfMemoryError as error:
            raise ProbelineError(
                f"The GPU's memory does not hold the model {self.model.name}. Use a larger GPU, or the "
                "processor: set CUDA_VISIBLE_DEVICES to nothing."
            ) from error

    def load_adapter(self, path: Path | None) -> None:
        """Put an adapter on the base in the place of the one that is there; None for the bare base.

        Args:
            path: the folder of any PEFT LoRA adapter of this base.

        Raises:
            ProbelineError: it is no such adapter, could run code of others, or was trained on another base.
                The one before stays.
        """
        from probeline.models.loading import put_adapter, sharing_copy

        model = self._base
        if path is not None:
            adapter_files(path)
            check_base(path, self.model, self._merged)
            model = put_adapter(sharing_copy(self._base, path), path).get_base_model()
            model.eval().requires_grad_(False)
        self._adapted, self.adapter = model, path
        self.rows = ROWS_ON_GPU if self._device == "cuda" else ROWS_ON_PROCESSOR
        if not self._rows_agree():
            log.warning(
                "%s computes other bits for a text beside others: completions are generated one by one.",
                self.model.name,
            )
            self.rows = 1

    def generate(
        self,
        prompts: Sequence[Messages],
        *,
        seed: int,
        max_new_tokens: int,
        temperature: float = 0.0,
    ) -> list[str]:
        """The completions of some chats, in their order.

        Each depends on its own prompt and on the seed alone, bit for bit: not on the other prompts, on their
        number or order. Equal prompts have equal completions.

        Args:
            prompts: chats up to the assistant's turn.
            seed: of the draws, whatever it is at temperature 0.
            max_new_tokens: most tokens of a completion; one that ends its turn before is shorter.
            temperature: what logits are divided by before a token is drawn; 0 takes the likeliest.

        Raises:
            ProbelineError: a prompt that cannot be shown to the model, or leaves no room; a model that
                computes no numbers.
        """
        if max_new_tokens < 1:
            raise ProbelineError(f"max_new_tokens is {max_new_tokens}; give at least 1.")
        if not 0 <= temperature < float("inf"):
            raise ProbelineError(f"The temperature is {temperature}; give 0 (the likeliest) or more.")
        tokens = [self._prompt(number, prompt, max_new_tokens) for number, prompt in enumerate(prompts, 1)]
        wanted = {canonical_digest([ids, seed]): ids for ids in tokens}
        started, found = time.monotonic(), dict[str, list[int]]()
        for key, completion in progress(
            self._completions(wanted, max_new_tokens, temperature),
            "Generating",
            len(wanted),
            "completion",
            note=lambda: f"{sum(map(len, found.values())) / (time.monotonic() - started):.0f} tokens/s",
        ):
            found[key] = completion
        texts = {key: self._tokenizer.decode(ids, skip_special_tokens=True) for key, ids in found.items()}
        return [texts[canonical_digest([ids, seed])] for ids in tokens]

    def completion_losses(
        self, prompts: Sequence[Messages], completions: Sequence[str]
    ) -> list[tuple[float, int]]:
        """How unlikely given completions are: of each, the sum of -ln p over its tokens, and their number.

        The tokens are those of the answer as the chat template writes it, with the one that ends the turn.
        Each chat is run alone.

        Args:
            prompts: chats up to the assistant's turn.
            completions: what the assistant says there, one for each prompt.

        Raises:
            ProbelineError: a chat that cannot be shown to the model, or is too long; a model that computes
                no numbers.
        """
        import torch

        pairs = list(zip(prompts, completions, strict=True))
        losses = []
        for number, (prompt, completion) in enumerate(
            progress(pairs, "Measuring losses", len(pairs), "completion"), 1
        ):
            before = self._prompt(number, prompt, 0)
            answer = self._rendered(
                number, lambda p=prompt, c=completion: answer_tokens(self._tokenizer, p, c)
            )
            self._require_room(number, len(before) + len(answer))
            logits, _ = self._read([*before, *answer], len(answer) + 1)
            chosen = torch.tensor(answer, device=logits.device)
            likely = torch.log_softmax(logits[:-1].double(), dim=-1)
            losses.append((-float(likely.gather(1, chosen[:, None]).sum().cpu()), len(answer)))
        return losses

    def _prompt(self, number: int, messages: Messages, room: int) -> list[int]:
        """A prompt's tokens; `room` more must fit behind them."""
        if not messages:
            raise ProbelineError(f"Prompt {number} is empty: give at least one message.")
        ids = self._rendered(number, lambda: prompt_tokens(self._tokenizer, messages))
        self._require_room(number, len(ids) + room)
        return ids

    def _rendered(self, number: int, render: Any) -> list[int]:
        try:
            ids: list[int] = render()
        except UnrenderableChatError as error:
            raise ProbelineError(
                f"Prompt {number} cannot be shown to {self.model.name}: it {error}."
            ) from error
        return ids

    def _require_room(self, number: int, tokens: int) -> None:
        if self._max_length is not None and tokens > self._max_length:
            raise ProbelineError(
                f"Prompt {number} comes to {tokens} tokens with its completion; {self.model.name} takes "
                f"{self._max_length}. Shorten it, or ask for fewer tokens."
            )

    def _completions(
        self, wanted: dict[str, list[int]], most: int, temperature: float
    ) -> Iterator[tuple[str, list[int]]]:
        """Key and tokens of each completion, as they end; a place that becomes free is taken by the next."""
        waiting = iter(wanted.items())
        running: list[_Sequence | None] = [None] * self.rows
        while True:
            for place in range(self.rows):
                while running[place] is None and (entry := next(waiting, None)) is not None:
                    logits, memory = self._read(entry[1], 1, most)
                    sequence = _Sequence(entry[1], entry[0], memory)
                    if self._goes_on(sequence, _numbers(logits)[0], most, temperature):
                        running[place] = sequence
                    else:
                        yield sequence.key, sequence.tokens
            if not any(running):
                return
            expected = self._step(running)
            for place, step in enumerate(running):
                if step and not self._goes_on(step, expected[place], most, temperature):
                    running[place] = None
                    yield step.key, step.tokens

    def _goes_on(self, sequence: _Sequence, logits: np.ndarray, most: int, temperature: float) -> bool:
        """Choose the next token; whether there may be another after it."""
        token = _chosen(logits, temperature, f"{sequence.key}:{len(sequence.tokens)}")
        if token in self._ends:
            return False
        sequence.tokens.append(token)
        return len(sequence.tokens) < most

    def _read(self, ids: list[int], kept: int, more: int = 0) -> "tuple[torch.Tensor, Memory]":
        """One sequence through the model alone: the logits [kept, vocabulary] of its last tokens.

        Args:
            ids: its tokens.
            kept: of how many of them the logits are wanted.
            more: tokens that are to follow.
        """
        from probeline.models.rows import Memory

        memory = Memory(len(ids) + more)
        logits = self._forward([ids], [list(range(len(ids)))], [memory], kept)[0]
        self._require_numbers(logits)
        return logits, memory

    def _step(self, running: "Sequence[_Sequence | None]") -> np.ndarray:
        """Run the last token of each sequence: float32 [rows, vocabulary]."""
        ids = [[sequence.tokens[-1] if sequence else 0] for sequence in running]
        places = [[sequence.memory.tokens if sequence else 0] for sequence in running]
        memories = [sequence.memory if sequence else None for sequence in running]
        logits = self._forward(ids, places, memories, 1)[:, 0]
        self._require_numbers(logits[[place for place, sequence in enumerate(running) if sequence]])
        return _numbers(logits)

    def _require_numbers(self, logits: "torch.Tensor") -> None:
        """Refuse logits [rows, vocabulary] that nothing follows from; single ones may be minus infinity."""
        if not bool(logits.amax(dim=-1).isfinite().all()):
            raise ProbelineError(
                f"{self.adapter or self.model} computes no finite numbers: its training has diverged, or its "
                "weights are damaged. Make it anew, with a lower learning_rate where it is trained here."
            )

    def _forward(
        self, ids: list[list[int]], places: list[list[int]], memories: "list[Memory | None]", kept: int
    ) -> "torch.Tensor":
        """One pass: logits [rows, kept, vocabulary]; the memories grow."""
        import torch

        from probeline.models.rows import Rows

        device = self._adapted.device
        with torch.inference_mode():
            logits: torch.Tensor = self._adapted(
                input_ids=torch.tensor(ids, device=device),
                position_ids=torch.tensor(places, device=device),
                use_cache=False,
                logits_to_keep=kept,
                rows=Rows(memories),
            ).logits
        for memory in memories:
            if memory is not None:
                memory.tokens += len(ids[0])
        return logits

    def _rows_agree(self) -> bool:
        """Whether a row's logits are the same bits wherever it stands and whatever stands beside it."""
        from probeline.models.rows import Memory

        size = min(self._base.config.get_text_config().vocab_size, 1000)
        tokens = [[1 + 7 * row % (size - 1)] for row in range(self.rows)]

        def run(ids: list[list[int]]) -> np.ndarray:
            memories: list[Memory | None] = [Memory(1) for _ in ids]
            # What is no number agrees with itself here, and is refused when a text is run.
            return np.nan_to_num(_numbers(self._forward(ids, [[0]] * len(ids), memories, 1)[:, 0]))

        straight = run(tokens)
        turned, alike = run(tokens[1:] + tokens[:1]), run(tokens[:1] * self.rows)
        return bool((np.roll(turned, 1, axis=0) == straight).all() and (alike == straight[0]).all())

    def _end_ids(self) -> set[int]:
        """The tokens that end a completion."""
        settings = getattr(self._base, "generation_config", None)
        named = [getattr(settings, "eos_token_id", None), self._tokenizer.eos_token_id]
        return {
            int(token)
            for value in named
            if value is not None
            for token in (value if isinstance(value, list | tuple) else [value])
        }


def _numbers(logits: "torch.Tensor") -> np.ndarray:
    array: np.ndarray = logits.float().cpu().numpy()
    return array


def _chosen(logits: np.ndarray, temperature: float, key: str) -> int:
    """The likeliest token, or one that is drawn with a number that follows from the key alone."""
    if temperature == 0:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max()).cumsum()
    return int(np.searchsorted(weights, unit_interval(key) * weights[-1], side="right"))
