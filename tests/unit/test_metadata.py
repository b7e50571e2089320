"""What others make of this repository: the workflow catalogue, citation managers, machines without a GPU."""

import os
import re
import subprocess
import sys
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


def test_without_a_gpu_its_tests_are_skipped() -> None:
    """As `make test-gpu` asks for them; those of one file, as the others are skipped by `make test`."""
    words = ("-q", "-p", "no:cacheprovider", "-m", "gpu", "tests/unit/test_engine.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=REPOSITORY,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"^[1-9] skipped, \d+ deselected in ", done.stdout, re.MULTILINE), done.stdout
