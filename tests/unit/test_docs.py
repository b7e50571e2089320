"""The documentation is built without a warning, and what it names is there."""

import argparse
import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
FEATURES = (DOCS / "features.md").read_text()
ROWS = re.findall(r"^\| ([A-Z]\d\d) \| (.+) \| (.+) \| (.+) \|$", FEATURES, re.MULTILINE)
KINDS = {"P": 30, "T": 23, "F": 24, "M": 19, "G": 24, "W": 13, "X": 11}
RULES = "".join(file.read_text() for file in sorted((REPOSITORY / "rules").glob("*.smk")))
SCRIPTS = "".join(file.read_text() for file in sorted((REPOSITORY / "scripts").rglob("*.py")))
SUPPRESSIONS = re.compile(r"# ?(noqa|type: ?ignore|mypy: ?ignore|ruff: ?noqa|pragma)")


def codes(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


@pytest.fixture(scope="module")
def generated() -> ModuleType:
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(DOCS))
        return importlib.import_module("generated")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site; -W makes an error of each warning, such as a link that leads nowhere."""
    folder = tmp_path_factory.mktemp("site")
    command = (sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(folder / "trees"))
    done = subprocess.run(
        [*command, str(DOCS), str(folder / "html")],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return folder / "html"


def test_every_page_is_built_and_asks_nothing_of_a_network(site: Path) -> None:
    pages = {page.stem for page in DOCS.glob("*.md")}
    assert {page.stem for page in site.glob("*.html")} >= pages
    asked = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*(?:src|href)=["']?(?:https?:)?//""")
    for page in pages:
        assert not asked.search((site / f"{page}.html").read_text()), page


def test_the_reference_is_read_from_the_code(generated: ModuleType, site: Path) -> None:
    configuration, files, commands = (
        (site / f"{page}.html").read_text() for page in ("configuration", "files", "command-line")
    )
    schema = yaml.safe_load(generated.SCHEMA.read_text())
    keys = {
        name: node
        for key, below in schema["properties"].items()
        for name, node in generated.config_rows(schema, key, below)
    }
    assert [name for name, node in keys.items() if not node.get("description")] == []
    assert len(keys) > 150
    for name in keys:
        assert name.replace("<", "&lt;").replace(">", "&gt;") in configuration, name
    for table in generated.TABLES:
        assert f"<!-- written by make reference: columns {table} -->" in (DOCS / "files.md").read_text()
        for column, _, _ in getattr(generated.schema, table):
            assert column in files
    for name, _ in generated.commands(generated._parser()):
        assert f"usage: {name} [-h]" in commands


def test_the_tables_in_the_pages_are_those_of_the_code(generated: ModuleType) -> None:
    for page in DOCS.glob("*.md"):
        assert generated.written(page.read_text()) == page.read_text(), f"{page.name}: make reference"


def test_every_feature_has_its_row() -> None:
    assert [row[0] for row in ROWS] == [
        f"{kind}{number:02}" for kind, count in KINDS.items() for number in range(1, count + 1)
    ]


def missing_option(parser: argparse.ArgumentParser, words: list[str]) -> str | None:
    """The first word that no command or option of the parser is."""
    for word in words:
        below = [found for found in parser._actions if isinstance(found, argparse._SubParsersAction)]
        if word.startswith("--"):
            if word not in parser._option_string_actions:
                return word
        elif not below or word not in below[0].choices:
            return word
        else:
            parser = below[0].choices[word]
    return None


def is_made(path: str) -> bool:
    """Whether a rule declares this file or folder, or a folder and the code names a file like this in it."""
    declared = re.findall(r'"((?:results|data)/[^"]+)"', RULES)
    patterns = [re.sub(r"\\\{+[^}]*\}+", "[^/]+", re.escape(one)) for one in declared]
    named = re.search(rf"""["/}}]{re.escape(Path(path).name)}["']""", RULES + SCRIPTS)
    return any(re.fullmatch(rf"{pattern}(/.+)?" if named else pattern, path) for pattern in patterns)


def is_importable(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    return hasattr(importlib.import_module(module), attribute)


def test_each_place_of_a_feature_exists(generated: ModuleType) -> None:
    rules = set(re.findall(r"^rule (\w+):", RULES, re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    schema = yaml.safe_load(generated.SCHEMA.read_text())
    keys = {
        name
        for key, below in schema["properties"].items()
        for name, _ in generated.config_rows(schema, key, below)
    }
    absent = []
    for row, _, where, _ in ROWS:
        assert codes(where) or "](" in where, row
        for page in re.findall(r"\]\(([^)#]+)[^)]*\)", where):
            if not (DOCS / page).is_file():
                absent.append((row, page))
        for place in codes(where):
            kind, _, rest = place.partition(" ")
            if kind == "snakemake":
                found = all(is_made(word) if "/" in word else word in rules for word in rest.split())
            elif kind == "rule":
                found = rest in rules
            elif kind == "make":
                found = rest in targets
            elif kind == "config":
                found = rest in keys
            elif kind == "probeline":
                found = missing_option(generated._parser(), rest.split()) is None
            elif place.startswith("probeline."):
                found = is_importable(place)
            else:
                found = is_made(place) or (REPOSITORY / place).is_file()
            if not found:
                absent.append((row, place))
    assert absent == []


def test_each_feature_names_tests_that_exist() -> None:
    absent = []
    functions: dict[str, set[str]] = {}
    for row, _, _, checked in ROWS:
        assert codes(checked), row
        for name in codes(checked):
            path, _, function = name.partition("::")
            if path not in functions:
                file = REPOSITORY / "tests" / path
                tree = ast.parse(file.read_text() if file.is_file() else "")
                functions[path] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            if function not in functions[path]:
                absent.append((row, name))
    assert absent == []


def test_nothing_is_suppressed() -> None:
    sources = [REPOSITORY / "Snakefile", *(REPOSITORY / "rules").rglob("*.smk")]
    for folder in ("scripts", "docs", "tests"):
        sources += (REPOSITORY / folder).rglob("*.py")
    assert [str(file) for file in sources if SUPPRESSIONS.search(file.read_text())] == []
