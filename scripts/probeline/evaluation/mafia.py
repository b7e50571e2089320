"""Mafia: the loss of held-out acts, which of two acts is likelier, and whether generated acts are legal."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probeline.datasets.mafia_acts import DISCUSSION, INDICATORS, count_words
from probeline.datasets.mafia_scenarios import Scenario, mafia_scenarios
from probeline.evaluation.estimates import HIGHER, Quantity
from probeline.evaluation.held_out import (
    Item,
    NothingHeldOutError,
    answer_text,
    draw,
    read_held_out,
    that_fit,
)
from probeline.evaluation.questions import (
    Answers,
    Loss,
    Measured,
    Questions,
    loss_quantity,
    quoted,
    sample_rows,
)
from probeline.logs.mafia import action_faults

_TARGET = re.compile(r"\[(\d{1,4})\]", re.ASCII)
LIKELIER = (
    "A pair counts as preferred where the sum of ln p over the tokens of the chosen act is above that of the "
    "rejected one; per token, where the mean is. Long acts have low sums, whatever they say. A pair belongs "
    "to the game of its chosen act, although acts of one game may be rejected in pairs of several others: "
    "intervals of these numbers may be too narrow."
)


def mafia_questions(datasets: Mapping[str, Path], model: Path, settings: Mapping[str, Any]) -> Questions:
    """Held-out acts and pairs of acts, and the prompts of some acts to be done anew.

    Args:
        datasets: kind (sft, preferences, or both) → folder.
        model: folder of the model.
        settings: of the evaluation.
    """
    questions = Questions()
    limits, seed = (settings["max_tokens"], questions.left_out), settings["seed"]
    if acts := _held_out("sft", datasets, questions):
        questions.held_out["acts"] = len(acts)
        fit = that_fit(acts, model, ["output"], settings["completion_tokens"], *limits)
        drawn = draw(fit, settings["examples"], seed)
        questions.items["acts"] = drawn
        questions.given["acts"] = [(item.prompt, item.row["output"]) for item in drawn]
        drawn = _of_every_phase(fit, settings["samples"], seed)
        questions.items["moves"] = drawn
        questions.open["moves"] = [item.prompt for item in drawn]
    if pairs := _held_out("preferences", datasets, questions):
        questions.held_out["pairs"] = len(pairs)
        fit = that_fit(pairs, model, ["chosen", "rejected"], 0, *limits)
        questions.items["pairs"] = draw(fit, settings["examples"], seed)
        for key in ("chosen", "rejected"):
            questions.given[key] = [
                (item.prompt, answer_text(item, key)) for item in questions.items["pairs"]
            ]
    if not questions.items:
        raise NothingHeldOutError("\n".join(questions.not_measured))
    scenarios = {scenario.name: scenario for scenario in mafia_scenarios()}
    moments = [Item(name, name, (), scenario.prompt, {}) for name, scenario in scenarios.items()]
    fit = that_fit(moments, model, [], settings["completion_tokens"], *limits)
    questions.scenarios = [scenarios[item.id] for item in fit]
    questions.open["scenarios"] = [item.prompt for item in fit]
    return questions


def _held_out(kind: str, datasets: Mapping[str, Path], questions: Questions) -> list[Item]:
    """The held-out rows of a kind; of few games, one kind may have none, and the other is evaluated."""
    if kind not in datasets:
        return []
    try:
        return read_held_out(datasets[kind], kind)
    except NothingHeldOutError as error:
        questions.not_measured.append(str(error))
        return []


def _of_every_phase(items: Sequence[Item], most: int, seed: int) -> list[Item]:
    """As many items of one phase as of another, as far as there are."""
    phases = sorted({item.row["type"] for item in items})
    drawn = [draw([item for item in items if item.row["type"] == phase], most, seed) for phase in phases]
    ranked = [(place, number, item) for number, own in enumerate(drawn) for place, item in enumerate(own)]
    return [item for _, _, item in sorted(ranked, key=lambda entry: entry[:2])[:most]]


def measure_mafia(questions: Questions, answers: Mapping[str, Answers]) -> Measured:
    """Losses, preferences, legality and strategic words of every system.

    Args:
        questions: of `mafia_questions`.
        answers: system → what it has answered.
    """
    measured = Measured([], [])
    if "acts" in questions.items:
        losses = {name: own.losses["acts"] for name, own in answers.items()}
        title = "loss of held-out acts, nats per token"
        measured.quantities.append(loss_quantity("loss", title, questions.items["acts"], losses))
        _measure_moves(questions.items["moves"], answers, measured)
    if "pairs" in questions.items:
        measured.quantities += _preferences(questions.items["pairs"], answers)
        measured.report.append(LIKELIER)
    _measure_scenarios(questions.scenarios, answers, measured)
    return measured


def _measure_scenarios(
    scenarios: Sequence[Scenario], answers: Mapping[str, Answers], measured: Measured
) -> None:
    """Three moments, each with what every system does there and whether that is legal."""
    found: list[dict[str, Any]] = []
    for place, scenario in enumerate(scenarios):
        shown = scenario.prompt[-1]["content"]
        measured.report += [f"## Scenario: {scenario.name}", quoted(shown)]
        acts = {}
        for name, own in answers.items():
            text = own.texts["scenarios"][place]
            faults = action_faults(text, scenario.phase, [*scenario.targets])
            words = count_words(text, INDICATORS)
            acts[name] = {"text": text, "faults": faults, "indicators": words}
            legal = f"against the rules: {', '.join(faults)}" if faults else "legal"
            measured.report.append(f"{name} ({legal}, {words} strategic words):\n\n{quoted(text)}")
        found.append(
            {"name": scenario.name, "phase": scenario.phase, "prompt": scenario.prompt, "answers": acts}
        )
    measured.facts["scenarios"] = found


def _measure_moves(items: Sequence[Item], answers: Mapping[str, Answers], measured: Measured) -> None:
    texts = {name: own.texts["moves"] for name, own in answers.items()}
    measured.samples += sample_rows(items, "output", texts)
    for sample, item in zip(measured.samples, items, strict=True):
        sample["phase"] = item.row["type"]
        for answer in sample["answers"].values():
            answer["faults"] = faults_of(answer["text"], item)
            answer["indicators"] = count_words(answer["text"], INDICATORS)
    groups = [item.group for item in items]
    spoken = [item.row["type"] == DISCUSSION for item in items]

    def of(number: Any, shown: Sequence[bool]) -> dict[str, list[tuple[float, float]]]:
        return {
            name: [
                (number(sample["answers"][name]) * there, float(there))
                for sample, there in zip(measured.samples, shown, strict=True)
            ]
            for name in texts
        }

    moved = [not one for one in spoken]
    legal = "share of votes and night acts that are one legal target"
    words = "share of what is said in discussions that is no bare number and not empty"
    measured.quantities += [
        Quantity("legal_moves", legal, HIGHER, groups, of(lambda one: not one["faults"], moved)),
        Quantity("legal_words", words, HIGHER, groups, of(lambda one: not one["faults"], spoken)),
        Quantity(
            "indicators",
            "strategic words in each text of a discussion",
            "",
            groups,
            of(lambda one: one["indicators"], spoken),
        ),
    ]
    logged = [
        count_words(item.row["output"], INDICATORS)
        for item, there in zip(items, spoken, strict=True)
        if there
    ]
    measured.facts["indicators_logged"] = sum(logged) / len(logged) if logged else None


def faults_of(text: str, item: Item) -> list[str]:
    """What is wrong with a generated act, as logged acts are judged: keys of `logs.mafia.FAULTS`.

    Args:
        text: of the act.
        item: a held-out act; the last line of its input names the valid targets.
    """
    listed = item.row["input"].rpartition("\n")[2] if item.row["type"] != DISCUSSION else ""
    targets = [int(number) for number in _TARGET.findall(listed)]
    return action_faults(text, item.row["type"], targets)


def _preferences(items: Sequence[Item], answers: Mapping[str, Answers]) -> list[Quantity]:
    groups = [item.group for item in items]

    def of(number: Any) -> dict[str, list[tuple[float, float]]]:
        return {
            name: [
                (number(chosen, rejected), 1.0)
                for chosen, rejected in zip(own.losses["chosen"], own.losses["rejected"], strict=True)
            ]
            for name, own in answers.items()
        }

    margin = "ln p of the chosen act less that of the rejected one, nats"
    return [
        Quantity("preference_accuracy", "share of pairs preferred", HIGHER, groups, of(_preferred)),
        Quantity(
            "preference_accuracy_per_token",
            "share of pairs preferred, per token",
            HIGHER,
            groups,
            of(lambda chosen, rejected: _preferred(_per_token(chosen), _per_token(rejected))),
        ),
        Quantity(
            "preference_margin", margin, HIGHER, groups, of(lambda chosen, rejected: rejected[0] - chosen[0])
        ),
    ]


def _preferred(chosen: Loss, rejected: Loss) -> float:
    """1 where the chosen one is likelier, one half where they are equally likely."""
    return 0.5 if chosen[0] == rejected[0] else float(chosen[0] < rejected[0])


def _per_token(loss: Loss) -> Loss:
    return loss[0] / max(loss[1], 1), 1
