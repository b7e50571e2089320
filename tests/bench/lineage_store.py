"""A folder full of artifacts and their records, made by a script in place of weeks of runs.

Every digest is true, every record has what a real one has, and what they say fits together: corpora, models,
dialogues and activations in shards, probes. Only the bytes of the artifacts are noise.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from probeline.digests import canonical_digest
from probeline.files import MANIFEST, json_bytes
from probeline.lineage.hashing import directory_digest
from probeline.lineage.records import (
    BUILD_TYPE,
    PREDICATE,
    STATEMENT,
    SUFFIX,
    Statement,
    record_bytes,
    record_path,
)

MODEL = "data/models/model"
CORPUS = "data/processed/games"
SPLITS = ("train", "train", "train", "validation", "test")
MODULES = 25


@dataclass
class Store:
    """A folder in which artifacts are made, one after the other.

    Attributes:
        folder: where.
        file_bytes: size of the large file of each artifact; a fifth of it for those of the probes.
        records: artifact → digest of its record.
        manifests: artifact → digest of its manifest.
        moment: when the last one was done.
        count: how many artifacts were made, whatever their names.
    """

    folder: Path
    file_bytes: int
    records: dict[str, str] = field(default_factory=dict)
    manifests: dict[str, str] = field(default_factory=dict)
    moment: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def make(
        self,
        rule: str,
        name: str,
        files: dict[str, bytes],
        inputs: Iterable[tuple[str, str]],
        games: dict[str, dict[str, str | None]],
        wildcards: dict[str, str],
    ) -> None:
        """Write an artifact and its record.

        Args:
            rule: that would have made it.
            name: its path.
            files: name → content; the manifest is added.
            inputs: role and path of each artifact that it is made from, or of a file that no rule made.
            games: in it, by split.
            wildcards: of the rule.
        """
        place = self.folder / name
        place.mkdir(parents=True)
        digests = {}
        for file, content in files.items():
            (place / file).write_bytes(content)
            digests[file] = hashlib.sha256(content).hexdigest()
        listed = {file: {"bytes": len(files[file]), "sha256": digests[file]} for file in sorted(files)}
        manifest = json_bytes({"kind": rule, "wildcards": wildcards, "files": listed})
        (place / MANIFEST).write_bytes(manifest)
        digests[MANIFEST] = self.manifests[name] = hashlib.sha256(manifest).hexdigest()
        digests = dict(sorted(digests.items()))
        notes: dict[str, Any] = {
            "bytes": len(manifest) + sum(map(len, files.values())),
            "files": digests,
            "games": games,
        }
        subject = {"name": name, "digest": {"dirHash": directory_digest(digests)}, "annotations": notes}
        started, self.moment = self.moment, self.moment + timedelta(seconds=2)
        statement = _statement(rule, wildcards, subject, list(self._dependencies(inputs)))
        run = statement["predicate"]["runDetails"]
        run["metadata"] |= {"startedOn": _text(started), "finishedOn": _text(self.moment)}
        data = record_bytes(statement)
        record_path(place).write_bytes(data)
        self.records[name] = hashlib.sha256(data).hexdigest()

    def _dependencies(self, inputs: Iterable[tuple[str, str]]) -> Iterator[dict[str, Any]]:
        for role, name in inputs:
            notes: dict[str, Any] = {"input": True, "role": role}
            if name in self.records:
                notes |= {"record": f"{name}.lineage.json", "recordSha256": self.records[name]}
                file, digest = f"{name}/{MANIFEST}", self.manifests[name]
            else:
                file, digest = name, hashlib.sha256((self.folder / name).read_bytes()).hexdigest()
            yield {"name": file, "digest": {"sha256": digest}, "annotations": notes}

    def noise(self, name: str, size: int) -> bytes:
        """Bytes that no other file has."""
        return hashlib.shake_128(name.encode()).digest(min(size, 4096)) + bytes(max(0, size - 4096))


def make_store(
    folder: Path, concepts: int, probes: int, shards: int, games: int, file_bytes: int = 20_000
) -> Store:
    """Fill a folder as a run would.

    The records are 2 * shards + 1 of the model and the corpus, 2 * shards per concept, one per probe.

    Args:
        folder: an empty one, or one that does not exist.
        concepts: each makes dialogues and activations, in shards.
        probes: dealt to the concepts in turn.
        shards: of the corpus and of each concept.
        games: of the corpus, dealt to the shards in turn.
        file_bytes: size of the large file of each artifact.
    """
    store = Store(folder, file_bytes)
    names = [f"shard-{index:02d}-of-{shards}" for index in range(shards)]
    template = "config/templates/games.yaml"
    (folder / template).parent.mkdir(parents=True, exist_ok=True)
    (folder / template).write_text("roles: {}\n")
    keys = [f"baseline/game{index}" for index in range(games)]
    by_shard = {name: keys[index::shards] for index, name in enumerate(names)}
    weights = {"model.safetensors": store.noise(MODEL, file_bytes), "config.json": b"{}"}
    store.make("fetch_model", MODEL, weights, [], {}, {"model": "model"})
    for shard in names:
        simulated, processed = f"data/simulated/games/{shard}", f"{CORPUS}/shards/{shard}"
        wildcards = {"corpus": "games", "shard": shard}
        logs = {f"{game.replace('/', '-')}.json": game.encode() for game in by_shard[shard]}
        store.make("simulate_logs", simulated, logs, [], _all(by_shard[shard]), wildcards)
        tables = {"events.parquet": store.noise(processed, file_bytes), "games.parquet": b"games"}
        inputs = [("logs", simulated)]
        store.make("ingest_werewolf", processed, tables, inputs, _all(by_shard[shard]), wildcards)
    for concept in map("concept{:03d}".format, range(concepts)):
        for shard in names:
            split = _by_split(by_shard[shard])
            wildcards = {"concept": concept, "shard": shard}
            dialogues, activations = (
                f"{top}/{concept}/{shard}" for top in ("data/processed/dialogues", "results/activations")
            )
            tables = {
                "samples.parquet": dialogues.encode(),
                "sequences.parquet": store.noise(dialogues, 5000),
            }
            inputs = [("corpus", f"{CORPUS}/shards/{shard}"), ("template", template)]
            store.make("build_dialogues", dialogues, tables, inputs, split, wildcards)
            arrays = {
                "activations.safetensors": store.noise(activations, file_bytes),
                "index.parquet": activations.encode(),
                "excluded.jsonl": b"",
            }
            inputs = [("dialogues", dialogues), ("model", MODEL)]
            store.make("extract_activations", activations, arrays, inputs, split, wildcards)
    for index in range(probes):
        concept, layers = f"concept{index % concepts:03d}", str(index // concepts)
        name = f"results/probes/{concept}_lr_l{layers}"
        files = {
            "detector.pt": store.noise(name, file_bytes // 5),
            "metrics.json": json_bytes({"auroc": 0.5 + index / (3 * probes)}),
            "scores.parquet": store.noise(f"{name}/scores", file_bytes // 5),
        }
        inputs = [("activations", f"results/activations/{concept}/{shard}") for shard in names]
        inputs += [("dialogues", f"data/processed/dialogues/{concept}/{shard}") for shard in names]
        wildcards = {"concept": concept, "method": "lr", "layers": layers}
        store.make("train_probe", name, files, inputs, _by_split(keys), wildcards)
    return store


def _all(games: Iterable[str]) -> dict[str, dict[str, str | None]]:
    return {"all": dict.fromkeys(games)}


def _by_split(games: Iterable[str]) -> dict[str, dict[str, str | None]]:
    found: dict[str, dict[str, str | None]] = {}
    for game in sorted(games):
        content = hashlib.sha256(game.encode()).hexdigest()
        found.setdefault(SPLITS[int(content[:8], 16) % len(SPLITS)], {})[game] = content[:32]
    return dict(sorted(found.items()))


def _statement(
    rule: str, wildcards: dict[str, str], subject: dict[str, Any], dependencies: list[dict[str, Any]]
) -> Statement:
    code = {f"scripts/probeline/{rule}/module{index:02d}.py": f"{index:016x}" for index in range(MODULES)}
    surroundings = [
        {
            "name": "code",
            "digest": {"sha256": canonical_digest(code)},
            "annotations": {"role": "code", "files": MODULES},
        },
        {"name": "constraints.txt", "digest": {"sha256": "0" * 64}, "annotations": {"role": "lock"}},
        {
            "name": "repository",
            "digest": {"gitCommit": "0" * 40},
            "annotations": {"role": "source", "dirty": []},
        },
    ]
    hardware = {"processor": "made up", "cores": 2, "threads": 1, "gpus": []}
    cost = {
        "backend": "local",
        "seconds": 2.0,
        "processorSeconds": 1.9,
        "gpuSeconds": 0,
        "peakBytes": 1,
        "usd": 0,
    }
    return {
        "_type": STATEMENT,
        "subject": [subject],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "rule": rule,
                    "wildcards": wildcards,
                    "params": {"seed": 0, **wildcards, "code": code},
                    "seed": 0,
                    "outputs": [f"{subject['name']}{SUFFIX}", subject["name"]],
                },
                "internalParameters": {
                    "python": "3.11.7",
                    "platform": "linux x86_64",
                    "packages": dict.fromkeys(("snakemake", "torch", "numpy", "pyarrow"), "1.0.0"),
                    "hardware": hardware,
                },
                "resolvedDependencies": [*dependencies, *surroundings],
            },
            "runDetails": {
                "builder": {
                    "id": "urn:probeline:local",
                    "version": {"probeline": "0.1.0", "snakemake": "9.27.1"},
                },
                "metadata": {"invocationId": "", "startedOn": "", "finishedOn": ""},
                "byproducts": [{"name": "cost", "annotations": cost}],
            },
        },
    }


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
