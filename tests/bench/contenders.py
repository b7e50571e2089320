"""Every way of extraction that is compared, each as its users would write it to be fast.

A contender is a function that loads a model and returns another one: from games to the means of their spans,
float32 [spans, layers, width], in the order of the games. Row L of `layers` is the residual stream after L
blocks: 0 the embeddings, the last one before the final norm. A layer that a library does not give is NaN.

The alternatives share the batches and the pooling below, so that what is compared is the libraries' own
part. They pad on the right and pass no attention mask: attention is causal, so a real token never sees the
padding, and the mask would only cost time. (The references do pass one.)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probeline.activations.engine import ActivationEngine
from probeline.files import read_json
from tests.bench.workload import Games

Measure = Callable[[Games], np.ndarray]
Loader = Callable[[Path, str, int], Measure]

TOKEN_BUDGET = 2048  # what the workflow runs with
BATCH = 32
REFERENCES_BATCH = 4
MATRIX = 4096
PRODUCTS = 4


@dataclass(frozen=True)
class Batch:
    """Some sequences, padded on the right.

    Attributes:
        ids: [sequences, longest].
        attention: 1 for a real token, 0 for padding.
        rows: for each span, its row in the result.
        owners: for each span, its sequence in the batch.
        spans: the masked tokens, within their sequence.
        bags: the masked tokens of all spans, counted through the flattened batch.
        first: for each span, its first token in `bags`.
    """

    ids: torch.Tensor
    attention: torch.Tensor
    rows: list[int]
    owners: list[int]
    spans: list[range]
    bags: torch.Tensor
    first: torch.Tensor


def references_way(model: Path, dtype: str, threads: int) -> Measure:
    """What the probe trainers on Werewolf logs do: small batches in file order, logits, every hidden state.

    The last of `hidden_states` is behind the final norm. The norm's input, which exists anyway, is taken
    instead: the same work, and an output that can be compared at every layer.
    """
    from transformers import AutoModelForCausalLM

    full = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
    before_norm: list[torch.Tensor] = []
    full.model.norm.register_forward_pre_hook(lambda _, args: before_norm.append(args[0]))

    def measure(games: Games) -> np.ndarray:
        means = _Means(games)
        for batch in _batches(games, REFERENCES_BATCH, by_length=False):
            before_norm.clear()
            with torch.no_grad():
                output = full(batch.ids, attention_mask=batch.attention, output_hidden_states=True)
            states = (*output.hidden_states[:-1], before_norm[0])
            for row, owner, span in zip(batch.rows, batch.owners, batch.spans, strict=True):
                layers = [state[owner, span.start : span.stop].float().mean(0) for state in states]
                means.put([row], torch.stack(layers).unsqueeze(0))
        return means.array

    return measure


def nnsight(model: Path, dtype: str, threads: int) -> Measure:
    """One trace per batch over the bare decoder (no head, so no logits), pooled inside of the trace.

    Wrapping the decoder costs the same as stopping a `TransformersModel` before its head, and does without
    the exception that `tracer.stop` raises.
    """
    import nnsight as library
    from transformers import AutoModel

    wrapped = library.NNsight(AutoModel.from_pretrained(model, dtype=getattr(torch, dtype)).eval())

    @torch.inference_mode()
    def measure(games: Games) -> np.ndarray:
        means = _Means(games)
        for batch in _batches(games, BATCH):
            with wrapped.trace(batch.ids, use_cache=False):
                layers = library.save([])
                layers.append(_pooled(wrapped.layers[0].input, batch))
                for block in wrapped.layers:
                    layers.append(_pooled(block.output, batch))
            means.put(batch.rows, torch.stack(layers, dim=1))
        return means.array

    return measure


def transformer_lens(model: Path, dtype: str, threads: int) -> Measure:
    """TransformerBridge with hooks on the residual stream that pool at once; the last one stops the run.

    `stop_at_layer` cannot name the end of the last block, so it would compute the logits, a quarter of the
    work. Its own exception, raised from the last hook, spares them.
    """
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.exceptions import StopAtLayerException

    bridge = TransformerBridge.boot_transformers(str(model), dtype=getattr(torch, dtype), device="cpu")
    depth = bridge.cfg.n_layers
    names = ["blocks.0.hook_resid_pre", *(f"blocks.{block}.hook_resid_post" for block in range(depth))]

    @torch.inference_mode()
    def measure(games: Games) -> np.ndarray:
        means = _Means(games)
        for batch in _batches(games, BATCH):
            layers: list[torch.Tensor] = []

            def pool(
                hidden: torch.Tensor,
                hook: Any,
                batch: Batch = batch,
                layers: list[torch.Tensor] = layers,
            ) -> None:
                layers.append(_pooled(hidden, batch))
                if len(layers) == len(names):
                    raise StopAtLayerException(hidden)

            hooks = [(name, pool) for name in names]
            bridge.run_with_hooks(batch.ids, fwd_hooks=hooks, return_type=None, use_cache=False)
            means.put(batch.rows, torch.stack(layers, dim=1))
        return means.array

    return measure


def probelab_with_mirin(model: Path, dtype: str, threads: int) -> Measure:
    """probelab's own collector: it sorts, batches, stops after the last block, and pools each batch.

    It collects the outputs of blocks, so the embeddings, layer 0, are left out.
    """
    import mirin
    from probelab.collection.mirin import collect_activations
    from transformers import AutoModel

    loaded = mirin.Model(
        AutoModel.from_pretrained(model, dtype=getattr(torch, dtype)).eval(), rename=mirin.renames.llm
    )
    depth = len(loaded.layers)

    @torch.inference_mode()
    def measure(games: Games) -> np.ndarray:
        blocks = list(range(depth))
        found = collect_activations(loaded, _probelab_tokens(games), blocks, batch_size=BATCH, pool="mean")
        embeddings = np.full((found.data.shape[0], 1, found.data.shape[2]), np.nan, dtype=np.float32)
        return np.concatenate([embeddings, found.data.float().numpy()], axis=1)

    return measure


def probelab_with_hooks(model: Path, dtype: str, threads: int) -> Measure:
    """probelab as the package index has it: its token batches and pooling, on PyTorch's own hooks."""
    from probelab.pool import mean
    from transformers import AutoModel

    decoder = AutoModel.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
    masks: list[torch.Tensor] = []
    layers: list[torch.Tensor] = []

    def pool(_: Any, hidden: torch.Tensor) -> None:
        layers.append(mean(hidden, masks[0]))

    decoder.layers[0].register_forward_pre_hook(lambda _, args: pool(_, args[0]))
    for block in decoder.layers:
        block.register_forward_hook(lambda _, args, hidden: pool(_, hidden))

    @torch.inference_mode()
    def measure(games: Games) -> np.ndarray:
        means = _Means(games)
        tokens = _probelab_tokens(games)
        order = torch.argsort(tokens.lengths, descending=True, stable=True).tolist()
        for rows in (order[first : first + BATCH] for first in range(0, len(order), BATCH)):
            batch = tokens.pad_batch(rows)
            masks[:] = [batch["detection_mask"]]
            layers.clear()
            decoder(input_ids=batch["input_ids"], use_cache=False)
            means.put(rows, torch.stack(layers, dim=1))
        return means.array

    return measure


