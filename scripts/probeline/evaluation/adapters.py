"""The evaluation of adapters: every system asked the same, compared in pairs, written down with a report."""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from probeline.compute.body import BodyFiles
from probeline.compute.workplace import shared_folder, workplace
from probeline.digests import canonical_digest
from probeline.errors import ProbelineError
from probeline.evaluation.estimates import caution_of, compare_systems, three_digits
from probeline.evaluation.figure import draw_comparison
from probeline.evaluation.held_out import write_games
from probeline.evaluation.questions import Answers, Measured, Questions, ask, counted
from probeline.evaluation.report import REPORT, write_report
from probeline.evaluation.systems import systems_of
from probeline.files import (
    MANIFEST,
    atomic_directory,
    read_json,
    write_json,
    write_json_lines,
    write_manifest,
)
from probeline.judges import CACHE, Judge, open_judge
from probeline.models.systems import System, in_memory

log = logging.getLogger(__name__)

FORECASTS, MAFIA, SUPPORT = "forecasts", "mafia", "support"


def evaluate_systems(spec: Mapping[str, Any], files: BodyFiles) -> None:
    """Compare systems on held-out data alone, and write metrics, samples, figure and report.

    Args:
        spec: `title`, `family` (one of those above), `model_name`, `systems` (of `systems_of`), `pairs` of
            their names, `adapters` and `datasets` (names and kinds, in the order of the inputs), `settings`,
            `dtype`, `threads`, `seed`, `judge` (name and settings) where one is asked, and for forecasts
            `expected`, the perplexities that a reference system expects of its stages.
        files: inputs `model`, `adapters`, `datasets` and `folders` (files of adapters made elsewhere).

    Raises:
        ProbelineError: nothing is held out, a checkpoint is not there, a judge cannot be asked.
    """
    started = time.monotonic()
    folders = files.folders("datasets")
    datasets = {kind: folder for (_, kind), folder in zip(spec["datasets"], folders, strict=True)}
    adapters = dict(zip(spec["adapters"], files.folders("adapters"), strict=True))
    model = files.folder("model")
    # The files of each: its weights and their settings.
    outside = list(dict.fromkeys(file.parent for file in files.inputs.get("folders", ())))
    systems = systems_of(spec["systems"], model, adapters, outside)
    settings = {**spec["settings"], "seed": spec["seed"]}
    questions = _questions(spec["family"], datasets, model, settings)
    asked = questions.counts()
    told = counted(asked["asked"]), counted(asked["left_out"])
    log.info("Asked of %d systems: %s; left out: %s", len(systems), *told)
    work = workplace("evaluation", spec, files)
    answers = _answers(systems, questions, settings, spec, work, files)
    with _judge(spec, files) as judge:
        measured = _measured(spec["family"], questions, answers, settings, judge)
    _write(spec, files, questions, measured, folders)
    shutil.rmtree(work)
    completions = sum(len(texts) for own in answers.values() for texts in own.texts.values())
    seconds = round(time.monotonic() - started, 1)
    write_json(files.figures, {"seconds": seconds, "completions": completions, "systems": len(systems)})


def _judge(spec: Mapping[str, Any], files: BodyFiles) -> AbstractContextManager[Judge | None]:
    """The judge that the evaluation asks; None where it asks none."""
    if "judge" not in spec:
        return nullcontext()
    settings = files.judge or spec["judge"]["settings"]
    return open_judge(spec["judge"]["name"], settings, shared_folder(files) / CACHE.name)


def _questions(
    family: str, datasets: Mapping[str, Path], model: Path, settings: Mapping[str, Any]
) -> Questions:
    from probeline.evaluation.forecasts import forecast_questions
    from probeline.evaluation.mafia import mafia_questions
    from probeline.evaluation.support import support_questions

    ways = {FORECASTS: forecast_questions, MAFIA: mafia_questions, SUPPORT: support_questions}
    return ways[family](datasets, model, settings)


