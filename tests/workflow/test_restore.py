"""Artifacts travel: clone, pull, restore, nothing to be done; and every edit is seen all the same."""

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

from probeline.logs.simulate_werewolf import simulate_games
from tests.workflow.conftest import PROBE, REPOSITORY, TINY, Project, artifacts, fresh_project

pytestmark = pytest.mark.workflow

OWN = (TINY, "own.yaml")
PLACES = ("data/models", "data/processed", "results")
TRAINING = Counter(train_probe=1)
ONE_SHARD = Counter(
    ingest_werewolf=1, collect_corpus=1, build_dialogues=1, extract_activations=1, train_probe=1
)
EVERY_RULE = Counter(
    fetch_model=1,
    ingest_werewolf=3,
    collect_corpus=1,
    build_dialogues=3,
    extract_activations=3,
    train_probe=1,
)


def restore(project: Project, *words: str, status: int = 0) -> dict:
    """Run the command; what it says as JSON."""
    done = project.command(
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


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished run on a corpus outside the repository, its records in git. Not to be edited."""
    top = tmp_path_factory.mktemp("restore")
    simulate_games(7, range(24), top / "games")
    (top / "games/manifest.json").unlink()
    project = fresh_project(top / "project")
    shutil.copy2(REPOSITORY / ".gitignore", project.folder / ".gitignore")
    project.write("own.yaml", f"corpora:\n  werewolf:\n    root: {top / 'games'}\n")
    project.run(PROBE, config=OWN)
    project.git("init", "--quiet", "--initial-branch=main")
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message=A probe and its records")
    return project


@pytest.fixture
def pulled(made: Project, tmp_path: Path) -> Project:
    """A clone with all artifacts, and a corpus of its own elsewhere; nothing restored yet."""
    made.git("clone", "--quiet", str(made.folder), str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone")
    pull(made, clone)
    shutil.copytree(made.folder.parent / "games", tmp_path / "games")
    scramble(tmp_path / "games", 1)
    clone.write("own.yaml", f"corpora:\n  werewolf:\n    root: {tmp_path / 'games'}\n")
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


FROM_DIALOGUES = Counter(build_dialogues=3, extract_activations=3, train_probe=1)
EDITS = [
    (change_a_log, ONE_SHARD),
    (change_a_parameter, TRAINING),
    (change_a_function, FROM_DIALOGUES),
]


def test_a_clone_with_its_artifacts_has_nothing_to_do(pulled: Project) -> None:
    found = restore(pulled)
    assert len(found["restored"]) == 12
    assert found["refused"] == found["outdated"] == {}
    assert pulled.planned(PROBE, config=OWN) == Counter()
    assert len(restore(pulled)["fine"]) == 12
    for path in sorted(pulled.folder.rglob("*")):
        os.utime(path)
    assert pulled.planned(PROBE, config=OWN) == Counter()
    for place in (*PLACES, "config"):
        scramble(pulled.folder / place, 2)
    restore(pulled)
    assert pulled.planned(PROBE, config=OWN) == Counter()


def test_what_dvc_pulls_is_restored(made: Project, tmp_path: Path) -> None:
    """DVC itself, with a folder as its remote."""
    origin = made.copy(tmp_path / "origin")
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
    assert len(restore(clone)["restored"]) == 12
    assert clone.planned(PROBE, config=OWN) == Counter()
    dvc(clone, "status", "--quiet")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("edit", "jobs"), EDITS)
def test_an_edit_before_or_after_reruns_what_it_affects(
    pulled: Project, edit: Callable[[Project], None], jobs: Counter[str], when: str
) -> None:
    if when == "before":
        edit(pulled)
    restore(pulled)
    if when == "after":
        edit(pulled)
    assert pulled.planned(PROBE, config=OWN) == jobs


def test_an_edited_template_is_seen(pulled: Project) -> None:
    pulled.edit("config/templates/werewolf.yaml", "Transcript", "The transcript")
    assert len(restore(pulled)["outdated"]) == 3
    assert pulled.planned(PROBE, config=OWN) == FROM_DIALOGUES


def test_an_edit_with_its_mtime_put_back_is_seen_where_it_came_before(pulled: Project) -> None:
    file = sorted((pulled.folder.parent / "games").rglob("game_stats.json"))[0]
    change_a_log(pulled)
    os.utime(file, (1, 1))
    (outdated,) = restore(pulled)["outdated"]
    assert outdated.startswith("data/processed/werewolf/shards/")
    assert pulled.planned(PROBE, config=OWN) == ONE_SHARD


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("edit", [change_a_log, change_a_function])
def test_edits_are_seen_through_artifacts_that_were_not_pulled(
    pulled: Project, edit: Callable[[Project], None], when: str
) -> None:
    forget_artifacts(pulled, keep=PROBE)
    if when == "before":
        edit(pulled)
    found = restore(pulled)
    assert found["restored"] == [PROBE]
    assert len(found["absent"]) == 11
    if when == "after":
        assert pulled.planned(PROBE, config=OWN) == Counter()
        edit(pulled)
    assert pulled.planned(PROBE, config=OWN) == EVERY_RULE


def test_what_comes_after_a_restore_is_not_taken_on_trust(made: Project, pulled: Project) -> None:
    forget_artifacts(pulled, keep=PROBE)
    restore(pulled)
    pull(made, pulled)
    (pulled.folder / "results/activations/collusion/shard-1-of-3/index.parquet").unlink()
    done = pulled.snakemake("--dry-run", PROBE, config=OWN)
    assert "shard-1-of-3/index.parquet is missing; it counts as not made" in done.stdout
    assert "10 artifacts were neither made nor restored here" in done.stdout


def test_what_is_not_what_its_record_says_is_named_and_made_again(made: Project, pulled: Project) -> None:
    shard = pulled.folder / "results/activations/collusion/shard-1-of-3"
    (shard / "index.parquet").unlink()
    scores = pulled.folder / PROBE / "scores.parquet"
    info, data = scores.stat(), scores.read_bytes()
    scores.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    os.utime(scores, ns=(info.st_mtime_ns, info.st_mtime_ns))
    found = restore(pulled, status=1)
    assert found["refused"] == {
        "results/activations/collusion/shard-1-of-3": "results/activations/collusion/shard-1-of-3/"
        "index.parquet is missing",
        PROBE: f"{PROBE}/scores.parquet was changed",
    }
    assert pulled.planned(PROBE, config=OWN) == Counter(extract_activations=1, train_probe=1)
    pull(made, pulled)
    assert len(restore(pulled)["restored"]) >= 2
    assert pulled.planned(PROBE, config=OWN) == Counter()


def test_a_probe_made_of_other_activations_than_are_recorded_is_not_restored(pulled: Project) -> None:
    """Its own upstream is not here, and the record there now speaks of something else."""
    forget_artifacts(pulled, keep=PROBE)
    (pulled.folder / "results/activations/collusion/shard-1-of-3.lineage.json").unlink()
    found = restore(pulled, status=1)
    assert "shard-1-of-3, which is not here and has no valid record" in found["refused"][PROBE]
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
    for branch, artifacts_there in (("main", first), ("other", second), ("main", first)):
        pulled.git("switch", "--quiet", branch)
        assert list(restore(pulled, status=1)["refused"]) == [PROBE]
        pull(artifacts_there, pulled, seed=3)
        assert restore(pulled)["refused"] == {}
        assert pulled.planned(PROBE, config=OWN) == Counter()


def test_what_is_rerun_equals_a_run_from_scratch(pulled: Project, tmp_path: Path) -> None:
    for file in (tmp_path / "games").rglob("*"):
        os.utime(file)  # Snakemake refuses to run a job on inputs of the future.
    change_a_log(pulled)
    restore(pulled)
    pulled.run(PROBE, config=OWN)
    scratch = fresh_project(tmp_path / "scratch")
    shutil.copy2(pulled.folder / "own.yaml", scratch.folder / "own.yaml")
    scratch.run(PROBE, config=OWN)
    here, there = (
        {name: data for name, data in artifacts(p.folder).items() if not name.endswith(".lineage.json")}
        for p in (pulled, scratch)
    )
    assert here == there


def test_the_metadata_are_those_that_snakemake_wrote(
    made: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In all that decides about reruns, for every output of every rule."""
    from probeline.lineage.graph import read_lineage
    from probeline.lineage.snakemake_metadata import DECISIVE, SnakemakeMetadata

    copy = made.copy(tmp_path / "copy")
    monkeypatch.chdir(copy.folder)
    outputs = [output for record in read_lineage().records.values() for output in record.outputs]
    written = {output: SnakemakeMetadata()._store._read_record(output) for output in outputs}
    assert len(outputs) == 43
    shutil.rmtree(".snakemake")
    restore(copy)
    for output, theirs in written.items():
        ours = SnakemakeMetadata()._store._read_record(output)
        assert theirs is not None
        assert ours is not None
        assert {key: ours[key] for key in DECISIVE} == {key: theirs[key] for key in DECISIVE}, output
        assert ours.rule == theirs.rule


def test_without_its_record_nothing_counts_as_done(made: Project, tmp_path: Path) -> None:
    project = made.copy(tmp_path / "copy")
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
    found = restore(pulled, status=1)
    assert found["refused"].keys() == {"results/probes/trust_mms_l2", "data/models/tiny"}
    assert "its record is that of results/probes/collusion_mms_l2" in found["refused"].values()
    assert pulled.planned(PROBE, config=OWN)["fetch_model"] == 1