def ours(model: Path, dtype: str, threads: int) -> Measure:
    """The workflow's engine, once per game; all layers, as everywhere here."""
    depth = read_json(model / "manifest.json")["depth"]
    engine = ActivationEngine(model, range(depth + 1), dtype, threads, TOKEN_BUDGET, "cpu")
    return lambda games: np.concatenate([engine.game_means(game) for game in games])


def matrix_peak(model: Path, dtype: str, threads: int) -> Measure:
    """Not a contender: a few large matrix products, whatever the games, to know what the processor can do."""
    matrix = torch.randn(MATRIX, MATRIX).to(getattr(torch, dtype))
    product = torch.empty_like(matrix)

    def measure(games: Games) -> np.ndarray:
        for _ in range(PRODUCTS):
            torch.matmul(matrix, matrix, out=product)
        return np.empty(0)

    return measure


LOADERS: dict[str, Loader] = {
    loader.__name__: loader
    for loader in (
        references_way,
        nnsight,
        transformer_lens,
        probelab_with_mirin,
        probelab_with_hooks,
        ours,
        matrix_peak,
    )
}


class _Means:
    """The result of a contender, filled batch by batch; its layers and width are those of the first batch."""

    def __init__(self, games: Games) -> None:
        self._spans = sum(len(sequence.spans) for game in games for sequence in game)
        self.array = np.empty(0, dtype=np.float32)

    def put(self, rows: Sequence[int], means: torch.Tensor) -> None:
        """Store means [spans, layers, width] as these rows."""
        if not self.array.size:
            self.array = np.empty((self._spans, *means.shape[1:]), dtype=np.float32)
        self.array[rows] = means.float().numpy()


def _batches(games: Games, size: int, by_length: bool = True) -> Iterator[Batch]:
    """All sequences, in batches of a fixed number."""
    sequences = []
    row = 0
    for sequence in (sequence for game in games for sequence in game):
        sequences.append((sequence, range(row, row + len(sequence.spans))))
        row += len(sequence.spans)
    if by_length:
        sequences.sort(key=lambda pair: len(pair[0].input_ids), reverse=True)
    for start in range(0, len(sequences), size):
        chosen = sequences[start : start + size]
        longest = max(len(sequence.input_ids) for sequence, _ in chosen)
        ids = torch.zeros(len(chosen), longest, dtype=torch.long)
        attention = torch.zeros_like(ids)
        for line, (sequence, _) in enumerate(chosen):
            ids[line, : len(sequence.input_ids)] = torch.tensor(sequence.input_ids)
            attention[line, : len(sequence.input_ids)] = 1
        owners = [line for line, (sequence, _) in enumerate(chosen) for _ in sequence.spans]
        spans = [span for sequence, _ in chosen for span in sequence.spans]
        bags = [line * longest + token for line, span in zip(owners, spans, strict=True) for token in span]
        first = np.cumsum([0, *(len(span) for span in spans[:-1])])
        rows = [row for _, numbers in chosen for row in numbers]
        yield Batch(ids, attention, rows, owners, spans, torch.tensor(bags), torch.from_numpy(first))


def _pooled(hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The spans' means of one layer, float32 [spans, width], from hidden [sequences, tokens, width]."""
    table = hidden.reshape(-1, hidden.shape[-1]).float()
    return torch.nn.functional.embedding_bag(batch.bags, table, batch.first, mode="mean")


def _probelab_tokens(games: Games) -> Any:
    """The sequences as probelab holds tokens; it knows one mask per sequence, so each span gets its own."""
    from probelab.tokenization import Tokens

    pairs = [(sequence, span) for game in games for sequence in game for span in sequence.spans]
    offsets = np.cumsum([0, *(len(sequence.input_ids) for sequence, _ in pairs)])
    mask = torch.zeros(int(offsets[-1]), dtype=torch.bool)
    for start, (_, span) in zip(offsets, pairs, strict=False):
        mask[int(start) + span.start : int(start) + span.stop] = True
    return Tokens(
        input_ids=torch.tensor([token for sequence, _ in pairs for token in sequence.input_ids]),
        offsets=torch.from_numpy(offsets),
        detection_mask=mask,
        pad_token_id=0,
        padding_side="right",
    )