def _measured(
    family: str,
    questions: Questions,
    answers: Mapping[str, Answers],
    settings: Mapping[str, Any],
    judge: Judge | None,
) -> Measured:
    from probeline.evaluation.forecasts import match_judge, measure_forecasts
    from probeline.evaluation.mafia import measure_mafia
    from probeline.evaluation.support import measure_support

    if family == MAFIA:
        return measure_mafia(questions, answers)
    if family == SUPPORT and judge is not None:
        return measure_support(questions, answers, judge)
    asked: Counter[str] = Counter()
    matcher = None if judge is None else match_judge(judge, asked)
    measured = measure_forecasts(questions, answers, settings, matcher)
    if judge is not None and asked["asked"] and asked["failed"] == asked["asked"]:
        raise ProbelineError(
            f"The judge {judge.name} has answered none of {asked['asked']} questions which outcome happened; "
            "what went wrong stands above. What was generated is kept: look at its entry under judges, and "
            "run the same command again, or set evaluation.adapters.match_judge to null."
        )
    measured.facts["match_judge"] = None if judge is None else {**judge.described(), **asked}
    return measured


def _answers(
    systems: Sequence[System],
    questions: Questions,
    settings: Mapping[str, Any],
    spec: Mapping[str, Any],
    work: Path,
    files: BodyFiles,
) -> dict[str, Answers]:
    """What each system answers; what an earlier attempt was told is not asked again."""
    kept = {system.name: work / f"{canonical_digest(system.name)[:16]}.json" for system in systems}
    missing = [system for system in systems if not kept[system.name].is_file()]
    for system, generator in in_memory(missing, spec["dtype"], spec["threads"]):
        log.info("Asking %s", system.name)
        own = ask(generator, questions, settings)
        write_json(kept[system.name], {"losses": own.losses, "texts": own.texts})
        files.commit()
    found = {name: read_json(path) for name, path in kept.items()}
    return {name: Answers(own["losses"], own["texts"]) for name, own in found.items()}


def _write(
    spec: Mapping[str, Any],
    files: BodyFiles,
    questions: Questions,
    measured: Measured,
    folders: Sequence[Path],
) -> None:
    pairs = [(first, second) for first, second in spec["pairs"]]
    resamples = spec["settings"]["bootstrap"]
    compared = {
        quantity.name: compare_systems(quantity, pairs, resamples, spec["seed"])
        for quantity in measured.quantities
    }
    simulated = any(read_json(folder / MANIFEST).get("simulated", False) for folder in folders)
    metrics = {
        "family": spec["family"],
        "systems": [system["name"] for system in spec["systems"]],
        "quantities": compared,
        "counts": questions.counts(),
        "simulated": simulated,
        **measured.facts,
    }
    with atomic_directory(files.output) as draft:
        write_json(draft / "metrics.json", metrics)
        write_json_lines(draft / "samples.jsonl", measured.samples)
        write_games(folders, questions.used(), draft)
        draw_comparison(metrics, spec["title"], draft)
        write_report(draft / REPORT, spec, metrics, measured)
        write_manifest(draft, "adapter_evaluation", _facts(spec, metrics))
    for line in headlines(metrics):
        log.info("%s", line)


def _facts(spec: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    headline = {
        name: {system: estimate["value"] for system, estimate in one["systems"].items()}
        for name, one in metrics["quantities"].items()
    }
    return {
        "title": spec["title"],
        "family": spec["family"],
        "model": spec["model_name"],
        "systems": metrics["systems"],
        "datasets": [name for name, _ in spec["datasets"]],
        "settings": dict(spec["settings"]),
        "simulated": metrics["simulated"],
        "counts": metrics["counts"],
        "headline": headline,
        "verdicts": {name: told[0] for name, one in metrics["quantities"].items() if (told := _told(one))},
    }


def headlines(metrics: Mapping[str, Any]) -> list[str]:
    """One line for each number: every system's, and what the first difference says.

    Args:
        metrics: of metrics.json.
    """
    lines = []
    for one in metrics["quantities"].values():
        values = ", ".join(
            f"{name} {'-' if own['value'] is None else three_digits(own['value'])}"
            for name, own in one["systems"].items()
        )
        lines.append(f"{one['title']}: {values}" + "".join(f" ({told})" for told in _told(one)))
    return lines


def _told(quantity: Mapping[str, Any]) -> list[str]:
    """What the first difference says, `base to a: better`."""
    first = quantity["differences"][:1]
    return [f"{one['from']} to {one['to']}: {one['verdict']}{caution_of(one)}" for one in first]
