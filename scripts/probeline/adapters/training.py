"""What every training shares: model and examples in, a trainer of TRL in the middle, an artifact out."""

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from probeline.activations.memory import is_out_of_memory
from probeline.adapters.base import (
    continue_adapter,
    load_base,
    load_tokenizer,
    lora_config,
    save_adapter,
    save_model,
)
from probeline.adapters.curves import draw_curves
from probeline.adapters.examples import Examples, read_examples, write_games
from probeline.adapters.keeper import Keeper, kept_folder, last_checkpoint, step_of, wanted_steps
from probeline.adapters.names import SUMMARY
from probeline.compute.body import BodyFiles
from probeline.compute.workplace import workplace
from probeline.errors import ProbelineError
from probeline.files import (
    MANIFEST,
    atomic_directory,
    read_json,
    write_json,
    write_json_lines,
    write_manifest,
)
from probeline.models.adapter import adapter_digest, base_digest, merged_name

log = logging.getLogger(__name__)

UNTOLD = ("runtime", "_per_second", "step_time", "total_flos", "epoch", "num_input_tokens", "num_tokens")
"""Parts of names of what a trainer logs that says nothing, or differs from run to run."""
PLACES = (
    "output_dir",
    "logging_dir",
    "run_name",
    "hub_token",
    "push_to_hub_token",
    "project",
    "deepspeed_plugin",
    "report_to",
)
"""Settings of a trainer that name places on this machine, or where it tells of itself."""
REPORT_TO = "PROBELINE_REPORT_TO"
"""Variable with `report_to` of the recipe: no param, as a result is the same wherever it is told of."""
EVENTS = "TENSORBOARD_LOGGING_DIR"
"""Transformers' variable with the folder of TensorBoard's events, which else lies among the checkpoints."""
OUT_OF_MEMORY = (
    "The memory is used up. In this order: set gradient_checkpointing: true, halve batch and double "
    "accumulation (the same result but for rounding), lower max_tokens{completion}, lower lora.rank, or name "
    "a larger gpu."
)
FILL = "fill_uninitialized_memory"

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Session:
    """What a trainer is made of.

    Attributes:
        recipe: its settings.
        model: to be tuned; of PEFT where an adapter is trained on.
        tokenizer: of the model.
        lora: settings of a new adapter for PEFT, None where there is one or none.
        examples: to train on and to measure.
        arguments: of transformers' TrainingArguments, the same for every method.
        keeper: keeps what must last.
        seed: of everything random.
    """

    recipe: Mapping[str, Any]
    model: Any
    tokenizer: Any
    lora: Any
    examples: Examples
    arguments: dict[str, Any]
    keeper: Keeper
    seed: int


def train(
    spec: Mapping[str, Any],
    files: BodyFiles,
    make_trainer: Callable[[Session], Any],
    measure: Callable[[Any, Session], Rows],
    summarise: Callable[[Rows, Rows, Session], dict[str, Any]],
) -> None:
    """Train as a recipe says, from the last checkpoint if there is one, and write the artifact.

    Args:
        spec: as `recipe_spec` of the rules gives it.
        files: inputs `dataset`, `model`, `merged` and `start`.
        make_trainer: makes the method's trainer.
        measure: what the model makes of each held-out example.
        summarise: what measurements before and after say, as JSON.

    Raises:
        ProbelineError: the data, the model or the memory do not suffice, or the time is over.
    """
    started = time.monotonic()
    work = workplace("training", spec, files)
    try:
        session = _session(spec, files, work, started)
        trainer = make_trainer(session)
        _remove_printer(trainer)

        def measured() -> Rows:
            # In the precision that it trains in: afterwards the trainer's model has that on it.
            with trainer.accelerator.autocast():
                return measure(trainer, session)

        before = _measured(work / "before.json", measured)
        resumed = _train(trainer, session, work)
        after = measured()
        _write(spec, files, session, trainer, work, before, summarise(before, after, session))
    # All is raised again: only too little memory, which torch says in many ways, in words with a remedy.
    except Exception as error:
        if isinstance(error, MemoryError) or is_out_of_memory(error):
            completion = " or completion_tokens" if spec["recipe"]["method"] == "grpo" else ""
            raise ProbelineError(OUT_OF_MEMORY.format(completion=completion)) from error
        raise
    write_json(files.figures, _figures(trainer, resumed, time.monotonic() - started))
    # With the optimizer's state it is larger than the artifact, and nothing goes on from its end.
    shutil.rmtree(work)


