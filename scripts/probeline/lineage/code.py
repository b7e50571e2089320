"""Code identity by content: which sources a rule's script runs, and what they say.

Snakemake sees an edit of the script itself by its mtime only, and an edit of what it imports not at all.
"""

import ast
import functools
import os
from pathlib import Path

from probeline.digests import sha256_bytes

PACKAGE = "probeline"
EXCLUDED = (f"{PACKAGE}.lineage", f"{PACKAGE}.compute.remote")
"""Editing how lineage is recorded, or how work is carried elsewhere, must not rerun the work."""
RESOURCES = (".css", ".js")
"""Kinds of files that modules read as they read their own code."""


def run_jobs_from(sources: Path) -> None:
    """Let the processes that this one starts import the package from `sources`, whatever is installed."""
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(sources), *([others] if others else [])])


def code_closure(script: Path, sources: Path, excluded: tuple[str, ...] = EXCLUDED) -> dict[str, str]:
    """Digests of a script and of all modules of the package that it imports, directly or not.

    Imports inside functions and under TYPE_CHECKING count too: what may run decides. What lies beside a
    module under its name, as `page.css` beside `page.py`, belongs to it.

    Args:
        script: the script of a rule.
        sources: the folder that holds the package.
        excluded: packages that do not count.

    Returns:
        Path relative to the folder above `sources` → the first 16 hex digits of a digest of its code
        without comments, docstrings and formatting.
    """
    found: set[Path] = set()
    pending = [script]
    while pending:
        file = pending.pop()
        if file in found:
            continue
        found.add(file)
        pending += [
            path
            for module in _read(file)[1]
            if not any(module == package or module.startswith(f"{package}.") for package in excluded)
            for path in _module_files(module, sources)
            if path not in found
        ]
    found |= {part for file in found for part in map(file.with_suffix, RESOURCES) if part.is_file()}
    return {path.relative_to(sources.parent).as_posix(): code_digest(path) for path in sorted(found)}


def code_digest(file: Path) -> str:
    """Digest of what a source does: comments, docstrings and formatting cost nothing."""
    return sha256_bytes(file.read_bytes())[:16] if file.suffix in RESOURCES else _read(file)[0]


@functools.cache
def _read(file: Path) -> tuple[str, list[str]]:
    """The digest of a source and the modules of the package that it imports.

    Both at once: reading the syntax is most of what planning a run takes beside Snakemake itself.
    `from a import b` imports `a` and `a.b`.
    """
    tree = ast.parse(file.read_bytes(), filename=str(file))
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_words(part)] or [ast.Pass()]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    imports = [name for name in names if name.split(".")[0] == PACKAGE]
    return sha256_bytes(ast.unparse(tree).encode())[:16], imports


def _is_words(statement: ast.stmt) -> bool:
    """A text that stands alone: the docstring of a module, class, function or of the name above it."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _module_files(module: str, sources: Path) -> list[Path]:
    """The file of a module and the `__init__.py` of every package above it."""
    parts = module.split(".")
    files = [sources.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    files.append(sources.joinpath(*parts).with_suffix(".py"))
    return [file for file in files if file.is_file()]
