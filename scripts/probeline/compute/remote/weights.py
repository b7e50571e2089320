"""A model of the hub goes straight onto the weights volume; here come its config, tokenizer and manifest."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from probeline.compute.remote import calls
from probeline.compute.remote.connection import in_words, require_connection
from probeline.compute.remote.deploy import find_or_deploy
from probeline.compute.remote.facts import facts_of
from probeline.compute.remote.interrupts import Interrupts
from probeline.compute.remote.layout import WEIGHTS_VOLUME
from probeline.compute.remote.settings import LONGEST
from probeline.compute.remote.store import Store
from probeline.digests import canonical_digest, sha256_bytes
from probeline.errors import ProbelineError
from probeline.files import MANIFEST, json_bytes

log = logging.getLogger(__name__)

SECRET, SECRET_KEY = "huggingface-secret", "HF_TOKEN"
CORES, GIBIBYTES, RETRIES = 2, 8, 2
WEIGHTS = ".safetensors"


def is_fetched_there(source: Mapping[str, Any]) -> bool:
    """Whether a model is fetched by Modal, where its weights are needed: they never come here."""
    return "hub" in source


def fetch_there(source: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """Have Modal fetch a model at its pinned revision, without a GPU, unless it has it already.

    Args:
        source: as `fetch_model` takes it, of the hub.
        output: the folder to make here: everything of the model but its weights.

    Returns:
        What the record says of it: where it was, how long it took, and what it cost.

    Raises:
        ProbelineError: it cannot be had; in words.
    """
    require_connection()
    with Interrupts() as interrupts, in_words():
        answer = _fetched(dict(source), output, interrupts)
        _bring(answer["model"], output)
    log.info("%s: its weights are on the volume %s, and not here.", output.name, WEIGHTS_VOLUME)
    return facts_of(answer["run"])


def _bring(at: str, output: Path) -> None:
    """What lies at a place of the weights volume, without the weights."""
    store, digest = Store(), Path(at).parts[-2]

    def wrong_with(manifest: bytes) -> str:
        return "" if sha256_bytes(manifest) == digest else "its digest is another one"

    data = store.read(f"{at}/{MANIFEST}", store.weights, wrong_with)
    if data is None:
        raise ProbelineError(f"The model at {at} is not on its volume any more.")
    manifest = orjson.loads(data)
    # What is listed is what is here; the rest of the manifest is that of the whole.
    manifest["files"] = {name: file for name, file in manifest["files"].items() if not name.endswith(WEIGHTS)}
    manifest["weights_at"] = at
    listed = {name: file | {"at": f"{at}/{name}"} for name, file in manifest["files"].items()}
    store.fetch(listed, output, store.weights, {MANIFEST: json_bytes(manifest)})


def _fetched(source: dict[str, Any], output: Path, interrupts: Interrupts) -> Mapping[str, Any]:
    import modal

    journal, key = calls.Journal(output.as_posix()), canonical_digest([source, output.name])
    known = journal.read()
    if known.get("key") == key:
        call_id = known["call"]
    else:
        secret = modal.Secret.from_name(SECRET, required_keys=[SECRET_KEY])
        weights = modal.Cls.from_name(find_or_deploy(), "Weights").with_options(
            secrets=[secret],
            cpu=CORES,
            memory=GIBIBYTES * 1024,
            timeout=LONGEST,
            retries=modal.Retries(max_retries=RETRIES, initial_delay=1.0),
        )
        with interrupts.deferred():
            resources = {"gpu": None, "cpu": CORES, "memory": GIBIBYTES}
            asked = {"source": source, "name": output.name, "resources": resources}
            call_id = weights().fetch.spawn(asked).object_id
            journal.write(call_id, key)
    try:
        answer = calls.wait(call_id, LONGEST, list)
    except KeyboardInterrupt:
        log.warning("Cancelling the call on Modal.")
        calls.cancel(call_id)
        journal.clear()
        raise
    except calls.CallEndedError:
        journal.clear()
        raise
    journal.clear()
    if "model" not in answer:
        raise ProbelineError(answer.get("fault") or f"{answer['exception']}\n{answer['traceback']}")
    return answer
