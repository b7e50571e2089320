"""PEFT adapters that are put on a model."""

import re
from collections.abc import Sequence
from pathlib import Path

from probeline.digests import canonical_digest, sha256_file
from probeline.errors import ProbelineError
from probeline.files import MANIFEST, read_json

FILES = ("adapter_config.json", "adapter_model.safetensors")
DIGITS, SHORT = 16, 8
"""Of a digest, in a name and in a message."""
FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")
"""What the folder of an adapter is called that names results, or stands in their reports."""
MERGED_NAME = re.compile(rf"(?P<model>.+)@(?P<digits>[0-9a-f]{{{DIGITS}}})")
"""What an adapter's config calls a merged base, see `merged_name`."""


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


def base_digest(model: Path, merged: Sequence[Path] = ()) -> str:
    """Digest of what an adapter is put on: a model's weights, and the adapters merged into them in order.

    Args:
        model: folder of the model.
        merged: folders of the adapters.
    """
    manifest = model / MANIFEST
    weights = read_json(manifest).get("weights_sha256") if manifest.is_file() else None
    if weights is None:
        weights = canonical_digest({file.name: sha256_file(file) for file in model.glob("*.safetensors")})
    return canonical_digest([weights, *map(adapter_digest, merged)]) if merged else str(weights)


def merged_name(model: str, merged: Sequence[str], digest: str) -> str:
    """What an adapter's config calls a model with adapters merged into it: `<model>+<adapter>@<digits>`.

    Args:
        model: its name.
        merged: names of the adapters.
        digest: of `base_digest`.
    """
    return f"{'+'.join([model, *merged])}@{digest[:DIGITS]}"


def _names(model: Path) -> list[str]:
    """What a model is called: its folder, and its name on the hub where it is from there."""
    manifest = model / MANIFEST
    source = read_json(manifest).get("source", {}) if manifest.is_file() else {}
    return [model.name, *([source["hub"]] if "hub" in source else [])]


def check_base(adapter: Path, model: Path, merged: Sequence[Path] = ()) -> None:
    """Refuse an adapter on another base than it was trained on, as far as it says what that was.

    An adapter of the workflow says it in its manifest; one that was trained on a merged base, and its
    checkpoints, in adapter_config.json, too.

    Args:
        adapter: its folder.
        model: folder of the model that it is to be put on.
        merged: folders of the adapters that are merged into the model first.

    Raises:
        ProbelineError: the base is another one, or one of other weights; says which it must be.
    """
    name = str(read_json(adapter / FILES[0]).get("base_model_name_or_path") or "")
    declared = MERGED_NAME.fullmatch(name)
    manifest = adapter / MANIFEST
    made = read_json(manifest).get("base", {}) if manifest.is_file() else {}
    digest = base_digest(model, merged)
    fits = (declared["digits"] == digest[:DIGITS]) if declared else not (merged and made)
    if fits and made.get("digest", digest) == digest:
        return
    trained = str(made.get("digest") or (declared["digits"] if declared else ""))
    base, *before = (declared["model"] if declared else name).split("+")
    same = base in _names(model) or made.get("model") == model.name
    if trained and same and before == [one.name for one in merged]:
        raise ProbelineError(
            f"The adapter {adapter} was trained on {model.name} with other weights (digest "
            f"{trained[:SHORT]}) than those that are there (digest {digest[:SHORT]}). Restore that revision "
            "of the model, or train the adapter again."
        )
    wanted = declared["model"].replace("+", ", with ") + " merged into it" if declared else name
    shown = model.name + "".join(f", with {one.name} merged into it" for one in merged)
    raise ProbelineError(
        f"The adapter {adapter} was trained on {wanted}; on {shown} it would mean nothing. "
        "Put it on the base that it was trained on."
    )
