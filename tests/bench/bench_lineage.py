"""Verifying, asking and tracking a thousand artifacts with five thousand records, by the command line.

The store is made by a script (lineage_store.py): a model, a corpus, and for each concept dialogues and
activations, all in shards, then probes. An artifact is what a person names (the activations of a concept, a
probe); each shard has a record. The small store holds little but its records; the large one is for reading
every byte again, beside `sha256sum` in as many processes on the same files. Both take turns, so that a noisy
neighbour hits both alike. A number is the median of the rounds, the time of the whole command included its
start; all files were read before, so that the disk is not what is measured.
"""

import argparse
import datetime
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from probeline.activations.machine import processor
from tests.bench.figures import Lines, as_markdown, as_text
from tests.bench.lineage_store import make_store

CONCEPTS, PROBES, SHARDS, GAMES = 104, 799, 20, 240
"""1,010 artifacts; with 20 shards each, 5,000 records."""
SMALL, LARGE = 2_000, 900_000
"""Bytes of the large file of an artifact: 40 MB and 2 GB in all."""
VERIFY, REHASH, SHA256SUM = "verify, warm cache", "verify --rehash", "sha256sum"
OPENSSL = "openssl dgst -sha256"
"""Uses the processor's own instructions, as we do and as not every sha256sum does."""
QUERIES = {
    VERIFY: (("audit", "verify"), 3),
    "trace of a probe": (("audit", "trace", "results/probes/concept000_lr_l0"), 2),
    "impact of a game": (("audit", "impact", "game:baseline/game7"), 2),
}
TRACK = "track, all 5,000 pointers new"
FEW = 20
TRACK_FEW, TRACK_NONE = f"track, {FEW} new", "track, nothing new"
TRACK_SECONDS = 15
RATE = 0.8
SCRIPTS = Path(__file__).parents[2] / "scripts"


def main() -> None:
    """Measure, print the table, and save it if asked to."""
    options = _options()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        seconds: dict[str, list[float]] = {}
        records = _small(folder / "small", options.rounds, seconds)
        megabytes = _large(folder / "large", options.rounds, cores, seconds)
    artifacts = 2 * CONCEPTS + PROBES + 3
    facts = [
        f"{artifacts:,} artifacts, {records:,} records; {megabytes:,.0f} MB in the large store",
        f"{options.rounds} rounds, {cores} cores, {processor()}",
    ]
    tables = [time_table(seconds, megabytes), goal_table(seconds)]
    print("\n\n".join(["\n".join(facts), *map(as_text, tables)]))
    if options.save:
        date = datetime.datetime.now(datetime.UTC).date()
        lines = [f"- {fact}" for fact in facts]
        head = f"# Lineage of a thousand artifacts\n\nWritten by `make bench` on {date}.\n\n{__doc__}"
        page = "\n\n".join([head.rstrip(), "\n".join(lines), *map(as_markdown, tables)])
        options.save.write_text(f"{page}\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench_lineage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (default: 5)")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where 3 GB are free (default: for temporary files)"
    )
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the tables here too, as Markdown")
    return parser.parse_args()


def _small(folder: Path, rounds: int, seconds: dict[str, list[float]]) -> int:
    store = make_store(folder, CONCEPTS, PROBES, SHARDS, GAMES, SMALL)
    probeline(folder, "audit", "verify")
    for _ in range(rounds):
        for name, (words, _goal) in QUERIES.items():
            if _exists(folder, *words[:2]):
                seconds.setdefault(name, []).append(probeline(folder, *words))
    if _exists(folder, "track"):
        for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
            subprocess.run(command, cwd=folder, check=True)
        seconds[TRACK] = [probeline(folder, "track")]
        for pointer in sorted((folder / "results/probes").glob("*.dvc"))[:FEW]:
            pointer.unlink()
        seconds[TRACK_FEW] = [probeline(folder, "track")]
        seconds[TRACK_NONE] = [probeline(folder, "track") for _ in range(rounds)]
    return len(store.records)


def _large(folder: Path, rounds: int, cores: int, seconds: dict[str, list[float]]) -> float:
    """Read every file again, by us and by sha256sum; how many megabytes these are."""
    make_store(folder, CONCEPTS, PROBES, SHARDS, GAMES, LARGE)
    probeline(folder, "audit", "verify")
    listing = folder / "files"
    files = [file for top in ("data", "results") for file in (folder / top).rglob("*") if file.is_file()]
    files = [file for file in files if not file.name.endswith(".lineage.json")]
    listing.write_bytes(b"\0".join(os.fsencode(file) for file in files))
    others = [name for name in (SHA256SUM, OPENSSL) if shutil.which(name.split()[0])]
    for _ in range(rounds):
        for name in others:
            command = ["xargs", "-0", "-a", str(listing), "-P", str(cores), "-n", "64", *name.split()]
            seconds.setdefault(name, []).append(_timed(command, folder))
        seconds.setdefault(REHASH, []).append(probeline(folder, "audit", "verify", "--rehash"))
    total = sum(file.stat().st_size for file in files) / 1e6
    shutil.rmtree(folder)
    return total


def probeline(folder: Path, *words: str) -> float:
    """Seconds of a command of ours."""
    return _timed([sys.executable, "-m", "probeline.cli", *words], folder)


def _exists(folder: Path, *words: str) -> bool:
    command = [sys.executable, "-m", "probeline.cli", *words, "--help"]
    return subprocess.run(command, cwd=folder, env=_environment(), capture_output=True).returncode == 0


def _timed(command: list[str], folder: Path) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, env=_environment(), stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(SCRIPTS)}


def time_table(seconds: dict[str, list[float]], megabytes: float) -> Lines:
    """What each command took, and how fast the reading ones read."""
    lines = [["command", "seconds", "spread", "MB/s"]]
    for name, found in seconds.items():
        median = statistics.median(found)
        rate = f"{megabytes / median:,.0f}" if name in (REHASH, SHA256SUM, OPENSSL) else "-"
        lines.append([name, f"{median:.2f}", f"{(max(found) - min(found)) / median:.0%}", rate])
    return lines


def goal_table(seconds: dict[str, list[float]]) -> Lines:
    """What is asked, and whether it was met."""
    lines = [["what is asked", "goal", "measured", "verdict"]]
    goals = {name: goal for name, (_, goal) in QUERIES.items()} | dict.fromkeys(
        (TRACK, TRACK_FEW, TRACK_NONE), TRACK_SECONDS
    )
    for name, goal in goals.items():
        if name in seconds:
            median = statistics.median(seconds[name])
            lines.append([name, f"< {goal} s", f"{median:.2f} s", "met" if median < goal else "missed"])
        else:
            lines.append([name, f"< {goal} s", "-", "not measured"])
    share = statistics.median(seconds[SHA256SUM]) / statistics.median(seconds[REHASH])
    verdict = "met" if share >= RATE else "missed"
    return [*lines, ["--rehash to sha256sum", f">= {RATE:.0%}", f"{share:.0%}", verdict]]


if __name__ == "__main__":
    main()