def _session(spec: Mapping[str, Any], files: BodyFiles, work: Path, started: float) -> Session:
    import torch

    recipe, seed = spec["recipe"], spec["seed"]
    torch.set_num_threads(spec["threads"])
    # Not everywhere: some kernels of a GPU know no deterministic way, and say so.
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling what is about to be written takes longer than some of the work.
    setattr(torch.utils.deterministic, FILL, False)
    _quiet()
    _score_labels_alone()
    model_folder, merged = files.folder("model"), _merged(files)
    start = files.folder("start") if files.inputs.get("start") else None
    tokenizer = load_tokenizer(model_folder)
    facts = read_json(model_folder / MANIFEST)
    examples = read_examples(
        files.folder("dataset"), spec["kind"], tokenizer, recipe, facts["max_length"], seed
    )
    # Tuned in bfloat16 themselves, weights would lose every update below a 256th of them.
    dtype = "float32" if recipe["lora"] is None else spec["dtype"]
    model = load_base(model_folder, merged, dtype, recipe["quantization"])
    lora = None
    if start is not None:
        model = continue_adapter(model, start, model_folder, merged, recipe["lora"]["dropout"])
    elif recipe["lora"] is not None:
        lora = lora_config(model, recipe["lora"])
    name = base_name(spec, files)
    keeper = Keeper(
        work,
        examples.steps,
        wanted_steps(recipe["checkpoints"], examples.steps),
        # The trainer puts the adapter on; what it made of the model is told by then.
        lambda folder: _save(keeper.model, folder, name, tokenizer),
        files.commit,
        files.seconds,
        started,
    )
    log.info(
        "%d steps over %d examples; %d held out; %d left out",
        *(examples.steps, examples.available, len(examples.held_out), sum(examples.excluded.values())),
    )
    return Session(
        recipe, model, tokenizer, lora, examples, _arguments(spec, examples, work, files), keeper, seed
    )


def _arguments(spec: Mapping[str, Any], examples: Examples, work: Path, files: BodyFiles) -> dict[str, Any]:
    import torch

    recipe, gpu = spec["recipe"], torch.cuda.is_available()
    autocast = gpu or recipe["lora"] is None
    return {
        "output_dir": str(work),
        "max_steps": examples.steps,
        "per_device_train_batch_size": recipe["batch"],
        "gradient_accumulation_steps": recipe["accumulation"],
        "learning_rate": recipe["learning_rate"],
        "lr_scheduler_type": "linear",
        # Rounded down: the first of the steps in which the rate rises has none.
        "warmup_steps": int(recipe["warmup"] * examples.steps),
        "weight_decay": recipe["weight_decay"],
        "gradient_checkpointing": recipe["gradient_checkpointing"],
        "bf16": autocast and spec["dtype"] == "bfloat16",
        "use_cpu": not gpu,
        "seed": spec["seed"],
        "data_seed": spec["seed"],
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        # The keeper says when.
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": reporters(os.environ.get(REPORT_TO, ""), files.work / "tensorboard" / spec["name"]),
        "run_name": spec["name"],
        "disable_tqdm": True,
        "dataloader_pin_memory": gpu,
    }


def reporters(asked: str, events: Path) -> str:
    """What a trainer reports to besides its log: `none` where the key or the package is missing.

    Args:
        asked: wandb, tensorboard or nothing.
        events: the folder that TensorBoard's go to where the user names no other: they outlast the training.
    """
    from importlib.util import find_spec

    if not asked:
        return "none"
    missing = find_spec(asked) is None and f"the package {asked} is not installed"
    if asked == "wandb" and not os.environ.get("WANDB_API_KEY"):
        missing = missing or "WANDB_API_KEY is not set"
    if missing:
        log.warning("Nothing is reported to %s: %s.", asked, missing)
        return "none"
    if asked == "tensorboard":
        os.environ.setdefault(EVENTS, str(events))
    return asked


def _remove_printer(trainer: Any) -> None:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def _measured(note: Path, measure: Callable[[], Rows]) -> Rows:
    """Measurements of the untrained model; a training that goes on has them already."""
    if not note.is_file():
        write_json(note, measure())
    return list(read_json(note))


def _train(trainer: Any, session: Session, work: Path) -> int:
    """Train to the end.

    Returns:
        The step that it went on from.
    """
    from transformers import set_seed

    keeper, checkpoint = session.keeper, last_checkpoint(work)
    keeper.model = trainer.model
    if checkpoint is not None:
        log.info("Going on from step %d of %d", step_of(checkpoint), keeper.steps)
        lines = (checkpoint / "rewards.jsonl").read_bytes().splitlines()
        keeper.rewards.extend(orjson.loads(line) for line in lines)
    # Whatever was measured before must not move what is drawn from here on.
    set_seed(session.seed)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    keeper.check_finished(trainer.state.global_step)
    return 0 if checkpoint is None else step_of(checkpoint)


def _merged(files: BodyFiles) -> list[Path]:
    """Folders of the adapters that are merged into the model first."""
    return files.folders("merged") if files.inputs.get("merged") else []


def base_name(spec: Mapping[str, Any], files: BodyFiles) -> str:
    """What an adapter's config calls the model that it belongs to."""
    merged = _merged(files)
    if not merged:
        return str(spec["model_name"])
    digest = base_digest(files.folder("model"), merged)
    return merged_name(spec["model_name"], [folder.name for folder in merged], digest)


