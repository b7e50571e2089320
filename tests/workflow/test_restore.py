"""Artifacts travel: clone, pull, restore, nothing to be done; and every edit is seen all the same."""

import hashlib
import json
import os
import random
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from probeline.lineage.code import code_digest
from probeline.lineage.hashing import directory_digest
from probeline.lineage.records import record_bytes
from tests.workflow.conftest import OUTSIDE_CONFIG, PROBE, REPOSITORY, TINY, Project, artifacts

pytestmark = pytest.mark.workflow

OWN = (TINY, "own.yaml")
PLACES = ("data/models", "data/processed", "results")
RECORDS = 9
TRAINING = Counter(train_probe=1)
FROM_DIALOGUES = Counter(build_dialogues=2, extract_activations=2, train_probe=1)
ONE_SHARD = Counter(
    ingest_werewolf=1, collect_corpus=1, build_dialogues=1, extract_activations=1, train_probe=1
)
EVERY_RULE = FROM_DIALOGUES + Counter(fetch_model=1, ingest_werewolf=2, collect_corpus=1)


def restore(project: Project, *words: str, status: int = 0) -> dict:
    """Run the project's own command; what it says as JSON."""
    done = project.command(
        *("env", f"PYTHONPATH={project.folder / 'scripts'}"),
        *(sys.executable, "-c", "import sys; from probeline.cli import main; sys.exit(main())", "restore"),
        *words,
        *("--json", "--configfile", *OWN),
    )
    assert done.returncode == status, done.stdout
    return json.loads(done.stdout[done.stdout.index("{") :])


def scramble(folder: Path, seed: int = 0) -> None:
    """Random mtimes for all files and folders: long ago, 0, just now, and in the future."""
    chance = random.Random(seed)
    for path in sorted(folder.rglob("*")):
        moments = (chance.uniform(1, 1e9), 0.0, time.time() - chance.uniform(0, 60), time.time() + 1e7)
        moment = chance.choice(moments)
        os.utime(path, (moment, moment), follow_symlinks=False)


def pull(source: Project, target: Project, seed: int = 0) -> None:
    """What `dvc pull` does: the artifacts appear beside their records, with other mtimes."""
    for place in PLACES:
        shutil.copytree(
            source.folder / place,
            target.folder / place,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("*.lineage.json", ".snakemake_timestamp"),
        )
        scramble(target.folder / place, seed)


def forget_artifacts(project: Project, keep: str = "") -> None:
    """Leave the records alone, and one artifact."""
    for path in sorted(project.folder.rglob("*.lineage.json")):
        artifact = path.with_name(path.name.removesuffix(".lineage.json"))
        if artifact.relative_to(project.folder).as_posix() == keep:
            continue
        if path.name == "werewolf.lineage.json":
            for file in artifact.iterdir():
                if file.is_file():
                    file.unlink()
        elif artifact.is_dir():
            shutil.rmtree(artifact)


