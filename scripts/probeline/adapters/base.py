"""The model that a recipe tunes: loaded, merged with what it starts from, with an adapter to train on it."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from probeline.adapters.names import FOUR_BITS
from probeline.errors import ProbelineError, near_misses
from probeline.files import json_bytes, read_json
from probeline.models.adapter import adapter_files, check_base

TARGETS = {
    "llama kinds": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "gpt-neox": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
}
"""Names of the linear layers of attention and feed-forward blocks, by architecture."""
ALL_LINEAR = "all-linear"
TRANSPOSED = "Conv1D"
"""GPT-2's linear layers keep their weights the other way round."""
DEFAULT = "default"
MXFP4 = "mxfp4"


def load_tokenizer(model: Path) -> Any:
    """The tokenizer of a model, with a token to pad with."""
    from probeline.models.render import load_tokenizer

    tokenizer = load_tokenizer(model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(model: Path, merged: Sequence[Path], dtype: str, quantization: str | None) -> Any:
    """A causal language model whose weights are those of a model with adapters merged into them.

    Args:
        model: its folder.
        merged: folders of adapters, in the order in which they were trained.
        dtype: of the weights.
        quantization: `4bit` for weights of four bits, on a GPU.

    Raises:
        ProbelineError: the folder holds no weights or not all of them, an adapter belongs to another model,
            or four bits are asked for and there is no GPU, no bitsandbytes, or they are there already.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    from probeline.models.loading import put_adapter, require_weights, require_whole

    transformers_logging.disable_progress_bar()
    require_weights(model)
    several = torch.cuda.device_count() > 1
    loader: Any = AutoModelForCausalLM
    loaded, report = loader.from_pretrained(
        model,
        dtype=getattr(torch, dtype),
        device_map="auto" if several else None,
        quantization_config=_quantized(quantization, dtype, model),
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    require_whole(model, report)
    for number, adapter in enumerate(merged):
        adapter_files(adapter)
        check_base(adapter, model, merged[:number])
        loaded = put_adapter(loaded, adapter).merge_and_unload()
    return loaded


def _quantized(quantization: str | None, dtype: str, model: Path) -> Any:
    """How weights are held: as they are, of four bits, or whole where a model brings them in four bits.

    Raises:
        ProbelineError: four bits are asked for, and there is no GPU, no package for it, or they are there.
    """
    config = model / "config.json"
    own = (read_json(config).get("quantization_config") or {}) if config.is_file() else {}
    if quantization is None:
        from transformers.utils.quantization_config import Mxfp4Config

        # Adapters are merged into whole weights, and trained beside those that they are evaluated on.
        return Mxfp4Config(dequantize=True) if own.get("quant_method") == MXFP4 else None
    import torch
    from transformers import BitsAndBytesConfig

    if own:
        raise ProbelineError(
            f"{model} is quantised already ({own.get('quant_method')}), and not once more. Set quantization "
            "to null: its weights are made whole to train beside them, so take a larger gpu."
        )
    if not torch.cuda.is_available() or find_spec("bitsandbytes") is None:
        raise ProbelineError(FOUR_BITS)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def continue_adapter(model: Any, adapter: Path, base: Path, merged: Sequence[Path], dropout: float) -> Any:
    """A model with an adapter on it that is trained on.

    Args:
        model: of `load_base`.
        adapter: its folder.
        base: folder of the model.
        merged: of `load_base`.
        dropout: while it is trained, whatever it was before.

    Raises:
        ProbelineError: it belongs to another model.
    """
    from peft import LoraConfig

    from probeline.models.loading import put_adapter

    adapter_files(adapter)
    check_base(adapter, base, merged)
    config = LoraConfig.from_pretrained(str(adapter))
    config.lora_dropout = dropout
    # By its name alone, PEFT would look for it on the hub each time that a checkpoint is saved.
    config.base_model_name_or_path = str(base)
    return put_adapter(model, adapter, is_trainable=True, config=config)


def lora_config(model: Any, lora: Mapping[str, Any]) -> Any:
    """A new adapter's settings for PEFT.

    Args:
        model: of `load_base`.
        lora: `rank`, `alpha`, `dropout` and `targets` of a recipe.

    Raises:
        ProbelineError: no layer is called as `targets` says.
    """
    from peft import LoraConfig

    linear = linear_layers(model)
    targets = lora["targets"]
    if targets == "auto":
        targets = auto_targets(linear)
    unknown = [] if targets == ALL_LINEAR else [name for name in targets if name not in linear]
    if unknown:
        raise ProbelineError(
            f"lora.targets names {unknown[0]!r}, which no linear layer of this model is called. "
            + near_misses(unknown[0], linear)
        )
    return LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=targets if targets == ALL_LINEAR else sorted(targets),
        fan_in_fan_out=TRANSPOSED in linear.values(),
        task_type="CAUSAL_LM",
    )


def linear_layers(model: Any) -> dict[str, str]:
    """Last part of the name of each linear layer but the head → its class."""
    head = model.get_output_embeddings()
    return {
        name.rpartition(".")[2]: type(module).__name__
        for name, module in model.named_modules()
        if type(module).__name__ in ("Linear", "Linear4bit", TRANSPOSED) and module is not head
    }


def auto_targets(linear: Mapping[str, str]) -> list[str] | str:
    """The layers that an adapter goes on: those of the architecture, or all where it is not known."""
    for names in TARGETS.values():
        there = [name for name in names if name in linear]
        if len(there) > 1:
            return there
    return ALL_LINEAR


def save_adapter(model: Any, output: Path, name: str) -> None:
    """Write an adapter as PEFT does: without its card, and with the model's name for its path.

    Args:
        model: of PEFT.
        output: a folder.
        name: of the model that the adapter belongs to.
    """
    # Left open, it would look for the model of that name on the hub.
    model.save_pretrained(
        str(output), selected_adapters=[DEFAULT], safe_serialization=True, save_embedding_layers=False
    )
    (output / "README.md").unlink(missing_ok=True)
    file = output / "adapter_config.json"
    config = read_json(file) | {"base_model_name_or_path": name}
    if isinstance(config["target_modules"], list):
        config["target_modules"] = sorted(config["target_modules"])
    file.write_bytes(json_bytes(config))


def save_model(model: Any, output: Path) -> None:
    """Write a whole model."""
    model.save_pretrained(str(output), safe_serialization=True)
    (output / "README.md").unlink(missing_ok=True)
