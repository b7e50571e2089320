"""Versions of artifacts: which of them DVC does not hold yet, and one batch that hands them over.

Never inside a rule, for parallel jobs fail on DVC's lock: after a run, or by `probeline track`.
"""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probeline.errors import ProbelineError
from probeline.lineage import dvc_repository
from probeline.lineage.git import git
from probeline.lineage.graph import Lineage, read_lineage
from probeline.lineage.hashing import STAT_CACHE, digests_of, directory_digest, files_of
from probeline.lineage.headlines import keep_headlines
from probeline.lineage.matching import artifact_files, foreign, mismatch
from probeline.lineage.pointers import (
    Version,
    annotate,
    is_current,
    notes_of,
    pointer_path,
    pointers_under,
    points_at,
    read_pointer,
)
from probeline.lineage.records import Record, Subject
from probeline.stat_cache import StatCache
from probeline.text import plain_text


@dataclass
class Tracked:
    """What `track` did and found.

    Attributes:
        new: artifacts and corpora that got a pointer.
        changed: those whose pointer is of other content now.
        renoted: those whose content stayed, and whose record is another one.
        unchanged: those whose pointer was right.
        absent: number of artifacts whose record is here and that are not: to be pulled.
        refused: path → why it was not versioned.
        left: corpora that are not versioned here → why.
        orphans: pointers whose artifact is gone together with its record.
        pruned: whether the orphans were removed.
        remote: the remote of a repository that was made now.
    """

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    renoted: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    absent: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    orphans: list[str] = field(default_factory=list)
    pruned: bool = False
    remote: str | None = None

    @property
    def sound(self) -> list[str]:
        """All that is here with the content that its pointer names."""
        return [*self.new, *self.changed, *self.renoted, *self.unchanged]


def track(prune: bool = False) -> Tracked:
    """Hand all new and changed artifacts with a valid record, and raw logs, to DVC; keep `dvc.yaml` current.

    Artifacts are not touched: neither bytes nor times nor links. What is not what its record says is refused.

    Args:
        prune: remove the pointers of what no longer exists.

    Raises:
        ProbelineError: DVC failed; what it says.
    """
    lineage = read_lineage()
    tracked = Tracked(refused=dict(lineage.faults))
    versions = _sound_artifacts(lineage, tracked) + _corpora(lineage, tracked)
    to_add = []
    for version in versions:
        pointer = read_pointer(pointer_path(version.path))
        if is_current(pointer, version):
            tracked.unchanged.append(version.path)
        elif points_at(pointer, version):
            tracked.renoted.append(version.path)
        else:
            to_add.append(version.path)
            # One that cannot be read (a conflict of a merge, for example) stops all of DVC: it is made anew.
            if pointer is None:
                pointer_path(version.path).unlink(missing_ok=True)
            (tracked.new if pointer is None else tracked.changed).append(version.path)
    if to_add:
        dvc_repository.add(to_add)
    touched = {*to_add, *tracked.renoted}
    # Last: a pointer that lacks its notes, because this was killed, is handed over once more.
    for version in versions:
        if version.path in touched:
            annotate(version)
    unrecorded = _find_orphans(lineage, tracked, prune)
    # While a record cannot be read or is lost, its artifact's figures stay as they are.
    if not (lineage.faults or unrecorded):
        sound = {version.path for version in versions}
        tracked.refused |= keep_headlines(lineage.records.values(), sound)
    return tracked


def _sound_artifacts(lineage: Lineage, tracked: Tracked) -> list[Version]:
    """The artifacts that are here and are what their records say; the others go into the report."""
    present: dict[str, dict[str, Path]] = {}
    for record in lineage.records.values():
        if fault := foreign(record):
            tracked.refused[record.name] = f"{fault}. Delete {record.path}, or take it from git again."
            continue
        absent = [subject for subject in record.subjects if not os.path.lexists(subject.name)]
        tracked.absent += len(absent)
        if len(absent) < len(record.subjects):
            present[record.name] = artifact_files(record)
    digests = _digests([path for files in present.values() for path in files.values()])
    sound = []
    for name, files in present.items():
        record = lineage.records[name]
        if fault := mismatch(record, files, digests):
            tracked.refused[name] = f"{fault} since {record.path} was written. Have snakemake make it again."
            continue
        named = (record.path.as_posix(), record.sha256)
        for subject in record.subjects:
            sound.append(Version(subject.name, subject.sha256, _description(record, subject), named))
    return sound


