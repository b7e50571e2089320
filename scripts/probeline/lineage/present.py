"""How an artifact's record differs from what would be used now: code, params, inputs, model, lock file."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from probeline.digests import sha256_file
from probeline.errors import ProbelineError
from probeline.files import MANIFEST
from probeline.lineage.code import code_closure
from probeline.lineage.environment import LOCK
from probeline.lineage.graph import Lineage
from probeline.lineage.record_differences import ABSENT, Change, changes, flat
from probeline.lineage.records import Record, artifact_of
from probeline.lineage.terminal import fold_shards, short, value_text

SOURCES = Path("scripts")
MOST_NAMED = 4
"""Files or games in a reason."""


def code_changes(record: Record) -> list[Change] | None:
    """The sources, by name, that are not what made it; None where its script is gone."""
    present = _closure(SOURCES.absolute() / f"{record.rule}.py")
    return None if present is None else changes(record.code, present)


@cache
def _closure(script: Path) -> dict[str, str] | None:
    try:
        return code_closure(script, script.parent) if script.is_file() else None
    except SyntaxError as error:
        raise ProbelineError(f"{error.filename} cannot be read as Python: {error}") from error


@cache
def _lock_digest(lock: Path) -> str | None:
    return sha256_file(lock) if lock.is_file() else None


def reasons_now(lineage: Lineage, record: Record, present: Mapping[str, Any] | None) -> list[str]:
    """Why an artifact is not what would be made now, in words; an empty list where it is.

    Args:
        lineage: all records.
        record: the artifact's.
        present: what `workflow_state.ask` says of it; None without Snakemake.
    """
    reasons = []
    sources = code_changes(record)
    if sources is None:
        reasons.append(f"code: scripts/{record.rule}.py is gone")
    elif sources:
        reasons.append(f"code: {_named(sources)}")
    lock = record.other_dependency("lock")
    if (lock and lock["digest"]["sha256"]) != _lock_digest(LOCK.absolute()):
        reasons.append(f"lock: another {LOCK.name}")
    for name in _other_parents(lineage, record):
        reasons.append(f"made from another {name} than the present one")
    if present is None:
        return reasons
    if "fault" in present:
        return [*reasons, f"config: {present['fault']}"]
    reasons += [
        f"param {text}"
        for text in param_texts(_without_code(record.params), _without_code(present["params"]))
    ]
    return reasons + input_texts({d.name for d in record.dependencies}, present["inputs"])


def _without_code(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if key != "code"}


def param_texts(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Each param that differs as `name: old → new`, nested names joined by dots."""
    return [change_text(change) for change in changes(flat(old), flat(new))]


def change_text(change: Change) -> str:
    """`name: old → new`; digests cut short."""
    # Empty, it has no names below it: what came or went is one of these.
    if (change["old"], change["new"]) in (({}, ABSENT), (ABSENT, {})):
        return f"{change['name']}: {'was empty' if change['new'] == ABSENT else 'empty now'}"
    if change["old"] == ABSENT:
        return f"{change['name']}: {value_text(change['new'])} (new)"
    if change["new"] == ABSENT:
        return f"{change['name']}: {value_text(change['old'])} (gone)"
    return f"{change['name']}: {_value(change['old'])} → {_value(change['new'])}"


def _value(value: Any) -> str:
    digest = isinstance(value, str) and len(value) >= 32 and set(value) <= set("0123456789abcdef")
    return short(value) if digest else value_text(value)


def input_texts(old: set[str], new: Mapping[str, str]) -> list[str]:
    """The inputs that came and went."""
    texts = []
    for verb, names in (("now also reads", new.keys() - old), ("no longer reads", old - new.keys())):
        if names:
            artifacts = fold_shards(sorted({name.removesuffix(f"/{MANIFEST}") for name in names}))
            texts.append(f"inputs: {verb} {first_of(list(artifacts))}")
    return texts


def _named(changed: list[Change]) -> str:
    """Files by name; came and gone ones said so."""
    words = [
        change["name"]
        + (" (new)" if change["old"] == ABSENT else " (gone)" if change["new"] == ABSENT else "")
        for change in changed
    ]
    return first_of(words)


def first_of(names: list[str]) -> str:
    """A few names, and how many more."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _other_parents(lineage: Lineage, record: Record) -> list[str]:
    """The artifacts it was made from that have other content by now."""
    found = []
    for dependency in record.dependencies:
        if dependency.record is None:
            continue
        parent = lineage.records.get(artifact_of(Path(dependency.record)).as_posix())
        if parent is not None and _listed(parent, dependency.name) not in (dependency.sha256, None):
            found.append(parent.name)
    return list(dict.fromkeys(found))


def _listed(record: Record, name: str) -> str | None:
    """The digest that a record lists for a file."""
    for subject in record.subjects:
        if subject.name == name:
            return subject.sha256
        inside = subject.files.get(name.removeprefix(f"{subject.name}/"))
        if inside:
            return inside
    return None
