"""`probeline audit root`: one digest over all records, and signatures of it."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probeline.errors import ProbelineError
from probeline.lineage.commands import add_json
from probeline.lineage.graph import Lineage, read_lineage
from probeline.lineage.hashing import directory_digest

ENVELOPE = Path("lineage.dsse.json")
EPILOG = """\
The digest is the SHA-256 of the sorted lines `<sha256>  <path>` of all records. Put it into a signed tag:

  git tag -s v1 -m "lineage root $(probeline audit root)"

or sign it with a key of its own (ed25519; the envelope is a DSSE one, to be committed):

  probeline audit root --new-key release.key        writes release.key (keep it secret) and release.key.pub
  probeline audit root --sign release.key           writes lineage.dsse.json
  probeline audit root --verify release.key.pub     are the records those that were signed?

The exit status is 0, or 1 if a record is no valid one or not the one that was signed.
"""


def add_command(queries: Any) -> None:
    """Declare the command."""
    parser = queries.add_parser(
        "root",
        help="one digest over all records, to be signed",
        description="One digest over all records under data/ and results/. A record names the digests of its "
        "artifact and of what that was made from, so the digest stands for everything.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--new-key", type=Path, metavar="FILE", help="make a key, readable by you alone")
    action.add_argument("--sign", type=Path, metavar="KEY", help="sign the records as they are")
    action.add_argument("--verify", type=Path, metavar="PUBLICKEY", help="compare with what was signed")
    parser.add_argument(
        "--envelope",
        type=Path,
        default=ENVELOPE,
        metavar="FILE",
        help=f"of the signature (default {ENVELOPE})",
    )
    add_json(parser)
    parser.set_defaults(run=_run)


def root_digest(lineage: Lineage) -> str:
    """The SHA-256 of the lines `<sha256>  <path>` of all valid records, sorted by path."""
    return directory_digest(_digests(lineage))


def _digests(lineage: Lineage) -> dict[str, str]:
    return {record.path.as_posix(): record.sha256 for record in lineage.records.values()}


def _run(options: argparse.Namespace) -> int:
    from probeline.lineage import signatures

    if options.new_key is not None:
        public = signatures.new_key(options.new_key)
        print(f"{options.new_key} is the key: keep it secret. {public} is for those who verify.")
        return 0
    lineage = read_lineage()
    lineage.require_records()
    if lineage.faults:
        reasons = [*lineage.faults.values(), "There is no root of records that are not valid."]
        raise ProbelineError("\n".join(reasons))
    records, root, result = _digests(lineage), root_digest(lineage), {}
    if options.sign is not None:
        key = signatures.sign(records, root, options.sign, options.envelope)
        result = {"envelope": options.envelope.as_posix(), "key": key}
    elif options.verify is not None:
        signed, key = signatures.signed_records(options.envelope, options.verify)
        result = {"key": key} | _differences(records, signed)
    faulty = any(result.get(kind) for kind in ("changed", "missing", "unsigned"))
    if options.json:
        print(json.dumps({"root": root, "records": len(records), **result}, indent=2))
    else:
        _show(root, len(records), result)
    return 1 if faulty else 0


def _differences(records: Mapping[str, str], signed: Mapping[str, str]) -> dict[str, list[str]]:
    both = sorted(records.keys() & signed.keys())
    return {
        "changed": [path for path in both if records[path] != signed[path]],
        "missing": sorted(signed.keys() - records.keys()),
        "unsigned": sorted(records.keys() - signed.keys()),
    }


def _show(root: str, count: int, result: Mapping[str, Any]) -> None:
    from probeline.text import plain_text

    print(f"{root}  {count} records")
    words = {
        "changed": "is not the record that was signed",
        "missing": "was signed and is gone",
        "unsigned": "is not among what was signed",
    }
    faults = [plain_text(f"{path} {words[kind]}.") for kind in words for path in result.get(kind, ())]
    if faults:
        print("\n".join(faults))
    elif "changed" in result:
        print(f"These are the records that {result['key']} signed.")
    elif "envelope" in result:
        print(f"Signed by {result['key']}; commit {result['envelope']}.")
