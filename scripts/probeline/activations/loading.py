"""A model, with its adapter, whose attention takes rows that hold many sequences."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModel, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from probeline.activations.attention import NAME, unsupported
from probeline.errors import ProbelineError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Share of a GPU's memory that weights may take before a model is spread over several GPUs.
MOST_OF_ONE_GPU = 0.8
# Kinds of rotary positions that depend on the longest position in a row, and so on what else is in it.
ROPE_OF_THE_ROW = ("longrope", "dynamic")
LAYER_TYPES = ("full_attention", "sliding_attention")


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
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # it lists the head, which is left out on purpose
    if (model / "adapter_config.json").exists():
        raise ProbelineError(
            f"{model} holds an adapter. Name the model itself, and the adapter as model.adapter."
        )
    if not any(model.glob("*.safetensors")):
        raise ProbelineError(
            f"{model} holds no weights: fetched with compute: modal, they are there. "
            f"Delete {model} to have it fetched here, or leave the work to Modal."
        )
    # An adapter's weights carry the names that they have in the whole model.
    loader: Any = AutoModel if adapter is None else AutoModelForCausalLM
    spread = _needs_several_gpus(model, dtype, device)
    try:
        loaded, report = loader.from_pretrained(
            model,
            dtype=dtype,
            attn_implementation=NAME,
            device_map="auto" if spread else None,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (KeyError, ValueError) as error:
        if NAME not in str(error):
            raise
        raise ProbelineError(unsupported(model.name)) from error
    if report["missing_keys"]:
        raise ProbelineError(
            f"The model {model} lacks weights ({', '.join(sorted(report['missing_keys'])[:3])}, …): "
            "random numbers would stand in for them. Delete it to have it fetched again."
        )
    _check_positions(loaded.config.get_text_config(), type(loaded).__name__)
    return (loaded if adapter is None else _with_adapter(loaded, adapter)), spread


def _with_adapter(model: Any, adapter: Path) -> Any:
    """The decoder with all weights of an adapter on it."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    try:
        adapted: Any = PeftModel.from_pretrained(model, str(adapter))
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ProbelineError(f"The adapter {adapter} does not fit the model: {reason}") from error
    with safe_open(adapter / "adapter_model.safetensors", framework="np") as stored:
        unmatched = sorted({*stored.keys()} ^ {*get_peft_model_state_dict(adapted)})
    if unmatched:
        raise ProbelineError(
            f"The adapter {adapter} was made for another model: {len(unmatched)} of its weights and the "
            f"model's do not match, {unmatched[0]} for one."
        )
    return adapted.get_base_model().get_decoder()


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


def _check_positions(config: "PretrainedConfig", architecture: str) -> None:
    """Refuse what a row of many sequences would compute otherwise than each sequence alone."""
    kinds = getattr(config, "layer_types", None) or []
    ropes = getattr(config, "rope_parameters", None) or {}
    # Some models have one kind of rotary positions for each kind of layer.
    nested = [rope for rope in ropes.values() if isinstance(rope, dict)] or [ropes]
    if not set(kinds) <= set(LAYER_TYPES) or any(rope.get("rope_type") in ROPE_OF_THE_ROW for rope in nested):
        raise ProbelineError(unsupported(architecture))


def _needs_several_gpus(model: Path, dtype: torch.dtype, device: str) -> bool:
    """Whether the weights are too large for the first of several GPUs."""
    from safetensors import safe_open

    if device != "cuda" or torch.cuda.device_count() == 1:
        return False
    numbers = 0
    for file in model.glob("*.safetensors"):
        with safe_open(file, framework="np") as stored:
            numbers += sum(math.prod(stored.get_slice(name).get_shape()) for name in list(stored.keys()))
    memory = torch.cuda.get_device_properties(0).total_memory
    return numbers * dtype.itemsize > MOST_OF_ONE_GPU * memory
