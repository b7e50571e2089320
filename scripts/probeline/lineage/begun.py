"""Notes of jobs that have begun: one whose job has failed or was killed is to be made, whatever needs it.

Before a job, Snakemake removes its outputs. Where then nothing is left of an intermediate artifact, Snakemake
asks for it only if something below it is to be made: what was made of the old one would pass for new. So that
counts as unfinished.
"""

from pathlib import Path

BEGUN = Path(".probeline/begun")


def note_begun(record: str) -> None:
    """Note that the artifact of this record is being made."""
    BEGUN.mkdir(parents=True, exist_ok=True)
    _note(record).write_text(record)


def note_done(record: str) -> None:
    """It is made."""
    _note(record).unlink(missing_ok=True)


def begun() -> list[str]:
    """The records of artifacts whose job has begun and never ended; notes of others are removed."""
    found = []
    for note in sorted(BEGUN.glob("*")):
        record = note.read_text()
        if Path(record).exists():
            note.unlink()
        else:
            found.append(record)
    return found


def _note(record: str) -> Path:
    return BEGUN / f"{record.replace('/', '--')}.begun"  # it is no record, and must not look like one
