"""Our extraction beside the alternatives: same texts, same masked tokens, all layers, in one run.

Every contender is a process of its own with a thread count of its own. All are loaded first; then they take
turns, so that a noisy neighbour hits all alike. A number is the median of the rounds, after a warm-up on a
tenth of the games; the spread, from the fastest round to the slowest, is what noise may have done to it.
Tokens are the real tokens of the texts, even where an engine runs fewer. Errors are relative to the
references' float32 output: the largest is that of the worst layer over the layer's largest value.
The share of the peak counts the products of all real tokens, against large products in one process with all
threads; an engine that runs what texts share once, in several processes, can reach more than all of it.
"""

import argparse
import datetime
import os
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors import safe_open

from probeline.activations.engine import SpannedSequence
from probeline.activations.machine import processor, processor_has_bfloat16
from tests.bench import figures as tables
from tests.bench.figures import Error, Figures
from tests.bench.workers import Side, WorkerError
from tests.bench.workload import Games, halves, make_workload, save, span_count, token_count

PACKAGES = ("torch", "transformers", "nnsight", "transformer-lens", "probelab", "mirin")
WITHOUT_MIRIN = "the package index has no mirin, which probelab's own collector needs"
EXAMPLES = """
examples:
  make bench                                                                  all of it, into docs/
  .venv-bench/bin/python -m tests.bench.bench_extraction                      all of it, printed only
  .venv-bench/bin/python -m tests.bench.bench_extraction --statements 100 --rounds 1 --skip nnsight
"""


def main() -> None:
    """Run the comparison, print the tables, and save them if asked to."""
    options = _options()
    cores = len(os.sched_getaffinity(0))
    workload = make_workload(options.statements, options.model)
    none, public = workload["none"], workload["public"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sides = _sides(workload, cores, folder)
        sides = [side for side in sides if not any(part in side.name for part in options.skip)]
        errors = _compare(sides, options.model, options.rounds, folder)
    found = Figures(
        {side.name: side for side in sides},
        errors,
        token_count(none),
        {job: span_count(games) for job, games in workload.items()},
        _weights(options.model),
        _fast_dtype(),
    )
    facts = [
        f"{options.model.name}, layers 0 to the last, {options.rounds} rounds, {cores} cores",
        f"{span_count(none)} statements of {len(none)} simulated games, one sequence each, {found.tokens:,} "
        f"tokens; public context: {span_count(public)} statements of {len(public)} games",
        f"Lines that name no number type ran in {found.dtype}.",
        f"Never mixing games costs, before anything else, what games share: {_shared_between(workload):.0%} "
        "more tokens go through the model than if all were one game.",
        *_missing_layers(errors),
        *_missing_alternatives(found),
    ]
    found_tables = [tables.contender_table(found), tables.further_table(found), tables.goal_table(found)]
    print("\n\n".join(["\n".join(facts), *map(tables.as_text, found_tables)]))
    if options.save:
        options.save.write_text(_page(facts, found_tables), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench_extraction",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--statements", type=int, default=800, help="at least so many statements (default: 800)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds (default: 3)")
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="NAME",
        help="leave out the contenders whose name contains this; may be repeated",
    )
    parser.add_argument(
        "--model", type=Path, default=Path("data/models/smollm2-135m"), help="a model's folder"
    )
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the tables here too, as Markdown")
    return parser.parse_args()


