"""Signatures of all records: a DSSE envelope with an in-toto Statement, signed with ed25519.

https://github.com/secure-systems-lab/dsse defines the envelope and what is signed.
"""

import base64
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from probeline.digests import sha256_bytes
from probeline.errors import ProbelineError
from probeline.files import read_json, write_json
from probeline.lineage.hashing import directory_digest
from probeline.lineage.records import STATEMENT

PAYLOAD = "application/vnd.in-toto+json"
PREDICATE = "urn:probeline:lineage-root:1"
OWNER_ONLY = 0o600


def new_key(file: Path) -> Path:
    """Make a private key that only its owner can read, and beside it the public one.

    Returns:
        The file of the public key, `<file>.pub`.

    Raises:
        ProbelineError: one of the files exists.
    """
    public = file.with_name(f"{file.name}.pub")
    for existing in (file, public):
        if existing.exists():
            raise ProbelineError(f"{existing} exists; a key is never overwritten. Give another name.")
    key = Ed25519PrivateKey.generate()
    private_bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
    with os.fdopen(handle, "wb") as target:
        target.write(private_bytes)
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return public


def sign(records: Mapping[str, str], root: str, key_file: Path, envelope: Path) -> str:
    """Write the envelope.

    Args:
        records: path → SHA-256.
        root: the digest over them.
        key_file: of the private key.
        envelope: the file to write.

    Returns:
        The id of the key.
    """
    key = _load(key_file, Ed25519PrivateKey)
    subjects = [{"name": path, "digest": {"sha256": records[path]}} for path in sorted(records)]
    statement = {
        "_type": STATEMENT,
        "subject": subjects,
        "predicateType": PREDICATE,
        "predicate": {"root": root},
    }
    payload = orjson.dumps(statement)
    identity = _key_id(key.public_key())
    signature = {"keyid": identity, "sig": _encode(key.sign(_signed_bytes(PAYLOAD, payload)))}
    write_json(envelope, {"payloadType": PAYLOAD, "payload": _encode(payload), "signatures": [signature]})
    return identity


def signed_records(envelope: Path, key_file: Path) -> tuple[dict[str, str], str]:
    """What was signed, path → SHA-256, and the id of the key.

    Raises:
        ProbelineError: the envelope is missing, none, or not signed by this key.
    """
    public = _load(key_file, Ed25519PublicKey)
    remedy = (
        f"Make it with `probeline audit root --sign KEY --envelope {shlex.quote(str(envelope))}`, or take it "
        "from git again."
    )
    content = read_json(envelope, remedy)
    try:
        payload = base64.b64decode(content["payload"], validate=True)
        signatures = [base64.b64decode(given["sig"], validate=True) for given in content["signatures"]]
        signed = _signed_bytes(content["payloadType"], payload)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ProbelineError(f"{envelope} is no DSSE envelope. {remedy}") from error
    if not any(_is_signature(public, signature, signed) for signature in signatures):
        raise ProbelineError(
            f"{envelope} was not signed with the key of {key_file} ({_key_id(public)}), or was edited since."
        )
    # From here on it is what the owner of the key signed, be it of another program.
    try:
        statement = orjson.loads(payload)
        is_ours = content["payloadType"] == PAYLOAD and statement["predicateType"] == PREDICATE
        records = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
        fits = directory_digest(records) == statement["predicate"]["root"]
    except (KeyError, TypeError, AttributeError, ValueError):
        is_ours = fits = False
    if not is_ours:
        raise ProbelineError(f"{envelope} is a signature of something else than records of Probeline.")
    if not fits:
        raise ProbelineError(f"{envelope} contradicts itself: its records do not make up its root.")
    return records, _key_id(public)


def _is_signature(key: Ed25519PublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def _signed_bytes(kind: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: type and content, each with its length."""
    name = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def _load(file: Path, kind: type) -> Any:
    """A key of a PEM file."""
    try:
        data = file.read_bytes()
        if kind is Ed25519PrivateKey:
            key: object = serialization.load_pem_private_key(data, password=None)
        else:
            key = serialization.load_pem_public_key(data)
    except FileNotFoundError as error:
        raise ProbelineError(
            f"{file} does not exist. `probeline audit root --new-key FILE` makes a key."
        ) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        wanted = "private" if kind is Ed25519PrivateKey else "public"
        raise ProbelineError(f"{file} is no {wanted} key in PEM format without a password.") from error
    if not isinstance(key, kind):
        raise ProbelineError(f"{file} is no ed25519 key. `probeline audit root --new-key FILE` makes one.")
    return key


def _key_id(key: Ed25519PublicKey) -> str:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return f"ed25519:{sha256_bytes(raw)[:16]}"


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
