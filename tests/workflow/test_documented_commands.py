"""Every command of the README works, as printed, with the model of the default config and fewer games."""

import re
import shutil

import pytest

from tests.workflow.conftest import REPOSITORY, Project, fresh_project

pytestmark = pytest.mark.workflow

README = (REPOSITORY / "README.md").read_text()
# Lines that a shell would run in the environment, which is there; `make test` is these tests.
COMMAND = re.compile(r"^    ((?:make|snakemake|probeline) .*?)(?:\s+#.*)?$", re.MULTILINE)
# Those of adapters run in test_adapters, with the smallest of models.
ADAPTERS = README.partition("## Adapters\n")[2].partition("\n## ")[0]
COMMANDS = COMMAND.findall(README.replace(ADAPTERS, ""))


def files_shown(text: str) -> dict[str, str]:
    """Indented blocks that begin with `# name.yaml`: name → content."""
    blocks = re.findall(r"^    # (\w+\.yaml)\n((?:(?:    .*)?\n)+?)(?=\n\S|\n    \w)", text, re.MULTILINE)
    return {name: re.sub(r"^    ", "", body, flags=re.MULTILINE) for name, body in blocks}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone whose environment is installed.

    Its games are as few as have both classes of both concepts in each split, and in one shard, and
    are read up to the last layer that the README names: to read more of them, and to load the model for each
    of four shards, tells nothing more, and takes minutes.
    """
    project = fresh_project(tmp_path_factory.mktemp("readme") / "project")
    shutil.copy2(REPOSITORY / "Makefile", project.folder)
    (project.folder / ".venv").symlink_to(REPOSITORY / ".venv")
    project.edit("config/config.yaml", "\nshards: 4\n", "\nshards: 1\n")
    project.edit("config/config.yaml", "simulated_games: 60\n", "simulated_games: 8\n")
    project.edit(
        "config/config.yaml",
        "\n  layers: all\n  # Layers that",
        "\n  layers: [8, 20, 21, 22]\n  # Layers that",
    )
    project.commit("sources")
    return project


def test_the_commands_of_the_readme_run_as_printed(clone: Project) -> None:
    commands = [command for command in COMMANDS if command != "make test"]
    assert "make probe" in commands
    assert len(commands) == len(COMMANDS) - 1 >= 10
    for command in commands:
        done = clone.command("bash", "-c", f"source .venv/bin/activate && {command}")
        assert done.returncode == 0, f"$ {command}\n{done.stdout}"
    assert (clone.folder / "results/probes/trust_lr_l22/metrics.json").exists()
    for made in ("exported/trust/detector.pt", "exported/lineage.html", "results/report.html"):
        assert (clone.folder / made).exists()
    assert list((clone.folder / "exported").glob("*game1*.html"))


def test_make_help_lists_every_target(clone: Project) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    listed = clone.command("make", "help").stdout
    assert targets == set(re.findall(r"^  make ([a-z-]+)", listed, re.MULTILINE))


def test_the_picture_shows_the_rules_as_they_are(clone: Project) -> None:
    graph = clone.command(".venv/bin/snakemake", "--rulegraph", "mermaid-js", "--forceall").stdout
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", graph))
    edges = {(names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", graph)}
    assert edges == set(re.findall(r"^    (\w+) --> (\w+)$", README, re.MULTILINE))
