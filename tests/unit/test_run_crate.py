"""The exported crate passes the validator of the Workflow Run RO-Crate profiles, without a network."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3
from requests.adapters import BaseAdapter
from requests_cache import CachedSession
from rocrate_validator import services
from rocrate_validator.models import Severity

from probeline.cli import main
from tests.unit.graph_records import write_project, write_record

PROFILES = ("process-run-crate-0.5", "workflow-run-crate-0.5", "provenance-run-crate-0.5")
CONTEXT = "https://w3id.org/ro/crate/1.1/context"
BIOSCHEMAS = "https://bioschemas.org/"
# What RO-Crate 1.1 says of the terms that a crate of ours uses: those of schema.org, and these. A term that
# stands in none of the two is a fault that the validator reports.
OTHER_TERMS = {
    "ComputationalWorkflow": f"{BIOSCHEMAS}ComputationalWorkflow",
    "FormalParameter": f"{BIOSCHEMAS}FormalParameter",
    "input": f"{BIOSCHEMAS}ComputationalWorkflow#input",
    "File": "http://schema.org/MediaObject",
    "conformsTo": "http://purl.org/dc/terms/conformsTo",
}
SCHEMA_TERMS = """\
ComputerLanguage ControlAction CreateAction CreativeWork Dataset HowTo HowToStep OrganizeAction
PropertyValue SoftwareApplication SoftwareSourceCode about actionStatus additionalType contentSize
datePublished description encodingFormat endTime exampleOfWork hasPart identifier instrument license
mainEntity mentions name object position programmingLanguage propertyID result softwareVersion
startTime step subjectOf unitCode url value version workExample
"""
HONEST_GAPS = (
    # No name of a user enters a record; the code of a rule has no address of its own; there is no README in
    # the crate; author and publisher are the reader's to name.
    "agent",
    "id SHOULD be an absolute URI",
    "SHOULD have a url",
    "README.md",
    "Bioschemas ComputationalWorkflow profile",
    "author",
    "publisher",
)


class _Terms(BaseAdapter):
    """Serves the context from here."""

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        terms = {name: f"http://schema.org/{name}" for name in SCHEMA_TERMS.split()} | OTHER_TERMS
        response = requests.Response()
        response.status_code = 200
        response.url = CONTEXT
        response.request = request
        response.headers["Content-Type"] = "application/ld+json"
        response.raw = urllib3.HTTPResponse(
            body=io.BytesIO(json.dumps({"@context": terms}).encode()),
            headers={"Content-Type": "application/ld+json"},
            preload_content=False,
            request_url=CONTEXT,
        )
        return response

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The validator's cache with the one context that a crate names; it asks no network for others."""
    cache = tmp_path_factory.mktemp("validator") / "cache"
    with CachedSession(str(cache), backend="sqlite", expire_after=-1) as session:
        session.mount("https://", _Terms())
        session.get(CONTEXT)
    return cache


def issues(crate: Path, profile: str, severity: Severity, cache: Path) -> list[str]:
    settings = services.ValidationSettings(
        rocrate_uri=str(crate),
        profile_identifier=profile,
        requirement_severity=severity.name,
        offline=True,
        cache_path=cache,
    )
    result = services.validate(settings)
    return [issue.message or "" for issue in result.get_issues(severity)]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path, concepts=1, shards=2, layers=2)
    (tmp_path / "Snakefile").write_text("rule all:\n    input: []\n")
    return tmp_path


def test_a_crate_meets_all_three_profiles(project: Path, offline: Path) -> None:
    assert main(["audit", "export", "--ro-crate", "crate"]) == 0
    for profile in PROFILES:
        assert issues(project / "crate", profile, Severity.REQUIRED, offline) == []
    recommended = issues(project / "crate", PROFILES[-1], Severity.RECOMMENDED, offline)
    assert [message for message in recommended if not any(gap in message for gap in HONEST_GAPS)] == []
    assert [gap for gap in HONEST_GAPS if not any(gap in message for message in recommended)] == []
    assert not (project / "crate/results/probes/concept0_lr_l1").exists()