def _description(record: Record, subject: Subject) -> str:
    return f"{Path(subject.name).name}, made by the rule {record.rule}; its record is {record.path}"


def _digests(files: list[Path]) -> dict[Path, str | None]:
    """File → hex SHA-256; None where it cannot be read."""
    cache = StatCache(STAT_CACHE)
    try:
        return dict(zip(files, digests_of(files, cache), strict=True))
    finally:
        cache.close()


def _contents(root: str) -> dict[str, str]:
    """Relative path → digest of the files of a folder."""
    files = files_of(Path(root))
    digests = _digests(list(files.values()))
    return {name: digests[path] or "unreadable" for name, path in files.items()}


def _corpora(lineage: Lineage, tracked: Tracked) -> list[Version]:
    """The folders of raw logs that were read, the outermost where one lies in another."""
    roots: dict[str, str] = {}
    for record in lineage.records.values():
        if record.params.get("root") and any(not d.record and d.role == "logs" for d in record.dependencies):
            roots.setdefault(Path(record.params["root"]).as_posix(), record.wildcards.get("corpus", ""))
    inside: list[tuple[str, str]] = []
    for root, corpus in sorted(roots.items()):
        if any(root.startswith(f"{other}/") for other, _ in inside):
            continue
        fault = _unfit(root, lineage)
        if fault:
            tracked.left[corpus] = fault
        else:
            inside.append((root, corpus))
    return [
        Version(root, directory_digest(_contents(root)), f"raw logs of the corpus {corpus}", None)
        for root, corpus in inside
    ]


def _unfit(root: str, lineage: Lineage) -> str:
    """Why a folder of raw logs cannot be versioned here; empty if it can be."""
    if not Path(root).is_dir() or Path(root).is_absolute() or ".." in Path(root).parts:
        return "its logs lie outside this folder, where DVC does not version them"
    if any(name == root or name.startswith(f"{root}/") for name in lineage.records) or root == ".":
        return (
            f"{root} holds artifacts, too: move the logs to a folder of their own, such as data/raw/<corpus>"
        )
    if not is_ignored_by_git(f"{root}/any"):
        return f"git would take the logs: add /{root}/ to .gitignore, or move them to data/raw"
    return ""


def is_ignored_by_git(path: str) -> bool:
    """Whether git leaves a path out; False where git cannot be asked."""
    return git("check-ignore", "-q", "--", path) is not None


def _find_orphans(lineage: Lineage, tracked: Tracked, prune: bool) -> bool:
    """Pointers that we have annotated, and whose record is gone; whether an artifact of one is still here."""
    unrecorded = False
    known = {subject.name for record in lineage.records.values() for subject in record.subjects}
    for path in pointers_under():
        pointer = read_pointer(path)
        record = notes_of(pointer).get("record") if pointer else None
        artifact = path.with_suffix("").as_posix()
        if not isinstance(record, str) or artifact in known or Path(record).exists():
            continue
        if os.path.lexists(artifact):
            unrecorded = True
            tracked.refused[artifact] = (
                "no record, so it is not tracked. Take that back with "
                f"`git checkout -- {shlex.quote(record)}`, or delete the artifact."
            )
        else:
            tracked.orphans.append(path.as_posix())
    if prune:
        for orphan in tracked.orphans:
            Path(orphan).unlink()
        tracked.pruned = True
    return unrecorded


def track_after_run(settings: Mapping[str, Any]) -> str:
    """Track what a run has made, where the config asks for it and there is a DVC repository.

    Never a reason for a run to fail.

    Args:
        settings: the key `versions` of the config.

    Returns:
        What was done, or what went wrong, in words; empty where there was nothing to do.
    """
    if not settings["auto"] or os.environ.get("CI") or dvc_repository.repository_root() is None:
        return ""
    try:
        tracked = track()
    except ProbelineError as error:
        return plain_text(f"versions: nothing was tracked. {error}")
    except Exception as error:  # The run has succeeded, whatever DVC says.
        return plain_text(f"versions: nothing was tracked. {type(error).__name__}: {error}")
    handed = len(tracked.new) + len(tracked.changed) + len(tracked.renoted)
    lines = []
    if handed:
        lines.append(
            f"versions: {handed:,} artifact{'s' * (handed > 1)} handed to DVC; git commit keeps the pointers"
        )
    if tracked.refused:
        lines.append(f"versions: {len(tracked.refused):,} refused; probeline track says why")
    return "\n".join(lines)
