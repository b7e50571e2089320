"""Support dialogues: what a judge says of generated replies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probeline.datasets.generic_rubric import rubric_of
from probeline.errors import ProbelineError
from probeline.evaluation.estimates import HIGHER, Quantity, spread
from probeline.evaluation.held_out import draw, read_held_out, that_fit
from probeline.evaluation.questions import Answers, Measured, Questions, sample_rows
from probeline.judges import Judge, JudgeRequest, conversation_text


def support_questions(datasets: Mapping[str, Path], model: Path, settings: Mapping[str, Any]) -> Questions:
    """Held-out prompts to be answered.

    Args:
        datasets: kind → folder.
        model: folder of the model.
        settings: of the evaluation.
    """
    questions = Questions()
    prompts = read_held_out(datasets["prompts"], "prompts")
    questions.held_out["prompts"] = len(prompts)
    fit = that_fit(
        prompts, model, [], settings["completion_tokens"], settings["max_tokens"], questions.left_out
    )
    drawn = draw(fit, settings["samples"], settings["seed"])
    questions.items["prompts"] = drawn
    questions.open["prompts"] = [item.prompt for item in drawn]
    return questions


def measure_support(questions: Questions, answers: Mapping[str, Answers], judge: Judge) -> Measured:
    """The judge's scores of every system; a reply that it failed to judge is masked, and counted.

    Args:
        questions: of `support_questions`.
        answers: system → what it has answered.
        judge: of the replies.

    Raises:
        ProbelineError: it has judged no reply at all.
    """
    items = questions.items["prompts"]
    texts = {name: own.texts["prompts"] for name, own in answers.items()}
    samples = sample_rows(items, "ground_truth", texts)
    scores: dict[str, list[tuple[float, float]]] = {}
    for name, replies in texts.items():
        given = judge.scores(
            [
                JudgeRequest(
                    conversation_text(item.prompt), rubric_of(item.row), item.row["ground_truth"], reply
                )
                for item, reply in zip(items, replies, strict=True)
            ]
        )
        scores[name] = [(score or 0.0, float(score is not None)) for score in given]
        for sample, score in zip(samples, given, strict=True):
            sample["answers"][name]["score"] = score
    spreads = {name: spread(own) for name, own in scores.items()}
    failed = {name: sum(not there for _, there in own) for name, own in scores.items()}
    quantity = Quantity(
        "judge_score",
        f"score of the judge {judge.name}, 0 to 1",
        HIGHER,
        [item.group for item in items],
        scores,
    )
    if not any(row["items"] for row in spreads.values()):
        raise ProbelineError(
            f"The judge {judge.name} has judged none of {sum(failed.values())} replies; what went wrong "
            "stands above. What was generated is kept: look at its entry under judges, and run the same "
            "command again."
        )
    described = judge.described()
    facts: dict[str, Any] = {"judge": described, "judge_scores": spreads, "judge_failed": failed}
    return Measured([quantity], samples, facts, ["## Scores", _judge(described), _table(spreads, failed)])


def _judge(described: Mapping[str, str]) -> str:
    where = f", {described['endpoint']}" if described["endpoint"] else ""
    model, template = described["model"], described["template"]
    return f"Judge {described['name']}: kind {described['kind']}, model {model}{where}, template {template}."


def _table(spreads: Mapping[str, Mapping[str, Any]], failed: Mapping[str, int]) -> str:
    lines = ["| system | replies | mean | sd | min | max | failed, masked |", "|---|---|---|---|---|---|---|"]
    for name, row in spreads.items():
        numbers = " | ".join(
            "-" if row[key] is None else f"{row[key]:.3f}" for key in ("mean", "sd", "min", "max")
        )
        lines.append(f"| {name} | {row['items']} | {numbers} | {failed[name]} |")
    return "\n".join(lines)
