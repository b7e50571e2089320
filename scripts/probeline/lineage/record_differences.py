"""What differs between two records of one artifact, by name: params, code, inputs, environment, outputs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from probeline.lineage.games import name_of
from probeline.lineage.records import Record, artifact_of

ABSENT = "(absent)"
Change = dict[str, Any]
"""`name`, `old` and `new`; ABSENT where there is none."""


def differences(old: Record, new: Record) -> dict[str, list[Change]]:
    """What differs, by kind; kinds without a difference are empty lists.

    Returns:
        `params` (nested names joined by dots), `code` (by file), `inputs` (by path, with the artifact that
        they lie in), `lock`, `environment`, `commit`, `games` (by key; old and new are splits) and `outputs`.
    """
    return {
        "params": changes(flat(_without_code(old)), flat(_without_code(new))),
        "code": changes(old.code, new.code),
        "inputs": input_changes(_inputs(old), _inputs(new)),
        "lock": changes(_other(old, "lock"), _other(new, "lock")),
        "environment": changes(flat(_software(old)), flat(_software(new))),
        "commit": changes(_other(old, "source"), _other(new, "source")),
        "games": changes(_games(old), _games(new)),
        "outputs": changes(_outputs(old), _outputs(new)),
    }


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """The names whose values differ, in their order."""
    return [
        {"name": name, "old": old.get(name, ABSENT), "new": new.get(name, ABSENT)}
        for name in dict.fromkeys([*old, *new])
        if old.get(name, ABSENT) != new.get(name, ABSENT)
    ]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by the names that lead to them, joined by dots."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def input_changes(
    old: Mapping[str, tuple[str, str | None]], new: Mapping[str, tuple[str, str | None]]
) -> list[Change]:
    """Inputs whose content differs, and those that came or went.

    Args:
        old: path → digest, and the artifact that it lies in, if a rule made it.
        new: the same.
    """
    found = changes({name: old[name][0] for name in old}, {name: new[name][0] for name in new})
    return [change | {"artifact": (new.get(change["name"]) or old[change["name"]])[1]} for change in found]


def _inputs(record: Record) -> dict[str, tuple[str, str | None]]:
    return {
        d.name: (d.sha256, artifact_of(Path(d.record)).as_posix() if d.record else None)
        for d in record.dependencies
    }


def _without_code(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.params.items() if key != "code"}


def _software(record: Record) -> dict[str, Any]:
    """Versions and what of the machine can show in results; core counts cannot."""
    hardware = record.environment["hardware"]
    return {
        "python": record.environment["python"],
        "platform": record.environment["platform"],
        **record.environment["packages"],
        "processor": hardware["processor"],
        "gpus": hardware["gpus"],
    }


def _other(record: Record, role: str) -> dict[str, Any]:
    found = record.other_dependency(role)
    return {found["name"]: next(iter(found["digest"].values()))} if found else {}


def _games(record: Record) -> dict[str, str]:
    """Key, with the digits of its content where that has changed, → split."""
    return dict(_games_of(record))


def _games_of(record: Record) -> Iterator[tuple[str, str]]:
    for split, games in record.games.items():
        for name, content in games.items():
            yield f"{name_of(name, content)}{f' ({content[:8]})' if content else ''}", split


def _outputs(record: Record) -> dict[str, str]:
    found: dict[str, str] = {}
    for subject in record.subjects:
        if subject.files:
            found |= {f"{subject.name}/{name}": digest for name, digest in subject.files.items()}
        else:
            found[subject.name] = subject.sha256
    return found
