"""What other programs read of this repository: the workflow catalogue, and citation managers."""

import re
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]


def test_the_workflow_catalogue_finds_what_it_asks_for() -> None:
    usage = yaml.safe_load((REPOSITORY / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage.keys() == {"mandatory-flags", "software-stack-deployment", "report"}
    assert usage["mandatory-flags"].keys() == {"desc", "flags"}
    assert usage["software-stack-deployment"].keys() == {"conda", "apptainer", "apptainer+conda"}
    assert {type(value) for value in usage["software-stack-deployment"].values()} == {bool}
    assert usage["report"] is True
    readme = (REPOSITORY / "README.md").read_text().lower()
    assert "snakemake" in readme
    assert "workflow" in readme
    assert (REPOSITORY / "config/README.md").is_file()
    assert list((REPOSITORY / "rules").glob("*.smk"))


def test_the_citation_has_what_its_format_requires() -> None:
    """The Citation File Format 1.2.0: its required keys, and an author that is a person or an entity."""
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}
    assert citation["type"] in ("software", "dataset")
    assert all(author.keys() & {"name", "family-names", "alias"} for author in citation["authors"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", citation["version"])
