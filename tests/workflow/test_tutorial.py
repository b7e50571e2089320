"""The commands of the tutorial and of the first how-tos work, as printed, one after the other in one clone.

The model is a random one with as many layers as the pages name: seconds where a newcomer waits minutes.
"""

import re
import shutil

import pytest
import yaml

from probeline.config import load_config
from probeline.logs.simulate import simulate_logs
from probeline.logs.simulate_werewolf import simulate_games
from tests.workflow.conftest import REPOSITORY, TINY, Project, fresh_project
from tests.workflow.test_documented_commands import COMMAND, COMMANDS, files_shown

pytestmark = pytest.mark.workflow

PROBE = "results/probes/trust_lr_l22"
# The tutorial first: what it makes is there for the others. Of audit-a-number, `root`, `root --verify` and
# `reproduce` are left out, which stand in fences: they want somebody's key and a clean commit. test_verify
# and test_reproduce try them.
PAGES = ("tutorial", "audit-a-number", "own-concept", "own-recipe", "own-logs")
# What the README names, too, is run by its test, with a real model; of that only what the others go on from.
STEPS = ("make probe", f"snakemake --cores 4 {PROBE}")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = fresh_project(tmp_path_factory.mktemp("tutorial") / "project")
    # What is printed names no config; so this one is the default here.
    config = load_config([project.folder / TINY])
    config["models"]["tiny"]["random"]["layers"] = 22
    config["targets"]["probes"] = ["trust_lr_l22"]
    config["shards"] = 1
    # As few as have both classes of each concept in each split.
    config["corpora"]["werewolf"]["simulated_games"] = 12
    project.write("config/config.yaml", yaml.safe_dump(config))
    shutil.copy2(REPOSITORY / "Makefile", project.folder)
    (project.folder / ".venv").symlink_to(REPOSITORY / ".venv")
    # As few as have both classes of trust in each split.
    simulate_games(2, range(8), project.folder / "data/raw/my-games")
    simulate_logs("mafia", 2, range(8), project.folder / "data/raw/mafia")
    return project


def commands_of(page: str) -> list[str]:
    shown = COMMAND.findall((REPOSITORY / f"docs/{page}.md").read_text())
    return [command for command in shown if command in STEPS or command not in COMMANDS]


def probe_of(project: Project) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (project.folder / PROBE).glob("*.*")}


def run(project: Project, command: str) -> str:
    done = project.command("bash", "-c", f"source .venv/bin/activate && {command}")
    assert done.returncode == 0, f"$ {command}\n{done.stdout}"
    return done.stdout


def test_the_commands_of_the_pages_run_as_printed(clone: Project) -> None:
    said: dict[str, list[str]] = {}
    made = []
    for page in PAGES:
        text = (REPOSITORY / f"docs/{page}.md").read_text()
        for name, content in files_shown(text).items():
            clone.write(name, content)
        for command in commands_of(page):
            said.setdefault(command, []).append(run(clone, command))
            made += [probe_of(clone)] if command.startswith("snakemake --cores 4 " + PROBE) else []
        assert commands_of(page), page

    # What the tutorial says that its reader will see.
    assert "AUROC on the test games" in said["make probe"][0]
    assert "Nothing to be done" in said[f"snakemake --cores 4 {PROBE}"][0]
    planned = said[f"snakemake -n {PROBE} --configfile milder.yaml"][0]
    assert set(re.findall(r"^(\w+) +\d+$", planned, re.MULTILINE)) == {"train_probe", "total"}
    assert "regularization: 10 → 100" in said["probeline audit why --now trust_lr_l22"][0]
    first, milder, back = made[:3]
    assert milder != first == back


def test_a_model_of_ones_own_is_planned_as_its_page_says(clone: Project) -> None:
    """From a folder; to read it is what test_fetch_model does, and the rest is as with any model."""
    page = (REPOSITORY / "docs/own-model.md").read_text().replace("/models/my-finetune", "data/models/tiny")
    clone.write("mine.yaml", files_shown(page)["mine.yaml"])
    (command,) = commands_of("own-model")
    planned = run(clone, f"{command} --dry-run")
    jobs = {"fetch_model", "extract_activations", "train_probe"}
    assert set(re.findall(r"^(\w+) +\d+$", planned, re.MULTILINE)) >= jobs
