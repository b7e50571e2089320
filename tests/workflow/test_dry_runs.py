"""The configs for users can be planned in a clone, and planning needs nothing heavy."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import REPOSITORY, Project, fresh_project

pytestmark = pytest.mark.workflow

HEAVY = {"torch", "transformers", "sklearn", "scipy", "safetensors", "tokenizers", "trl", "matplotlib"}
RULES = "\n" + "".join(file.read_text() for file in sorted((REPOSITORY / "rules").glob("*.smk")))
BLOCKS = dict(re.findall(r"\nrule (\w+):\n(.*?)(?=\nrule |\Z)", RULES, re.DOTALL))
JOBS = {name for name, block in BLOCKS.items() if "script:" in block}
TARGETS = sorted(BLOCKS.keys() - JOBS)
CONFIGS = ["", "config/full.yaml"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return fresh_project(tmp_path_factory.mktemp("dry") / "project")


def files(project: Project) -> set[Path]:
    aside = {".snakemake", ".probeline", "__pycache__"}
    return {path for path in project.folder.rglob("*") if not aside & set(path.parts)}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda name: Path(name).stem or "default")
def test_a_config_is_planned_for_all_targets_without_anything_heavy(clone: Project, config: str) -> None:
    before = files(clone)
    done = clone.command(
        *(sys.executable, "-X", "importtime", "-m", "snakemake", "--dry-run", "--cores", "1"),
        *("all", *TARGETS, *(("--configfile", config) if config else ())),
    )
    assert done.returncode == 0, done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stdout.splitlines() if "|" in line}
    assert "probeline.config" in imported
    assert not imported & HEAVY
    assert files(clone) == before
    table = done.stdout.partition("Job stats:")[2].partition("\n\n")[0]
    planned = set(re.findall(r"^(\w+) +\d+$", table, re.MULTILINE))
    assert {"train_probe", "train_grpo", "evaluate_adapter", *TARGETS} <= planned


def test_the_page_of_rules_is_not_stale(clone: Project) -> None:
    page = subprocess.run(
        (sys.executable, REPOSITORY / "docs/rules.py"),
        cwd=clone.folder,
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    assert (REPOSITORY / "docs/rules.md").read_text() == page, "make reference"
    assert set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE)) >= JOBS


def test_the_profile_for_slurm_plans_the_same_run(clone: Project) -> None:
    """Without its plugin: the executor is the one thing that the command line says otherwise."""
    words = ("--workflow-profile", "profiles/slurm", "--executor", "local", "--dry-run", "--cores", "1")
    target = ("results/adapters/mafia_sft", "--configfile", "tests/config/tiny.yaml")
    done = clone.command(sys.executable, "-m", "snakemake", *words, *target)
    assert done.returncode == 0, done.stdout
    assert "Tune a model on examples: mafia_sft." in done.stdout
    profiles = REPOSITORY / "profiles"
    slurm, default = (
        yaml.safe_load((profiles / name / "config.yaml").read_text()) for name in ("slurm", "default")
    )
    # The rules that may have a GPU on Modal load a model, and want one there, too.
    assert slurm["set-resources"].keys() == {
        name for name in JOBS if "gpu=int(may_have_cuda()" in BLOCKS[name]
    }
    assert {"gpu=8", "modal=16"} == set(slurm["resources"])
    for key in default.keys() - {"resources"}:
        assert slurm[key] == default[key]


def test_the_report_reads_the_accounts_of_all_that_was_computed_for_its_targets(clone: Project) -> None:
    """Of a shift its probe's twin and the adapted model; of grids and comparisons every training behind."""
    clone.write(
        "behind.yaml",
        "recipes: {mafia_dpo: {grid: {beta: [0.1, 0.2]}}}\n"
        "probe_shifts: {after: {probe: trust_lr_l2, adapter: forecast_sft}}\n"
        "targets: {probes: [], adapters: [mafia_dpo], comparisons: [support_steps], probe_shifts: [after]}\n",
    )
    words = ("--dry-run", "--quiet", "host", "--", "results/report.html")
    plan = clone.command(
        *(sys.executable, "-m", "snakemake", "--cores", "1"),
        *("--configfile", "tests/config/tiny.yaml", "behind.yaml", *words),
    ).stdout
    reason = plan.partition("\nJob 0: ")[2].partition("Input files updated by another job: ")[2]
    read = {Path(name).parent for name in reason.partition("\n")[0].split(", ")}
    trained = {path.name.partition("@")[0] for path in read if path.parts[:2] == ("results", "adapters")}
    assert trained == {"mafia_sft", "mafia_dpo", "forecast_sft", "support_grpo"}
    through = {path.parts[2] for path in read if "activations" in path.parts}
    assert through == {"trust", "trust.role_masked", "trust.on.forecast_sft"}
