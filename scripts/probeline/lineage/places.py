"""Names of places that mean the same on every machine: no absolute path or user's name enters a record.

What lies in the working directory keeps its relative path. A corpus outside it is `raw/<corpus>/…`, a local
model `raw/models/<model>/…`, an adapter `raw/adapters/<folder>/…`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probeline.config import adapter_folder

OUTSIDE = "outside"
"""Names a place that no part of the config explains: only its last part is kept."""


def roots_of(config: Mapping[str, Any]) -> dict[str, Path]:
    """Portable name → folder, for every folder of the user's that the config names outside this directory.

    Args:
        config: the complete config of the workflow.
    """
    here = Path.cwd()
    named = {name: path.absolute() for name, path in _named_folders(config).items()}
    return {name: path for name, path in named.items() if not path.is_relative_to(here)}


def _named_folders(config: Mapping[str, Any]) -> dict[str, Path]:
    named = {f"raw/{name}": Path(corpus["root"]).expanduser() for name, corpus in config["corpora"].items()}
    named |= {
        f"raw/models/{name}": Path(model["path"]).expanduser()
        for name, model in config["models"].items()
        if "path" in model
    }
    adapter = adapter_folder(config)
    if adapter is not None:
        named[f"raw/adapters/{adapter.name}"] = adapter
    return named


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
    absolute, here = Path(path).expanduser().absolute(), Path.cwd()
    if absolute.is_relative_to(here):
        return absolute.relative_to(here).as_posix()
    for name, root in roots.items():
        if absolute.is_relative_to(root):
            return f"{name}/{absolute.relative_to(root).as_posix()}".removesuffix("/.")
    return f"{OUTSIDE}/{absolute.name}"


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
    if isinstance(value, str) and re.match(r"(/|~)", value) and Path(value).expanduser().is_absolute():
        return portable(value, roots)
    return value


def local_values(value: Any, roots: Mapping[str, Path]) -> Any:
    """A recorded parameter as it is written on this machine: the inverse of `portable_values`."""
    if isinstance(value, dict):
        return {key: local_values(item, roots) for key, item in value.items()}
    if isinstance(value, list):
        return [local_values(item, roots) for item in value]
    if isinstance(value, str) and any(value == name or value.startswith(f"{name}/") for name in roots):
        return str(local(value, roots))
    return value