def test_a_crate_with_data_meets_them_too(project: Path, offline: Path) -> None:
    assert main(["audit", "export", "--ro-crate", "crate", "--with-data"]) == 0
    # The profile of provenance holds those of process and workflow.
    assert issues(project / "crate", PROFILES[-1], Severity.REQUIRED, offline) == []
    copied = project / "crate/results/probes/concept0_lr_l1/manifest.json"
    assert copied.read_text() == "results/probes/concept0_lr_l1"


def test_a_damaged_crate_fails(project: Path, offline: Path) -> None:
    main(["audit", "export", "--ro-crate", "crate"])
    described = project / "crate/ro-crate-metadata.json"
    crate = json.loads(described.read_text())
    for entity in crate["@graph"]:
        if entity["@type"] == "ControlAction":
            del entity["instrument"]
    described.write_text(json.dumps(crate))
    assert any(
        "HowToStep" in text for text in issues(project / "crate", PROFILES[-1], Severity.REQUIRED, offline)
    )
    (project / "crate/results/probes/concept0_lr_l0.lineage.json").unlink()
    assert any(
        "concept0_lr_l0" in text
        for text in issues(project / "crate", PROFILES[0], Severity.REQUIRED, offline)
    )


def test_a_crate_says_what_the_records_say_and_nothing_of_this_machine(project: Path) -> None:
    assert main(["audit", "export", "--ro-crate", "one", "concept0_lr_l1"]) == 0
    assert main(["audit", "export", "--ro-crate", "two", "concept0_lr_l1"]) == 0
    described = (project / "one/ro-crate-metadata.json").read_bytes()
    assert described == (project / "two/ro-crate-metadata.json").read_bytes()
    assert str(project).encode() not in described
    graph = {entity["@id"]: entity for entity in json.loads(described)["@graph"]}
    job = graph["#job/results/probes/concept0_lr_l1"]
    read = {graph[given["@id"]]["name"] for given in job["object"]}
    assert "results/activations/concept0/shard-00-of-2" in read
    assert graph["#value/train_probe.layers/" + _value_of(job)]["value"] == "[1]"
    assert job["startTime"] == "2026-01-02T03:04:05.000+00:00"
    assert "#job/results/probes/concept0_lr_l0" not in graph  # the other probe is not above this one
    record = project / "one/results/probes/concept0_lr_l1.lineage.json"
    assert record.read_bytes() == (project / "results/probes/concept0_lr_l1.lineage.json").read_bytes()


def _value_of(job: dict[str, Any]) -> str:
    values = [given["@id"] for given in job["object"] if "train_probe.layers" in given["@id"]]
    return values[0].rsplit("/", 1)[1]


def test_a_file_that_is_not_what_its_record_says_is_not_exported(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "results/probes/concept0_lr_l1/manifest.json").write_text("swapped")
    assert main(["audit", "export", "--ro-crate", "crate", "--with-data", "concept0_lr_l1"]) == 1
    assert (
        "results/probes/concept0_lr_l1/manifest.json is not what its record says" in capsys.readouterr().err
    )
    assert not (project / "crate").exists()


def test_an_edited_record_ends_the_export(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = project / "results/probes/concept0_lr_l1.lineage.json"
    record.write_text(record.read_text().replace('"gpuSeconds": 0', '"gpuSeconds": 1'))
    assert main(["audit", "export", "--ro-crate", "crate"]) == 1
    assert (
        "results/probes/concept0_lr_l1.lineage.json was edited after it was written"
        in capsys.readouterr().err
    )
    assert not (project / "crate").exists()


def test_a_forged_record_gets_no_file_from_elsewhere(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project.parent / "secret").mkdir(exist_ok=True)
    write_record(project, "results/probes/forged", "train_probe", subject="../secret")
    assert main(["audit", "export", "--ro-crate", "crate", "--with-data", "forged"]) == 1
    assert "lies outside this folder" in capsys.readouterr().err
    assert not (project / "crate").exists()
