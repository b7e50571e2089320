"""What is versioned, what is left and why; with DVC itself, without a run."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from probeline.cli import main
from probeline.digests import sha256_file
from probeline.errors import ProbelineError
from probeline.files import write_json, write_manifest
from probeline.lineage import dvc_repository, versions
from probeline.lineage.dvc_repository import make_repository, repository_root
from probeline.lineage.hashing import directory_digest
from probeline.lineage.headlines import keep_headlines
from probeline.lineage.pointers import pointer_path, read_pointer
from probeline.lineage.records import PREDICATE, STATEMENT, read_record, record_bytes
from probeline.lineage.versions import is_ignored_by_git, track, track_after_run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with our ignore files, as the working directory."""
    here = tmp_path / "project"
    here.mkdir()
    subprocess.run(["git", "init", "-q", here], check=True)
    for name in (".gitignore", ".dvcignore"):
        (here / name).write_bytes((Path(__file__).parents[2] / name).read_bytes())
    monkeypatch.chdir(here)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.delenv("CI", raising=False)
    return here


def write_artifact(
    name: str,
    rule: str = "fetch_model",
    root: str | None = None,
    logs: str = "",
    forged: dict[str, Any] | None = None,
) -> Path:
    """A file as an artifact, with its record; made from raw logs if `root` names them.

    A folder that is there is taken as it is. `forged` is laid over what the record says of its subject.
    """
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_dir():
        path.write_text(f"content of {name}")
    digest = "" if path.is_dir() else sha256_file(path)
    raw = {"name": logs, "digest": {"sha256": "0" * 64}, "annotations": {"input": True, "role": "logs"}}
    statement: dict[str, Any] = {
        "_type": STATEMENT,
        "subject": [
            {"name": name, "digest": {"sha256": digest}, "annotations": {"bytes": 1}} | (forged or {})
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "externalParameters": {
                    "rule": rule,
                    "wildcards": {"corpus": path.stem},
                    "params": {"root": root} if root else {},
                    "outputs": [name, f"{name}.lineage.json"],
                },
                "internalParameters": {
                    "python": "3.11",
                    "platform": "linux",
                    "packages": {},
                    "hardware": {"processor": "some", "cores": 1, "threads": 1, "gpus": []},
                },
                "resolvedDependencies": [raw] if root else [],
            },
            "runDetails": {
                "metadata": {
                    "invocationId": "",
                    "startedOn": "2026-01-01T00:00:00.000Z",
                    "finishedOn": "2026-01-01T00:00:01.000Z",
                },
                "byproducts": [{"annotations": {"backend": "local", "seconds": 1}}],
            },
        },
    }
    Path(f"{name}.lineage.json").write_bytes(record_bytes(statement))
    return path


def test_raw_logs_get_one_pointer_where_git_leaves_them_out(folder: Path, tmp_path: Path) -> None:
    for corpus in ("data/raw/own", "data/raw/own/nested", "loose"):
        (folder / corpus).mkdir(parents=True, exist_ok=True)
        (folder / corpus / "log.txt").write_text(corpus)
    write_artifact("results/own", root="data/raw/own", logs="data/raw/own/log.txt")
    write_artifact("results/nested", root="data/raw/own/nested", logs="data/raw/own/nested/log.txt")
    write_artifact("results/loose", root="loose", logs="loose/log.txt")
    write_artifact("results/outside", root="raw/outside", logs="raw/outside/log.txt")
    write_artifact("results/around", root="results", logs="results/log.txt")
    make_repository()
    tracked = track()
    assert "data/raw/own" in tracked.new
    assert not {"data/raw/own/nested", "loose", "raw/outside", "results"} & set(tracked.new)
    assert "/loose/ to .gitignore" in tracked.left["loose"]
    assert "outside this folder" in tracked.left["outside"]
    assert "holds artifacts" in tracked.left["around"]
    pointer = read_pointer(pointer_path("data/raw/own"))
    assert pointer is not None
    assert pointer["outs"][0]["nfiles"] == 2
    # A new log makes another version of the corpus, and of nothing else.
    (folder / "data/raw/own/new.txt").write_text("x")
    assert track().changed == ["data/raw/own"]


def test_what_a_kill_or_a_merge_left_of_a_pointer_is_mended(folder: Path) -> None:
    write_artifact("results/a")
    write_artifact("results/b")
    make_repository()
    track()
    whole = pointer_path("results/a").read_bytes()
    assert b"record: results/a.lineage.json" in whole
    for broken in (b"", b"<<<<<<< HEAD\nouts:\n=======\n", whole.partition(b"desc")[0]):
        pointer_path("results/a").write_bytes(broken)
        tracked = track()
        assert [*tracked.new, *tracked.changed] == ["results/a"]
        assert pointer_path("results/a").read_bytes() == whole
    # A pointer to other content, with notes that fit: somebody else has written it since.
    other = read_pointer(pointer_path("results/b"))
    assert other is not None
    pointer_path("results/a").write_bytes(
        whole.replace(
            b"- md5: " + whole.split(b"md5: ")[1][:32], b"- md5: " + other["outs"][0]["md5"].encode()
        )
    )
    assert track().changed == ["results/a"]
    assert pointer_path("results/a").read_bytes() == whole


