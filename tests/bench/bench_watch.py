"""What watching costs: generation with a monitor beside generation without, in one process.

The two take turns, each first in every other round, so that a noisy neighbour hits both alike. Times are the
processor's, which a neighbour lengthens less than those of the clock. The ratio is that of the medians; its
spread is that of the rounds' own ratios, between their quartiles. Watching includes the one pass that the
last token needs.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from probeline.activations.machine import processor, processor_has_bfloat16
from probeline.models.render import load_tokenizer
from probeline.probes.detector import Detector
from probeline.probes.methods import Head
from probeline.probes.watch import Monitor

PROMPT = "You are in a game of Werewolf. Say at length whom you suspect, and why."


def main() -> None:
    """Measure and print."""
    options = _options()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    dtype = torch.bfloat16 if processor_has_bfloat16() else torch.float32
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype, local_files_only=True).eval()
    tokenizer = load_tokenizer(options.model)
    inputs = tokenizer([PROMPT] * options.batch, return_tensors="pt")
    settings = {"max_new_tokens": options.tokens, "min_new_tokens": options.tokens, "do_sample": False}
    print(f"{options.model.name}, {dtype}, {options.threads} thread(s)")
    print(f"{processor()}, {options.batch} x {options.tokens} tokens, {options.rounds} rounds")
    depth = model.config.num_hidden_layers
    for name, layers, hidden in (
        ("one layer", (depth * 3 // 4,), 0),
        ("three layers", (depth // 2, depth * 3 // 4, depth), 0),
        ("one layer, mlp", (depth * 3 // 4,), 64),
    ):
        monitor = Monitor(model, _detector(layers, model.config.hidden_size, hidden), tokenizer)

        def watched(monitor: Monitor = monitor) -> None:
            with monitor:
                monitor.generate(**inputs, **settings)

        _report(name, lambda: model.generate(**inputs, **settings), watched, options)


def _report(
    name: str, plain: Callable[[], object], watched: Callable[[], object], options: argparse.Namespace
) -> None:
    """Run both in turns and print how they compare."""
    plain(), watched()  # the first run of each makes kernels
    rounds = []
    for number in range(options.rounds):
        order = (plain, watched) if number % 2 else (watched, plain)
        taken = {run: _seconds(run) for run in order}
        rounds.append((taken[plain], taken[watched]))
    without, with_monitor = (median(column) for column in zip(*rounds, strict=True))
    low, _, high = quantiles([b / a for a, b in rounds], n=4)
    per_token = 1e3 / options.tokens
    print(
        f"{name}: {without * per_token:.2f} ms of the processor for a token without, "
        f"{with_monitor * per_token:.2f} ms watched: "
        f"ratio {with_monitor / without:.3f} ({low:.3f} to {high:.3f})"
    )


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _detector(layers: tuple[int, ...], width: int, hidden: int) -> Detector:
    """A random probe: what it says does not matter here."""
    random = np.random.default_rng(0)
    head = Head(random.normal(size=width), 0.0)
    if hidden:
        head = Head(random.normal(size=hidden), 0.0, random.normal(size=(width, hidden)), np.zeros(hidden))
    shape = (len(layers), width)
    ones = np.ones(len(layers))
    return Detector(
        "mlp" if hidden else "lr",
        "",
        layers,
        np.zeros(shape),
        np.ones(shape),
        (head,) * len(layers),
        ones,
        ones,
        0.0,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench_watch", description=__doc__)
    parser.add_argument(
        "--model", type=Path, default=Path("data/models/smollm2-135m"), help="a model's folder"
    )
    parser.add_argument("--tokens", type=int, default=128, help="tokens to generate (default: 128)")
    parser.add_argument("--batch", type=int, default=1, help="sequences at a time (default: 1)")
    parser.add_argument("--rounds", type=int, default=11, help="measured rounds (default: 11)")
    parser.add_argument("--threads", type=int, default=1, help="processor threads (default: 1)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
