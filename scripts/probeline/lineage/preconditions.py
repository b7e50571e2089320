"""What must be at hand, and as it was, before an artifact is made again."""

from pathlib import Path

from probeline.digests import sha256_file
from probeline.errors import ProbelineError
from probeline.lineage.code import code_closure
from probeline.lineage.graph import Lineage, parent_names
from probeline.lineage.hashing import STAT_CACHE, digests_of
from probeline.lineage.matching import foreign
from probeline.lineage.places import local
from probeline.lineage.records import Record, record_path
from probeline.stat_cache import StatCache


def require_records(lineage: Lineage, steps: list[Record]) -> None:
    """Refuse where a record on the way is missing, or of files elsewhere: nothing would be compared."""
    for step in steps:
        if fault := foreign(step):
            raise ProbelineError(f"{step.path}: {fault}. Take it from git again.")
    named = {name for step in steps for name in parent_names(step)}
    missing = sorted(str(record_path(Path(name))) for name in named - lineage.records.keys())
    if missing:
        raise ProbelineError(f"{', '.join(missing)}: missing, or no record. Take it from git again.")


def require_own_files(target: Record) -> None:
    """Refuse where the target's files, as far as they are here, are not what its record says."""
    for subject in target.subjects:
        whole = {subject.name: subject.sha256}
        files = {f"{subject.name}/{name}": digest for name, digest in subject.files.items()} or whole
        for name, digest in files.items():
            if Path(name).is_file() and sha256_file(Path(name)) != digest:
                raise ProbelineError(
                    f"{name} is not what its record says: it was changed after it was made. Ask "
                    "`probeline audit verify`, and make it again or take it from where it is kept."
                )


def require_inputs(steps: list[Record], roots: dict[str, Path]) -> None:
    """Refuse where a raw log is not what it was."""
    wanted = {
        dependency.name: dependency.sha256
        for step in steps
        for dependency in step.dependencies
        if dependency.record is None and not dependency.name.startswith("config/")
    }
    cache = StatCache(STAT_CACHE)
    found = digests_of([local(name, roots) for name in wanted], cache)
    cache.close()
    changed = [name for (name, digest), now in zip(wanted.items(), found, strict=True) if digest != now]
    if changed:
        more = f" and {len(changed) - 1:,} more" if len(changed) > 1 else ""
        raise ProbelineError(
            f"{changed[0]}{more} is not what it was when {steps[-1].name} was made, or is gone. Put it back, "
            "or make the target again from what is there now."
        )


def require_code(steps: list[Record], folder: Path) -> None:
    """Refuse sources that are not those that ran."""
    sources = folder / "scripts"
    for step in steps:
        script = sources / f"{step.rule}.py"
        now = code_closure(script, sources) if script.is_file() else {}
        changed = sorted(
            name for name in now.keys() | step.code.keys() if now.get(name) != step.code.get(name)
        )
        if changed:
            raise ProbelineError(
                f"{step.name} was made with other code than that of the sources to run: {', '.join(changed)}."
            )
