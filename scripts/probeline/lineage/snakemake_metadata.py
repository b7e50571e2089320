"""What Snakemake keeps about outputs in .snakemake: the only module that knows this private format.

It is written with Snakemake's own class, but for the reason in a mark, which Snakemake does not look at.
Versions are pinned below 10, and another format is refused.
"""

import json
import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord
from snakemake.persistence.file import FilePersistence

from probeline.errors import ProbelineError

FOLDER = Path(".snakemake")
KNOWN_FORMAT = 6
DECISIVE = ("record_format_version", "input", "params", "input_checksums", "software_stack_hash")
"""What decides about reruns. `code` does not: the rules' parameters hold the digests of what they run."""
NO_SOFTWARE_STACK = "d41d8cd98f00b204e9800998ecf8427e"
"""Snakemake's digest of no conda environment and no container: jobs run in its own environment."""
OURS = "probeline"


class Mark(NamedTuple):
    """Why an output was marked here.

    Attributes:
        why: in words.
        read: its content was read: another look at names and sizes does not do.
    """

    why: str
    read: bool


def metadata(
    rule: str, inputs: Mapping[str, str], spec: dict[str, Any], started: str, finished: str
) -> MetadataRecord:
    """What Snakemake would have written about each output of a job.

    Args:
        rule: its name.
        inputs: path as the rule names it → hex SHA-256.
        spec: the rule's one parameter; the order of its keys counts.
        started: moment in ISO 8601, for Snakemake's report.
        finished: the same.
    """
    return MetadataRecord(
        rule=rule,
        input=sorted(inputs),
        log=[],
        params=[repr(spec)],
        record_format_version=KNOWN_FORMAT,
        software_stack_hash=NO_SOFTWARE_STACK,
        starttime=datetime.fromisoformat(started).timestamp(),
        endtime=datetime.fromisoformat(finished).timestamp(),
        incomplete=False,
        input_checksums={path: f"sha256:{digest}" for path, digest in inputs.items()},
    )


class SnakemakeMetadata:
    """The metadata and the marks of unfinished outputs of the working directory.

    Raises:
        ProbelineError: this Snakemake writes another format.
    """

    def __init__(self) -> None:
        if RECORD_FORMAT_VERSION != KNOWN_FORMAT:
            raise ProbelineError(
                f"This Snakemake writes metadata in format {RECORD_FORMAT_VERSION}; Probeline knows format "
                f"{KNOWN_FORMAT}. Install the version that constraints.txt names."
            )
        self._store = FilePersistence(nolock=True, path=FOLDER.absolute())
        self._unfinished = self._store._incomplete_path

    def knows(self, output: str) -> bool:
        """Whether there is metadata on an output; the quickest question."""
        return Path(self._store._record_path(self._store._metadata_path, output)).exists()

    def says(self, output: str, said: MetadataRecord) -> bool:
        """Whether the metadata on an output agrees in all that decides about reruns.

        But for the software: where jobs ran in a container, Snakemake alone knows it, and is left to.
        """
        found = self._store._read_record(output)
        keys = (key for key in DECISIVE if key != "software_stack_hash")
        return found is not None and all(found[key] == said[key] for key in keys)

    def write(self, output: str, said: MetadataRecord) -> None:
        """Replace the metadata on an output."""
        self._store._write_record(output, said)
        self._store._clear_cache()

    def forget(self, outputs: Iterable[str]) -> None:
        """Remove the metadata on outputs."""
        for output in outputs:
            self._store._delete_record(output)
        self._store._clear_cache()

    def mark(self, output: str, why: str, read: bool = False) -> None:
        """Mark an output as unfinished: where it exists, Snakemake makes it again, or stops and names it."""
        if not self.is_marked(output):
            mark = {"external_jobid": None, OURS: {"output": output, "why": why, "read": read}}
            self._store._io_write(self._unfinished, mark, output)

    def is_marked(self, output: str) -> bool:
        """Whether an output is marked as unfinished, by Snakemake or here."""
        return Path(self._store._record_path(self._unfinished, output)).exists()

    def unmark(self, outputs: Iterable[str]) -> None:
        """Remove the marks of outputs, Snakemake's own too."""
        for output in outputs:
            self._store._unmark_incomplete(output)

    def marks(self) -> dict[str, Mark]:
        """The marks that were made here, by output; Snakemake's own are left out."""
        found = {}
        for folder, _, names in os.walk(self._unfinished):
            for name in names:
                try:
                    mark = json.loads(Path(folder, name).read_bytes())[OURS]
                    found[mark["output"]] = Mark(mark["why"], mark["read"])
                except (OSError, ValueError, KeyError, TypeError):
                    continue  # Snakemake's own, or half-written while a run goes on.
        return dict(sorted(found.items()))
