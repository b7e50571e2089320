"""What artifacts were made from and no rule made: raw logs, templates, models in folders of the user's."""

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from probeline.config import is_simulated
from probeline.lineage.findings import CHANGED, MISSING, NOT_HERE, UNRECORDED, Finding, counted, expected
from probeline.lineage.graph import Lineage
from probeline.lineage.places import OUTSIDE, local, roots_of
from probeline.lineage.records import SUFFIX, Record

MADE = ("data/models/", "data/processed/", "data/simulated/", "results/")
"""Where rules write: what lies there has a record."""


@dataclass
class RawInput:
    """A file that artifacts were made from.

    Attributes:
        name: in the records.
        sha256: digest when it was read.
        path: here.
        home: the folder of the user's that it is part of, by its portable name; empty for a file of ours.
        recorded: whether a rule made it, and its record is lost.
        readers: the artifacts.
    """

    name: str
    sha256: str
    path: Path
    home: str
    recorded: bool
    readers: list[str] = field(default_factory=list)


def homes_of(config: Mapping[str, Any] | None) -> dict[str, Path]:
    """Portable name → folder of each corpus, local model and adapter that the config names.

    Args:
        config: None where there is none: then nothing is known of folders outside this one.
    """
    if config is None:
        return {}
    inside = [corpus["root"] for name, corpus in config["corpora"].items() if not is_simulated(name, corpus)]
    inside += [model["path"] for model in config["models"].values() if "path" in model]
    here = Path.cwd()
    folders = [Path(folder).expanduser().absolute() for folder in inside]
    own = [folder.relative_to(here) for folder in folders if folder.is_relative_to(here)]
    return {folder.as_posix(): folder for folder in own} | roots_of(config)


def raw_inputs(lineage: Lineage, records: Iterable[Record], homes: Mapping[str, Path]) -> list[RawInput]:
    """The inputs of some records that have no valid record themselves."""
    found: dict[tuple[str, str], RawInput] = {}
    for record in records:
        for dependency in record.dependencies:
            if (dependency.record or "").removesuffix(SUFFIX) in lineage.records:
                continue
            key = dependency.name, dependency.sha256
            if key not in found:
                recorded = dependency.record is not None
                home = "" if recorded else _home(dependency.name, homes)
                found[key] = RawInput(*key, local(dependency.name, homes), home, recorded)
            if record.name not in found[key].readers:
                found[key].readers.append(record.name)
    return list(found.values())


def unseen(inputs: Iterable[RawInput]) -> dict[str, int]:
    """Folder of the user's → number of its files that were read, for each of which no such file is here."""
    homes: dict[str, list[RawInput]] = {}
    for given in inputs:
        if given.home:
            homes.setdefault(given.home, []).append(given)
    return {
        home: len({given.name for given in among})
        for home, among in sorted(homes.items())
        if not any(given.path.is_file() for given in among)
    }


def _home(name: str, homes: Mapping[str, Path]) -> str:
    parts = PurePosixPath(name).parts
    around = [home for home in homes if name == home or name.startswith(f"{home}/")]
    if around:
        return max(around, key=len)
    if parts[0] == OUTSIDE:
        return OUTSIDE
    if parts[0] == "raw":
        return "/".join(parts[: 3 if parts[1:2] in (("models",), ("adapters",)) else 2])
    return "/".join(parts[:3]) if parts[:2] == ("data", "raw") else ""


def check_raw_inputs(
    inputs: Iterable[RawInput], homes: Mapping[str, Path], digests: Mapping[str, str | None]
) -> Iterator[Finding]:
    """Whether they are what was read; a folder that is not on this machine is named once, and no fault.

    Args:
        inputs: of `raw_inputs`.
        homes: of `homes_of`.
        digests: path → digest of every one that is there.
    """
    absent: dict[str, list[RawInput]] = {}
    for given in inputs:
        digest, readers = digests[str(given.path)], tuple(given.readers)
        if not (given.home or given.recorded) and given.name.startswith(MADE):
            says = "It had no record when it was read: what it was made from cannot be said."
            remedy = "Delete its artifact and run the same snakemake command again."
            yield Finding(UNRECORDED, given.name, says, remedy, readers)
        if digest == given.sha256:
            continue
        if given.home and not os.access(homes.get(given.home, given.home), os.F_OK):
            absent.setdefault(given.home, []).append(given)
        elif digest is None:
            says = "It is gone, or cannot be read."
            yield Finding(MISSING, given.name, says, _remedy(given), readers)
        else:
            says = f"It is not what was read: {expected(given.sha256, digest)}."
            yield Finding(CHANGED, given.name, says, _remedy(given), readers)
    for home, missing in absent.items():
        why = (
            "the folder that the config names is not on this machine"
            if home in homes
            else "the config names no such folder"
        )
        says = f"{counted(len(missing), 'file')} could not be checked: {why}."
        remedy = "Name the config of the run: --configfile mine.yaml."
        readers = tuple(dict.fromkeys(reader for given in missing for reader in given.readers))
        yield Finding(NOT_HERE, home, says, remedy, readers)


def _remedy(given: RawInput) -> str:
    again = "run the same snakemake command, to have made again what rests on it"
    if given.recorded:
        return f"Delete its artifact and {again}."
    back = f"Take it back with `git checkout -- {shlex.quote(given.name)}`"
    way = "Put it back as it was" if given.home else back
    return f"{way}; or {again}."
