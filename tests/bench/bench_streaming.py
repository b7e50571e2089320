"""Training from disk: memory, speed beside the disk's own, and the same AUROC as in memory.

One file of float16 rows is made in --folder, and removed in the end. Its plain read is timed in the same run,
in reads of the same size, once after its pages were dropped from the page cache and once with them in there.
Each fit and each prediction is a process of its own, whose peak memory is what the system counted. While it
works, the file's pages are dropped all the time, so that its passes come from disk as the plain read does.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from probeline.probes import ProbeTrainingConfig, create_probe_trainer
from probeline.probes.metrics import auroc
from probeline.probes.streaming import BLOCK_BYTES

EXAMPLES = """
examples:
  python -m tests.bench.bench_streaming --folder data                       the bar: 200,000 x 8,192 (3.3 GB)
  python -m tests.bench.bench_streaming --folder data --rows 20000 --rounds 1
"""
TELLING, SHIFT = 64, 0.12  # features that the classes differ in, and by how many deviations
MADE_AT_ONCE = 2000
GIGA = 1e9


def main() -> None:
    """Measure everything and print it."""
    options = _options()
    if options.measure:
        _measure(options)
        return
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-streaming-") as name:
        _run(options, Path(name))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench_streaming",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--folder", type=Path, required=True, help="where the file is made, and removed again"
    )
    parser.add_argument("--rows", type=int, default=200_000, help="samples (default: 200,000)")
    parser.add_argument("--width", type=int, default=8192, help="features (default: 8,192)")
    parser.add_argument("--subset", type=int, default=20_000, help="samples that fit into memory (20,000)")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of the timed fits (default: 5)")
    parser.add_argument("--rounds", type=int, default=3, help="a figure is their median (default: 3)")
    parser.add_argument("--device", default="cpu", help="of the torch backend (default: cpu)")
    parser.add_argument("--measure", choices=["fit", "subset-disk", "subset-memory"], help=argparse.SUPPRESS)
    parser.add_argument("--backend", choices=["sklearn", "torch"], help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(options: argparse.Namespace, folder: Path) -> None:
    gigabytes = options.rows * options.width * 2 / GIGA
    subset = min(options.subset, options.rows)
    print(
        f"{options.rows:,} x {options.width:,} float16, {gigabytes:.2f} GB; {os.cpu_count()} cores",
        flush=True,
    )
    _make(folder / "x.npy", options.rows, options.width, seed=1)
    _make(folder / "subset.npy", subset, options.width, seed=1)
    _make(folder / "test.npy", 4000, options.width, seed=2)
    cold, cached = [], []
    found: dict[str, list[dict[str, Any]]] = {"sklearn": [], "torch": []}
    for _ in range(options.rounds):
        _drop(folder / "x.npy")
        cold.append(gigabytes / _plain_read(folder / "x.npy"))
        cached.append(gigabytes / _plain_read(folder / "x.npy"))
        for backend, rounds in found.items():
            rounds.append(_worker(options, folder, "fit", backend))
    disk = statistics.median(cold)
    print(
        f"plain read: {disk:.2f} GB/s from disk ({_range(cold)}), {statistics.median(cached):.2f} GB/s cached"
    )
    for backend, rounds in found.items():
        for part in ("fit", "predict"):
            speeds = [gigabytes * figures[part]["passes"] / figures[part]["seconds"] for figures in rounds]
            speed = statistics.median(speeds)
            busy = statistics.median(
                figures[part]["processor"] / figures[part]["passes"] / gigabytes for figures in rounds
            )
            print(
                f"{backend:<8}{part:<8} {speed:.2f} GB/s per pass ({_range(speeds)}), "
                f"{speed / disk:.2f} of the disk's; "
                f"{rounds[0][part]['passes']} passes; {busy:.2f} s of processor time per GB"
            )
        peak = max(figures["peak"] for figures in rounds)
        print(f"{backend:<8}peak resident set {peak:.2f} GB, fit and predict; AUROC {rounds[0]['auroc']:.4f}")
    print(f"{subset:,} rows to the end, from disk and in memory:")
    for backend in found:
        disk_value, memory_value = (
            _worker(options, folder, f"subset-{place}", backend)["auroc"] for place in ("disk", "memory")
        )
        difference = abs(disk_value - memory_value)
        print(f"{backend:<8}AUROC {disk_value:.4f} and {memory_value:.4f}, {difference:.4f} apart")


def _range(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def _labels(rows: int, seed: int) -> np.ndarray:
    return (np.random.default_rng([seed, 0]).random(rows) < 0.5).astype(np.int8)


def _make(path: Path, rows: int, width: int, seed: int) -> None:
    """Noise, and some features that tell the classes apart; the first rows do not depend on their number."""
    y = _labels(rows, seed)
    with path.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (rows, width)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, rows, MADE_AT_ONCE):
            part = y[start : start + MADE_AT_ONCE]
            random = np.random.default_rng([seed, 1, start])
            X = random.standard_normal((len(part), width), dtype=np.float32)
            X[:, :TELLING] += SHIFT * (2 * part[:, None] - 1)
            file.write(X.astype(np.float16).tobytes())
        file.flush()
        os.fsync(file.fileno())


def _drop(path: Path) -> None:
    """Take the file's pages out of the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


@contextmanager
def _always_dropped(path: Path) -> Iterator[None]:
    """Drop the file's pages ten times a second."""
    done = threading.Event()

    def drop() -> None:
        while not done.wait(0.1):
            _drop(path)

    thread = threading.Thread(target=drop)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _plain_read(path: Path) -> float:
    """Seconds."""
    buffer = bytearray(BLOCK_BYTES)
    start = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - start


def _worker(options: argparse.Namespace, folder: Path, job: str, backend: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.bench_streaming", "--folder", str(folder), "--measure", job]
    command += ["--backend", backend, "--rows", str(options.rows), "--width", str(options.width)]
    command += ["--epochs", str(options.epochs), "--device", options.device]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def _measure(options: argparse.Namespace) -> None:
    """One process's figures, as JSON."""
    whole = options.measure == "fit"
    path = options.folder / ("x.npy" if whole else "subset.npy")
    config = ProbeTrainingConfig(
        device=options.device, early_stopping=False, **({"max_iterations": options.epochs} if whole else {})
    )
    trainer = create_probe_trainer(1, options.width, config, options.backend)
    rows = np.load(path, mmap_mode="r").shape[0]
    X = np.load(path) if options.measure == "subset-memory" else [path]
    figures: dict[str, Any] = {}
    _drop(path)
    with _always_dropped(path):
        start, busy = time.perf_counter(), time.process_time()
        trainer.fit(X, _labels(rows, 1))
        # One more pass standardises, and one more chooses the threshold.
        passes = trainer.training_history[-1]["passes"] + 2
        figures["fit"] = _spent(start, busy, passes)
        _drop(path)
        start, busy = time.perf_counter(), time.process_time()
        trainer.predict_proba(X)
        figures["predict"] = _spent(start, busy, 1)
    figures["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIGA
    test = options.folder / "test.npy"
    figures["auroc"] = auroc(_labels(4000, 2), trainer.predict_proba([test]))
    print(json.dumps(figures))


def _spent(start: float, busy: float, passes: int) -> dict[str, Any]:
    """Seconds on the clock and of the processor; the second is what a busy machine leaves as it is."""
    seconds, processor = time.perf_counter() - start, time.process_time() - busy
    return {"seconds": seconds, "processor": processor, "passes": passes}


if __name__ == "__main__":
    main()