def test_a_record_written_again_changes_the_notes_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_artifact("results/a")
    make_repository()
    track()
    before = read_pointer(pointer_path("results/a"))
    write_artifact("results/a", rule="build_dialogues")

    def no_need(paths: list[str]) -> None:
        raise AssertionError(f"handed to DVC: {paths}")

    monkeypatch.setattr(dvc_repository, "add", no_need)
    assert track().renoted == ["results/a"]
    after = read_pointer(pointer_path("results/a"))
    assert before is not None
    assert after is not None
    assert after["outs"] == before["outs"]
    assert after["meta"]["record_sha256"] == read_record(Path("results/a.lineage.json")).sha256


def test_after_a_run_a_fault_is_said_and_never_raised(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_artifact("results/a")
    assert track_after_run({"auto": True}) == ""  # no DVC repository
    make_repository()
    monkeypatch.setenv("CI", "true")
    assert track_after_run({"auto": True}) == ""
    monkeypatch.delenv("CI")
    assert track_after_run({"auto": False}) == ""
    (folder / ".dvc/config").write_text("[core\n")
    assert track_after_run({"auto": True}).startswith("versions: nothing was tracked. DVC: ")
    assert not pointer_path("results/a").exists()


def test_a_project_inside_a_larger_repository_has_its_own_versions(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = folder / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    assert repository_root() is None
    assert make_repository() == "../inner-dvc"
    assert repository_root() == inner
    write_artifact("results/a")
    assert track().new == ["results/a"]
    assert dvc_repository.push(["results/a"]) == {}
    assert any((folder / "inner-dvc").rglob("*"))


def test_entries_of_others_in_dvc_yaml_stay(folder: Path) -> None:
    Path("dvc.yaml").write_text("metrics: [mine.json, metrics/probes/gone.json]\nstages: {a: {cmd: ls}}\n")
    Path("metrics/probes").mkdir(parents=True)
    Path("metrics/probes/gone.json").write_text("{}")
    Path("metrics/probes/theirs.json").write_text("{}")
    keep_headlines([], set())
    text = Path("dvc.yaml").read_text()
    assert "mine.json" in text
    assert "cmd: ls" in text
    assert "gone" not in text
    assert [path.name for path in Path("metrics/probes").iterdir()] == ["theirs.json"]


def test_records_that_speak_of_other_files_are_refused(folder: Path) -> None:
    secret = folder.parent / "secret"
    secret.write_text("content of results/forged")
    write_artifact("results/a")
    write_artifact("results/forged", forged={"name": "../secret"})
    shutil.copy2("results/a.lineage.json", "results/copied.lineage.json")
    write_artifact("results/outside", root="..", logs="../secret")
    make_repository()
    tracked = track()
    assert tracked.new == ["results/a", "results/outside"]
    assert tracked.refused.keys() == {"results/forged", "results/copied"}
    assert "its record is that of ../secret" in tracked.refused["results/forged"]
    assert "its record is that of results/a" in tracked.refused["results/copied"]
    assert "outside this folder" in tracked.left["outside"]
    assert not (folder.parent / "secret.dvc").exists()


def test_figures_that_cannot_be_read_are_a_refusal(folder: Path) -> None:
    for name, text in (("one", "{"), ("two", "[]"), ("three", '{"rows": [], "choice": []}')):
        path = Path("results", name, "manifest.json" if name == "one" else "sweep.json")
        path.parent.mkdir(parents=True)
        path.write_text(text)
    rules = {"one": "train_probe", "two": "sweep_probes", "three": "sweep_probes"}
    for name, rule in rules.items():
        write_artifact(f"results/{name}.file", rule)
        Path(f"results/{name}.file.lineage.json").rename(f"results/{name}.lineage.json")
    records = [read_record(Path(f"results/{name}.lineage.json")) for name in rules]
    refused = keep_headlines(records, {record.name for record in records})
    # The second is of another version, which says its figures elsewhere.
    assert refused.keys() == {"results/one", "results/three"}
    assert "results/one/manifest.json" in refused["results/one"]


def test_nothing_of_git_or_an_error_reaches_the_terminal_raw(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    make_repository()

    def fail() -> None:
        raise ProbelineError("a\x1b[2Jb")

    monkeypatch.setattr(versions, "track", fail)
    assert track_after_run({"auto": True}).endswith("a?[2Jb")
    monkeypatch.chdir(folder.parent)
    assert not is_ignored_by_git("any")
    assert capfd.readouterr().err == ""


def test_what_is_here_and_has_lost_its_record_is_refused_and_never_pruned(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_artifact("results/a")
    make_repository()
    track()
    Path("dvc.yaml").write_text("metrics: [metrics/a.json]\n")
    Path("metrics").mkdir()
    Path("metrics/a.json").write_text("{}")
    Path("results/a.lineage.json").rename("aside")
    assert main(["track", "--prune"]) == 1
    said = capsys.readouterr()
    assert "refused: results/a: no record" in said.err
    assert "git checkout -- results/a.lineage.json" in said.err
    assert "removed" not in said.out
    assert pointer_path("results/a").exists()
    assert Path("metrics/a.json").exists()
    assert "metrics/a.json" in Path("dvc.yaml").read_text()
    Path("results/a").unlink()
    assert track(prune=True).orphans == ["results/a.dvc"]
    assert not pointer_path("results/a").exists()
    assert not Path("metrics/a.json").exists()


HELD_OUT = {
    "split": "validation",
    "loss": {
        "before": {"value": 3.076},
        "after": {"value": 2.454},
        "difference": {"low": -0.727, "high": -0.548},
    },
}


def write_folder(kind: str, name: str, rule: str = "fetch_model") -> str:
    """A folder as a probe or adapter, with a file below and its record; returns the file's text."""
    path, text = Path("results") / kind / name, f"{kind} {name}"
    (path / "checkpoints/step-1").mkdir(parents=True)
    (path / "checkpoints/step-1/weights").write_text(text)
    write_json(path / "training_summary.json", {"held_out": HELD_OUT})
    write_manifest(path, kind.removesuffix("s"), {})
    names = ("manifest.json", "checkpoints/step-1/weights", "training_summary.json")
    files = {file: sha256_file(path / file) for file in names}
    digest = {"dirHash": directory_digest(files)}
    forged = {"digest": digest, "annotations": {"bytes": 1, "files": files}}
    write_artifact(path.as_posix(), rule, forged=forged)
    return text


def test_adapters_are_listed_and_taken_as_probes_are(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "Snakefile").touch()
    (folder / "config").symlink_to(Path(__file__).parents[2] / "config")
    kept = write_folder("adapters", "mafia_sft", "train_sft")
    for name in ("both", "trust_lr_l2"):
        write_folder("probes", name)
    write_folder("adapters", "both")
    make_repository()
    assert not track().refused
    for words in (["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "made"]):
        subprocess.run(["git", *words], check=True)
    shutil.rmtree("results/probes/trust_lr_l2")

    def said(*words: str, status: int = 0) -> str:
        assert main(words) == status
        streams = capsys.readouterr()
        return streams.err if status else streams.out

    listed = json.loads(said("list", "--rev", "HEAD", "--json"))
    assert [(one["kind"], one["name"], one["here"]) for one in listed] == [
        ("probe", "both", True),
        ("probe", "trust_lr_l2", False),
        ("adapter", "both", True),
        ("adapter", "mafia_sft", True),
    ]
    assert [row.split()[:2] for row in said("list").splitlines()[1:]] == [
        [one["name"], one["kind"]] for one in listed
    ]
    assert "loss 3.076 to 2.454" in said("list", "--rev", "HEAD").splitlines()[-1]
    assert listed[-1]["metrics"]["loss_change_low"] == -0.727
    # From here, by its path, and as it was at a revision, when it is not here any more.
    for number, words in enumerate(
        (["mafia_sft"], ["results/adapters/mafia_sft"], ["mafia_sft", "--rev", "HEAD"])
    ):
        said("get", *words, "--output", f"copy-{number}")
        assert (folder / f"copy-{number}/checkpoints/step-1/weights").read_text() == kept
    said("get", "results/adapters/both", "--output", "adapter")
    assert (folder / "adapter/checkpoints/step-1/weights").read_text() == "adapters both"
    for words in ([], ["--rev", "HEAD"]):
        told = said("get", "both", "--output", "x", *words, status=1)
        assert "results/probes/both and results/adapters/both" in told
        assert "Did you mean mafia_sft" in said("get", "mafia_stf", "--output", "x", *words, status=1)
    told = said("get", "trust_lr_l2", "--output", "x", status=1)
    assert "results/probes/trust_lr_l2 is versioned, but not here" in told
    told = said("get", "forecast_sft", "--output", "x", status=1)
    assert "snakemake --cores 4 results/adapters/forecast_sft" in told
    assert not (folder / "x").exists()
