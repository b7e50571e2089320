"""Attention of sequences that are generated side by side: each over its own keys and values.

The number of rows in a matrix product changes its rounding, and so does padding in attention. So every step
runs the same number of rows, filled up where there are fewer sequences, and none sees another's length.
"""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from probeline.errors import ProbelineError

# Apart from activations/attention.py, which is much like it: an edit there makes every extraction run again.
NAME = "probeline_rows"


class Memory:
    """Keys and values of one sequence in all layers, with room for those to come.

    Args:
        room: most tokens of the sequence.

    Attributes:
        tokens: how many there are so far.
    """

    def __init__(self, room: int) -> None:
        self.tokens = 0
        self._room = room
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def add(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append to a layer the keys [heads, tokens, size] and values; all of both so far."""
        if layer == len(self._layers):
            self._layers.append((self._empty(keys), self._empty(values)))
        end = self.tokens + keys.shape[1]
        held = self._layers[layer]
        held[0][:, self.tokens : end], held[1][:, self.tokens : end] = keys, values
        return held[0][:, :end], held[1][:, :end]

    def _empty(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_empty(like.shape[0], self._room, like.shape[2])


class Rows:
    """Attention of one forward pass; a model's layers call it in turn.

    Args:
        memories: of each row; None for one that fills up the batch.

    Attributes:
        calls: how many layers have called so far.
    """

    def __init__(self, memories: list[Memory | None]) -> None:
        self._memories = memories
        self.calls = 0

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
        """The output of one layer's attention; the arguments are those of `PackedAttention.attend`.

        Args:
            query: [rows, heads, tokens, size].
            key: [rows, key heads, tokens, size].
            value: [rows, key heads, tokens, size of a value].
            scaling: factor of the products of queries and keys.
            window: how many tokens, itself included, a token may look back on; None for all.
            softcap: bound that a hyperbolic tangent keeps the products in.
            sinks: [heads], one more product of each query, which draws attention to nothing.

        Returns:
            [rows, tokens, heads, size of a value].
        """
        rows, heads, tokens, _ = query.shape
        mixed = query.new_zeros(rows, heads, tokens, value.shape[-1])
        for row, memory in enumerate(self._memories):
            if memory is not None:
                keys, values = memory.add(self.calls, key[row], value[row])
                mixed[row] = _attend(query[row], keys, values, scaling, window, softcap, sinks)
        self.calls += 1
        return mixed.transpose(1, 2)


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """One sequence's attention; its queries [heads, tokens, size] are of the last of its tokens."""
    new, whole = query.shape[1], keys.shape[1]
    if window is not None and new == 1:
        keys, values, window = keys[:, -window:], values[:, -window:], None
    narrow = window is not None and window < whole
    if softcap is None and sinks is None and not narrow:
        return scaled_dot_product_attention(
            query[None], keys[None], values[None], is_causal=new > 1, scale=scaling, enable_gqa=True
        )[0]
    together = query.shape[0] // keys.shape[0]
    keys, values = keys.repeat_interleave(together, dim=0), values.repeat_interleave(together, dim=0)
    products = torch.matmul(query * scaling, keys.mT).float()
    if softcap is not None:
        products = torch.tanh(products / softcap) * softcap
    if new > 1:
        places = torch.arange(whole, device=query.device)
        back = places[:, None] - places
        hidden = (back < 0) | (back >= window) if narrow and window is not None else back < 0
        products = products.masked_fill(hidden, -torch.inf)
    if sinks is not None:
        column = sinks.float().view(-1, 1, 1).expand(*products.shape[:-1], 1)
        products = torch.cat([products, column], dim=-1)
    weights = products.softmax(-1)[..., : keys.shape[1]].to(values.dtype)
    return torch.matmul(weights, values)


def _attention_of_a_layer(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    rows: Rows | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls; the keywords are its own, and `rows` is passed through the model."""
    # Other tensors (biases, indices of a sparse attention) say more than the positions do.
    tensors = [name for name, value in others.items() if isinstance(value, torch.Tensor)]
    if rows is None or position_bias is not None or {*tensors} - {"position_ids"}:
        raise ProbelineError(unsupported(type(module).__name__))
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return rows.attend(query, key, value, scaling, sliding_window, softcap, s_aux), None


def unsupported(architecture: str) -> str:
    """The words for a model whose attention cannot be computed row by row."""
    return (
        f"Texts cannot be generated with {architecture}: its attention does not go through the interface of "
        "transformers, or something in it depends on more than a sequence's own tokens. Llama, Qwen, "
        "Mistral, Gemma, GPT-2, GPT-NeoX, OLMo and gpt-oss can be used, among others (docs/generate.md)."
    )


AttentionInterface.register(NAME, _attention_of_a_layer)
# Causality is in the rows: no mask is to be made.
AttentionMaskInterface.register(NAME, lambda *_, **__: None)
