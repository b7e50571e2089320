"""One process of the benchmark: loads one contender, then runs a job for each line that it is sent.

Started by `workers.py`, with the number of threads already in the environment. It answers every line with
one line: `ready` after loading, `done` after `run JOB`, `saved` after `save PATH` (the last result).
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch

from probeline.activations.memory import keep_freed_memory
from tests.bench.contenders import LOADERS
from tests.bench.workload import load


def main() -> None:
    """Answer until there are no more lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loader", choices=LOADERS)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--workload", type=Path, required=True)
    options = parser.parse_args()
    # What a library prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # for all alike: most contenders gain from it
    jobs = load(options.workload)
    measure = LOADERS[options.loader](options.model, options.dtype, options.threads)
    result = np.empty(0)
    print("ready", file=answers)
    for line in sys.stdin:
        order, _, subject = line.strip().partition(" ")
        if order == "run":
            result = measure(jobs[subject])
            print("done", file=answers)
        else:
            np.save(subject, result)
            print("saved", file=answers)


if __name__ == "__main__":
    main()
