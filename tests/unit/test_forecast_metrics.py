"""Forecasts held against what happened, and their metrics, against examples computed by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from probeline.files import read_json, write_json
from probeline.forecasting.matching import (
    EXACT,
    FAILED,
    JUDGED,
    NONE,
    SEMANTIC,
    Forecast,
    Match,
    judge_forecast,
    match,
)
from probeline.forecasting.metrics import forecast_metrics, metrics_lines
from probeline.forecasting.trees import Outcome, parse_outcomes
from probeline.models.sentences import sentence_model


def outcomes(**probabilities: float) -> list[Outcome]:
    return [Outcome(event.replace("_", " "), value) for event, value in probabilities.items()]


def unlike(first: str, second: str) -> float:
    return 0.0


def of(kind: str, depth: int = 1, place: int | None = 0, *shares: float) -> Forecast:
    said = tuple(Outcome(str(number), share) for number, share in enumerate(shares))
    return Forecast("id", "event", depth, said, Match(kind, place))


def of_events(forecasts: list[Forecast], events: int = 10) -> list[Forecast]:
    """The forecasts again for each of so many events."""
    return [replace(one, group=str(event)) for event in range(events) for one in forecasts]


def test_matching_goes_from_words_to_meaning_to_the_judge_to_none() -> None:
    said = outcomes(The_bank_is_sold=0.6, Other=0.4)
    assert match(said, " the BANK  is sold", unlike) == Match(EXACT, 0)
    assert match(said, "x", lambda a, b: 0.9 if a == "Other" else 0.8) == Match(SEMANTIC, 1, 0.9)
    asked: list[tuple[str, list[str]]] = []

    def judge(actual: str, events: list[str]) -> list[float | None]:
        asked.append((actual, list(events)))
        return [None, 0.5]

    assert match(said, "x", unlike, judge) == Match(JUDGED, 1, 0.0)
    assert asked == [("x", ["The bank is sold", "Other"])]
    assert match(said, "x", unlike, lambda actual, events: [0.4, 0.1]).kind == NONE
    assert match(said, "x", unlike).kind == NONE
    assert match([], "x", unlike) == Match(NONE)


def test_a_judge_that_failed_is_no_miss() -> None:
    said = outcomes(a=0.5, b=0.5)
    failed = judge_forecast("1", "e", 1, said, "x", unlike, lambda actual, events: [None, 0.2])
    assert failed.match.kind == FAILED
    known = judge_forecast("2", "e", 1, said, "a", unlike)
    metrics = forecast_metrics([failed, known])
    assert metrics["all"]["forecasts"] == 1
    assert metrics["judge_failed"] == 1
    assert metrics["all"]["event_loss"] == pytest.approx(math.log(2))


def test_meanings_are_compared_by_a_real_model() -> None:
    similarity = sentence_model().similarity
    said = outcomes(The_central_bank_raises_its_interest_rate=0.5, A_volcano_erupts_in_Iceland=0.5)
    found = match(said, "Interest rates are raised by the central bank", similarity)
    assert (found.kind, found.place) == (SEMANTIC, 0)
    assert match(said, "The football team wins the cup", similarity).kind == NONE


def test_a_hand_computed_example() -> None:
    """Losses ln 2, ln 4, ln 1000 over two depths."""
    forecasts = [
        of(EXACT, 1, 0, 0.5, 0.5),
        of(SEMANTIC, 1, 1, 0.75, 0.25),
        of(NONE, 3, None, 1.0),
    ]
    metrics = forecast_metrics(forecasts)
    loss = (math.log(2) + math.log(4) + math.log(1000)) / 3
    assert metrics["all"]["event_loss"] == pytest.approx(loss)
    assert metrics["all"]["perplexity"] == pytest.approx((2 * 4 * 1000) ** (1 / 3))
    # (.25 + .25), (.5625 + .5625), and 1 for what was sure with 1 for what happened.
    assert [one.brier for one in forecasts] == pytest.approx([0.5, 1.125, 2.0])
    assert metrics["all"]["brier"] == pytest.approx(3.625 / 3)
    assert metrics["all"]["matched"] == pytest.approx(2 / 3)
    assert metrics["deep"]["matched"] == 0
    shallow, deep = metrics["depths"]
    assert (shallow["depth"], shallow["forecasts"], deep["depth"], deep["forecasts"]) == (1, 2, 3, 1)
    assert shallow["perplexity"] == pytest.approx(math.sqrt(8))
    pooled = sum(row["forecasts"] * row["event_loss"] for row in metrics["depths"])
    assert pooled / metrics["all"]["forecasts"] == pytest.approx(loss)
    matches = [row["matches"] for row in metrics["depths"]]
    assert {kind: sum(row[kind] for row in matches) for kind in matches[0]} == metrics["all"]["matches"]


def test_a_uniform_answer_of_four_has_a_brier_score_of_three_quarters() -> None:
    assert of(EXACT, 1, 2, 0.25, 0.25, 0.25, 0.25).brier == pytest.approx(0.75)
    assert of(EXACT, 1, 0, 1.0).brier == 0
    assert of(NONE, 1, None, 0.25, 0.25, 0.25, 0.25).brier == pytest.approx(1.25)


@pytest.mark.parametrize(
    "forecasts",
    [[], of_events([of(EXACT, 1, 0, 0.7, 0.3), of(NONE, 3, None, 0.9, 0.1)])],
    ids=["none", "some"],
)
def test_metrics_are_read_back_as_they_were_written(tmp_path: Path, forecasts: list[Forecast]) -> None:
    metrics = forecast_metrics(forecasts)
    write_json(tmp_path / "metrics.json", metrics)
    told = read_json(tmp_path / "metrics.json")

    assert told == metrics
    # A file has its keys in the order of the alphabet.
    assert sorted(metrics_lines(told)) == sorted(metrics_lines(metrics))
    assert told["all"]["forecasts"] == len(forecasts)
    assert ("perplexity -," in "".join(metrics_lines(told))) == (not forecasts)


def test_what_cannot_be_read_is_counted_and_the_worst() -> None:
    unread = judge_forecast("1", "e", 2, None, "x", unlike)
    assert unread.brier == 2
    metrics = forecast_metrics([unread])
    assert metrics["unparsed"] == 1
    assert metrics["all"]["perplexity"] == pytest.approx(1000)
    assert any("could not be read: 1" in line for line in metrics_lines(metrics))


@pytest.mark.parametrize(
    ("kinds", "flagged"),
    [
        ([NONE] * 2 + [SEMANTIC] * 8, []),
        ([NONE] * 3 + [SEMANTIC] * 7, ["none"]),
        ([JUDGED] * 8 + [SEMANTIC] * 2, []),
        ([JUDGED] * 9 + [SEMANTIC], ["judged"]),
        ([EXACT] * 5 + [SEMANTIC] * 5, []),
        ([EXACT] * 6 + [SEMANTIC] * 4, ["exact"]),
    ],
)
def test_red_flags(kinds: list[str], flagged: list[str]) -> None:
    metrics = forecast_metrics([of(kind, 1, None if kind == NONE else 0, 1.0) for kind in kinds])
    assert [flag.split()[0] for flag in metrics["red_flags"]] == flagged
    assert sum("RED FLAG" in line for line in metrics_lines(metrics)) == len(flagged)


def test_gates_are_passed_or_failed_and_can_be_set() -> None:
    sure = of_events([of(SEMANTIC, depth, 0, 1.0) for depth in (1, 3)])
    assert all(gate["passed"] for gate in forecast_metrics(sure)["gates"].values())
    assert sum(line.startswith("pass") for line in metrics_lines(forecast_metrics(sure))) == 4
    # Eight tenths are not more than eight tenths.
    some = of_events([of(SEMANTIC, 1, 0, 1.0)] * 8 + [of(NONE, 3, None, 1.0)] * 2)
    gates = forecast_metrics(some)["gates"]
    assert {name: gate["passed"] for name, gate in gates.items()} == dict.fromkeys(gates, False)
    looser = forecast_metrics(some, {"perplexity": 10, "matched": 0.5})["gates"]
    assert {name: gate["passed"] for name, gate in looser.items()} == {"perplexity": True, "matched": True}


def test_nothing_deep_passes_no_gate_of_depth() -> None:
    gates = forecast_metrics(of_events([of(SEMANTIC, 1, 0, 1.0)]))["gates"]
    assert not gates["matched_deep"]["passed"]
    assert gates["matched"]["passed"]


@pytest.mark.parametrize(("events", "said"), [(4, "too few to tell"), (5, "pass"), (10, "pass")])
def test_a_gate_of_few_events_says_so(events: int, said: str) -> None:
    metrics = forecast_metrics(of_events([of(SEMANTIC, 3, 0, 1.0)], events))
    lines = [line for line in metrics_lines(metrics) if "must be" in line]
    assert all(line.startswith(said) for line in lines)
    assert all(f"({events} forecasts of {events} events" in line for line in lines)
    assert all((": few)" in line) == (events == 5) for line in lines)


@pytest.mark.parametrize(
    ("said", "happened"),
    [
        ("The central bank does not raise interest rates", "The central bank raises interest rates"),
        ("The central bank doesn't raise interest rates", "The central bank raises interest rates"),
        ("Unemployment rises to 9 percent", "Unemployment rises to 4 percent"),
        ("Two banks fail", "Three banks fail"),
    ],
)
def test_another_number_or_a_negation_is_another_meaning(said: str, happened: str) -> None:
    assert match([Outcome(said, 1.0)], happened, lambda first, second: 1.0).kind == NONE
    # The next one that says the same is what is meant.
    both = [Outcome(said, 0.5), Outcome(happened.replace("The ", "Some "), 0.5)]
    assert match(both, happened, lambda first, second: 1.0).place == 1


def test_numbers_may_be_written_in_other_ways() -> None:
    for said, happened in (("It costs 1,000 dollars", "It costs $1000"), ("Nine of them", "9 of these")):
        assert match([Outcome(said, 1.0)], happened, lambda first, second: 1.0).kind == SEMANTIC


def test_an_opposite_is_below_the_default_similarity() -> None:
    similarity = sentence_model().similarity
    said = [Outcome("The central bank cuts interest rates", 1.0)]
    assert match(said, "The central bank raises interest rates", similarity).kind == NONE


def test_an_answer_that_was_cut_off_wins_nothing_by_it() -> None:
    said = parse_outcomes('[{"event": "A b", "probability": 0.2}, {"event": "c", "prob')
    cut = judge_forecast("1", "e", 1, said, "A b", unlike)
    assert cut.probability == 0.2
    # (1 - .2)², and what is left for something else.
    assert cut.brier == pytest.approx(0.64 + 0.64)
    metrics = forecast_metrics([cut])
    assert metrics["incomplete"] == 1
    assert any("cut off" in line for line in metrics_lines(metrics))
