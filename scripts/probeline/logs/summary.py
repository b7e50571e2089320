"""What a run has read and built, in a line for each: said at its end."""

from pathlib import Path

from probeline.files import MANIFEST, read_json

UNITS = {"games": "game", "cases": "case", "dialogues": "dialogue"}
LEFT_OUT = {
    "files_quarantined": ("unreadable file ({file})", "unreadable files ({file})"),
    "quarantined": ("in quarantine ({file})", "in quarantine ({file})"),
    "duplicates": ("copy of another", "copies of others"),
    "retracted": ("retracted", "retracted"),
}
"""Counts of quality.json, in words for one and for several; not every format has all."""
DATASETS = ("sft", "preferences", "forecasts", "prompts")


def data_summary(processed: Path, started: float) -> str:
    """A line for each corpus that a run has read, and one for the datasets it built; empty without any.

    Args:
        processed: folder of the tables and datasets.
        started: seconds since the epoch; what is older was not made by the run.
    """
    corpora = [
        _corpus_line(quality.parent)
        for quality in sorted(processed.glob("*/quality.json"))
        if quality.stat().st_mtime >= started
    ]
    datasets = [
        manifest.parent.as_posix()
        for kind in DATASETS
        for manifest in sorted(processed.glob(f"{kind}/*/{MANIFEST}"))
        if manifest.stat().st_mtime >= started
    ]
    return "\n".join([*corpora, *([f"Datasets: {', '.join(datasets)}"] if datasets else [])])


def _corpus_line(corpus: Path) -> str:
    quality = read_json(corpus / "quality.json")
    read = [
        f"{quality[key]:,} {one}{'s' * (quality[key] != 1)}" for key, one in UNITS.items() if key in quality
    ]
    left_out = [
        f"{quality[key]:,} {(one if quality[key] == 1 else several).format(file=corpus / 'quarantine.jsonl')}"
        for key, (one, several) in LEFT_OUT.items()
        if quality.get(key)
    ]
    return f"Corpus {corpus.name}: {', '.join([*read, *left_out])}; {corpus / 'quality.json'}"
