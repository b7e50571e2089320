"""Records as runs write them, made without a run."""

from pathlib import Path
from typing import Any

from probeline.digests import sha256_bytes
from probeline.lineage.hashing import directory_digest
from probeline.lineage.records import BUILD_TYPE, PREDICATE, STATEMENT, record_bytes, record_path

Games = dict[str, dict[str, str | None]]


def write_record(
    folder: Path,
    artifact: str,
    rule: str,
    inputs: list[str] | None = None,
    games: Games | None = None,
    params: dict[str, Any] | None = None,
    files: list[str] | None = None,
    subject: str | None = None,
    forged: dict[str, Any] | None = None,
) -> None:
    """Write a folder that holds a manifest, and its record.

    Args:
        folder: the working directory.
        artifact: path relative to it.
        rule: that made it.
        inputs: artifacts that it was made from; their records must exist.
        games: by split.
        params: of the rule.
        files: inputs that no rule made.
        forged: laid over what the record says of rule, wildcards and params.
        subject: what the record claims to be of, if not of the artifact.
    """
    dependencies = [
        {
            "name": name,
            "digest": {"sha256": sha256_bytes(name.encode())},
            "annotations": {"input": True, "role": "logs"},
        }
        for name in files or []
    ]
    for name in inputs or []:
        record = record_path(Path(name))
        dependencies.append(
            {
                "name": f"{name}/manifest.json",
                "digest": {"sha256": sha256_bytes(name.encode())},
                "annotations": {
                    "input": True,
                    "role": "data",
                    "record": record.as_posix(),
                    "recordSha256": sha256_bytes((folder / record).read_bytes()),
                },
            }
        )
    for role, digest in (("code", "sha256"), ("lock", "sha256"), ("source", "gitCommit")):
        dependencies.append({"name": role, "digest": {digest: "0" * 40}, "annotations": {"role": role}})
    (folder / artifact).mkdir(parents=True, exist_ok=True)
    (folder / artifact / "manifest.json").write_text(artifact)
    manifest = {"manifest.json": sha256_bytes(artifact.encode())}
    notes: dict[str, Any] = {"bytes": 1234, "files": manifest}
    if games:
        notes["games"] = games
    statement: dict[str, Any] = {
        "_type": STATEMENT,
        "subject": [
            {
                "name": subject or artifact,
                "digest": {"dirHash": directory_digest(manifest)},
                "annotations": notes,
            }
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "rule": rule,
                    "wildcards": {},
                    "params": {**(params or {}), "code": {f"scripts/{rule}.py": "0123456789abcdef"}},
                    "seed": 0,
                    **(forged or {}),
                },
                "internalParameters": {
                    "python": "3.11.7",
                    "platform": "linux x86_64",
                    "packages": {"numpy": "2"},
                    "hardware": {"processor": "one", "cores": 2, "threads": 1, "gpus": []},
                },
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {"id": "urn:probeline:local", "version": {"probeline": "0", "snakemake": "9"}},
                "metadata": {
                    "invocationId": "",
                    "startedOn": "2026-01-02T03:04:05.000Z",
                    "finishedOn": "2026-01-02T03:04:06.500Z",
                },
                "byproducts": [
                    {
                        "name": "cost",
                        "annotations": {
                            "backend": "local",
                            "seconds": 1.5,
                            "gpuSeconds": 0,
                            "peakBytes": 1,
                            "usd": 0,
                        },
                    }
                ],
            },
        },
    }
    path = folder / record_path(Path(artifact))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(record_bytes(statement))


def write_project(folder: Path, concepts: int, shards: int, layers: int) -> int:
    """Records of a whole project: logs to probes, for some concepts, in shards; how many there are."""
    names = [f"shard-{index:02d}-of-{shards}" for index in range(shards)]
    games = {name: {f"baseline/game{index}": f"{index:032x}"} for index, name in enumerate(names)}
    splits = {name: ("train", "validation", "test")[index % 3] for index, name in enumerate(names)}
    write_record(folder, "data/models/tiny", "fetch_model")
    for name in names:
        logs = f"data/raw/games/baseline/game{names.index(name)}/game_stats.json"
        write_record(
            folder,
            f"data/processed/games/shards/{name}",
            "ingest_werewolf",
            files=[logs],
            games={"all": games[name]},
        )
    count = 1 + shards
    for concept in (f"concept{index}" for index in range(concepts)):
        for name in names:
            split = {splits[name]: games[name]}
            dialogues = f"data/processed/dialogues/{concept}/{name}"
            tables = f"data/processed/games/shards/{name}"
            write_record(folder, dialogues, "build_dialogues", [tables], split)
            write_record(
                folder,
                f"results/activations/{concept}/{name}",
                "extract_activations",
                [dialogues, "data/models/tiny"],
                split,
            )
        everything: Games = {}
        for name in names:
            everything.setdefault(splits[name], {}).update(games[name])
        above = [
            f"{place}/{concept}/{name}"
            for place in ("results/activations", "data/processed/dialogues")
            for name in names
        ]
        for layer in range(layers):
            write_record(
                folder,
                f"results/probes/{concept}_lr_l{layer}",
                "train_probe",
                above,
                everything,
                {"concept": concept, "layers": [layer]},
            )
        count += 2 * shards + layers
    return count