@pytest.fixture
def pulled(outside_logs_run: Project, tmp_path: Path) -> Project:
    """A clone with all artifacts, and a corpus of its own elsewhere; nothing restored yet."""
    outside_logs_run.git("clone", "--quiet", str(outside_logs_run.folder), str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone")
    pull(outside_logs_run, clone)
    shutil.copytree(outside_logs_run.folder.parent / "games", tmp_path / "games")
    scramble(tmp_path / "games", 1)
    clone.write("own.yaml", OUTSIDE_CONFIG.format(tmp_path / "games"))
    return clone


def change_a_log(project: Project) -> None:
    """Another statement in one raw log."""
    file = sorted((project.folder.parent / "games").rglob("game_stats.json"))[0]
    stats = json.loads(file.read_text())
    said = next(event for event in stats["history"] if event["type"] == "day_statement")
    said["data"]["statement"] += " That is all I have."
    file.write_text(json.dumps(stats))


def change_a_parameter(project: Project) -> None:
    project.write("own.yaml", (project.folder / "own.yaml").read_text() + "evaluation: {bootstrap: 300}\n")


def change_a_function(project: Project) -> None:
    module = project.folder / "scripts/probeline/datasets/contexts.py"
    module.write_text(module.read_text() + "\n\ndef _unused() -> None:\n    pass\n")


def refit(record: Path, change: Callable[[dict], None]) -> None:
    """Edit a record as somebody does who knows how its identity is made."""
    statement = json.loads(record.read_text())
    change(statement)
    record.write_bytes(record_bytes(statement))


def test_a_clone_with_its_artifacts_has_nothing_to_do(pulled: Project) -> None:
    found = restore(pulled)
    assert len(found["restored"]) == RECORDS
    assert found["refused"] == found["outdated"] == {}
    assert found["future"]
    assert all(name.startswith("raw/werewolf/") for name in found["future"])
    for path in sorted(pulled.folder.rglob("*")):
        os.utime(path)
    assert pulled.planned(PROBE, config=OWN) == Counter()
    assert len(restore(pulled)["fine"]) == RECORDS
    for place in (*PLACES, "config"):
        scramble(pulled.folder / place, 2)
    restore(pulled)
    assert pulled.planned(PROBE, config=OWN) == Counter()


def test_logs_that_are_not_where_the_config_says_are_no_success(pulled: Project) -> None:
    """Snakemake would make everything again, from other logs or from none."""
    root = pulled.folder.parent / "games"
    pulled.write("own.yaml", OUTSIDE_CONFIG.format("/nowhere/games"))
    assert restore(pulled, status=1)["unseen"].keys() == {"raw/werewolf"}
    pulled.write("own.yaml", "shards: 2\n")
    assert restore(pulled, status=1)["unseen"].keys() == {"raw/werewolf"}
    # Files of both --configfile count.
    pulled.write("root.yaml", OUTSIDE_CONFIG.format(root))
    assert restore(pulled, "--configfile", "root.yaml")["unseen"] == {}


def test_what_dvc_pulls_is_restored(outside_logs_run: Project, tmp_path: Path) -> None:
    """DVC itself, with a folder as its remote."""
    origin = outside_logs_run.copy(tmp_path / "origin")
    top = origin.folder

    def dvc(project: Project, *words: str) -> None:
        done = project.command(sys.executable, "-m", "dvc", *words)
        assert done.returncode == 0, done.stdout

    dvc(origin, "init", "--quiet")
    dvc(origin, "config", "core.analytics", "false")
    dvc(origin, "remote", "add", "--quiet", "--default", "there", str(tmp_path / "remote"))
    (top / ".dvcignore").write_text(".snakemake_timestamp\n")
    recorded = [path.relative_to(top) for path in top.rglob("*.lineage.json")]
    folders = [str(path).removesuffix(".lineage.json") for path in recorded]
    folders.remove("data/processed/werewolf")
    tables = [str(file.relative_to(top)) for file in (top / "data/processed/werewolf").glob("*.*")]
    dvc(origin, "add", "--quiet", *folders, *tables)
    dvc(origin, "push", "--quiet")
    origin.git("add", "--all")
    origin.git("commit", "--quiet", "--message=Pointers")
    origin.git("clone", "--quiet", str(top), str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone")
    dvc(clone, "pull", "--quiet")
    assert len(restore(clone)["restored"]) == RECORDS
    assert clone.planned(PROBE, config=OWN) == Counter()


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_edit_before_or_after_reruns_what_it_affects(pulled: Project, when: str) -> None:
    for shard in range(2):
        benchmark = f"benchmarks/ingest_werewolf/werewolf/shard-{shard}-of-2.tsv"
        pulled.write(benchmark, "s\n1.0\n")
        os.utime(pulled.folder / benchmark, (0, 0))
    restore(pulled)
    edits = [
        (change_a_parameter, TRAINING),
        (change_a_log, ONE_SHARD),
        (change_a_function, ONE_SHARD | FROM_DIALOGUES),
    ]
    for edit, jobs in edits:
        edit(pulled)
        if when == "before":
            shutil.rmtree(pulled.folder / ".snakemake")
            restore(pulled)
        assert pulled.planned(PROBE, config=OWN) == jobs


def test_edited_inputs_are_seen_whatever_their_mtimes(pulled: Project) -> None:
    file = sorted((pulled.folder.parent / "games").rglob("game_stats.json"))[0]
    change_a_log(pulled)
    os.utime(file, (1, 1))
    (outdated,) = restore(pulled)["outdated"]
    assert outdated.startswith("data/processed/werewolf/shards/")
    assert pulled.planned(PROBE, config=OWN) == ONE_SHARD
    template = pulled.folder / "config/templates/werewolf.yaml"
    pulled.edit("config/templates/werewolf.yaml", "Transcript", "The transcript")
    os.utime(template, (time.time() + 1e7,) * 2)
    found = restore(pulled)
    assert len(found["outdated"]) == 3
    assert "config/templates/werewolf.yaml" in found["future"]
    assert pulled.planned(PROBE, config=OWN) == ONE_SHARD | FROM_DIALOGUES
    stamped = [path for place in PLACES for path in (pulled.folder / place).rglob("manifest.json")]
    assert all(path.stat().st_mtime <= time.time() for path in stamped)


@pytest.mark.parametrize(
    ("edit", "when"),
    [(change_a_log, "before"), (change_a_parameter, "before"), (change_a_function, "after")],
)
def test_edits_are_seen_through_artifacts_that_were_not_pulled(
    pulled: Project, edit: Callable[[Project], None], when: str
) -> None:
    forget_artifacts(pulled, keep=PROBE)
    if when == "before":
        edit(pulled)
    found = restore(pulled)
    assert found["restored"] == [PROBE]
    assert len(found["absent"]) == RECORDS - 1
    if when == "after":
        assert pulled.planned(PROBE, config=OWN) == Counter()
        edit(pulled)
    assert pulled.planned(PROBE, config=OWN) == EVERY_RULE


def test_what_comes_after_a_restore_is_not_taken_on_trust(outside_logs_run: Project, pulled: Project) -> None:
    forget_artifacts(pulled, keep=PROBE)
    restore(pulled)
    pull(outside_logs_run, pulled)
    index = pulled.folder / "results/activations/collusion/shard-1-of-2/index.parquet"
    data = index.read_bytes()
    index.unlink()
    said = pulled.snakemake("--dry-run", PROBE, config=OWN).stdout
    assert (
        "shard-1-of-2/index.parquet is missing; it counts as not made until `probeline restore` finds" in said
    )
    assert f"{RECORDS - 2} artifacts were neither made nor restored here" in said
    index.write_bytes(data)
    said = pulled.snakemake("--dry-run", PROBE, config=OWN).stdout
    assert "counts as not made" not in said
    assert f"{RECORDS - 1} artifacts were neither made nor restored here" in said


def test_what_is_not_what_its_record_says_is_named_and_made_again(
    outside_logs_run: Project, pulled: Project
) -> None:
    shard = "results/activations/collusion/shard-1-of-2"
    (pulled.folder / shard / "index.parquet").unlink()
    scores = pulled.folder / PROBE / "scores.parquet"
    info, data = scores.stat(), scores.read_bytes()
    scores.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    os.utime(scores, ns=(info.st_mtime_ns, info.st_mtime_ns))
    refused = restore(pulled, status=1)["refused"]
    assert refused == {
        shard: f"{shard}/index.parquet is missing",
        PROBE: f"{PROBE}/scores.parquet was changed",
    }
    for file in (pulled.folder.parent / "games").rglob("*"):
        os.utime(file)  # Snakemake refuses to run a job on inputs of the future.
    assert pulled.planned(PROBE, config=OWN) == Counter(extract_activations=1, train_probe=1)
    pulled.run(PROBE, config=OWN)
    assert artifacts(pulled.folder) == artifacts(outside_logs_run.folder)


def test_an_edited_record_restores_nothing(pulled: Project) -> None:
    """Each has an identity that fits; what was made from it, its files or its manifest contradict it."""
    change_a_function(pulled)
    module = "scripts/probeline/datasets/contexts.py"
    new = code_digest(pulled.folder / module)

    def launder(statement: dict) -> None:
        statement["predicate"]["buildDefinition"]["externalParameters"]["params"]["code"][module] = new

    def forget_a_file(statement: dict) -> None:
        del statement["subject"][0]["annotations"]["files"]["config.json"]

    def exchange(statement: dict) -> None:
        (subject,) = statement["subject"]
        files = subject["annotations"]["files"]
        files["scores.parquet"] = hashlib.sha256(b"better").hexdigest()
        subject["digest"]["dirHash"] = directory_digest(files)

    (pulled.folder / PROBE / "scores.parquet").write_bytes(b"better")
    refit(pulled.folder / f"{PROBE}.lineage.json", exchange)
    refit(pulled.folder / "data/models/tiny.lineage.json", forget_a_file)
    shards = [f"data/processed/dialogues/collusion/shard-{shard}-of-2" for shard in range(2)]
    for shard in shards:
        refit(pulled.folder / f"{shard}.lineage.json", launder)
    refused = restore(pulled, status=1)["refused"]
    assert refused.keys() == {PROBE, "data/models/tiny", *shards}
    assert "the digests of the files do not make up" in refused["data/models/tiny"].lower()
    assert "manifest.json disagree about scores.parquet" in refused[PROBE]
    for shard in shards:
        assert "not the record that was here when results/activations/collusion/shard-" in refused[shard]
    assert pulled.planned(PROBE, config=OWN) == FROM_DIALOGUES + Counter(fetch_model=1)


def test_a_probe_made_of_other_activations_than_are_recorded_is_not_restored(pulled: Project) -> None:
    """Its own upstream is not here, and the record there now speaks of something else."""
    forget_artifacts(pulled, keep=PROBE)
    (pulled.folder / "results/activations/collusion/shard-1-of-2.lineage.json").unlink()
    found = restore(pulled, status=1)
    assert "shard-1-of-2, which is not here and has no valid record" in found["refused"][PROBE]
    assert pulled.planned(PROBE, config=OWN) == EVERY_RULE


def test_branches_switch_both_ways(pulled: Project, tmp_path: Path) -> None:
    pulled.git("commit", "--quiet", "--all", "--message=The corpus lies elsewhere here")
    restore(pulled)
    first = pulled.copy(tmp_path / "first")
    pulled.git("switch", "--quiet", "--create", "other")
    change_a_parameter(pulled)
    pulled.run(PROBE, config=OWN)
    pulled.git("commit", "--quiet", "--all", "--message=Another setting")
    second = pulled.copy(tmp_path / "second")
    for branch, artifacts_there in (("main", first), ("other", second)):
        pulled.git("switch", "--quiet", branch)
        assert list(restore(pulled, status=1)["refused"]) == [PROBE]
        pull(artifacts_there, pulled, seed=3)
        assert restore(pulled)["refused"] == {}
        assert pulled.planned(PROBE, config=OWN) == Counter()


def test_the_metadata_are_those_that_snakemake_wrote(
    outside_logs_run: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In all that decides about reruns, for every output of every rule."""
    from probeline.lineage.graph import read_lineage
    from probeline.lineage.snakemake_metadata import DECISIVE, SnakemakeMetadata

    copy = outside_logs_run.copy(tmp_path / "copy")
    monkeypatch.chdir(copy.folder)
    outputs = [output for record in read_lineage().records.values() for output in record.outputs]
    written = {output: SnakemakeMetadata()._store._read_record(output) for output in outputs}
    assert len(outputs) > 3 * RECORDS
    shutil.rmtree(".snakemake")
    restore(copy)
    for output, theirs in written.items():
        ours = SnakemakeMetadata()._store._read_record(output)
        assert theirs is not None
        assert ours is not None
        assert {key: ours[key] for key in DECISIVE} == {key: theirs[key] for key in DECISIVE}, output
        assert ours.rule == theirs.rule


def test_without_its_record_nothing_counts_as_done(outside_logs_run: Project, tmp_path: Path) -> None:
    project = outside_logs_run.copy(tmp_path / "copy")
    records = (f"{PROBE}.lineage.json", "data/processed/werewolf.lineage.json")
    for record in records:
        (project.folder / record).unlink()
    (project.folder / "results/probes/.collusion_mms_l2.tmp-0123").mkdir()
    shutil.rmtree(project.folder / ".snakemake")
    expected = Counter(collect_corpus=1, train_probe=1)
    assert project.planned(PROBE, config=OWN) == expected
    said = project.snakemake("--dry-run", PROBE, config=OWN).stdout
    assert f"{PROBE}: it has no record, so it was not finished" in said
    assert "tmp-0123" not in said
    unaided = project.snakemake("--dry-run", "--workflow-profile", "none", PROBE, config=OWN)
    assert unaided.returncode != 0
    assert "IncompleteFilesException" in unaided.stdout
    project.git("checkout", "--quiet", "--", *records)
    assert project.planned(PROBE, config=OWN) == Counter()


def test_a_record_is_deleted_before_what_it_speaks_of() -> None:
    """Snakemake deletes outputs in the order in which a rule declares them."""
    rules = "".join(file.read_text() for file in sorted((REPOSITORY / "rules").glob("*.smk")))
    first = re.findall(r"^    output:\n {8}(\w+)=", rules, re.MULTILINE)
    assert len(first) == len(re.findall(r"^ {8}record=", rules, re.MULTILINE)) >= 9
    assert set(first) == {"record"}


def test_a_record_of_something_else_is_refused(pulled: Project) -> None:
    shutil.copytree(pulled.folder / PROBE, pulled.folder / "results/probes/trust_mms_l2")
    shutil.copy2(
        pulled.folder / f"{PROBE}.lineage.json", pulled.folder / "results/probes/trust_mms_l2.lineage.json"
    )
    edited = pulled.folder / "data/models/tiny.lineage.json"
    edited.write_text(edited.read_text().replace('"seed": 0', '"seed": 1'))
    stray = os.fsencode(pulled.folder / "results/activations/collusion/shard-0-of-2") + b"/\xff"
    Path(os.fsdecode(stray)).touch()
    hostile = "data/processed/dialogues/collusion/shard-0-of-2"

    def speak_to_the_terminal(statement: dict) -> None:
        statement["subject"][0]["name"] = "\x1b]0;title\x07"

    refit(pulled.folder / f"{hostile}.lineage.json", speak_to_the_terminal)
    said = pulled.snakemake("--dry-run", PROBE, config=OWN).stdout
    assert f"{hostile}.lineage.json: its record is that of ?]0;title?; it counts as not made" in said
    assert not {"\x1b", "\x07"} & {*said}
    refused = restore(pulled, status=1)["refused"]
    names = {"results/probes/trust_mms_l2", "data/models/tiny", hostile}
    assert refused.keys() == {*names, "results/activations/collusion/shard-0-of-2"}
    assert "its record is that of results/probes/collusion_mms_l2" in refused.values()
    assert "does not belong to it" in refused["results/activations/collusion/shard-0-of-2"]
    assert pulled.planned(PROBE, config=OWN)["fetch_model"] == 1
