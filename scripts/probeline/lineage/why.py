"""`probeline audit why`: what changed between two versions of an artifact, and what would be rerun now."""

import argparse
from typing import TYPE_CHECKING, Any

from probeline.lineage.commands import add_configfile, add_json

if TYPE_CHECKING:
    from probeline.lineage.graph import Lineage
    from probeline.lineage.history import Version
    from probeline.lineage.records import Record

EXAMPLES = """\
examples:
  probeline audit why trust_lr_l22                         the last two versions, and what reruns now
  probeline audit why trust_lr_l22 v1.0                    the version of a tag against the one here
  probeline audit why trust_lr_l22 main~3 main             two commits
  probeline audit why --now trust_lr_l22                   only what snakemake would rerun, and why

Versions are those of the records in git; `here` is the one in this folder.

exit status: 0; 1 where a commit is unknown or the workflow cannot be planned.
"""
TRIGGERS = ("code", "param", "inputs", "config")
"""How the reasons begin for which Snakemake reruns."""


def add_command(queries: Any) -> None:
    """Declare the command.

    Args:
        queries: the subparsers of `probeline audit`.
    """
    parser = queries.add_parser(
        "why",
        help="what changed between two versions, and what snakemake would rerun now",
        description="Follows what changed in an artifact up to its causes: params by name, code by file, "
        "inputs, lock file, environment.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="TARGET", help="an artifact, or its name")
    parser.add_argument(
        "revision", nargs="*", metavar="REV", help="one or two commits (default: the last two)"
    )
    parser.add_argument("--full", action="store_true", help="name every game, however many there are")
    parser.add_argument("--now", action="store_true", help="only what would be rerun now")
    add_configfile(parser)
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from probeline.errors import ProbelineError
    from probeline.lineage.graph import read_lineage
    from probeline.lineage.terminal import print_json

    if len(options.revision) > 2:
        raise ProbelineError("Name one revision or two.")
    lineage = read_lineage()
    record = lineage.find(options.target)
    between: dict[str, Any] = {}
    if not options.now:
        try:
            old, new = _versions(record, options.revision)
            between = {"old": old.words, "new": new.words, "tree": compare(record, old, new)}
        except ProbelineError as error:
            if options.revision:
                raise
            between = {"note": str(error)}
    try:
        now = rerun_now(lineage, record, options.configfile)
    except ProbelineError as error:
        now = {"fault": str(error)}
    facts = {
        "target": record.name,
        "between": between,
        "other_config": _other_config(lineage, record, options.configfile, now),
        "now": now,
    }
    if options.json:
        print_json(facts)
    else:
        from probeline.lineage.why_tree import print_why

        print_why(facts, options.full)
    return 1 if "fault" in now else 0


def _other_config(
    lineage: "Lineage", record: "Record", configfiles: list[Any], now: dict[str, Any]
) -> str | None:
    """That it was made with another config, where it is not as it would be made now."""
    from probeline.errors import ProbelineError
    from probeline.lineage.inputs_now import other_config, present_config

    if not (now.get("fault") or now.get("reruns") or now.get("differ")):
        return None
    try:
        return other_config(lineage.ancestors([record]), present_config(configfiles))
    except ProbelineError:
        return None  # the fault of the workflow says it already


def _versions(record: "Record", revisions: list[str]) -> "tuple[Version, Version]":
    from probeline.lineage.history import HERE, last_two_versions, version

    if not revisions:
        return last_two_versions(record.path)
    old, new = version(revisions[0]), version(revisions[1] if len(revisions) > 1 else HERE)
    return old, new


def compare(record: "Record", old: "Version", new: "Version") -> dict[str, Any]:
    """What differs between two versions of an artifact, and above it wherever an input changed.

    Returns:
        `artifact`, `differences` (see `record_differences.differences`) and `above`, a list of the same for
        each input that differs; each artifact has its differences once. `fault` where a version lacks the
        record.
    """
    from pathlib import Path

    from probeline.lineage.record_differences import ABSENT, differences
    from probeline.lineage.records import SUFFIX

    seen: set[str] = set()

    def node(name: str) -> dict[str, Any]:
        seen.add(name)
        path = Path(name + SUFFIX)
        before, after = old.read(path), new.read(path)
        if before is None or after is None:
            missing = " and ".join(v.words for v, r in ((old, before), (new, after)) if r is None)
            return {"artifact": name, "fault": f"no record in {missing}"}
        found = differences(before, after)
        # What is no input of both versions says nothing of why they differ but that.
        parents = dict.fromkeys(
            change["artifact"]
            for change in found["inputs"]
            if change["artifact"] and ABSENT not in (change["old"], change["new"])
        )
        return {
            "artifact": name,
            "same_record": before.sha256 == after.sha256,
            "differences": found,
            "above": [node(parent) if parent not in seen else {"artifact": parent} for parent in parents],
        }

    return node(record.name)


def rerun_now(lineage: "Lineage", record: "Record", configfiles: list[Any]) -> dict[str, Any]:
    """What `snakemake` would rerun for an artifact, each with its own reasons in words.

    Returns:
        `reruns`: artifact → reasons; `follow`: those that rerun only because of these; `differ`: artifacts
        with reasons that Snakemake does not see.
    """
    from pathlib import Path

    from probeline.lineage.present import reasons_now
    from probeline.lineage.workflow_state import ask

    above = lineage.ancestors([record])
    answer = ask(above, configfiles, record)
    known = {one.name: one for one in above}
    reruns: dict[str, list[str]] = {}
    follow: list[str] = []
    for name, reason in answer["reruns"].items():
        one, present = known.get(name), answer["present"].get(name)
        gone = reason["missing"] or one is None or not all(Path(s.name).exists() for s in one.subjects)
        reasons = ["it is not there"] if gone else []
        reasons += [f"input changed: {file}" for file in reason["changed_files"]]
        if one is not None:
            # Snakemake names one reason of several. The lock file is none for it.
            stale = reasons_now(lineage, one, present)
            reasons += [text for text in stale if text.startswith(TRIGGERS)]
        if not reasons and not reason["follows"]:
            reasons += reason["reasons"]
        if reasons:
            reruns[name] = reasons
        else:
            follow.append(name)
    differ = {
        one.name: reasons
        for one in above
        if one.name not in answer["reruns"]
        and (reasons := reasons_now(lineage, one, answer["present"].get(one.name)))
    }
    return {"reruns": reruns, "follow": follow, "differ": differ}
