"""`audit verify` on what a run has made of a user's own logs, and its records read by in-toto's library."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict, ParseError
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage

from tests.workflow.conftest import OUTSIDE_CONFIG, PROBE, TINY, Project

pytestmark = pytest.mark.workflow


@pytest.fixture
def project(outside_logs_run: Project, tmp_path: Path) -> Iterator[Project]:
    """A finished run and its logs outside of the working directory, to be edited."""
    shutil.copytree(outside_logs_run.folder.parent / "games", tmp_path / "logs")
    project = outside_logs_run.copy(tmp_path / "project")
    project.write("own.yaml", OUTSIDE_CONFIG.format(tmp_path / "logs"))
    yield project
    shutil.rmtree(tmp_path / "project")


def verify(project: Project, *words: str) -> tuple[int, str]:
    return project.audit("verify", *words, "--configfile", TINY, "own.yaml")


def test_every_record_of_a_run_is_a_strict_in_toto_statement_with_slsa_provenance(
    outside_logs_run: Project,
) -> None:
    records = sorted(outside_logs_run.folder.rglob("*.lineage.json"))
    rules = set()
    for record in records:
        value = json.loads(record.read_text())
        # Both refuse fields that the standards do not know.
        Statement.copy_from_pb(ParseDict(value, StatementMessage())).validate()
        provenance = ParseDict(value["predicate"], Provenance())
        for dependency in provenance.build_definition.resolved_dependencies:
            assert dependency.name
            assert dependency.digest
        assert provenance.run_details.metadata.started_on.seconds
        assert provenance.run_details.builder.id
        rules.add(provenance.build_definition.external_parameters["rule"])
    assert rules == {
        *("fetch_model", "ingest_werewolf", "collect_corpus", "build_dialogues"),
        *("extract_activations", "train_probe"),
    }
    with pytest.raises(ParseError):
        ParseDict(value["predicate"] | {"seconds": 1}, Provenance())


def test_a_run_verifies_with_its_raw_logs_and_an_edit_of_one_is_named(project: Project) -> None:
    status, words = verify(project)
    assert status == 0, words
    assert "are what they were" in words
    assert str(project.folder.parent) not in words
    logs = project.folder.parent / "logs"
    log = sorted(logs.rglob("game_stats.json"))[0]
    log.write_bytes(log.read_bytes() + b" ")
    status, words = verify(project, PROBE)
    assert status == 1
    assert f"raw/werewolf/{log.relative_to(logs)}" in words
    assert "It is not what was read" in words
    assert PROBE in words
    # On a machine without the logs all the rest can be verified.
    project.write("own.yaml", "corpora: {werewolf: {root: /nowhere/logs}}\n")
    status, words = verify(project)
    assert status == 0, words
    assert "not here" in words


def test_what_killed_jobs_leave_is_no_artifact_and_tables_of_a_corpus_are(project: Project) -> None:
    draft = project.folder / "results/probes/.collusion_mms_l2.tmp-00ff"
    draft.mkdir()
    (draft / "manifest.json").write_text("{}")
    assert verify(project)[0] == 0
    table = project.folder / "data/processed/werewolf/games.parquet"
    table.write_bytes(table.read_bytes()[:-1] + b"\0")
    status, words = verify(project)
    assert status == 1
    assert "data/processed/werewolf" in words
    assert "games.parquet (expected" in words
