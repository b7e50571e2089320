"""Where things lie on the two volumes; both sides agree on it here."""

from pathlib import Path

DATA_VOLUME, WEIGHTS_VOLUME = "probeline-data", "probeline-weights"
DATA, WEIGHTS = Path("/data"), Path("/weights")
"""Where containers see them."""

CONTENT = "cas"
"""cas/<sha256>: files that were sent from here."""
RUNS = "runs"
"""runs/<job key>/: job.json, what the job made in out/, log.jsonl, and _DONE.json, written last."""
ARTIFACTS = "artifacts"
"""artifacts/<path in the project>.json: for each name, where its files lie now."""
MODELS = "models"
"""models/<digest of the manifest>/<name>/: a model's folder."""
SOURCES = "sources"
"""sources/<digest of a source>.json: which of the models was fetched from it."""
WORK = "work"
"""work/: what jobs keep for later ones."""

JOB, DONE, LOG, OUTPUT = "job.json", "_DONE.json", "log.jsonl", "out"


def run_folder(key: str) -> str:
    """The folder of a job."""
    return f"{RUNS}/{key}"


def artifact_entry(name: str) -> str:
    """The entry of an artifact, by its path in the project."""
    return f"{ARTIFACTS}/{name}.json"
