"""Causal attention over packed rows, in the place of the attention functions of transformers.

On a processor, blocks of queries are plain matrix products: torch's fused kernel takes two to three times as
long there, at the same error, since it converts to float32 and computes most of what causality hides.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from probeline.activations.packing import Pack, QueryGroup
from probeline.errors import ProbelineError

NAME = "probeline_packed"

# For each layer the keys and the values of some tokens, both [key heads, tokens, size].
Memory = list[tuple[torch.Tensor, torch.Tensor]]


class PackedAttention:
    """Attention within one pack; a model's layers call it in turn.

    Args:
        pack: the row of tokens.
        openings: what the model remembers of each of the pack's openings.
        fused: take torch's fused kernel, which is the faster one on CUDA.
        remember: fill `memory`.

    Attributes:
        calls: how many layers have called so far.
        windows: how many of those look back through a window.
        memory: keys and values of the row in those layers.
    """

    def __init__(
        self, pack: Pack, openings: Sequence[Memory], *, fused: bool, remember: bool = False
    ) -> None:
        self.calls = 0
        self.windows = 0
        self.memory: Memory = []
        self._remember = remember
        self._pack = pack
        self._openings = openings
        self._fused = fused
        # Layers share these; of a model over several GPUs, those on the same one.
        self._indices: dict[torch.device, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self._places: dict[torch.device, torch.Tensor] = {}
        self._masks: dict[tuple[int, int | None, bool, torch.device], torch.Tensor] = {}

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        window: int | None,
        softcap: float | None,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        """The output of one layer's attention.

        Args:
            query: [1, heads, tokens, size].
            key: [1, key heads, tokens, size]; as many heads of the query share one.
            value: [1, key heads, tokens, size of a value].
            scaling: factor of the products of queries and keys.
            window: how many tokens, itself included, a token may look back on; None for all.
            softcap: bound that a hyperbolic tangent keeps the products in.
            sinks: [heads], one more product of each query, which draws attention to nothing.

        Returns:
            [1, tokens, heads, size of a value].
        """
        self._move(query.device)
        one_kernel = self._fused and softcap is None and sinks is None
        before = [opening[self.calls] for opening in self._openings]
        queries, row = query[0], (key[0].contiguous(), value[0].contiguous())
        self.calls += 1
        self.windows += window is not None
        if self._remember:
            self.memory.append((row[0][:, : self._pack.tokens], row[1][:, : self._pack.tokens]))
        keys, values = (
            torch.cat(part, dim=1) if before else part[-1] for part in zip(*before, row, strict=True)
        )
        outputs = []
        for number, group in enumerate(self._pack.groups):
            query_places, key_places = self._indices[query.device][number]
            parts = (
                queries.index_select(1, query_places).unflatten(1, group.queries.shape),
                keys.index_select(1, key_places).unflatten(1, group.keys.shape),
                values.index_select(1, key_places).unflatten(1, group.keys.shape),
            )
            if one_kernel:
                # One block that begins at the beginning needs no mask.
                whole = group.visible == 1 and group.queries.shape == group.keys.shape
                causal = whole and len(group.keys) == 1 and window is None
                mask = None if causal else self._mask(number, window, True, query.device)
                outputs.append(_fused(*parts, mask, scaling))
            else:
                mask = self._mask(number, window, False, query.device)
                outputs.append(_products(*parts, mask, scaling, softcap, sinks))
        return torch.cat(outputs).index_select(0, self._places[query.device])[None]

    def _move(self, device: torch.device) -> None:
        if device not in self._places:
            self._places[device] = to_device(self._pack.places, device)
            self._indices[device] = [
                (to_device(group.queries.ravel(), device), to_device(group.keys.ravel(), device))
                for group in self._pack.groups
            ]

    def _mask(self, number: int, window: int | None, fused: bool, device: torch.device) -> torch.Tensor:
        """What the queries of a group may look at, in the form that its kernel takes."""
        group = self._pack.groups[number]
        if window is not None and window >= group.keys.shape[1]:
            window = None
        if (number, window, fused, device) not in self._masks:
            mask = _mask_of_kernel(group, window) if fused else _hidden(group, window)
            self._masks[number, window, fused, device] = mask.to(device)
        return self._masks[number, window, fused, device]


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """A tensor of an array; a GPU fetches it from pinned memory, so that nothing waits for it."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _hidden(group: QueryGroup, window: int | None) -> torch.Tensor:
    """Which of the last keys each query may not look at: bool [blocks, queries, last keys]."""
    positions = torch.from_numpy(group.positions)[:, :, None]
    # Nothing hides the first keys, unless a window does.
    columns = torch.arange(group.visible if window is None else 0, group.keys.shape[1])
    hidden = columns > positions
    return hidden if window is None else hidden | (columns <= positions - window)