def _sides(workload: dict[str, Games], cores: int, folder: Path) -> list[Side]:
    """The contenders, and the files of what they run."""
    whole, warm = folder / "whole.json", {"warm-up": workload["none"][: max(1, len(workload["none"]) // 10)]}
    save(workload | warm, whole)
    shares = []
    for number, games in enumerate(halves(workload["none"])):
        shares.append(folder / f"half-{number}.json")
        mixed = [[sequence for game in games for sequence in game]]
        save({"none": games, "mixed": mixed} | warm, shares[-1])
    fast = _fast_dtype()
    sides = [
        Side(tables.REFERENCES, "references_way", "float32", cores, [whole], ["none"]),
        Side(tables.REFERENCES_BFLOAT16, "references_way", "bfloat16", cores, [whole], ["none"]),
        Side("nnsight", "nnsight", fast, cores, [whole], ["none"]),
        Side("TransformerLens", "transformer_lens", fast, cores, [whole], ["none"]),
        Side("probelab with mirin", "probelab_with_mirin", fast, cores, [whole], ["none"]),
        Side("probelab with hooks", "probelab_with_hooks", fast, cores, [whole], ["none"]),
        Side(tables.PLAIN, "ours", fast, cores, [whole], ["none"]),
        Side(tables.PRODUCTION, "ours", fast, 1, shares, ["none", "mixed"]),
        Side(tables.PRODUCTION_FLOAT32, "ours", "float32", 1, shares, ["none"]),
        Side(tables.ONE_THREAD, "ours", fast, 1, [whole], ["public", "prompts", "shared", "prefixes"]),
        Side(tables.peak_name("bfloat16"), "matrix_peak", "bfloat16", cores, [whole], ["none"]),
        Side(tables.peak_name("float32"), "matrix_peak", "float32", cores, [whole], ["none"]),
    ]
    for side in sides:
        if side.dtype == "bfloat16" and not processor_has_bfloat16():
            side.failure = "this processor has no bfloat16"
    return sides


def _compare(sides: list[Side], model: Path, rounds: int, folder: Path) -> dict[str, Error]:
    """Fill in the seconds and failures of all sides; the errors of those with an output."""
    outputs: dict[str, np.ndarray] = {}
    try:
        for side in sides:
            _attempt(side, lambda side: side.start(model, folder))
        for side in sides:
            _attempt(side, lambda side: side.run("warm-up"))
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", flush=True)
            for side in sides:
                _attempt(side, lambda side: _turn(side, folder, outputs))
    finally:
        for side in sides:
            side.stop()
    truth = outputs.get(tables.REFERENCES)
    if truth is None:
        return {name: Error(np.nan, np.nan, 0) for name in outputs}
    return {name: tables.error(output, truth) for name, output in outputs.items()}


def _turn(side: Side, folder: Path, outputs: dict[str, np.ndarray]) -> None:
    """One side's jobs, once each; the first one's output is kept."""
    for job in side.jobs:
        side.seconds.setdefault(job, []).append(side.run(job))
        if job == "none" and side.name not in outputs and side.loader != "matrix_peak":
            outputs[side.name] = side.result(folder)


def _attempt(side: Side, action: Callable[[Side], object]) -> None:
    """Do it; a contender that fails says so in the tables and takes no further part."""
    if side.failure:
        return
    try:
        action(side)
    except (WorkerError, OSError) as problem:
        side.failure = WITHOUT_MIRIN if "No module named 'mirin'" in str(problem) else str(problem)
        print(f"{side.name}: {side.failure}", flush=True)
        side.stop()


def _fast_dtype() -> str:
    return "bfloat16" if processor_has_bfloat16() else "float32"


def _weights(model: Path) -> int:
    """Numbers in the linear layers of the blocks: the matrices that every token is multiplied with."""
    total = 0
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, framework="np") as stored:
            names = [name for name in list(stored.keys()) if ".layers." in name]
            shapes = [stored.get_slice(name).get_shape() for name in names]
        total += sum(shape[0] * shape[1] for shape in shapes if len(shape) == 2)
    return total


def _missing_layers(errors: dict[str, Error]) -> list[str]:
    """Which outputs were compared at fewer layers than the fullest one."""
    most = max((found.layers for found in errors.values()), default=0)
    return [
        f"{name} gives {found.layers} of {most} layers: it leaves the embeddings, layer 0, out."
        for name, found in errors.items()
        if found.layers < most
    ]


def _shared_between(workload: dict[str, Games]) -> float:
    """How many more tokens are run game by game than if equal beginnings of all games were run once."""

    def run(games: Games) -> int:
        return sum(len({prefix for sequence in game for prefix in _beginnings(sequence)}) for game in games)

    return run(workload["none"]) / run(workload["mixed"]) - 1


def _beginnings(sequence: SpannedSequence) -> list[tuple[int, ...]]:
    """What is run of a sequence, token after token: what follows the shared opening, to the last span."""
    first, last = min(span.start for span in sequence.spans), max(span.stop for span in sequence.spans)
    return [tuple(sequence.input_ids[: end + 1]) for end in range(first, last)]


def _missing_alternatives(found: Figures) -> list[str]:
    """The best alternative is the best of those that ran: say which did not."""
    missing = [name for name in tables.ALTERNATIVES if found.speed(name) is None]
    names = ", ".join(missing)
    return [f"The best alternative is the best of those that ran; not measured: {names}."] if missing else []


def _page(facts: list[str], found_tables: list[tables.Lines]) -> str:
    """The tables as a page of the documentation, with what they were measured on."""
    versions = ", ".join(f"{package} {_version(package)}" for package in PACKAGES)
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return "\n\n".join(
        [
            "# Extraction beside the alternatives",
            f"Written by `make bench` on {today}, on {processor()}, with {versions}.",
            (__doc__ or "").strip(),
            "\n".join(f"- {fact}" for fact in facts),
            *map(tables.as_markdown, found_tables),
            "",
        ]
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(from its source)" if find_spec(package) else "(not installed)"


if __name__ == "__main__":
    main()
