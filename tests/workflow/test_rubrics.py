"""Rubrics of a judge, as a user asks for them: an endpoint on this machine writes them, once each."""

import json
import re
from pathlib import Path

import pytest

from tests.unit.judge_server import judge_server
from tests.workflow.conftest import REPOSITORY, TINY, fresh_project

pytestmark = pytest.mark.workflow

SECRET = "sk-very-secret-0123456789"
OWN = (TINY, "own.yaml")
DATASET = "data/processed/prompts/support"
# What the docs say to do about missing rubrics.
DOCS = (REPOSITORY / "docs/support.md").read_text()
AGAIN = re.findall(r"^    snakemake .* data/processed/prompts/sgd (-R .*)$", DOCS, re.MULTILINE)[0].split()
LOGS = "shards: 1\ncorpora: {support: {simulated_games: 4}}\n"


def behaviour(reference: str, attempt: int) -> str:
    return json.dumps({"rubric": f"As good as: {reference}"}) if "?" in reference else "no idea"


def own(url: str, **more: object) -> str:
    judge = {"kind": "openai", "url": url, "model": "tiny", "key": "TRIED_KEY", "wait": 0.001, **more}
    settings = {"judges": {"tried": judge}, "datasets": {"support": {"rubrics": "tried"}}}
    return LOGS + "".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items())


def test_a_run_asks_for_each_rubric_once_and_for_the_key_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = fresh_project(tmp_path / "project")
    with judge_server(behaviour) as server:
        project.write("own.yaml", own(server.url))
        monkeypatch.delenv("TRIED_KEY", raising=False)
        assert "TRIED_KEY (judges.tried.key)" in project.refused(DATASET, config=OWN)
        assert not (project.folder / "data/simulated/support").exists()

        monkeypatch.setenv("TRIED_KEY", SECRET)
        said = project.run(DATASET, config=OWN)
        assert f"with {' '.join(AGAIN)}" in " ".join(said.split())
        asked = server.asked.total()
        made = (project.folder / DATASET / "prompts.jsonl").read_bytes()
        rows = [json.loads(line) for line in made.splitlines()]
        failed = [row for row in rows if row["rubric"] is None]
        assert 0 < len(failed) < len(rows)
        statistics = json.loads((project.folder / DATASET / "dataset_statistics.json").read_text())
        assert statistics["rubrics"] == {"written": len(rows) - len(failed), "failed": len(failed)}
        assert server.asked.total() == len(rows) + 4 * len(failed)

        # Made again, what was written comes from the cache: the same bytes, calls for the others alone.
        project.run(DATASET, *AGAIN, config=OWN)
        assert (project.folder / DATASET / "prompts.jsonl").read_bytes() == made
        assert server.asked.total() - asked == 5 * len(failed)

        # Once the judge answers, nothing is missing.
        server.behaviour = lambda reference, attempt: json.dumps({"rubric": "Be kind."})
        project.run(DATASET, *AGAIN, config=OWN)
        again = [json.loads(line) for line in (project.folder / DATASET / "prompts.jsonl").open()]
        assert again == [row | {"rubric": row["rubric"] or "Be kind."} for row in rows]

        # How a judge is asked is no part of what it has written.
        project.write("own.yaml", own(server.url, concurrency=2, timeout=30, key="OTHER_KEY"))
        assert not project.planned(DATASET, config=OWN)
    files = [path for path in project.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
