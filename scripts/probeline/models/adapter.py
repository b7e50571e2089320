"""PEFT adapters that are put on a model."""

from pathlib import Path

from probeline.digests import canonical_digest, sha256_file
from probeline.errors import ProbelineError

FILES = ("adapter_config.json", "adapter_model.safetensors")


def adapter_files(adapter: Path) -> list[Path]:
    """The files of an adapter.

    Raises:
        ProbelineError: the folder holds no adapter, or its weights are in a format that can run code.
    """
    files = [adapter / name for name in FILES]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ProbelineError(
            f"{adapter} is not a PEFT adapter: it lacks {' and '.join(missing)}. "
            "Weights in other formats than safetensors are not read, as reading them can run code."
        )
    return files


def adapter_digest(adapter: Path | None) -> str | None:
    """Digest of an adapter's weights and configuration; None without one.

    Raises:
        ProbelineError: the folder holds no adapter.
    """
    return (
        None if adapter is None else canonical_digest([sha256_file(file) for file in adapter_files(adapter)])
    )
