"""What a run could not make, and why: said last, as Snakemake says much after a job's own words."""

from pathlib import Path
from typing import Any

from probeline.lineage.begun import begun
from probeline.lineage.records import SUFFIX

MOST_JOBS = 5


def not_made(dag: Any) -> str:
    """A line for each artifact whose job has begun and failed, with the last words of its log.

    Args:
        dag: Snakemake's, as `workflow.dag` in `onerror`.
    """
    left = set(begun())
    failed = {
        str(file): Path(str(job.log[0])) for job in dag.jobs for file in job.output if str(file) in left
    }
    lines = [
        f"Not made: {record.removesuffix(SUFFIX)} ({log}): {_last_words(log)}"
        for record, log in sorted(failed.items())
    ]
    more = len(lines) - MOST_JOBS
    return "\n".join([*lines[:MOST_JOBS], *([f"and {more} more"] if more > 0 else [])])


def _last_words(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return "it has no log"
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing; it was killed")
