"""Forecasts: the loss of held-out examples, and generated outcomes held against what happened."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from probeline.adapters.rewards import tree_reward
from probeline.evaluation.estimates import HIGHER, LOWER, Quantity
from probeline.evaluation.held_out import Item, answer_text, draw, read_held_out, that_fit
from probeline.evaluation.questions import Answers, Measured, Questions, loss_quantity, sample_rows
from probeline.forecasting.matching import FAILED, NONE, Forecast, MatchJudge, judge_forecast
from probeline.forecasting.metrics import forecast_metrics, metrics_lines
from probeline.forecasting.trees import parse_outcomes
from probeline.judges import Judge, JudgeRequest
from probeline.models.sentences import sentence_model

MATCH_RUBRIC = (
    "The completion and the reference each name an event. The completion is good if it names the same event "
    "as the reference, in whatever words, and bad if it names another one or something more general."
)


MATCHING = (
    "What happened was looked for among the outcomes by its words, then by the cosine of embeddings "
    "({least:g} or more, with the same numbers and negations){judge}. A cosine cannot tell opposites "
    '("raises", "cuts") or '
    "swapped roles: look at the matches in samples.jsonl, or have a judge asked "
    "(`evaluation.adapters.match_judge`, with `similarity: 1` about all that are not word for word)."
)

OpenMatches = Callable[[Sequence[tuple[str, Sequence[str]]]], Sequence[Sequence[float | None]]]
"""From what happened and the events of each answer to how surely each event is the same."""


def forecast_questions(datasets: Mapping[str, Path], model: Path, settings: Mapping[str, Any]) -> Questions:
    """Held-out examples with their soft targets, and held-out questions that show no candidates.

    Args:
        datasets: kind → folder.
        model: folder of the model.
        settings: of the evaluation.
    """
    questions = Questions()
    folder, room = datasets["forecasts"], settings["completion_tokens"]
    examples = read_held_out(folder, "forecasts")
    asked = read_held_out(folder, "questions")
    questions.held_out = {"examples": len(examples), "questions": len(asked)}
    limits = settings["max_tokens"], questions.left_out
    drawn = draw(
        that_fit(examples, model, ["completion"], 0, *limits), settings["examples"], settings["seed"]
    )
    questions.items["examples"] = drawn
    questions.given["examples"] = [(item.prompt, answer_text(item, "completion")) for item in drawn]
    drawn = draw(that_fit(asked, model, [], room, *limits), settings["samples"], settings["seed"])
    questions.items["questions"] = drawn
    questions.open["questions"] = [item.prompt for item in drawn]
    return questions


def measure_forecasts(
    questions: Questions,
    answers: Mapping[str, Answers],
    settings: Mapping[str, Any],
    judge: OpenMatches | None = None,
) -> Measured:
    """Losses, perplexities, Brier scores and matches of every system.

    Args:
        questions: of `forecast_questions`.
        answers: system → what it has answered.
        settings: similarity and gates.
        judge: of matches; None for none.
    """
    items, examples = questions.items["questions"], questions.items["examples"]
    texts = {name: own.texts["questions"] for name, own in answers.items()}
    samples = sample_rows(items, "actual", texts)
    forecasts = {name: _forecasts(items, own, settings, judge) for name, own in texts.items()}
    for name, own in forecasts.items():
        for sample, forecast in zip(samples, own, strict=True):
            sample["answers"][name] |= {
                "outcomes": [[one.event, one.probability] for one in forecast.outcomes],
                "match": forecast.match.kind,
                "matched_outcome": forecast.match.place,
                "similarity": forecast.match.similarity,
                "probability": forecast.probability,
                "brier": forecast.brier,
            }
    metrics = {name: forecast_metrics(own, settings["gates"]) for name, own in forecasts.items()}
    losses = {name: own.losses["examples"] for name, own in answers.items()}
    how = MATCHING.format(least=settings["similarity"], judge=", then by a judge" if judge else "")
    completion = loss_quantity("loss", "loss of held-out answers, nats per token", examples, losses)
    return Measured(
        [completion, *_quantities(items, forecasts), _reward(items, texts, samples)],
        samples,
        {"forecasts": metrics},
        ["## Forecasts", how, *(_block(name, own) for name, own in metrics.items())],
    )


def _forecasts(
    items: Sequence[Item], texts: Sequence[str], settings: Mapping[str, Any], judge: OpenMatches | None
) -> list[Forecast]:
    similarity, least = sentence_model().similarity, settings["similarity"]

    def held_against(item: Item, text: str, judge: MatchJudge | None = None) -> Forecast:
        said, happened = parse_outcomes(text), item.row["actual"]
        return judge_forecast(
            item.id, item.group, item.row["depth"], said, happened, similarity, judge, least
        )

    found = [held_against(item, text) for item, text in zip(items, texts, strict=True)]
    if judge is None:
        return found
    # All that are left are asked about at once: a judge works on many questions side by side.
    left = [place for place, one in enumerate(found) if one.outcomes and one.match.kind == NONE]
    events = [[outcome.event for outcome in found[place].outcomes] for place in left]
    happened = [items[place].row["actual"] for place in left]
    for place, scores in zip(left, judge(list(zip(happened, events, strict=True))), strict=True):
        found[place] = held_against(items[place], texts[place], _that_says(scores))
    return found


def _that_says(scores: Sequence[float | None]) -> MatchJudge:
    return lambda actual, events: scores


def _quantities(items: Sequence[Item], forecasts: Mapping[str, Sequence[Forecast]]) -> list[Quantity]:
    from math import log

    groups = [item.group for item in items]
    # A judge that failed says nothing of the forecast.
    shown = {name: [float(one.match.kind != FAILED) for one in own] for name, own in forecasts.items()}

    def of(number: Any) -> dict[str, list[tuple[float, float]]]:
        return {
            name: [(number(one) * there, there) for one, there in zip(own, shown[name], strict=True)]
            for name, own in forecasts.items()
        }

    loss = of(lambda one: -log(one.probability))
    return [
        Quantity("event_loss", "loss of what happened, nats", LOWER, groups, loss),
        Quantity("perplexity", "perplexity of what happened", LOWER, groups, loss, exponential=True),
        Quantity("brier", "Brier score", LOWER, groups, of(lambda one: one.brier)),
        Quantity("matched", "share matched", HIGHER, groups, of(lambda one: float(one.match.kind != NONE))),
        Quantity(
            "parsed", "share that could be read", HIGHER, groups, of(lambda one: float(bool(one.outcomes)))
        ),
    ]


def _reward(
    items: Sequence[Item], texts: Mapping[str, Sequence[str]], samples: Sequence[dict[str, Any]]
) -> Quantity:
    """What training on rewards would give each answer; an answer that could not be read has 0."""
    similarity, values = sentence_model().similarity, {}
    for name, own in texts.items():
        rewards = [
            tree_reward(text, [item.row["actual"]], similarity).total
            for item, text in zip(items, own, strict=True)
        ]
        for sample, reward in zip(samples, rewards, strict=True):
            sample["answers"][name]["reward"] = reward
        values[name] = [(reward, 1.0) for reward in rewards]
    return Quantity("reward", "reward of GRPO, 0 to 1", HIGHER, [item.group for item in items], values)


def _block(name: str, metrics: Mapping[str, Any]) -> str:
    return "\n".join([f"{name}:", "", "```", *metrics_lines(metrics), "```"])


def match_judge(judge: Judge, failures: Counter[str]) -> OpenMatches:
    """What says whether events are those that happened, asked of a judge of completions.

    Args:
        judge: of them.
        failures: gets how often it `failed`, and was `asked`.
    """

    def same(questions: Sequence[tuple[str, Sequence[str]]]) -> list[list[float | None]]:
        requests = [
            JudgeRequest("What happened?", MATCH_RUBRIC, actual, event)
            for actual, events in questions
            for event in events
        ]
        scores = iter(given := judge.scores(requests))
        failures.update(asked=len(given), failed=sum(score is None for score in given))
        return [list(islice(scores, len(events))) for _, events in questions]

    return same