def _mask_of_kernel(group: QueryGroup, window: int | None) -> torch.Tensor:
    """Which keys each query may look at: bool [blocks, 1, queries, keys]."""
    hidden = _hidden(group, window)
    seen = torch.ones(*hidden.shape[:2], group.keys.shape[1], dtype=torch.bool)
    seen[..., group.keys.shape[1] - hidden.shape[-1] :] = ~hidden
    return seen[:, None]


def _products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    hidden: torch.Tensor,
    scaling: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """A group's attention, written out.

    Args:
        query: [heads, blocks, queries, size].
        key: [key heads, blocks, keys, size].
        value: [key heads, blocks, keys, size of a value].
        hidden: bool [blocks, queries, last keys].
        scaling: as in `PackedAttention.attend`.
        softcap: as there.
        sinks: as there.

    Returns:
        [blocks * queries, heads, size of a value].
    """
    heads, blocks, queries, size = query.shape
    shared, _, keys, _ = key.shape
    together = heads // shared
    query = (query * scaling).view(shared, together, blocks, queries, size).transpose(1, 2)
    scores = torch.bmm(query.reshape(shared * blocks, together * queries, size), key.flatten(0, 1).mT)
    scores = scores.view(shared, blocks, together, queries, keys)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores[..., keys - hidden.shape[-1] :].masked_fill_(hidden[:, None], -torch.inf)
    if sinks is not None:
        column = sinks.to(scores.dtype).view(shared, 1, together, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, column], dim=-1)
    weights = scores.softmax(-1)[..., :keys].reshape(shared * blocks, together * queries, keys)
    mixed = torch.bmm(weights, value.flatten(0, 1))
    mixed = mixed.view(shared, blocks, together, queries, -1).permute(1, 3, 0, 2, 4)
    return mixed.reshape(blocks * queries, heads, -1)


def _fused(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """A group's attention by torch's kernel; shapes as in `_products`.

    The mask is that of `_mask_of_kernel`, or None where each query looks at all keys up to its own: only then
    can the kernel be flash attention.
    """
    repeats = query.shape[0] // key.shape[0]
    # The kernel that takes a mask wants as many heads of keys as of queries.
    key, value = key.repeat_interleave(repeats, dim=0), value.repeat_interleave(repeats, dim=0)
    query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
    mixed = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling
    )
    return mixed.transpose(1, 2).flatten(0, 1)


def _attention_of_a_layer(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    packed: PackedAttention | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls; the keywords are its own, and `packed` is passed through the model."""
    # Other tensors (biases, indices of a sparse attention) say more than the positions do.
    tensors = [name for name, value in others.items() if isinstance(value, torch.Tensor)]
    if packed is None or position_bias is not None or {*tensors} - {"position_ids"}:
        raise ProbelineError(unsupported(type(module).__name__))
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return packed.attend(query, key, value, scaling, sliding_window, softcap, s_aux), None


def unsupported(architecture: str) -> str:
    """The words for a model whose attention cannot be computed over packed rows."""
    return (
        f"Activations cannot be read from {architecture}: its attention does not go through the interface of "
        "transformers, or something in it depends on more than a sequence's own tokens. Llama, Qwen, "
        "Mistral, Gemma, GPT-2, GPT-NeoX, OLMo and gpt-oss can be read, among others (docs/extraction.md)."
    )


AttentionInterface.register(NAME, _attention_of_a_layer)
# Causality is in the pack: no mask is to be made.
AttentionMaskInterface.register(NAME, lambda *_, **__: None)
