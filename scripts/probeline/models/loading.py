"""A model's weights in memory, whole or not at all, and an adapter on them."""

import copy
import json
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from probeline.errors import ProbelineError

# Share of a GPU's memory that weights may take before a model is spread over several GPUs.
MOST_OF_ONE_GPU = 0.8
# Kinds of rotary positions that depend on the longest position in a row, and so on what else is in it.
ROPE_OF_THE_ROW = ("longrope", "dynamic")
LAYER_TYPES = ("full_attention", "sliding_attention")
PREFIX = "base_model.model."
"""Begins the names of weights in an adapter's file."""
# Named here, too: what is imported here decides which results of the engine are made again.
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OWN_WEIGHTS = (True, False, None, "gaussian", "orthogonal")
"""How LoRA weights begin (`init_lora_weights`) without a change of the model's own."""


def load_weights(loader: Any, model: Path, dtype: torch.dtype, device: str, attention: str) -> Any:
    """A model with all of its weights, in main memory or, where one GPU is too small, on several.

    Args:
        loader: class of transformers, such as AutoModelForCausalLM.
        model: a folder with config and safetensors.
        dtype: number type of the weights.
        device: `cpu` or `cuda`.
        attention: name of an attention function that is registered with transformers.

    Raises:
        ProbelineError: the folder holds no whole model.
        KeyError, ValueError: the architecture does not take the attention function; its name is in the text.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # it lists the head, which may be left out on purpose
    if (model / ADAPTER_CONFIG).exists():
        raise ProbelineError(
            f"{model} holds an adapter. Name the model itself, and the adapter as model.adapter."
        )
    require_weights(model)
    loaded, report = loader.from_pretrained(
        model,
        dtype=dtype,
        attn_implementation=attention,
        device_map="auto" if needs_several_gpus(model, dtype, device) else None,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    require_whole(model, report)
    return loaded


def require_weights(model: Path) -> None:
    """Refuse a folder without weights.

    Raises:
        ProbelineError: there are none.
    """
    if not any(model.glob("*.safetensors")):
        raise ProbelineError(
            f"{model} holds no weights: fetched with compute: modal, they are there. "
            f"Delete {model} to have it fetched here, or leave the work to Modal."
        )


def require_whole(model: Path, report: Mapping[str, Any]) -> None:
    """Refuse a model some of whose weights were not in its files.

    Args:
        model: its folder.
        report: of transformers about what was loaded.

    Raises:
        ProbelineError: some are missing; names them.
    """
    if report["missing_keys"]:
        raise ProbelineError(
            f"The model {model} lacks weights ({', '.join(sorted(report['missing_keys'])[:3])}, …): "
            "random numbers would stand in for them. Delete it to have it fetched again."
        )


def depends_on_the_row(config: Any) -> bool:
    """Whether sequences side by side are computed otherwise than each alone: by position, or by a state.

    Args:
        config: of the text model.
    """
    kinds = getattr(config, "layer_types", None) or []
    ropes = getattr(config, "rope_parameters", None) or {}
    # Some models have one kind of rotary positions for each kind of layer.
    nested = [rope for rope in ropes.values() if isinstance(rope, dict)] or [ropes]
    return not set(kinds) <= set(LAYER_TYPES) or any(
        rope.get("rope_type") in ROPE_OF_THE_ROW for rope in nested
    )


def needs_several_gpus(model: Path, dtype: torch.dtype, device: str) -> bool:
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


def put_adapter(model: Any, adapter: Path, **settings: Any) -> Any:
    """The model with all weights of an adapter on it: a PeftModel. The model itself is changed.

    Args:
        model: a decoder with its head; see `sharing_copy` for one that is to stay as it is.
        adapter: a folder with a LoRA adapter that `models.adapter` has checked.
        settings: more for PEFT's from_pretrained.

    Raises:
        ProbelineError: the adapter was made for another model.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    with warnings.catch_warnings(), safe_open(adapter / ADAPTER_WEIGHTS, framework="np") as stored:
        # What they say of missing weights is looked at here; the rest is between PEFT and transformers.
        warnings.simplefilter("ignore")
        try:
            adapted: Any = PeftModel.from_pretrained(model, str(adapter), **settings)
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ProbelineError(f"The adapter {adapter} does not fit the model: {reason}") from error
        # Told whether there are embeddings, it does not look for them where the adapter says its base is.
        expected = [
            {*get_peft_model_state_dict(adapted, save_embedding_layers=embeddings)}
            for embeddings in (False, True)
        ]
        names = {*stored.keys()}
    if names not in expected:
        unmatched = sorted(names ^ expected[0])
        raise ProbelineError(
            f"The adapter {adapter} was made for another model: {len(unmatched)} of its weights and the "
            f"model's do not match, {unmatched[0]} for one."
        )
    return adapted


def sharing_copy(model: Any, adapter: Path) -> Any:
    """A copy to put an adapter on: it shares the model's weights, but for those that the adapter replaces.

    Args:
        model: a module of transformers.
        adapter: a folder with a LoRA adapter that `models.adapter` has checked.
    """
    if json.loads((adapter / ADAPTER_CONFIG).read_bytes()).get("init_lora_weights", True) not in OWN_WEIGHTS:
        return copy.deepcopy(model)
    replaced = _replaced(adapter)
    own = {id(value) for name, value in model.named_parameters(remove_duplicate=False) if name in replaced}
    weights = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(weight): weight for weight in weights if id(weight) not in own})


def _replaced(adapter: Path) -> set[str]:
    """Names of the model's own weights that an adapter's file holds: biases, embeddings."""
    from safetensors import safe_open

    with safe_open(adapter / ADAPTER_WEIGHTS, framework="np") as stored:
        names = [name.removeprefix(PREFIX) for name in list(stored.keys())]
    # Where PEFT has put a layer around the model's own, that is called base_layer.
    return {re.sub(r"\.base_layer(?=\.|$)", "", name) for name in names}
