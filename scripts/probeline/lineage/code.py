"""Code identity by content: which sources a rule's script runs, and what they say.

Snakemake sees an edit of the script itself by its mtime only, and an edit of what it imports not at all.
"""

import ast
import atexit
import functools
import os
import sys
from contextlib import suppress
from pathlib import Path

import orjson

from probeline.digests import sha256_bytes
from probeline.files import write_bytes

PACKAGE = "probeline"
EXCLUDED = (f"{PACKAGE}.lineage", f"{PACKAGE}.compute.remote")
"""Editing how lineage is recorded, or how work is carried elsewhere, must not rerun the work."""
RESOURCES = (".css", ".js")
"""Kinds of files that modules read as they read their own code."""
_KNOWN: dict[str, tuple[str, list[str]]] = {}
"""Digest of a source's bytes → what `_read` says of it."""


def run_jobs_from(sources: Path) -> None:
    """Let the processes that this one starts import the package from `sources`, whatever is installed."""
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(sources), *([others] if others else [])])


def remember_code(file: Path) -> None:
    """Read the syntax of each content of a source once: that took a fifth of the time to plan a run.

    Args:
        file: what is known, by content, written at the end of this process; made anew where it is of another
            version or damaged; one that cannot be written costs time and nothing else.
    """
    # The text of a syntax tree depends on Python, and on what is done here.
    reader = sha256_bytes(sys.version.encode() + Path(__file__).read_bytes())
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = orjson.loads(file.read_bytes())
        if stored["reader"] == reader:
            _KNOWN.update((key, (digest, imports)) for key, (digest, imports) in stored["sources"].items())
    atexit.register(_store, file, reader, len(_KNOWN))


def _store(file: Path, reader: str, known: int) -> None:
    if len(_KNOWN) > known:
        with suppress(OSError):
            write_bytes(file, orjson.dumps({"reader": reader, "sources": _KNOWN}))


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
    """The digest of a source and the modules of the package that it imports."""
    content = file.read_bytes()
    key = sha256_bytes(content)
    if key not in _KNOWN:
        _KNOWN[key] = _parse(content, file)
    return _KNOWN[key]


def _parse(content: bytes, file: Path) -> tuple[str, list[str]]:
    """Both at once: reading the syntax takes time. `from a import b` imports `a` and `a.b`."""
    tree = ast.parse(content, filename=str(file))
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
