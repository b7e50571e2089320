"""A model, with its adapter, whose attention takes rows that hold many sequences."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModel, AutoModelForCausalLM

from probeline.activations.attention import NAME, unsupported
from probeline.errors import ProbelineError
from probeline.models.loading import depends_on_the_row, load_weights, needs_several_gpus, put_adapter

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def load_decoder(model: Path, adapter: Path | None, dtype: torch.dtype, device: str) -> tuple[Any, bool]:
    """The decoder of a model, with all of its weights or not at all.

    Args:
        model: a folder with config and safetensors.
        adapter: a folder with a LoRA adapter that `models.adapter` has checked.
        dtype: number type of the weights.
        device: `cpu` or `cuda`.

    Returns:
        The decoder, and whether it is spread over several GPUs; else it is still in main memory.

    Raises:
        ProbelineError: weights are missing, the adapter is for another model, or sequences cannot share a row
            in this architecture.
    """
    # An adapter's weights carry the names that they have in the whole model.
    loader: Any = AutoModel if adapter is None else AutoModelForCausalLM
    try:
        loaded = load_weights(loader, model, dtype, device, NAME)
    except (KeyError, ValueError) as error:
        if NAME not in str(error):
            raise
        raise ProbelineError(unsupported(model.name)) from error
    if depends_on_the_row(loaded.config.get_text_config()):
        raise ProbelineError(unsupported(type(loaded).__name__))
    spread = needs_several_gpus(model, dtype, device)
    if adapter is None:
        return loaded, spread
    return put_adapter(loaded, adapter).get_base_model().get_decoder(), spread


def decoder_blocks(model: Any) -> torch.nn.ModuleList:
    """The list of a model's decoder blocks, whatever the architecture calls it."""
    depth = model.config.get_text_config().num_hidden_layers
    for module in model.get_decoder().modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return module
    raise ProbelineError(
        f"The architecture {model.config.model_type} has no list of {depth} decoder blocks: activations can "
        "only be read from decoder-only language models."
    )


def window_layers(config: "PretrainedConfig", blocks: int) -> int | None:
    """In how many of the first blocks attention has a window; None if the config does not say."""
    kinds = getattr(config, "layer_types", None)
    return None if kinds is None else kinds[:blocks].count("sliding_attention")
