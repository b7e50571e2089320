"""Records: what is written, what is refused, and names that mean the same on every machine."""

import importlib
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from probeline import schema
from probeline.errors import ProbelineError
from probeline.files import write_parquet
from probeline.lineage import code as code_module
from probeline.lineage import running_code
from probeline.lineage.code import code_digest
from probeline.lineage.games import games_in
from probeline.lineage.graph import read_lineage
from probeline.lineage.places import local, local_values, portable, portable_values
from probeline.lineage.records import Recorder, read_record, record_bytes, record_of
from probeline.lineage.running_code import ROOT, RunningCode


class Named(dict[str, Any]):
    """As much of Snakemake's named lists as a script sees."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


CODE = {"scripts/probeline/text.py": code_digest(ROOT / "scripts/probeline/text.py")}


def a_job(output: str, inputs: dict[str, Any], spec: dict[str, Any] | None = None) -> SimpleNamespace:
    config = {"corpora": {}, "models": {}, "model": "tiny"}
    spec = {"b": 1, "a": [2], "code": CODE} | (spec or {})
    return SimpleNamespace(
        rule="make_it",
        config=config,
        wildcards=Named(),
        input=Named(inputs),
        output=Named(made=output, record=f"{output}.lineage.json"),
        params=SimpleNamespace(spec=spec),
        log=["logs/make_it/it.log"],
    )


def make(output: str, inputs: dict[str, Any], text: str = "made") -> None:
    recorder = Recorder(a_job(output, inputs), threads=1)
    Path(output).mkdir(parents=True, exist_ok=True)
    (Path(output) / "manifest.json").write_text(f'{{"is": "{text}"}}')
    recorder.write()


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_record_names_the_record_of_what_was_read() -> None:
    make("results/a", {})
    make("results/b", {"above": "results/a/manifest.json"})
    (dependency,) = read_record(Path("results/b.lineage.json")).dependencies
    assert (dependency.role, dependency.record) == ("above", "results/a.lineage.json")
    assert dependency.record_sha256 == read_record(Path("results/a.lineage.json")).sha256


def test_an_input_that_changes_while_a_job_reads_it_is_refused() -> None:
    Path("log.txt").write_text("one")
    recorder = Recorder(a_job("results/a", {"logs": ["log.txt"]}), threads=1)
    Path("results/a").mkdir(parents=True)
    Path("log.txt").write_text("another")
    with pytest.raises(ProbelineError, match=r"log\.txt was changed while make_it was reading it"):
        recorder.write()
    assert not Path("results/a.lineage.json").exists()


def test_an_input_that_is_gone_when_a_job_ends_is_refused_in_words() -> None:
    Path("log.txt").write_text("one")
    recorder = Recorder(a_job("results/a", {"logs": ["log.txt"]}), threads=1)
    Path("log.txt").unlink()
    with pytest.raises(ProbelineError, match=r"log\.txt was changed"):
        recorder.write()


def test_an_input_that_a_rule_makes_must_have_its_record() -> None:
    make("results/a", {})
    Path("results/a.lineage.json").unlink()
    with pytest.raises(ProbelineError, match=r"results/a/manifest\.json has no record"):
        make("results/b", {"above": "results/a/manifest.json"})


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sources of a rule, to be edited."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "rule_of_mine.py").write_text("import lazily_loaded\n")
    (scripts / "lazily_loaded.py").write_text("x = 1\n")
    monkeypatch.setattr(running_code, "ROOT", tmp_path)
    monkeypatch.setattr(running_code, "PACKAGE", "lazily_loaded")
    monkeypatch.syspath_prepend(scripts)
    monkeypatch.delitem(sys.modules, "lazily_loaded", raising=False)
    code_module._read.cache_clear()
    return scripts / "lazily_loaded.py"


def running(source: Path) -> RunningCode:
    return RunningCode({f"scripts/{source.name}": code_digest(source)})


def edit(source: Path, text: str) -> None:
    time.sleep(0.02)
    source.write_text(text)
    code_module._read.cache_clear()


def test_code_that_was_edited_before_a_job_loads_it_is_refused(package: Path) -> None:
    code = running(package)
    code.check()
    edit(package, "x = 2\n")
    importlib.import_module("lazily_loaded")
    with pytest.raises(ProbelineError, match=r"lazily_loaded\.py was edited after this run had begun"):
        code.check()


def test_code_that_was_edited_before_the_job_started_is_refused(package: Path) -> None:
    planned = {f"scripts/{package.name}": code_digest(package)}
    edit(package, "x = 2\n")
    with pytest.raises(ProbelineError, match="was edited after this run had begun"):
        RunningCode(planned).check()


def test_an_edit_of_what_a_job_has_loaded_is_of_no_account(package: Path) -> None:
    code = running(package)
    importlib.import_module("lazily_loaded")
    edit(package, "x = 2\n")
    code.check()


def test_a_comment_is_no_edit(package: Path) -> None:
    code = running(package)
    edit(package, "x = 1  # one\n")
    importlib.import_module("lazily_loaded")
    code.check()


def test_parameters_keep_their_order_and_types() -> None:
    make("results/a", {})
    assert repr(read_record(Path("results/a.lineage.json")).params) == (
        f"{{'b': 1, 'a': [2], 'code': {CODE!r}}}"
    )


@pytest.mark.parametrize("word", ["make_it", "0.1.0", "2.13", "local"])
def test_an_edited_record_is_refused_by_name(word: str) -> None:
    make("results/a", {})
    path = Path("results/a.lineage.json")
    text = path.read_text()
    assert word in text
    path.write_text(text.replace(word, f"{word}9", 1))
    with pytest.raises(ProbelineError, match=r"results/a\.lineage\.json was edited"):
        read_record(path)


@pytest.mark.parametrize("commit", ["--force", "HEAD", "0" * 39, 7])
def test_a_commit_that_git_could_take_for_something_else_is_no_record(commit: Any) -> None:
    make("results/a", {})
    path = Path("results/a.lineage.json")
    statement = orjson.loads(path.read_bytes())
    dependencies = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    dependencies[:] = [one for one in dependencies if one["annotations"]["role"] != "source"]
    source = {"name": "repository", "digest": {"gitCommit": commit}, "annotations": {"role": "source"}}
    path.write_bytes(record_bytes(statement))
    read_record(path)
    dependencies.append(source)
    path.write_bytes(record_bytes(statement))
    with pytest.raises(ProbelineError, match=r"results/a\.lineage\.json is no record"):
        read_record(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"predicate": 3}', "null"])
def test_what_is_no_record_is_refused_by_name(text: str) -> None:
    make("results/a", {})
    Path("results/a.lineage.json").write_text(text)
    lineage = read_lineage()
    assert not lineage.records
    assert "results/a.lineage.json" in lineage.faults["results/a.lineage.json"]


def test_a_file_inside_an_artifact_has_its_record() -> None:
    make("results/a", {})
    assert record_of(Path("results/a/manifest.json")) == Path("results/a.lineage.json")
    assert record_of(Path("results/a")) == Path("results/a.lineage.json")
    assert record_of(Path("results/other/manifest.json")) is None


def test_ancestors_stand_before_what_was_made_from_them() -> None:
    make("results/a", {})
    make("results/b", {"above": "results/a/manifest.json"})
    make("results/c", {"above": ["results/a/manifest.json", "results/b/manifest.json"]})
    lineage = read_lineage()
    assert [record.name for record in lineage.ancestors([lineage.find("c")])] == [
        "results/a",
        "results/b",
        "results/c",
    ]
    assert [record.name for record in lineage.descendants([lineage.find("results/a")])] == [
        "results/a",
        "results/b",
        "results/c",
    ]
    with pytest.raises(ProbelineError, match="results/b"):
        lineage.find("results/bb")


def test_what_was_made_anew_with_another_result_is_no_origin_of_what_was_made_before() -> None:
    make("results/a", {})
    make("results/b", {"above": "results/a/manifest.json"})
    make("results/a", {})
    lineage = read_lineage()
    assert [record.name for record in lineage.ancestors([lineage.find("b")])] == ["results/a", "results/b"]
    make("results/a", {}, "made of something else")
    lineage = read_lineage()
    assert lineage.superseded(lineage.find("b")) == ["results/a"]
    assert [record.name for record in lineage.ancestors([lineage.find("b")])] == ["results/b"]
    assert [record.name for record in lineage.descendants([lineage.find("results/a")])] == ["results/a"]


def test_no_path_of_a_machine_enters_a_record(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("elsewhere")
    roots = {"raw/mine": root}
    value = {"root": str(root), "files": [str(root / "game1/x.json")], "home": "~/secret/x", "rate": "1/2"}
    named = portable_values(value, roots)
    assert named == {
        "root": "raw/mine",
        "files": ["raw/mine/game1/x.json"],
        "home": "outside/x",
        "rate": "1/2",
    }
    assert local_values(named, roots)["files"] == [str(root / "game1/x.json")]
    assert portable(root / "game1", roots) == "raw/mine/game1"
    around = os.path.relpath(root / "game1")
    assert around.startswith("..")
    assert portable_values({"root": around}, roots) == {"root": "raw/mine/game1"}
    words = ["~5 messages are lost", "/ was meant", "/nowhere/at/all", ".. and so on", "/" + "x" * 5000]
    assert portable_values(words, roots) == words
    assert local("raw/mine/game1", roots) == root / "game1"
    assert portable("data/raw/x", roots) == portable(Path.cwd() / "data/raw/x", roots) == "data/raw/x"


def test_games_come_from_the_table_and_lack_nothing_that_is_known_above(tmp_path: Path) -> None:
    rows = [
        {"sample": f"{game}#1", "game": game, "split": split, "label": 1, "score": 0.5, "probability": 0.5}
        for game, split in (("g1", "train"), ("g2", "test"))
    ]
    write_parquet(tmp_path / "scores.parquet", schema.make_table(rows, schema.SCORES))
    above = [{"train": {"g1": "aa", "g3": "cc"}, "test": {"g2": "bb"}}]
    found = games_in({"scores.parquet": tmp_path / "scores.parquet"}, above)
    assert found == {"train": {"g1": "aa"}, "test": {"g2": "bb"}}


def test_an_artifact_without_a_table_shows_the_games_above_it_but_for_unread_splits(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(orjson.dumps({"unread_splits": ["test"]}))
    above = [{"train": {"g1": "aa"}, "test": {"g2": "bb"}}]
    assert games_in({"manifest.json": tmp_path / "manifest.json"}, above) == {"train": {"g1": "aa"}}
