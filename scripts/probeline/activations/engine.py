"""A model's residual stream over spans of tokens, one game at a time.

Layer `L` is the residual stream after `L` decoder blocks: 0 is what enters the first block (the
embeddings), and the model's depth is what leaves the last one, before the final norm. Only the blocks up to
the deepest layer asked for are run, and no logits are computed.

What is computed for a game depends on that game alone, bit for bit. The number of rows in a matrix product
changes its rounding, so no product mixes games, and a game's packs follow from its own sequences. Bits also
depend on the device, the number type, the thread count and the token budget: these are arguments, and nothing
here adapts them to the amount of work, except that a GPU without enough memory gets smaller packs.
"""

import logging
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probeline.activations.memory import is_out_of_memory
from probeline.activations.packing import Limits, Pack, Tokens, packs
from probeline.errors import ProbelineError

if TYPE_CHECKING:
    import torch

    from probeline.activations.attention import Memory, PackedAttention

log = logging.getLogger(__name__)

# Queries of one block of attention, and products of queries and keys that run together: on a processor, few
# enough to stay in its caches.
BLOCK_ON_PROCESSOR, PAIRS_ON_PROCESSOR = 64, 2**18
BLOCK_ON_GPU, PAIRS_ON_GPU = 4096, 2**24
# Two short sequences, and another one of the first's length, with ids that every vocabulary has. How far the
# first may change what is measured in the second: routing to experts may round otherwise, and no more.
FIRST, OTHER_FIRST, SECOND = (5, 5, 7, 6, 8, 5), (6, 8, 5, 5, 6, 7), (9, 6, 5, 8, 7, 10, 11)
MOST_LEAKED = 0.02
# What precedes a sequence's first span is run alone, and once for all games, if it is at most this long: the
# two lines before a statement without context. Longer ones are a game's own.
LONGEST_OPENING = 64
MOST_OPENINGS = 256


class BeyondRangeError(ProbelineError):
    """Activations that their number type cannot hold."""


@dataclass(frozen=True)
class SpannedSequence:
    """The tokens of a chat, and the spans of them that are measured (none is empty).

    Attributes:
        input_ids: the tokens.
        spans: those that decide what of the chat is run as its opening.
        besides: spans that are measured on the way. They change no bit of `spans`, unless one lies in the
            opening, which then ends before it.
    """

    input_ids: Tokens
    spans: tuple[range, ...]
    besides: tuple[range, ...] = ()

    @property
    def measured(self) -> tuple[range, ...]:
        """All spans, those besides last."""
        return self.spans + self.besides

    @property
    def stop(self) -> int:
        """One past the last token that is measured."""
        return max((span.stop for span in self.measured), default=0)


@dataclass(frozen=True)
class GameActivations:
    """What was measured in one game.

    Attributes:
        means: [spans, layers, width], means over each span, in the order of the sequences and of what is
            measured in each.
        tokens: [tokens, token layers, width], every token of the spans, span after span.
    """

    means: np.ndarray
    tokens: np.ndarray

    def in_order(self, order: Sequence[int], lengths: Sequence[int]) -> "GameActivations":
        """The same with its spans in another order.

        Args:
            order: numbers of the spans; others are left out.
            lengths: of each span, in the present order.
        """
        blocks = np.split(self.tokens, np.cumsum(lengths)[:-1]) if self.tokens.size else []
        tokens = np.concatenate([blocks[number] for number in order]) if blocks else self.tokens
        return GameActivations(self.means[order], tokens)


@dataclass(frozen=True)
class _Row:
    """A pack's part of a game.

    Attributes:
        spans: numbers of the spans that lie in it.
        masked: places in the row of all their tokens, span after span.
        first_masked: for each span, where in `masked` its tokens begin.
    """

    pack: Pack
    spans: list[int]
    masked: list[int]
    first_masked: list[int]


@dataclass(frozen=True)
class _Buffers:
    """Where the layers of one row leave what they measure, in main memory; a GPU fills them on its own time.

    Attributes:
        means: float32 [layers, spans, width].
        tokens: float32 [token layers, tokens, width].
    """

    means: "torch.Tensor"
    tokens: "torch.Tensor"


