"""The DVC repository of this folder; the only module that imports DVC.

DVC's own `.gitignore` edits are avoided: ours ignores artifacts already, and looking every path up in git's
index took longer than all the rest. Files are copied into its cache and never linked back (`relink`): their
bytes, times and inodes stay, so that Snakemake sees no change, nor does a hard link of the same file.
"""

import logging
import os
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probeline.errors import ProbelineError
from probeline.files import write_bytes

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo

IGNORE = Path(".dvcignore")
NOT_OURS = (".snakemake_timestamp", ".snakemake/", ".probeline/", ".venv/", ".venv-bench/")
"""What DVC must not take into an artifact, or need not search for pointers."""
REMOTE = "storage"
CONFIG = """\
[core]
    analytics = false
    check_update = false
    remote = {remote}
['remote "{remote}"']
    url = {url}
"""


def repository_root() -> Path | None:
    """The folder whose `.dvc` serves this one: this folder or one above it in the same git repository."""
    for folder in (here := Path.cwd(), *here.parents):
        if (folder / ".dvc/config").is_file():
            return folder
        if (folder / ".git").exists():
            return None
    return None


def make_repository() -> str:
    """Make a DVC repository here, whose remote is the folder `<name>-dvc` beside this one.

    Beside and not in it, so that a deleted working copy takes nothing with it, and a second clone in the
    same place shares it. The address is relative.

    Returns:
        The remote's path, relative to this folder.

    Raises:
        ProbelineError: this is no git repository.
    """
    here = Path.cwd()
    git = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), None)
    if git is None:
        raise ProbelineError(
            "Versions need git, which keeps the pointers and the records: run `git init` here first."
        )
    with _in_words():
        from dvc.repo import Repo

        Repo.init(str(here), subdir=git != here).close()
    remote = f"../{here.name}-dvc"
    Path(".dvc/config").write_text(CONFIG.format(remote=REMOTE, url=f"../{remote}"))
    return remote


def ignore_what_is_not_ours() -> None:
    """Have `.dvcignore` name Snakemake's time stamps, which lie in artifacts, and the work folders."""
    lines = IGNORE.read_text().splitlines() if IGNORE.exists() else []
    missing = [pattern for pattern in NOT_OURS if pattern not in lines]
    if missing:
        write_bytes(IGNORE, "".join(f"{line}\n" for line in [*lines, *missing]).encode())


def add(paths: list[str]) -> None:
    """Copy files and folders into DVC's cache and write their pointers, in one batch."""
    ignore_what_is_not_ours()
    with _in_words(), _repository(no_scm=True) as repository:
        repository.add(paths, relink=False)


def push(present: Collection[str]) -> dict[str, str]:
    """Copy everything that the present pointers name to the default remote.

    Args:
        present: artifacts that are here with the content that their pointers name; those of them that DVC's
            cache has lost are copied into it again.

    Returns:
        What the remote still lacks → why (`missing`: it is not in the local cache either).
    """
    with _in_words(), _repository(no_scm=True) as repository:
        outs = {os.path.relpath(out.fs_path): out for out in repository.index.outs}
        lost = [path for path in present if path in outs and not _in_cache(outs[path])]
        # DVC would write the pointers anew, with other line breaks.
        pointers = {pointer: pointer.read_bytes() for pointer in (Path(f"{path}.dvc") for path in lost)}
        if lost:
            repository.add(lost, relink=False)
        for pointer, text in pointers.items():
            write_bytes(pointer, text)
    with _in_words(), _repository() as repository:
        _forget_remote(repository)
        repository.push()
        states = repository.status(cloud=True)
    # "deleted" is there, and no longer here.
    return {name: state for name, state in states.items() if state != "deleted"}


def _in_cache(out: "Output") -> bool:
    return out.hash_info.value is not None and out.cache.exists(out.hash_info.value)


def _forget_remote(repository: "Repo") -> None:
    """Have DVC ask the remote what it holds: it believes for ever what it once put there."""
    from dvc_data.hashfile.db import get_index

    with closing(get_index(repository.cloud.get_remote_odb())) as index:
        index.clear()


def stored(paths: Collection[str]) -> set[str]:
    """Those of the artifacts that the default remote holds whole."""
    with _in_words(), _repository() as repository:
        _forget_remote(repository)
        outs = {os.path.relpath(out.fs_path): out for out in repository.index.outs}
        objects = {path: _objects(outs[path]) for path in paths if path in outs}
        status = repository.cloud.status(set().union(*objects.values()))
        lacking = {*status.new, *status.missing}
    return {path for path, wanted in objects.items() if wanted and lacking.isdisjoint(wanted)}


def default_remote() -> str:
    """The name of the default remote, which answers; a folder that the first push makes counts as one.

    Raises:
        ProbelineError: none is configured.
        Exception: whatever the way to it raises.
    """
    with _in_words(), _repository(no_scm=True) as repository:
        remote = repository.cloud.get_remote()
        places = [remote.path]
        if remote.fs.protocol == "local":
            places.append(str(Path(remote.path).parent))
        if not any(remote.fs.exists(place) for place in places):
            raise FileNotFoundError(remote.name)
        return str(remote.name)


def _objects(out: "Output") -> set[Any]:
    """All that an artifact consists of; nothing where neither cache nor remote has its list of files."""
    from dvc.exceptions import CollectCacheError

    try:
        return set().union(*out.get_used_objs().values())
    except CollectCacheError:
        return set()


def download(path: str, revision: str, output: Path) -> None:
    """Write an artifact as it was at a git revision, from the cache or the remote."""
    with _in_words():
        from dvc.repo import Repo

        Repo.get(os.curdir, path, out=str(output), rev=revision)


@contextmanager
def _repository(no_scm: bool = False) -> "Iterator[Repo]":
    from dvc.repo import Repo

    with Repo(os.curdir, config={"core": {"no_scm": True}} if no_scm else None) as repository:
        yield repository


@contextmanager
def _in_words() -> Iterator[None]:
    """DVC's faults as ours; what it says besides is not for the reader of our output."""
    from dvc.exceptions import DvcException

    logger = logging.getLogger("dvc")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except DvcException as error:
        causes = [str(error)]
        while error.__cause__ is not None and (error := error.__cause__):
            causes.append(str(error))
        raise ProbelineError(f"DVC: {': '.join(dict.fromkeys(filter(None, causes)))}") from error
    finally:
        logger.setLevel(before)
