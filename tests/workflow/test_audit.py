"""The audit's answers on a real run, held against the artifacts themselves and against Snakemake."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.workflow.conftest import PROBE, TINY, Project

CONFIG = (TINY, "own.yaml")


def audit(project: Project, *words: str) -> tuple[int, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "probeline.cli", "audit", *words, "--json"],
        cwd=project.folder,
        text=True,
        capture_output=True,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def tables_with(folder: Path, game: str) -> dict[str, set[str]]:
    """Artifact → the splits in which one of its tables shows a game."""
    found: dict[str, set[str]] = {}
    for table in sorted([*folder.glob("data/processed/**/*.parquet"), *folder.glob("results/**/*.parquet")]):
        names = pq.read_schema(table).names
        if "game" not in names:
            continue
        rows = pq.read_table(table, columns=[n for n in ("game", "split") if n in names]).to_pylist()
        splits = {row.get("split") for row in rows if row["game"] == game}
        if splits:
            artifact = table.parent.relative_to(folder).as_posix()
            found.setdefault(artifact, set()).update(split for split in splits if split)
    return found


def test_impact_names_exactly_what_contains_a_game(own_logs_run: Project) -> None:
    scores = pq.read_table(own_logs_run.folder / PROBE / "scores.parquet").to_pylist()
    for split in ("train", "test"):
        game = next(row["game"] for row in scores if row["split"] == split)
        shown = tables_with(own_logs_run.folder, game)
        assert shown[PROBE] == {split}
        status, facts = audit(own_logs_run, "impact", f"game:{game}")
        assert status == 0
        assert {row["artifact"] for row in facts["contained_in"]} == set(shown)
        for row in facts["contained_in"]:
            assert shown[row["artifact"]] <= {row["split"]}
        assert facts["raw_logs"][0].startswith(f"data/raw/games/{game}/")
        _, by_log = audit(own_logs_run, "impact", facts["raw_logs"][0])
        assert by_log["contained_in"] == facts["contained_in"]


def test_a_run_has_no_leakage_and_nothing_stale(own_logs_run: Project) -> None:
    assert audit(own_logs_run, "leakage", "--texts")[0] == 0
    status, facts = audit(own_logs_run, "stale", "--configfile", *CONFIG)
    assert (status, facts["stale"]) == (0, {})


def test_why_says_what_snakemake_would_rerun(own_logs: Project) -> None:
    own_logs.edit("tests/config/tiny.yaml", "bootstrap: 200", "bootstrap: 210")
    own_logs.edit("scripts/probeline/datasets/contexts.py", "def views_of(", "UNUSED = 1\n\n\ndef views_of(")
    log = next((own_logs.folder / "data/raw/games").rglob("llm_log.txt"))
    log.write_text(log.read_text() + "\n")
    status, facts = audit(own_logs, "why", "--now", PROBE, "--configfile", *CONFIG)
    assert status == 0
    now = facts["now"]
    assert now["reruns"][PROBE] == ["param bootstrap: 200 → 210"]
    dialogues = {name: reasons for name, reasons in now["reruns"].items() if "/dialogues/" in name}
    assert len(dialogues) == 2
    assert all(reasons == ["code: scripts/probeline/datasets/contexts.py"] for reasons in dialogues.values())
    read = [reasons for name, reasons in now["reruns"].items() if "/shards/" in name]
    assert read == [[f"input changed: {log.relative_to(own_logs.folder).as_posix()}"]]
    planned = own_logs.planned(PROBE, config=CONFIG)
    assert len(now["reruns"]) + len(now["follow"]) == sum(planned.values())
    # The same without a dry run.
    _, stale = audit(own_logs, "stale", PROBE, "--configfile", *CONFIG)
    counted = Counter(name.split("/")[-2] for name in stale["stale"])
    assert counted == {"probes": 1, "collusion": 2, "shards": 1}
