"""What is not as a run found it: the inputs that no rule makes, and the config."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from probeline.config import DEFAULT_CONFIG, load_config
from probeline.lineage.findings import CHANGED, MISSING, NOT_HERE
from probeline.lineage.graph import Lineage
from probeline.lineage.hashing import STAT_CACHE, digests_of
from probeline.lineage.places import portable_values, roots_of
from probeline.lineage.present import first_of
from probeline.lineage.raw_inputs import check_raw_inputs, homes_of, raw_inputs
from probeline.lineage.record_differences import changes
from probeline.lineage.records import Record
from probeline.stat_cache import StatCache


def present_config(configfiles: Sequence[Path]) -> dict[str, Any] | None:
    """The settings; None where this folder has none."""
    return load_config(configfiles) if configfiles or DEFAULT_CONFIG.is_file() else None


def input_reasons(
    lineage: Lineage, records: Iterable[Record], config: Mapping[str, Any] | None
) -> tuple[dict[str, list[str]], list[str]]:
    """Templates, raw logs and other files that no rule makes, compared with what was read.

    Args:
        lineage: all records.
        records: whose inputs are looked at.
        config: names the folders of raw logs; None where it is not known.

    Returns:
        Artifact → reasons in words; and what could not be compared, as it is not on this machine.
    """
    homes = homes_of(config)
    inputs = [given for given in raw_inputs(lineage, records, homes) if not given.recorded]
    paths = list(dict.fromkeys(given.path for given in inputs))
    cache = StatCache(STAT_CACHE)
    try:
        digests = dict(zip(map(str, paths), digests_of(paths, cache, title="Reading"), strict=True))
    finally:
        cache.close()
    named: dict[str, dict[str, list[str]]] = {}
    absent = []
    for finding in check_raw_inputs(inputs, homes, digests):
        if finding.state == NOT_HERE:
            absent.append(f"{finding.path}: {finding.says}")
        elif finding.state in (CHANGED, MISSING):
            verb = "changed" if finding.state == CHANGED else "gone"
            for reader in finding.readers:
                named.setdefault(reader, {}).setdefault(verb, []).append(finding.path)
    return {
        reader: [f"input {verb}: {first_of(files)}" for verb, files in found.items()]
        for reader, found in named.items()
    }, absent


def other_config(records: Iterable[Record], config: Mapping[str, Any] | None) -> str | None:
    """That some were made with another config than the present one, in words; None where none was."""
    if config is None:
        return None
    present = portable_values(config, roots_of(config))
    differing = {
        change["name"]: None
        for record in records
        if record.config
        for change in changes(record.config, present)
    }
    if not differing:
        return None
    return (
        f"Made with another config than the present one ({first_of(list(differing))}): where it was that of "
        "a file, give it with --configfile FILE."
    )
