"""PEFT adapters that are put on a model."""

from pathlib import Path

from probeline.digests import canonical_digest, sha256_file
from probeline.errors import ProbelineError
from probeline.files import read_json

FILES = ("adapter_config.json", "adapter_model.safetensors")


def adapter_files(adapter: Path) -> list[Path]:
    """The files of an adapter.

    Raises:
        ProbelineError: the folder holds no LoRA adapter, a damaged one, or one that can run code.
    """
    files = [adapter / name for name in FILES]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ProbelineError(
            f"{adapter} is not a PEFT adapter: it lacks {' and '.join(missing)}. "
            "Weights in other formats than safetensors are not read, as reading them can run code."
        )
    config = read_json(files[0], "Save the adapter again, or name another one.")
    if not isinstance(config, dict):
        raise ProbelineError(f"{files[0]} holds no settings of an adapter. Save the adapter again.")
    _check_weights(files[1])
    if config.get("peft_type") != "LORA":
        raise ProbelineError(f"{files[0]}: peft_type is {config.get('peft_type')!r}, but only LORA is read.")
    # PEFT imports whatever module such a setting names.
    foreign = [key for key in ("megatron_config", "trust_remote_code") if config.get(key)]
    if foreign:
        raise ProbelineError(f"{files[0]} sets {foreign[0]}, which can run code of others. Remove it.")
    # These act outside of the model's own layers, or change their number.
    unread = [key for key in ("alora_invocation_tokens", "layer_replication") if config.get(key)]
    if unread:
        raise ProbelineError(f"{files[0]} sets {unread[0]}: only plain LoRA is read.")
    return files


def _check_weights(file: Path) -> None:
    """Refuse a file that is no safetensors file, or not a whole one; its header is read, not its tensors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np"):
            pass
    except SafetensorError as error:
        raise ProbelineError(
            f"{file} is not a whole safetensors file ({error}). Save the adapter again, or copy it again."
        ) from error


def adapter_digest(adapter: Path | None) -> str | None:
    """Digest of an adapter's weights and configuration; None without one.

    Raises:
        ProbelineError: the folder holds no adapter.
    """
    return (
        None if adapter is None else canonical_digest([sha256_file(file) for file in adapter_files(adapter)])
    )
