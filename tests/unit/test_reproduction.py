"""What is taken out of a checkout, what is brought into it, and what then counts as made."""

from pathlib import Path

import pytest

from probeline.errors import ProbelineError
from probeline.lineage.checkout import remove_artifacts
from probeline.lineage.comparison import compare
from probeline.lineage.graph import read_lineage
from probeline.lineage.preconditions import require_records
from probeline.lineage.records import Record, read_record
from probeline.lineage.reproduction import bring_model
from tests.unit.graph_records import write_record

MODEL = "data/models/hub"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Record:
    """A model of a hub, with its files."""
    write_record(tmp_path, MODEL, "fetch_model", params={"source": {"id": "x/y", "revision": "1"}})
    return read_record(Path(f"{MODEL}.lineage.json"))


def test_a_model_is_brought_as_a_copy_if_it_is_what_its_record_says(model: Record, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    assert bring_model(model, checkout)
    brought, own = checkout / MODEL / "manifest.json", Path(MODEL, "manifest.json")
    assert brought.read_bytes() == own.read_bytes()
    assert brought.stat().st_ino != own.stat().st_ino
    own.write_text("another")
    assert not bring_model(model, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_git_holds_of_the_artifacts_is_taken_out_and_nothing_else(model: Record, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    bring_model(model, checkout)
    (checkout / "data/models/other").mkdir()
    remove_artifacts([model], checkout)
    assert [path.name for path in (checkout / "data/models").iterdir()] == ["other"]


def test_a_checkout_that_leads_out_of_itself_loses_nothing(model: Record, tmp_path: Path) -> None:
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout/data").symlink_to(tmp_path / "data")
    with pytest.raises(ProbelineError, match="data/models is a link out of the checkout"):
        remove_artifacts([model], tmp_path / "checkout")
    assert Path(MODEL, "manifest.json").exists()


def test_a_record_of_files_elsewhere_is_refused() -> None:
    write_record(Path(), "results/a", "train_probe", subject="../precious")
    lineage = read_lineage()
    with pytest.raises(ProbelineError, match=r"its record is that of \.\./precious"):
        require_records(lineage, list(lineage.records.values()))


def test_what_was_there_before_the_run_was_not_made_by_it(model: Record, tmp_path: Path) -> None:
    bring_model(model, tmp_path / "checkout")
    assert not compare(model, tmp_path / "checkout", model.metadata["startedOn"]).differences
    (fault,) = compare(model, tmp_path / "checkout", "2026-01-02T03:04:05.001Z").differences
    assert fault == "it was not made: what lies there is older"
