"""Names of places that mean the same on every machine: no absolute path or user's name enters a record.

What lies in the working directory keeps its relative path. A corpus outside it is `raw/<corpus>/…`, a local
model `raw/models/<model>/…`, an adapter `raw/adapters/<folder>/…`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probeline.config import users_adapters

OUTSIDE = "outside"
"""Names a place that no part of the config explains: only its last part is kept."""


def roots_of(config: Mapping[str, Any]) -> dict[str, Path]:
    """Portable name → folder, for every folder of the user's that the config names outside this directory.

    Args:
        config: the complete config of the workflow.
    """
    here = Path.cwd()
    named = {name: _absolute(path) for name, path in _named_folders(config).items()}
    outside = [(name, path) for name, path in named.items() if not path.is_relative_to(here)]
    # Of folders that lie in one another, the innermost names what is in both.
    return dict(sorted(outside, key=lambda item: -len(item[1].parts)))


def _named_folders(config: Mapping[str, Any]) -> dict[str, Path]:
    named = {f"raw/{name}": Path(corpus["root"]).expanduser() for name, corpus in config["corpora"].items()}
    named |= {
        f"raw/models/{name}": Path(model["path"]).expanduser()
        for name, model in config["models"].items()
        if "path" in model
    }
    return named | {f"raw/adapters/{adapter.name}": adapter for adapter in users_adapters(config)}


def written_roots(config: Mapping[str, Any]) -> dict[str, Path]:
    """The names that records give to the user's folders → those folders as the rules write their paths.

    Where such a folder was outside when the record was made, it may be inside here, by an absolute path: both
    of its names lead to it.

    Args:
        config: the complete config of the workflow.
    """
    here = Path.cwd()
    named = {}
    for name, path in _named_folders(config).items():
        named[name] = path
        if path.is_absolute() and path.is_relative_to(here):
            named[path.relative_to(here).as_posix()] = path
    return named


def portable(path: str | Path, roots: Mapping[str, Path]) -> str:
    """The name that a record gives to a path.

    Args:
        path: a file or folder, absolute or relative to the working directory.
        roots: of `roots_of`.
    """
    absolute, here = _absolute(Path(path).expanduser()), Path.cwd()
    if absolute.is_relative_to(here):
        return absolute.relative_to(here).as_posix()
    for name, root in roots.items():
        if absolute.is_relative_to(root):
            return f"{name}/{absolute.relative_to(root).as_posix()}".removesuffix("/.")
    return f"{OUTSIDE}/{absolute.name}"


def _absolute(path: Path) -> Path:
    """Without `..`, and without following links."""
    return Path(os.path.normpath(path.absolute()))


def local(name: str, roots: Mapping[str, Path]) -> Path:
    """The path here of what a record names: the inverse of `portable` where the config explains the name."""
    for root_name, root in roots.items():
        if name == root_name or name.startswith(f"{root_name}/"):
            return root / name[len(root_name) + 1 :]
    return Path(name)


def portable_values(value: Any, roots: Mapping[str, Path]) -> Any:
    """A parameter with every path in it named portably; order and types are kept."""
    if isinstance(value, Mapping):
        return {key: portable_values(item, roots) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable_values(item, roots) for item in value]
    if isinstance(value, str) and _names_a_place(value, roots):
        return portable(value, roots)
    return value


def _names_a_place(text: str, roots: Mapping[str, Path]) -> bool:
    """Whether a text is a path that means a place of this machine, and not words that begin alike."""
    if not text.startswith(("/", "~", "..")):
        return False
    try:
        absolute = _absolute(Path(text).expanduser())
        known = any(absolute.is_relative_to(place) for place in (*roots.values(), Path.cwd(), Path.home()))
        return known or absolute.exists()
    except (OSError, RuntimeError, ValueError):  # nobody's home, too long, or with a null byte
        return False


def local_values(value: Any, roots: Mapping[str, Path]) -> Any:
    """A recorded parameter as it is written on this machine: the inverse of `portable_values`."""
    if isinstance(value, dict):
        return {key: local_values(item, roots) for key, item in value.items()}
    if isinstance(value, list):
        return [local_values(item, roots) for item in value]
    if isinstance(value, str) and any(value == name or value.startswith(f"{name}/") for name in roots):
        return str(local(value, roots))
    return value