def _opening_of(equal: Sequence[SpannedSequence]) -> int:
    """How many first tokens of sequences with equal tokens are run as an opening."""
    first = min((span.start for sequence in equal for span in sequence.spans), default=0)
    if first > LONGEST_OPENING:
        return 0
    # Nothing in an opening is measured.
    return min([first, *(span.start for sequence in equal for span in sequence.besides)])


class RunningGame:
    """A game on its way through the model; on CUDA the work goes on while the next game is prepared.

    Attributes:
        token_budget: the one it was run with; less than asked for if the GPU's memory did not hold more.
    """

    def __init__(
        self,
        rows: list[_Row],
        buffers: list[_Buffers],
        span_lengths: list[int],
        events: list[Any],
        dtype: str,
        token_budget: int,
    ) -> None:
        self.token_budget = token_budget
        self._rows = rows
        self._buffers = buffers
        self._lengths = span_lengths
        self._events = events
        self._dtype = dtype

    def result(self) -> GameActivations:
        """Wait for it.

        Raises:
            BeyondRangeError: the model's number type, or the one to store, cannot hold the activations.
        """
        for event in self._events:
            event.synchronize()
        ends = np.cumsum([0, *self._lengths])
        means = self._collect([buffers.means for buffers in self._buffers], len(self._lengths))
        tokens = self._collect([buffers.tokens for buffers in self._buffers], int(ends[-1]))
        for row, buffers in zip(self._rows, self._buffers, strict=True):
            means[row.spans] = self._stored(buffers.means)
            if buffers.tokens.numel():
                places = [place for span in row.spans for place in range(ends[span], ends[span + 1])]
                tokens[places] = self._stored(buffers.tokens)
        return GameActivations(means, tokens)

    def _collect(self, parts: "list[torch.Tensor]", rows: int) -> np.ndarray:
        layers, _, width = parts[0].shape if parts else (0, 0, 0)
        return np.empty((rows, layers, width), dtype=self._dtype)

    def _stored(self, values: "torch.Tensor") -> np.ndarray:
        array = values.numpy().swapaxes(0, 1)
        with np.errstate(over="ignore"):  # becomes infinite, which is looked for
            stored = array.astype(self._dtype)
        if not np.isfinite(stored).all():
            faulty = "activations.dtype" if not np.isfinite(array).all() else "activations.store"
            raise BeyondRangeError(f"beyond the range of {faulty}: set it to float32")
        return stored


class HeldDecoder:
    """A model in memory, where it can stay while engines of several settings take turns with it.

    Attributes:
        model: the decoder.
        device: `cpu` or `cuda`.
        device_name: `cpu`, or what the CUDA device calls itself.
        hooks: those of the engine that has it now.
    """

    def __init__(
        self,
        model: Path,
        dtype: str,
        threads: int,
        device: str = "auto",
        *,
        adapter: Path | None = None,
        depth: int | None = None,
    ) -> None:
        """Load it and move it to where it computes.

        Args:
            model: a folder with config and safetensors.
            dtype: number type of the weights, `float32` or `bfloat16`.
            threads: processor threads of each operation.
            device: `cpu`, `cuda`, or `auto`: CUDA where there is a device.
            adapter: a folder with a PEFT adapter that is put on the model.
            depth: blocks that are kept; all where it is not given.

        Raises:
            ProbelineError: weights are missing, or the GPU's memory does not hold them.
        """
        import torch

        from probeline.activations import loading

        torch.set_num_threads(threads)
        self.hooks: list[Any] = []
        self.device = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        self.device_name = "cpu"
        if self.device == "cuda":
            self.device_name = torch.cuda.get_device_name()
            # On a processor all of these operations repeat bit for bit at a fixed thread count.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
        loaded, spread = loading.load_decoder(model, adapter, getattr(torch, dtype), self.device)
        self._list = loading.decoder_blocks(loaded)
        del self._list[len(self._list) if depth is None else depth :]
        self._blocks = [*self._list]
        loaded.eval().requires_grad_(False)
        try:
            self.model = loaded if spread else loaded.to(self.device)
        except torch.OutOfMemoryError as error:
            raise ProbelineError(
                f"The GPU's memory does not hold the model {model.name} in {dtype}. Use a larger GPU, "
                "another activations.dtype, or the processor: set CUDA_VISIBLE_DEVICES to nothing."
            ) from error

    def cut(self, depth: int) -> "torch.nn.ModuleList":
        """Its first blocks, with nothing of an earlier engine on them; deeper ones are not run."""
        for hook in self.hooks:
            hook.remove()
        self.hooks = []
        del self._list[:]
        self._list.extend(self._blocks[:depth])
        self.model.config.get_text_config().num_hidden_layers = len(self._list)
        return self._list


