"""Every artifact of a run has a record that says what it is, and of what it was made."""

import json
from pathlib import Path

import pytest

from probeline.digests import sha256_bytes
from probeline.files import MANIFEST
from probeline.lineage.graph import Lineage, covers, read_lineage
from probeline.lineage.hashing import directory_digest
from probeline.lineage.records import record_path
from tests.workflow.conftest import PROBE, Project

pytestmark = pytest.mark.workflow


@pytest.fixture
def lineage(own_logs_run: Project, monkeypatch: pytest.MonkeyPatch) -> Lineage:
    monkeypatch.chdir(own_logs_run.folder)
    return read_lineage()


def test_every_artifact_has_a_record_with_its_digest(lineage: Lineage) -> None:
    assert not lineage.faults
    manifests = [path for top in ("data", "results") for path in Path(top).rglob(MANIFEST)]
    assert len(manifests) >= 9
    for manifest in manifests:
        assert record_path(manifest.parent).is_file(), manifest
    for record in lineage.records.values():
        for subject in record.subjects:
            path = Path(subject.name)
            if path.is_dir():
                digests = {name: sha256_bytes((path / name).read_bytes()) for name in subject.files}
                assert digests == subject.files
                assert directory_digest(digests) == subject.sha256
                assert {file.name for file in path.iterdir()} >= {name.split("/")[0] for name in digests}
            else:
                assert sha256_bytes(path.read_bytes()) == subject.sha256


def test_records_chain_up_to_the_raw_logs(lineage: Lineage) -> None:
    above = lineage.ancestors([lineage.find(PROBE)])
    assert {record.rule for record in above} == {
        *("ingest_werewolf", "collect_corpus", "build_dialogues"),
        *("fetch_model", "extract_activations", "train_probe"),
    }
    raw: set[str] = set()
    for record in above:
        for dependency in record.dependencies:
            if dependency.record is None:
                raw.add(dependency.name)
                assert sha256_bytes(Path(dependency.name).read_bytes()) == dependency.sha256
            else:
                parent = lineage.records[dependency.record.removesuffix(".lineage.json")]
                assert parent.sha256 == dependency.record_sha256
                assert covers(parent, dependency)
    logs = {
        str(path) for path in Path("data/raw/games").rglob("*") if path.name.startswith(("game_s", "llm"))
    }
    assert raw == logs | {"config/templates/werewolf.yaml"}


def test_a_record_names_code_params_environment_and_cost(lineage: Lineage) -> None:
    record = lineage.find(PROBE)
    assert "scripts/probeline/probes/train.py" in record.code
    assert record.params["method"] == "mms"
    assert record.wildcards == {"concept": "collusion", "method": "mms", "layers": "2"}
    assert record.environment["packages"]["torch"].startswith("2.13.0")
    assert record.environment["hardware"]["threads"] == 1
    assert record.cost["seconds"] > 0
    lock = record.other_dependency("lock")
    assert lock is not None
    assert lock["digest"]["sha256"] == sha256_bytes(Path("constraints.txt").read_bytes())


def test_a_record_says_which_games_are_in_which_split(lineage: Lineage) -> None:
    probe = lineage.find(PROBE)
    games = {game: split for split, members in probe.games.items() for game in members}
    assert set(probe.games) == {"train", "validation", "test"}
    shards = [record for record in lineage.records.values() if record.rule == "extract_activations"]
    assert games == {
        game: split for shard in shards for split, members in shard.games.items() for game in members
    }
    contents = {content for members in probe.games.values() for content in members.values()}
    assert None not in contents
    assert len(contents) == len(games)


def test_an_output_of_several_files_has_one_record(lineage: Lineage) -> None:
    corpus = lineage.find("data/processed/werewolf/quality.json")
    assert corpus.name == "data/processed/werewolf"
    assert {Path(subject.name).name for subject in corpus.subjects} == {
        *("events.parquet", "games.parquet", "quality.json", "quarantine.jsonl", "manifest.json")
    }


def test_the_same_run_gives_records_that_differ_in_times_only(own_logs: Project) -> None:
    path = own_logs.folder / f"{PROBE}.lineage.json"
    before = json.loads(path.read_bytes())
    done = own_logs.snakemake(
        PROBE, "--forcerun", "train_probe", config=("tests/config/tiny.yaml", "own.yaml")
    )
    assert done.returncode == 0, done.stdout
    after = json.loads(path.read_bytes())
    assert after["subject"] == before["subject"]
    assert after["predicate"]["buildDefinition"] == before["predicate"]["buildDefinition"]
    assert after["predicate"]["runDetails"] != before["predicate"]["runDetails"]
