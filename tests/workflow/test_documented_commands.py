"""Every command of the README works, as printed, on the embedded default."""

import re
import shutil

import pytest

from tests.workflow.conftest import REPOSITORY, Project, fresh_project

pytestmark = pytest.mark.workflow

README = (REPOSITORY / "README.md").read_text()
# Lines that a shell would run; installing is what CI has done before, and these tests are `make test`.
COMMAND = re.compile(r"^    ((?:make|source|snakemake|probeline) .*?)(?:\s+#.*)?$", re.MULTILINE)
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

    Its games are fewer, and in one shard: to read more of them, and to load the model for each of four, tells
    nothing more, and takes minutes.
    """
    project = fresh_project(tmp_path_factory.mktemp("readme") / "project")
    shutil.copy2(REPOSITORY / "Makefile", project.folder)
    (project.folder / ".venv").symlink_to(REPOSITORY / ".venv")
    project.edit("config/config.yaml", "\nshards: 4\n", "\nshards: 1\n")
    project.edit("config/config.yaml", "simulated_games: 60\n", "simulated_games: 24\n")
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
    assert (clone.folder / "exported/trust/detector.pt").exists()


def test_make_help_lists_every_target(clone: Project) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    listed = clone.command("make", "help").stdout
    assert targets == set(re.findall(r"^  make ([a-z-]+)", listed, re.MULTILINE))


def test_the_picture_shows_the_rules_as_they_are(clone: Project) -> None:
    graph = clone.command(".venv/bin/snakemake", "--rulegraph", "mermaid-js", "--forceall").stdout
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", graph))
    edges = {(names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", graph)}
    assert edges == set(re.findall(r"^    (\w+) --> (\w+)$", README, re.MULTILINE))
