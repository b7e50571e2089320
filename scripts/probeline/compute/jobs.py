"""What every job of the workflow shares: its log, its threads, its record, and faults in words."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from probeline.errors import ProbelineError

OUT_OF_MEMORY = "The memory is used up. Run fewer jobs at once (--cores), or raise shards in the config."
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@contextmanager
def job(snakemake: Any, threads: int = 1, hub: bool = False) -> Iterator[None]:
    """Run the body of a rule: log to its file and to the terminal, end the user's faults in words.

    When the body is done, the record of what it made and read is written: see `lineage.records`.

    Args:
        snakemake: what Snakemake hands to the rule's script.
        threads: threads of numeric libraries. Must come from the rule's params: `--cores` scales
            snakemake.threads, and results would depend on it. Set here, before anything numeric is imported.
        hub: whether the job may ask the Hugging Face hub; models otherwise lie in data/models.
    """
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    os.environ["OMP_WAIT_POLICY"] = "passive"
    # Libraries below torch keep a kernel for each size: by default a thousand, which took a gigabyte.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "64")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if not hub:
        os.environ["HF_HUB_OFFLINE"] = "1"
    _log_to(Path(snakemake.log[0]))
    try:
        # Not part of any rule's code: an edit of how work is recorded must not run the work again.
        from probeline.lineage.lock import hold_job_lock
        from probeline.lineage.records import Recorder

        hold_job_lock()
        recorder = Recorder(snakemake, threads)
        yield
        recorder.write()
    except ProbelineError as error:
        logging.getLogger("probeline").error("%s", error)
        sys.exit(1)
    except MemoryError:
        logging.getLogger("probeline").error(OUT_OF_MEMORY)
        sys.exit(1)
    except PermissionError as error:
        logging.getLogger("probeline").error(
            "%s: %s. Allow reading and writing there, or work in another folder.",
            error.filename,
            error.strerror,
        )
        sys.exit(1)
    except Exception as error:
        # What torch says when the processor's memory is used up.
        if isinstance(error, RuntimeError) and "not enough memory" in str(error):
            logging.getLogger("probeline").error(OUT_OF_MEMORY)
            sys.exit(1)
        logging.getLogger("probeline").exception("This is a defect of Probeline, not of your data:")
        sys.exit(1)


def _log_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file, terminal = logging.FileHandler(path, mode="w", encoding="utf-8"), logging.StreamHandler(sys.stderr)
    # Jobs run side by side: on the terminal each line says whose it is, `trust/shard-0-of-4: …`.
    job_name = Path(*path.with_suffix("").parts[2:])
    terminal.setFormatter(logging.Formatter(f"{job_name}: %(message)s"))
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[file, terminal], force=True)
    # Libraries speak up only when something is wrong.
    for name in ("httpx", "transformers", "torch", "matplotlib", "fsspec"):
        logging.getLogger(name).setLevel(logging.WARNING)
