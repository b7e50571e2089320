"""Everything that can be done to an artifact, a record or an input is found and named by `audit verify`."""

import base64
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement as InTotoStatement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage

from probeline import stat_cache
from probeline.cli import main
from probeline.digests import sha256_file
from probeline.errors import ProbelineError
from probeline.files import write_manifest
from probeline.lineage.findings import Finding
from probeline.lineage.graph import read_lineage
from probeline.lineage.hashing import directory_digest, files_of
from probeline.lineage.records import Statement, record_bytes
from probeline.lineage.verification import verify
from tests.bench.lineage_store import make_store

PROBE = "results/probes/concept000_lr_l0"
SHARD = "results/activations/concept000/shard-00-of-2"
ABOVE = "data/processed/dialogues/concept000/shard-00-of-2"
TEMPLATE = "config/templates/games.yaml"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "store"
    make_store(folder, concepts=2, probes=4, shards=2, games=10, file_bytes=2000)
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to tamper with, verified once: the cache knows every file."""
    shutil.copytree(made, tmp_path / "store")
    monkeypatch.chdir(tmp_path / "store")
    assert found() == []
    return Path()


def found(*targets: str, rehash: bool = False) -> list[tuple[str, str]]:
    """State and path of all findings."""
    return [(finding.state, finding.path) for finding in findings(*targets, rehash=rehash)]


def findings(*targets: str, rehash: bool = False) -> list[Finding]:
    return list(verify(read_lineage(), targets, rehash=rehash, threads=2).findings)


def records() -> list[Path]:
    return [record.path for record in read_lineage().records.values()]


def edit_record(artifact: str, edit: Callable[[Any], None], thoroughly: bool = False) -> None:
    """Change a record; a thorough forger gives it an identity that fits."""
    path = Path(f"{artifact}.lineage.json")
    statement: Statement = orjson.loads(path.read_bytes())
    edit(statement)
    plain = orjson.dumps(statement, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    path.write_bytes(record_bytes(statement) if thoroughly else plain)


def set_cost(statement: Any) -> None:
    statement["predicate"]["runDetails"]["byproducts"][0]["annotations"]["usd"] = 7


def flip_bit(file: Path) -> None:
    """With all times that a program can set put back."""
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_the_made_up_store_is_as_strict_as_a_real_one(store: Path) -> None:
    assert len(records()) == 2 * 2 + 1 + 2 * 2 * 2 + 4
    for path in records():
        value = orjson.loads(path.read_bytes())
        InTotoStatement.copy_from_pb(ParseDict(value, StatementMessage())).validate()
        ParseDict(value["predicate"], Provenance())


def test_a_flipped_bit_with_its_mtime_put_back_is_named_with_all_that_rests_on_it(store: Path) -> None:
    flip_bit(Path(SHARD, "activations.safetensors"))
    [finding] = findings()
    assert (finding.state, finding.path) == ("changed", SHARD)
    assert finding.files == (f"{SHARD}/activations.safetensors",)
    assert "expected" in finding.says
    assert f"snakemake --cores 4 {SHARD}" in finding.remedy
    assert finding.rests(read_lineage()) == [PROBE, "results/probes/concept000_lr_l1"]
    assert found(PROBE) == [("changed", SHARD)]
    assert found("concept001_lr_l0") == []


def test_a_swapped_file_is_changed_in_both_places(store: Path) -> None:
    other = SHARD.replace("shard-00", "shard-01")
    one, two = Path(SHARD, "index.parquet"), Path(other, "index.parquet")
    aside = one.rename("aside")
    two.rename(one)
    aside.rename(two)
    assert found() == [("changed", SHARD), ("changed", other)]


def test_an_edited_record_is_named(store: Path) -> None:
    edit_record(PROBE, set_cost)
    [finding] = findings()
    assert (finding.state, finding.path) == ("edited", f"{PROBE}.lineage.json")
    assert found(PROBE) == found("concept000_lr_l0") == [("edited", f"{PROBE}.lineage.json")]


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace(b'"rule": "train_probe"', b'"rule": "other", "rule": "train_probe"'),
        lambda text: text + b" ",
        lambda text: text.replace(b'"usd": 0', b'"usd": 0.0'),
    ],
    ids=["key given twice", "space", "another form of a number"],
)
def test_an_edit_that_reads_as_the_same_json_is_one(store: Path, edit: Callable[[bytes], bytes]) -> None:
    file = Path(f"{PROBE}.lineage.json")
    before = file.read_bytes()
    file.write_bytes(edit(before))
    assert file.read_bytes() != before
    assert found() == [("edited", f"{PROBE}.lineage.json")]


def test_a_thoroughly_edited_upstream_record_is_contradicted_by_what_was_made_from_it(store: Path) -> None:
    edit_record(SHARD, set_cost, thoroughly=True)
    [finding] = findings()
    assert (finding.state, finding.path) == ("edited", f"{SHARD}.lineage.json")
    assert finding.readers == (PROBE, "results/probes/concept000_lr_l1")
    # Also when only the upstream artifact is asked for.
    assert found(SHARD) == found(PROBE) == [("edited", f"{SHARD}.lineage.json")]


def test_a_thoroughly_edited_record_of_an_end_result_is_found_by_its_manifest(store: Path) -> None:
    flip_bit(Path(PROBE, "detector.pt"))
    assert found() == [("changed", PROBE)]

    def forge(statement: Any) -> None:
        subject = statement["subject"][0]
        files = subject["annotations"]["files"]
        files["detector.pt"] = sha256_file(Path(PROBE, "detector.pt"))
        subject["digest"]["dirHash"] = directory_digest(files)

    edit_record(PROBE, forge, thoroughly=True)
    [finding] = findings()
    assert (finding.state, finding.path) == ("edited", f"{PROBE}.lineage.json")
    assert "detector.pt" in finding.says


def test_a_record_that_contradicts_itself_is_edited(store: Path) -> None:
    def forge(statement: Any) -> None:
        statement["subject"][0]["annotations"]["files"]["detector.pt"] = "0" * 64

    edit_record(PROBE, forge, thoroughly=True)
    assert found() == [("edited", f"{PROBE}.lineage.json")]


def test_a_deleted_record_is_missed_by_what_was_made_from_it(store: Path) -> None:
    Path(f"{SHARD}.lineage.json").unlink()
    [finding] = findings()
    assert (finding.state, finding.path) == ("missing", f"{SHARD}.lineage.json")
    assert f"git checkout -- {SHARD}.lineage.json" in finding.remedy
    assert PROBE in finding.rests(read_lineage())
    assert found(PROBE) == found(SHARD) == [("missing", f"{SHARD}.lineage.json")]


def test_an_artifact_whose_record_was_deleted_is_unrecorded_where_nothing_rests_on_it(store: Path) -> None:
    Path(f"{PROBE}.lineage.json").unlink()
    assert found() == found(PROBE) == [("unrecorded", PROBE)]


def test_the_files_of_a_lost_record_are_still_held_against_what_was_made_from_them(store: Path) -> None:
    Path(f"{SHARD}.lineage.json").unlink()
    flip_bit(Path(SHARD, "manifest.json"))
    assert found() == [("changed", f"{SHARD}/manifest.json"), ("missing", f"{SHARD}.lineage.json")]


def test_a_half_pulled_folder_and_one_that_was_not_pulled_are_missing(store: Path) -> None:
    Path(SHARD, "index.parquet").unlink()
    shutil.rmtree(PROBE)
    half, none = findings()
    assert [(f.state, f.path) for f in (half, none)] == [("missing", SHARD), ("missing", PROBE)]
    assert half.files == (f"{SHARD}/index.parquet",)
    assert "1 of its 4 files" in half.says
    assert "rm -r" not in none.remedy


def test_a_copy_under_another_name_is_unrecorded_with_its_record_and_without(store: Path) -> None:
    shutil.copytree(PROBE, "results/probes/bare")
    shutil.copytree(PROBE, "results/probes/dressed")
    shutil.copy(f"{PROBE}.lineage.json", "results/probes/dressed.lineage.json")
    bare, dressed = findings()
    assert (bare.state, bare.path) == ("unrecorded", "results/probes/bare")
    assert (dressed.state, dressed.path) == ("unrecorded", "results/probes/dressed")
    assert PROBE in dressed.says
    assert found("results/probes/bare") == [("unrecorded", "results/probes/bare")]


def test_a_file_that_a_record_does_not_list_is_named_and_leftovers_are_not(store: Path) -> None:
    Path(PROBE, ".snakemake_timestamp").touch()
    Path("results/probes/.gitignore").touch()
    Path(f"{PROBE}.dvc").touch()
    draft = Path("results/probes/.concept000_lr_l9.tmp-0123abcd")
    draft.mkdir()
    Path(draft, "manifest.json").touch()
    assert found() == []
    Path(PROBE, "extra").mkdir()
    Path(PROBE, "extra/notes.txt").touch()
    [finding] = findings(PROBE)
    assert (finding.state, finding.path) == ("unrecorded", PROBE)
    assert "extra/notes.txt" in finding.says
    assert found() == found(PROBE)


@pytest.mark.parametrize("name", [".gitignore", "evil.dvc", ".x.tmp-0a/evil.py", "x.lineage.json"])
def test_nothing_but_snakemakes_time_stamp_is_ignored_inside_an_artifact(store: Path, name: str) -> None:
    Path(PROBE, name).parent.mkdir(exist_ok=True)
    Path(PROBE, name).touch()
    assert ("unrecorded", PROBE) in found()
    # What restoring goes by.
    assert name in files_of(Path(PROBE))


def test_a_folder_of_artifacts_is_searched_for_those_without_a_record(store: Path) -> None:
    shutil.copytree(PROBE, "results/probes/planted")
    assert found("results/probes") == found("results") == [("unrecorded", "results/probes/planted")]
    assert found("results/activations") == []


def test_files_that_look_like_no_artifact_are_named_by_folder(store: Path) -> None:
    for name in ("results/probes/fake/detector.pt", "results/probes/fake/more/x", "results/other/a/b"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("results/probes/loose.csv").touch()
    Path("data/raw").mkdir()
    Path("data/raw/README.md").touch()
    assert found() == [
        ("unrecorded", name) for name in ("results/other", "results/probes", "results/probes/fake")
    ]
    assert not any("rm -r" in finding.remedy for finding in findings())
    assert found("results/probes/fake") == [("unrecorded", "results/probes/fake")]


def test_a_link_to_a_folder_inside_an_artifact_is_a_file_too_many(store: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/code.py").touch()
    Path(PROBE, "extra").symlink_to(tmp_path / "elsewhere")
    [finding] = findings()
    assert (finding.state, finding.path) == ("unrecorded", PROBE)
    assert finding.files == (f"{PROBE}/extra",)
    assert "extra" in files_of(Path(PROBE))


def test_artifacts_on_another_disk_are_read_through_the_link_to_it(store: Path, tmp_path: Path) -> None:
    before = len(records())
    shutil.move("results/activations", tmp_path / "scratch")
    Path("results/activations").symlink_to(tmp_path / "scratch")
    for name, target in (("loop", "."), ("around", tmp_path), ("root", "/"), ("back", store.absolute())):
        (tmp_path / "scratch" / name).symlink_to(target)
    assert len(records()) == before
    assert {state for state, _ in found()} == {"unrecorded"}
    [finding] = findings()
    assert len(finding.files) == 4
    flip_bit(Path(SHARD, "index.parquet"))
    assert ("changed", SHARD) in found()


def test_a_folder_that_cannot_be_listed_is_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests may run as root, whom nothing is closed to.
    scandir = os.scandir
    closed = f"{PROBE}/closed"

    def refuse(path: Any) -> Any:
        if os.fspath(path) == closed:
            raise PermissionError(13, "Permission denied", closed)
        return scandir(path)

    Path(closed).mkdir()
    assert found() == []
    monkeypatch.setattr(os, "scandir", refuse)
    assert found() == found(PROBE) == [("missing", closed)]
    assert closed in {path.as_posix() for path in files_of(Path(PROBE)).values()}


def test_what_is_no_file_in_the_place_of_a_record_is_named_and_not_waited_for(store: Path) -> None:
    os.mkfifo("results/pipe.lineage.json")
    Path("results/loop.lineage.json").symlink_to("loop.lineage.json")
    assert found() == [("edited", f"results/{name}.lineage.json") for name in ("loop", "pipe")]
    Path("data/raw").mkdir()
    os.mkfifo("data/raw/pipe.lineage.json")
    assert len(found()) == 2


def test_remedies_can_be_pasted_into_a_shell(store: Path) -> None:
    hostile = "results/probes/$(touch x) y"
    shutil.copytree(PROBE, hostile)
    [finding] = findings()
    assert f"`rm -r '{hostile}'`" in finding.remedy
    assert f"`git checkout -- '{hostile}.lineage.json'`" in finding.remedy
    shutil.rmtree(hostile)
    Path(f"{hostile}.lineage.json").touch()
    assert f"`git checkout -- '{hostile}.lineage.json'`" in findings()[0].remedy


def test_where_there_is_nothing_to_verify_nothing_is_called_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["audit", "verify"]) == 1
    assert "There is no Snakefile here" in capsys.readouterr().err
    Path("results").mkdir()
    for query in ("verify", "root"):
        assert main(["audit", query]) == 1
        assert "under data/ and results/" in capsys.readouterr().err


def reissue(artifact: str, moment: str = "2027-01-01T00:00:00.000Z") -> None:
    def edit(statement: Any) -> None:
        statement["predicate"]["runDetails"]["metadata"] |= {"startedOn": moment, "finishedOn": moment}

    edit_record(artifact, edit, thoroughly=True)


def test_an_upstream_that_was_made_again_with_the_same_content_is_said_and_no_fault(store: Path) -> None:
    reissue(SHARD)
    assert found() == found(PROBE) == [("re-issued", SHARD)]
    assert main(["audit", "verify"]) == 0
    # Made again when something had not been made from it yet, it would have been recorded so.
    reissue(SHARD, "2026-01-01T00:00:00.000Z")
    assert found() == [("edited", f"{SHARD}.lineage.json")]


def test_an_upstream_that_was_made_again_otherwise_is_a_fault_of_what_rests_on_it(store: Path) -> None:
    def remake(statement: Any) -> None:
        Path(SHARD, "index.parquet").write_text("other")
        write_manifest(Path(SHARD), "activations", {})
        files = {
            name: sha256_file(Path(SHARD, name)) for name in statement["subject"][0]["annotations"]["files"]
        }
        statement["subject"][0]["annotations"]["files"] = files
        statement["subject"][0]["digest"]["dirHash"] = directory_digest(files)

    edit_record(SHARD, remake)
    reissue(SHARD)
    outdated = findings()
    assert {finding.state for finding in outdated} == {"outdated"}
    assert PROBE in {finding.path for finding in outdated}
    assert all(f"earlier versions of {SHARD}" in finding.says for finding in outdated)
    assert f"snakemake --cores 4 {PROBE}" in {finding.remedy[-len(PROBE) - 20 :] for finding in outdated}
    assert found(SHARD) == []


def test_an_input_that_no_rule_made_is_checked(store: Path) -> None:
    Path(TEMPLATE).write_text("roles: {other: 1}\n")
    [finding] = findings()
    assert (finding.state, finding.path) == ("changed", TEMPLATE)
    assert PROBE in finding.rests(read_lineage())
    Path(TEMPLATE).unlink()
    assert found() == [("missing", TEMPLATE)]


def test_a_chain_that_ends_in_something_made_is_a_fault(store: Path) -> None:
    def cut(statement: Any) -> None:
        first = statement["predicate"]["buildDefinition"]["resolvedDependencies"][0]
        del first["annotations"]["record"], first["annotations"]["recordSha256"]

    edit_record(PROBE, cut, thoroughly=True)
    assert found() == found(PROBE) == [("unrecorded", f"{SHARD}/manifest.json")]


def test_raw_logs_are_checked_where_their_folder_is_on_this_machine(store: Path, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    (logs / "game0").mkdir(parents=True)
    (logs / "game0/game_stats.json").write_text("{}")

    def read_own_logs(statement: Any) -> None:
        digest = {"sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}
        statement["predicate"]["buildDefinition"]["resolvedDependencies"] = [
            {
                "name": f"raw/{name}/game0/game_stats.json",
                "digest": digest,
                "annotations": {"input": True, "role": "logs"},
            }
            for name in ("games", "others")
        ]

    edit_record(PROBE, read_own_logs, thoroughly=True)
    config = {
        "corpora": {"games": {"root": str(logs)}, "others": {"root": str(tmp_path / "absent")}},
        "model": "none",
        "models": {},
    }

    def found_with(config: dict[str, Any] | None) -> list[tuple[str, str]]:
        report = verify(read_lineage(), [PROBE], config)
        return [(finding.state, finding.path) for finding in report.findings]

    assert found_with(config) == [("not here", "raw/others")]
    assert found_with(None) == [("not here", "raw/games"), ("not here", "raw/others")]
    (logs / "game0/game_stats.json").write_text("[]")
    assert found_with(config) == [("changed", "raw/games/game0/game_stats.json"), ("not here", "raw/others")]
    (logs / "game0/game_stats.json").unlink()
    assert found_with(config) == [("missing", "raw/games/game0/game_stats.json"), ("not here", "raw/others")]


def test_on_logs_that_are_not_here_only_what_was_asked_for_is_counted(store: Path) -> None:
    def read_own_logs(statement: Any) -> None:
        statement["predicate"]["buildDefinition"]["resolvedDependencies"] = [
            {
                "name": "raw/games/game0/game_stats.json",
                "digest": {"sha256": "0" * 64},
                "annotations": {"input": True, "role": "logs"},
            }
        ]

    edit_record(ABOVE, read_own_logs, thoroughly=True)
    report = verify(read_lineage(), [PROBE])
    [absent] = [finding for finding in report.findings if finding.state == "not here"]
    assert "--configfile" in absent.remedy
    assert sorted(report.rests(absent)) == [ABOVE, SHARD, PROBE]
    assert "results/probes/concept000_lr_l1" in verify(read_lineage()).rests(absent)


@pytest.mark.parametrize("name", ["../outside", "/", "/etc/hostname"])
def test_a_record_cannot_send_the_reader_elsewhere(store: Path, name: str) -> None:
    def forge(statement: Any) -> None:
        statement["subject"][0]["name"] = name

    edit_record(PROBE, forge, thoroughly=True)
    assert found() == found(PROBE) == found(".") == [("edited", f"{PROBE}.lineage.json")]


@pytest.mark.parametrize(
    "forge",
    [
        lambda s: s["subject"][0]["annotations"].update(files=["detector.pt"]),
        lambda s: s["subject"][0]["annotations"].update(bytes="many"),
        lambda s: s["predicate"]["runDetails"]["metadata"].update(startedOn=5),
        lambda s: s["predicate"]["buildDefinition"]["resolvedDependencies"][0].update(name=None),
        lambda s: s["predicate"]["buildDefinition"]["resolvedDependencies"][0].update(name=""),
        lambda s: s["predicate"]["buildDefinition"]["resolvedDependencies"].append({"annotations": {}}),
        lambda s: s["predicate"]["buildDefinition"]["externalParameters"].update(outputs=[5]),
        lambda s: s["predicate"]["buildDefinition"]["externalParameters"].update(outputs=None),
        lambda s: s["predicate"]["buildDefinition"]["externalParameters"].update(config=[]),
        lambda s: s["predicate"]["buildDefinition"]["internalParameters"].pop("hardware"),
        lambda s: s["predicate"]["runDetails"]["metadata"].update(startedOn="x"),
        lambda s: s["predicate"]["runDetails"]["metadata"].update(finishedOn="2026-99-01T00:00:00.000Z"),
        lambda s: s["predicate"]["runDetails"]["byproducts"][0]["annotations"].update(seconds="x"),
        lambda s: s["subject"][0]["annotations"].update(games={"train": {"game1": []}}),
    ],
)
def test_a_record_of_wrong_types_is_said_to_be_none(store: Path, forge: Callable[[Any], None]) -> None:
    edit_record(PROBE, forge, thoroughly=True)
    assert {*found()} == {("edited", f"{PROBE}.lineage.json")}


def test_a_pipe_in_a_files_place_is_not_waited_for(store: Path) -> None:
    file = Path(PROBE, "detector.pt")
    file.unlink()
    os.mkfifo(file)
    assert found() == [("missing", PROBE)]


def test_only_what_may_have_changed_is_read_but_rehash_reads_all(store: Path) -> None:
    lineage = read_lineage()
    assert verify(lineage).read == 0
    Path(PROBE, "detector.pt").touch()
    assert verify(lineage).read == 1
    report = verify(lineage, rehash=True, threads=2)
    assert report.read == report.files > 0


def test_rehash_finds_what_no_stat_shows(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A disk that decays changes no ctime: the cache is told that it knows the file.
    def same(path: Path) -> os.stat_result | None:
        return Path("config").stat() if path.exists() else None

    monkeypatch.setattr(stat_cache, "_stat", same)
    assert found(rehash=True) == []
    flip_bit(Path(PROBE, "detector.pt"))
    assert found() == []
    assert found(rehash=True) == [("changed", PROBE)]


def test_unknown_targets_are_errors_and_a_folder_of_artifacts_is_a_target(store: Path) -> None:
    with pytest.raises(ProbelineError, match="Did you mean"):
        verify(read_lineage(), ["results/probes/concept000_lr_l00"])
    flip_bit(Path(SHARD, "activations.safetensors"))
    assert found("results/activations/concept000") == [("changed", SHARD)]
    assert found("results/activations/concept001") == []


def test_the_command_says_what_is_wrong_in_words_and_in_json(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "verify"]) == 0
    assert "are what they were" in capsys.readouterr().out
    flip_bit(Path(SHARD, "activations.safetensors"))
    hostile = Path(PROBE, "\x1b[31mextra")
    hostile.touch()
    assert main(["audit", "verify"]) == 1
    words = capsys.readouterr().out
    assert "activations.safetensors" in words
    assert "2 artifacts rest on it" in words
    assert "\x1b" not in words
    assert main(["audit", "verify", "--json"]) == 1
    value = orjson.loads(capsys.readouterr().out)
    assert value["faults"] == 2
    assert value["states"][SHARD] == "changed"
    assert value["states"][ABOVE] == "ok"
    assert value["findings"][0]["rests_on_it"] == [PROBE, "results/probes/concept000_lr_l1"]


def test_a_folder_without_config_or_cache_rights_is_verified_all_the_same(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(".probeline")
    Path(".probeline").touch()  # where no database can be
    assert found() == []
    Path(".probeline").unlink()
    Path(".probeline").mkdir()
    Path(".probeline/stat-cache.sqlite").write_text("no database")
    assert found() == []
    assert (
        sqlite3.connect(".probeline/stat-cache.sqlite").execute("SELECT count(*) FROM entries").fetchone()[0]
    )


def test_root_changes_with_any_record_and_a_signature_names_which(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def root(*words: str) -> tuple[int, str]:
        status = main(["audit", "root", *words])
        output = capsys.readouterr()
        return status, output.out + output.err

    before = root()
    assert root("--new-key", "release.key")[0] == 0
    assert Path("release.key").stat().st_mode & 0o777 == 0o600
    assert root("--new-key", "release.key")[0] == 1
    assert root("--sign", "release.key")[0] == 0
    assert root("--verify", "release.key.pub")[0] == 0
    # Not even a forger who gives the record an identity that fits gets past the signature.
    edit_record(PROBE, set_cost, thoroughly=True)
    assert found() == []
    assert root() != before
    status, words = root("--verify", "release.key.pub")
    assert status == 1
    assert f"{PROBE}.lineage.json is not the record that was signed." in words


def test_a_forged_envelope_and_another_key_are_refused(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("mine", "other"):
        assert main(["audit", "root", "--new-key", name]) == 0
    assert main(["audit", "root", "--sign", "mine"]) == 0
    assert main(["audit", "root", "--verify", "other.pub"]) == 1
    assert "was not signed with the key of other.pub" in capsys.readouterr().err
    envelope = orjson.loads(Path("lineage.dsse.json").read_bytes())
    payload = base64.b64decode(envelope["payload"]).replace(b"lr_l0", b"lr_l9")
    Path("lineage.dsse.json").write_bytes(
        orjson.dumps(envelope | {"payload": base64.b64encode(payload).decode()})
    )
    assert main(["audit", "root", "--verify", "mine.pub"]) == 1
    assert "edited since" in capsys.readouterr().err
    for hostile in ({"payload": "ü"}, {"payloadType": 5}, {"signatures": [{"sig": "ü"}]}, {"signatures": 1}):
        Path("lineage.dsse.json").write_bytes(orjson.dumps(envelope | hostile))
        assert main(["audit", "root", "--verify", "mine.pub"]) == 1
        assert "is no DSSE envelope" in capsys.readouterr().err
    key = load_pem_private_key(Path("mine").read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    for payload in (b"no JSON", b"[]", b"{}"):
        # As others sign with the same key.
        sig = key.sign(b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(payload), payload))
        changed = {"payload": base64.b64encode(payload).decode()}
        changed |= {"signatures": [{"sig": base64.b64encode(sig).decode()}]}
        Path("lineage.dsse.json").write_bytes(orjson.dumps(envelope | changed))
        assert main(["audit", "root", "--verify", "mine.pub"]) == 1
        assert "something else" in capsys.readouterr().err


def test_the_envelope_is_one_that_others_can_check(store: Path) -> None:
    assert main(["audit", "root", "--new-key", "key"]) == 0
    assert main(["audit", "root", "--sign", "key"]) == 0
    envelope = orjson.loads(Path("lineage.dsse.json").read_bytes())
    payload = base64.b64decode(envelope["payload"])
    # The text of the standard: "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body.
    signed = f"DSSEv1 28 application/vnd.in-toto+json {len(payload)} ".encode() + payload
    public = load_pem_public_key(Path("key.pub").read_bytes())
    assert isinstance(public, Ed25519PublicKey)
    public.verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed)
    statement = ParseDict(orjson.loads(payload), StatementMessage())
    InTotoStatement.copy_from_pb(statement).validate()
    assert {subject.name for subject in statement.subject} == {str(path) for path in records()}