class ActivationEngine:
    """A loaded model, and the forward passes through it.

    Attributes:
        layers: the layers whose means are taken.
        token_layers: the layers that are kept token by token.
        hidden_size: width of the residual stream.
        device: `cpu` or `cuda`.
        device_name: `cpu`, or what the CUDA device calls itself.
        linear_weights: numbers of the matrices of the blocks that are run; a token costs two operations each.
        smallest_token_budget: the one given, or less if the GPU's memory did not hold such packs.
        tokens: how many tokens went through the model so far; shared ones count once.
    """

    def __init__(
        self,
        model: Path,
        layers: Sequence[int],
        dtype: str,
        threads: int,
        token_budget: int,
        device: str = "auto",
        *,
        token_layers: Sequence[int] = (),
        store_dtype: str = "float32",
        adapter: Path | None = None,
        held: "HeldDecoder | None" = None,
    ) -> None:
        """Load the blocks that are needed.

        Args:
            model: a folder with config and safetensors.
            layers: the layers wanted, ascending and within the model's depth.
            dtype: number type of the forward pass, `float32` or `bfloat16`; means are taken in float32.
            threads: processor threads of each operation.
            token_budget: most tokens in one row; a longer sequence is a row of its own.
            device: `cpu`, `cuda`, or `auto`: CUDA where there is a device.
            token_layers: layers to keep token by token, ascending.
            store_dtype: number type of what is returned, `float32` or `float16`.
            adapter: a folder with a PEFT adapter that is put on the model.
            held: the same model, with its adapter and number type, that is in memory already; engines made
                of it before are of no use from now on.
        """
        import torch

        from probeline.activations import attention, loading

        torch.set_num_threads(threads)
        self.layers = tuple(layers)
        self.token_layers = tuple(token_layers)
        self.tokens = 0
        self._token_budget = self.smallest_token_budget = token_budget
        self._store_dtype = "float32"
        # Of its own, the decoder loses the blocks below the deepest layer before anything is moved or run.
        depth = max(1, *self.layers, *self.token_layers)  # layer 0 is read on entry to the first block
        if held is None:
            held = HeldDecoder(model, dtype, threads, device, adapter=adapter, depth=depth)
        self.device, self.device_name, self._model = held.device, held.device_name, held.model
        self._packed_attention = attention.PackedAttention
        self._architecture = type(held.model).__name__
        config, blocks = held.model.config.get_text_config(), held.cut(depth)
        self._devices = {weight.device for weight in held.model.parameters()}
        self._windows = loading.window_layers(config, len(blocks))
        self._blocks = len(blocks)
        self.hidden_size: int = config.hidden_size
        self.linear_weights = sum(weight.numel() for weight in blocks.parameters() if weight.dim() > 1)
        self._openings: OrderedDict[Tokens, Memory] = OrderedDict()
        held.hooks += self._add_hooks(blocks)
        self._check_separation()
        self._store_dtype = store_dtype

    def game_means(self, sequences: Iterable[SpannedSequence]) -> np.ndarray:
        """The means of one game's spans: [spans, layers, width], in the order of the sequences."""
        return self.launch(sequences).result().means

    def launch(self, sequences: Iterable[SpannedSequence]) -> RunningGame:
        """Send one game through the model; equal tokens after equal beginnings are run once.

        Args:
            sequences: all sequences of the game.

        Raises:
            ProbelineError: a single sequence does not fit in the memory of the GPU.
        """
        # Attention is causal: what comes after the last span changes nothing in it.
        wanted = [
            SpannedSequence(sequence.input_ids[: sequence.stop], sequence.spans, sequence.besides)
            for sequence in sequences
        ]
        budget = self._token_budget
        rows = list(self._rows(wanted, budget))
        buffers, too_large = self._run_all(rows)
        if too_large is not None:
            # Whether a game fits must not depend on what was run before it.
            self._openings.clear()
            self._release_memory()
            buffers, too_large = self._run_all(rows)
        while too_large is not None:
            budget = self._smaller_budget(too_large, budget)
            self._release_memory()
            rows = list(self._rows(wanted, budget))
            buffers, too_large = self._run_all(rows)
        lengths = [len(span) for sequence in wanted for span in sequence.measured]
        return RunningGame(rows, buffers, lengths, self._events(), self._store_dtype, budget)

    def _run_all(self, rows: list[_Row]) -> tuple[list[_Buffers], _Row | None]:
        """Run a game's rows; the first that the memory does not hold, if there is one."""
        buffers: list[_Buffers] = []
        for row in rows:
            try:
                buffers.append(self._run(row))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                return buffers, row
        return buffers, None

    def _release_memory(self) -> None:
        """What the allocator of the GPU keeps of freed memory."""
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def _rows(self, wanted: list[SpannedSequence], budget: int) -> Iterable[_Row]:
        numbered: dict[Tokens, list[tuple[int, range]]] = {}
        equal: dict[Tokens, list[SpannedSequence]] = {}
        number = 0
        for sequence in wanted:
            equal.setdefault(sequence.input_ids, []).append(sequence)
            for span in sequence.measured:
                numbered.setdefault(sequence.input_ids, []).append((number, span))
                number += 1
        openings = {tokens: _opening_of(equal[tokens]) for tokens in numbered}
        for pack in packs(openings, self._limits(budget)):
            row = _Row(pack, [], [], [])
            for tokens, path in pack.paths.items():
                # The order of the spans is the row's own, whatever order they came in.
                for place, span in sorted(numbered[tokens], key=lambda item: (item[1].start, item[1].stop)):
                    row.spans.append(place)
                    row.first_masked.append(len(row.masked))
                    row.masked.extend(path[span.start : span.stop].tolist())
            yield row

    def _limits(self, budget: int) -> Limits:
        if self.device == "cuda":
            return Limits(budget, BLOCK_ON_GPU, PAIRS_ON_GPU)
        return Limits(budget, BLOCK_ON_PROCESSOR, PAIRS_ON_PROCESSOR)

    def _smaller_budget(self, row: _Row, budget: int) -> int:
        """The budget that parts a row which did not fit, for this game only."""
        if len(row.pack.paths) == 1:
            raise ProbelineError(
                f"The memory does not hold one sequence of {row.pack.tokens} tokens at this "
                "model's size: use a larger GPU, or leave the deepest layers out of activations.layers."
            )
        while budget >= row.pack.tokens:
            budget //= 2
        self.smallest_token_budget = min(self.smallest_token_budget, budget)
        log.warning("Out of memory: trying rows of %d tokens for this game", budget)
        return budget

    def _run(self, row: _Row) -> _Buffers:
        """One forward pass."""
        import torch

        pinned = self.device == "cuda"
        spans, tokens = len(row.spans), len(row.masked) if self.token_layers else 0
        buffers = _Buffers(
            torch.empty(len(self.layers), spans, self.hidden_size, pin_memory=pinned),
            torch.empty(len(self.token_layers), tokens, self.hidden_size, pin_memory=pinned),
        )
        openings = [self._opening(tokens) for tokens in row.pack.openings]
        self._forward(row, buffers, openings)
        return buffers

    def _opening(self, tokens: Tokens) -> "Memory":
        """What the model remembers of an opening."""
        import torch

        if tokens in self._openings:
            self._openings.move_to_end(tokens)
        else:
            (pack,) = packs({tokens: 0}, self._limits(len(tokens)))
            nothing = _Buffers(torch.empty(0), torch.empty(0))
            self._openings[tokens] = self._forward(_Row(pack, [], [], []), nothing, []).memory
            if len(self._openings) > MOST_OPENINGS:
                self._openings.popitem(last=False)
        return self._openings[tokens]

    def _forward(self, row: _Row, buffers: _Buffers, openings: "list[Memory]") -> "PackedAttention":
        import torch

        from probeline.activations.attention import to_device

        device = self._model.device
        self._row, self._buffers = row, buffers
        self._masked: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}
        packed = self._packed_attention(
            row.pack, openings, fused=self.device == "cuda", remember=not row.spans
        )
        with torch.inference_mode():
            self._model(
                input_ids=to_device(row.pack.input_ids, device)[None],
                position_ids=to_device(row.pack.position_ids, device)[None],
                use_cache=False,
                packed=packed,
            )
        self._check_attention(packed)
        self.tokens += row.pack.tokens
        return packed

    def _check_attention(self, packed: "PackedAttention") -> None:
        """Raise if a layer attends in another way than through the packed rows, or lost its window."""
        from probeline.activations.attention import unsupported

        lost = self._windows is not None and packed.windows != self._windows
        if packed.calls != self._blocks or lost:
            raise ProbelineError(unsupported(self._architecture))

    def _check_separation(self) -> None:
        """Raise if a sequence changes what is measured in another one: a layer mixes tokens elsewhere."""
        from probeline.activations.attention import unsupported

        second = SpannedSequence(SECOND, (range(len(SECOND)),))
        try:
            beside, beside_other = (
                self.game_means([SpannedSequence(first, (range(len(first)),)), second])[1]
                for first in (FIRST, OTHER_FIRST)
            )
        except BeyondRangeError:
            return  # the first game will say so, with its name
        self.tokens = 0
        scale = np.abs(beside).max(axis=-1)
        if (np.abs(beside - beside_other).max(axis=-1) > MOST_LEAKED * scale).any():
            raise ProbelineError(unsupported(self._architecture))

    def _events(self) -> list[Any]:
        import torch

        if self.device != "cuda":
            return []
        events = []
        for device in self._devices:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(device))
            events.append(event)
        return events

    def _add_hooks(self, blocks: "torch.nn.ModuleList") -> list[Any]:
        return [
            blocks[0].register_forward_pre_hook(partial(self._before_block, layer), with_kwargs=True)
            if layer == 0
            else blocks[layer - 1].register_forward_hook(partial(self._after_block, layer))
            for layer in sorted({*self.layers, *self.token_layers})
        ]

    def _before_block(self, layer: int, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._measure(layer, args[0] if args else kwargs["hidden_states"])

    def _after_block(self, layer: int, block: Any, args: tuple[Any, ...], output: Any) -> None:
        self._measure(layer, output[0] if isinstance(output, tuple) else output)

    def _measure(self, layer: int, hidden: "torch.Tensor") -> None:
        """Keep what is wanted of one layer, hidden: [1, tokens, width]; summed in float32."""
        from torch.nn.functional import embedding_bag

        from probeline.activations.attention import to_device

        if not self._row.spans:
            return
        if hidden.device not in self._masked:
            self._masked[hidden.device] = (
                to_device(np.array(self._row.masked), hidden.device),
                to_device(np.array(self._row.first_masked), hidden.device),
            )
        masked, first_masked = self._masked[hidden.device]
        table = hidden[0].float()
        if layer in self.layers:
            # A bag of embeddings is the mean of some rows of a table: without a copy of those rows.
            means = embedding_bag(masked, table, first_masked, mode="mean")
            self._buffers.means[self.layers.index(layer)].copy_(means, non_blocking=True)
        if layer in self.token_layers:
            kept = table.index_select(0, masked)
            self._buffers.tokens[self.token_layers.index(layer)].copy_(kept, non_blocking=True)
