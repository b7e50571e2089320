"""Means of a model's residual stream over spans of tokens, one game at a time.

Layer `L` is the residual stream after `L` decoder blocks: 0 is what enters the first block (the
embeddings), and the model's depth is what leaves the last one, before the final norm. Only the blocks up to
the deepest layer asked for are run, and no logits are computed.

What is computed for a game depends on that game alone, bit for bit. The number of rows in a matrix product
changes its rounding, so a batch never mixes games, and a game's batches follow from its own sequences. Bits
also depend on the device, the number type, the thread count and the token budget: these are arguments, and
nothing here adapts them to the amount of work, except that a GPU without enough memory gets smaller batches.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probeline.errors import ProbelineError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

Tokens = tuple[int, ...]
Unit = tuple[Tokens, list[tuple[int, range]]]  # an input, and which of its spans give which rows


@dataclass(frozen=True)
class SpannedSequence:
    """The tokens of a chat, and the spans of them whose means are wanted (none is empty)."""

    input_ids: Tokens
    spans: tuple[range, ...]


class ActivationEngine:
    """A loaded model, and the forward passes through it.

    Attributes:
        layers: the layers that are measured.
        hidden_size: width of the residual stream.
        device_name: `cpu`, or what the CUDA device calls itself.
        smallest_token_budget: the one given, or less if the GPU's memory did not hold such batches.
        tokens: how many tokens went through the model so far, padding not counted.
    """

    def __init__(
        self,
        model: Path,
        layers: Sequence[int],
        dtype: str,
        threads: int,
        token_budget: int,
        device: str = "auto",
    ) -> None:
        """Load the blocks that are needed.

        Args:
            model: a folder with config and safetensors.
            layers: the layers wanted, ascending and within the model's depth.
            dtype: number type of the forward pass, `float32` or `bfloat16`; means are float32 always.
            threads: processor threads of each operation.
            token_budget: most tokens in one batch, padding included; a longer sequence is a batch alone.
            device: `cpu`, `cuda`, or `auto`: CUDA where there is a device.
        """
        import torch
        from transformers import AutoModel
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()  # it lists the head, which is left out on purpose
        torch.set_num_threads(threads)
        self.layers = tuple(layers)
        self.tokens = 0
        self._token_budget = self.smallest_token_budget = token_budget
        self._device = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        self.device_name: str = "cpu"
        if self._device == "cuda":
            self.device_name = torch.cuda.get_device_name()
            # On a processor all of these operations repeat bit for bit at a fixed thread count.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
        loaded, report = AutoModel.from_pretrained(
            model,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        if report["missing_keys"]:
            raise ProbelineError(
                f"The model {model} lacks weights ({', '.join(sorted(report['missing_keys'])[:3])}, …): "
                "random numbers would stand in for them. Delete it to have it fetched again."
            )
        config, blocks = loaded.config.get_text_config(), _decoder_blocks(loaded)
        # The deeper blocks are gone before anything is moved or run; layer 0 is read on entry to the first.
        del blocks[max(1, self.layers[-1]) :]
        config.num_hidden_layers = len(blocks)
        self._model = loaded.eval().requires_grad_(False).to(self._device)
        self.hidden_size: int = config.hidden_size
        self._add_hooks(blocks)

    def game_means(self, sequences: Iterable[SpannedSequence]) -> np.ndarray:
        """The means of one game's spans; equal inputs are run once.

        Args:
            sequences: all sequences of the game.

        Returns:
            float32, [spans, layers, width], the spans in the order of the sequences.

        Raises:
            ProbelineError: a single sequence does not fit in the memory of the GPU.
        """
        import torch

        owners: dict[Tokens, list[tuple[int, range]]] = {}
        rows = 0
        for sequence in sequences:
            # Attention is causal: what comes after the last span changes nothing in it.
            needed = sequence.input_ids[: max((span.stop for span in sequence.spans), default=0)]
            for span in sequence.spans:
                owners.setdefault(needed, []).append((rows, span))
                rows += 1
        # Longest first: little padding, and an order that is the game's own, whatever order came in.
        units = sorted(owners.items(), key=lambda unit: (-len(unit[0]), unit[0]))
        means = np.empty((rows, len(self.layers), self.hidden_size), dtype=np.float32)
        budget = self._token_budget
        while batch := self._first_beyond_memory(units, budget, means):
            longest = len(batch[0][0])
            if len(batch) == 1:
                raise ProbelineError(
                    f"The GPU's memory does not hold one sequence of {longest} tokens at this model's "
                    "size: use a larger GPU, or leave the deepest layers out of activations.layers."
                )
            # For this game only, so that later games do not depend on it.
            while budget >= len(batch) * longest:
                budget //= 2
            self.smallest_token_budget = min(self.smallest_token_budget, budget)
            torch.cuda.empty_cache()
            log.warning("CUDA is out of memory: trying batches of %d tokens for this game", budget)
        self.tokens += sum(len(tokens) for tokens, _ in units)
        return means

    def _first_beyond_memory(
        self, units: Sequence[Unit], budget: int, means: np.ndarray
    ) -> list[Unit] | None:
        """Run all batches; stop at the first that the GPU's memory does not hold, and return it."""
        import torch

        for batch in _batches(units, budget):
            try:
                self._run(batch, means)
            except torch.OutOfMemoryError:
                return batch
        return None

    def _run(self, batch: Sequence[Unit], means: np.ndarray) -> None:
        """One forward pass, padded on the right: causal attention never sees the padding."""
        import torch

        longest = len(batch[0][0])
        input_ids = np.zeros((len(batch), longest), dtype=np.int64)
        rows: list[int] = []
        masked: list[int] = []
        first_masked: list[int] = []
        for line, (tokens, spans) in enumerate(batch):
            input_ids[line, : len(tokens)] = tokens
            for row, span in spans:
                rows.append(row)
                first_masked.append(len(masked))
                masked.extend(range(line * longest + span.start, line * longest + span.stop))
        self._masked = torch.tensor(masked, device=self._device)
        self._first_masked = torch.tensor(first_masked, device=self._device)
        self._means = torch.empty(len(rows), len(self.layers), self.hidden_size, device=self._device)
        with torch.inference_mode():
            self._model(input_ids=torch.from_numpy(input_ids).to(self._device), use_cache=False)
        means[rows] = self._means.cpu().numpy()

    def _add_hooks(self, blocks: "torch.nn.ModuleList") -> None:
        for column, layer in enumerate(self.layers):
            if layer == 0:
                blocks[0].register_forward_pre_hook(partial(self._before_block, column), with_kwargs=True)
            else:
                blocks[layer - 1].register_forward_hook(partial(self._after_block, column))

    def _before_block(self, column: int, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._measure(column, args[0] if args else kwargs["hidden_states"])

    def _after_block(self, column: int, block: Any, args: tuple[Any, ...], output: Any) -> None:
        self._measure(column, output[0] if isinstance(output, tuple) else output)

    def _measure(self, column: int, hidden: "torch.Tensor") -> None:
        """Keep the means of one layer, hidden: [batch, tokens, width]; summed in float32."""
        from torch.nn.functional import embedding_bag

        # A bag of embeddings is the mean of some rows of a table: without a copy of those rows.
        table = hidden.reshape(-1, self.hidden_size).float()
        self._means[:, column] = embedding_bag(self._masked, table, self._first_masked, mode="mean")


def _decoder_blocks(model: Any) -> "torch.nn.ModuleList":
    """The list of a model's decoder blocks, whatever the architecture calls it."""
    import torch

    depth = model.config.get_text_config().num_hidden_layers
    for module in model.get_decoder().modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return module
    raise ProbelineError(
        f"The architecture {model.config.model_type} has no list of {depth} decoder blocks: activations can "
        "only be read from decoder-only language models."
    )


def _batches(units: Sequence[Unit], budget: int) -> Iterator[list[Unit]]:
    """Consecutive units, longest first, as many as fit into `budget` tokens with their padding."""
    batch: list[Unit] = []
    for unit in units:
        if batch and (len(batch) + 1) * len(batch[0][0]) > budget:
            yield batch
            batch = []
        batch.append(unit)
    if batch:
        yield batch
