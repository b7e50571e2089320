"""Hand-made lineage records: as the Recorder writes them, without a run."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from probeline.lineage.records import BUILD_TYPE, PREDICATE, STATEMENT, SUFFIX, read_record, record_bytes

Games = Mapping[str, Mapping[str, str | None]]


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def content(text: str) -> str:
    """The content digest of a game, as records have it."""
    return digest(text)[:32]


def write_record(
    name: str,
    rule: str,
    inputs: Mapping[str, str] | None = None,
    games: Games | None = None,
    *,
    files: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    code: Mapping[str, str] | None = None,
    cost: Mapping[str, Any] | None = None,
    lock: str = "lock",
    wildcards: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    size: int = 1,
) -> Path:
    """Write the record of an artifact; its parents' are written before.

    Args:
        name: the artifact's path.
        rule: that made it.
        inputs: path → role; artifacts have their record, other paths have none.
        games: split → key → content.
        files: name → digest of each of its files, beside a manifest.
        size: bytes of what was made.
    """
    contents = {"manifest.json": digest(name), **(files or {})}
    resolved = [_dependency(path, role) for path, role in (inputs or {}).items()]
    resolved += [
        {
            "name": "code",
            "digest": {"sha256": digest(str(code))},
            "annotations": {"role": "code", "files": 1},
        },
        {"name": "constraints.txt", "digest": {"sha256": digest(lock)}, "annotations": {"role": "lock"}},
        {
            "name": "repository",
            "digest": {"gitCommit": "c" * 40},
            "annotations": {"role": "source", "dirty": []},
        },
    ]
    statement = {
        "_type": STATEMENT,
        "subject": [
            {
                "name": name,
                "digest": {"dirHash": digest(str(sorted(contents.items())))},
                "annotations": {"bytes": size, "files": contents, "games": games or {}},
            }
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "rule": rule,
                    "wildcards": dict(wildcards or {}),
                    "params": {**(params or {}), "code": dict(code or {})},
                    "seed": None,
                    "config": dict(config or {}),
                },
                "internalParameters": {
                    "python": "3.11.7",
                    "platform": "linux x86_64",
                    "packages": {"torch": "2.13.0"},
                    "hardware": {"processor": "some", "cores": 2, "threads": 1, "gpus": []},
                },
                "resolvedDependencies": resolved,
            },
            "runDetails": {
                "builder": {"id": "urn:probeline:local", "version": {}},
                "metadata": {
                    "invocationId": "",
                    "startedOn": "2026-01-01T00:00:00.000Z",
                    "finishedOn": "2026-01-01T00:00:01.000Z",
                },
                "byproducts": [
                    {
                        "name": "cost",
                        "annotations": {
                            "backend": "local",
                            "seconds": 1.5,
                            "processorSeconds": 1.0,
                            "gpuSeconds": 0,
                            "peakBytes": 1,
                            "usd": 0,
                            **(cost or {}),
                        },
                    }
                ],
            },
        },
    }
    path = Path(name + SUFFIX)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(record_bytes(statement))
    return path


def _dependency(path: str, role: str) -> dict[str, Any]:
    notes: dict[str, Any] = {"input": True, "role": role}
    record = Path(path + SUFFIX)
    if not record.is_file():
        return {"name": path, "digest": {"sha256": digest(path)}, "annotations": notes}
    read = read_record(record)
    return {
        "name": f"{path}/manifest.json",
        "digest": {"sha256": read.subjects[0].files["manifest.json"]},
        "annotations": notes | {"record": record.as_posix(), "recordSha256": read.sha256},
    }
