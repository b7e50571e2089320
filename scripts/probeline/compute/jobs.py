"""What every job of the workflow shares: its log, its threads, its record, and faults in words."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from probeline.compute.body import Body, BodyFiles
from probeline.errors import ProbelineError

WORK = Path(".probeline")
SUFFIX = ".lineage.json"
OUT_OF_MEMORY = "The memory is used up. Run fewer jobs at once (--cores), or raise shards in the config."
OUT_OF_MEMORY_SIGNS = ("not enough memory", "can't allocate memory", "CUDA out of memory")
"""What torch says when memory is used up."""
INTERRUPTED = 130
"""Exit status of a job that was told to end, as shells have it."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def prepare_process(threads: int, hub: bool = False) -> None:
    """Set what numeric libraries and the hub's client read once, when they are imported.

    Args:
        threads: of numeric libraries.
        hub: whether the Hugging Face hub may be asked.
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


@contextmanager
def job(snakemake: Any, threads: int = 1, hub: bool = False) -> Iterator[Callable[[Body], None]]:
    """Run the body of a rule: log to its file and to the terminal, end the user's faults in words.

    When the body is done, the record of what it made and read is written: see `lineage.records`.

    Args:
        snakemake: what Snakemake hands to the rule's script.
        threads: threads of numeric libraries. Must come from the rule's params: `--cores` scales
            snakemake.threads, and results would depend on it. Set here, before anything numeric is imported.
        hub: whether the job may ask the Hugging Face hub; models otherwise lie in data/models.

    Yields:
        What runs a body that can run here or, where the rule has the resource `modal`, on Modal.
    """
    prepare_process(threads, hub)
    _log_to(Path(snakemake.log[0]))
    try:
        # Not part of any rule's code: an edit of how work is recorded must not run the work again.
        from probeline.lineage.begun import note_begun, note_done
        from probeline.lineage.lock import hold_job_lock
        from probeline.lineage.records import Recorder

        hold_job_lock()
        note_begun(str(snakemake.output.record))
        recorder = Recorder(snakemake, threads)

        def run(body: Body) -> None:
            if getattr(snakemake.resources, "modal", 0):
                from probeline.compute.remote.backend import run_remotely

                recorder.elsewhere = run_remotely(snakemake, body, threads)
            else:
                body(snakemake.params.spec, _files(snakemake))

        yield run
        recorder.write()
        note_done(str(snakemake.output.record))
    except ProbelineError as error:
        logging.getLogger("probeline").error("%s", error)
        sys.exit(1)
    except KeyboardInterrupt:
        logging.getLogger("probeline").error("Interrupted. The same command takes it up again.")
        sys.exit(INTERRUPTED)
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
        if isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY_SIGNS):
            logging.getLogger("probeline").error(OUT_OF_MEMORY)
            sys.exit(1)
        logging.getLogger("probeline").exception("This is a defect of Probeline, not of your data:")
        sys.exit(1)


def _files(snakemake: Any) -> BodyFiles:
    """The files of a body that runs here."""
    artifact = artifact_of(snakemake)
    return BodyFiles(
        name=artifact,
        inputs=named_inputs(snakemake),
        output=Path(artifact),
        work=WORK,
        figures=Path("benchmarks", *Path(snakemake.log[0]).with_suffix(".json").parts[1:]),
        workers=snakemake.threads,
        seconds=getattr(snakemake.resources, "timeout", None),
        judge=judge_of(snakemake),
    )


def judge_of(snakemake: Any) -> dict[str, Any] | None:
    """What the config says of the judge that a job's params name; None where they name none."""
    named = snakemake.params.spec.get("judge")
    return snakemake.config["judges"][named["name"]] if named else None


def artifact_of(snakemake: Any) -> str:
    """Path of what a rule makes: its record lies beside it."""
    return str(snakemake.output.record).removesuffix(SUFFIX)


def named_inputs(snakemake: Any) -> dict[str, list[Path]]:
    """The rule's inputs by their names; one file is a list, too."""
    return {
        role: [Path(path) for path in ([given] if isinstance(given, str) else given)]
        for role, given in snakemake.input.items()
    }


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