def _save(model: Any, folder: Path, name: str, tokenizer: Any) -> None:
    if hasattr(model, "peft_config"):
        save_adapter(model, folder, name)
    else:
        save_model(model, folder)
        # An adapter is asked with its base's; nothing else comes with a whole model.
        tokenizer.save_pretrained(str(folder))


def _write(
    spec: Mapping[str, Any],
    files: BodyFiles,
    session: Session,
    trainer: Any,
    work: Path,
    before: Rows,
    measured: dict[str, Any],
) -> None:
    recipe, keeper, examples = session.recipe, session.keeper, session.examples
    rows = log_rows(trainer.state.log_history)
    summary = {
        "recipe": spec["name"],
        "method": recipe["method"],
        "steps": trainer.state.global_step,
        "examples": examples.available,
        "excluded": examples.excluded,
        "held_out": measured,
        "first_loss": next((row["loss"] for row in rows if "loss" in row), None),
        "last_loss": next((row["loss"] for row in reversed(rows) if "loss" in row), None),
        "checkpoints": sorted(keeper.wanted),
        "trained_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
    }
    with atomic_directory(files.output) as draft:
        _save(trainer.model, draft, base_name(spec, files), session.tokenizer)
        session.tokenizer.save_pretrained(str(draft))
        for step in sorted(keeper.wanted):
            shutil.copytree(kept_folder(work, step), draft / "checkpoints" / f"step-{step}")
        write_json_lines(draft / "training_log.jsonl", rows)
        write_json(draft / SUMMARY, summary)
        write_json(draft / "training_args.json", told_arguments(trainer.args))
        if keeper.rewards:
            write_json_lines(draft / "rewards.jsonl", keeper.rewards)
        draw_curves(rows, summary, draft)
        write_games(files.folder("dataset"), examples.games, draft)
        write_manifest(
            draft, "adapter" if recipe["lora"] is not None else "model", _facts(spec, files, summary)
        )
    log.info("%d steps are done; on held-out examples: %s", summary["steps"], measured["verdict"])


def _facts(spec: Mapping[str, Any], files: BodyFiles, summary: Mapping[str, Any]) -> dict[str, Any]:
    model, merged = files.folder("model"), _merged(files)
    facts = read_json(model / MANIFEST)
    about = {key: facts[key] for key in ("architecture", "depth", "hidden_size", "max_length", "source")}
    start = files.folder("start") if files.inputs.get("start") else None
    return {
        "recipe": spec["name"],
        "settings": dict(spec["recipe"]),
        "base": {
            "model": spec["recipe"]["model"],
            "digest": base_digest(model, merged),
            "merged": [{"adapter": one.name, "digest": adapter_digest(one)} for one in merged],
            "started_from": start and {"adapter": start.name, "digest": adapter_digest(start)},
        },
        "excluded": summary["excluded"],
        "steps": summary["steps"],
        **(about if spec["recipe"]["lora"] is None else {}),
    }


def log_rows(history: Sequence[Mapping[str, Any]]) -> Rows:
    """What a trainer logged at each step, without seconds."""
    rows = []
    for entry in history:
        told = {
            "lr" if key == "learning_rate" else key: value
            for key, value in entry.items()
            if not any(part in key for part in UNTOLD) and not key.startswith("eval_")
        }
        # The last entry is about the whole run.
        if told.keys() - {"step", "train_loss"}:
            rows.append(told)
    return rows


def told_arguments(arguments: Any) -> dict[str, Any]:
    """The settings of a trainer but for places on this machine."""
    told = arguments.to_dict()
    return {key: value for key, value in told.items() if key not in PLACES and not callable(value)}


def _figures(trainer: Any, resumed: int, seconds: float) -> dict[str, Any]:
    runtime = next(
        (row["train_runtime"] for row in trainer.state.log_history if "train_runtime" in row), None
    )
    steps = trainer.state.global_step - resumed
    return {
        "seconds": round(seconds, 1),
        "training_seconds": runtime,
        "steps": steps,
        "resumed_from_step": resumed,
        "seconds_per_step": None if not runtime or not steps else round(runtime / steps, 3),
    }


def _score_labels_alone() -> None:
    """Let TRL score the tokens to be learned alone, also without a GPU's kernels.

    Without them it scores all positions, so that no shape has to be compiled anew. Nothing is compiled here,
    and a small model with a large vocabulary would spend half of its time on the scores of its prompts.
    """
    from trl.trainer import utils

    utils._use_triton = lambda device: True


def _quiet() -> None:
    import warnings

    import datasets
    from transformers.utils import logging as transformers_logging

    # Of the libraries about each other.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl|peft")
    datasets.disable_progress_bars()
    datasets.disable_caching()
    transformers_logging.set_verbosity_error()
    logging.getLogger("trl").setLevel(logging.ERROR)
    logging.getLogger("peft").setLevel(logging.ERROR)
