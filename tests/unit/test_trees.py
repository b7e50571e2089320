"""Reading what a model answers to a forecasting prompt, and trees of such answers."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probeline.forecasting.trees import Outcome, generate_tree, normalised, parse_outcomes

ANSWER = '[{"event": "The bank fails", "probability": 0.7}, {"event": "It is sold", "probability": 0.3}]'
READ = [Outcome("The bank fails", 0.7), Outcome("It is sold", 0.3)]


@pytest.mark.parametrize(
    "text",
    [
        ANSWER,
        f"```json\n{ANSWER}\n```\nI am sure of that.",
        f"Let me think {{about}} [1] it. {ANSWER} And another: " + ANSWER.replace("bank", "fund"),
        ANSWER[1:-1],
        ANSWER[1:-1].replace("}, {", "}\n{"),
        ANSWER[:-1] + ', {"event": "cut o',
        '{"outcomes": ' + ANSWER + "}",
        '{"event": "seed", "outcomes": ' + ANSWER + "}",
        ANSWER.replace("0.7", '"70%"').replace("0.3", '"0.3"'),
        ANSWER.replace("0.7", "70").replace("0.3", "30"),
        ANSWER.replace("]", ', {"event": "", "probability": 1}, {"event": "x", "probability": NaN},]'),
        ANSWER.replace("}, {", '}, {"event": "x", "probability": -1}, {"event": 3, "probability": 0.1}, {'),
        ANSWER.replace("]", ', {"event": "x", "probability": true}, {"event": "y", "probability": 1e999}]'),
        ANSWER.replace("]", ', {"event": "x", "probability": ' + "9" * 3000 + "}]"),
        ANSWER.replace("The bank", "The\\n  bank"),
    ],
)
def test_an_answer_is_read_in_many_forms(text: str) -> None:
    assert parse_outcomes(text) == READ


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "I cannot say.",
        '[{"event": "x"}]',
        '[{"event": "x", "probability": 0}]',
        '[{"event": "x", "probability": "likely"}]',
        '[{"event": "x", "probability": 101}]',
        '["x", 0.5]',
        "[" * 200_000,
        '{"a":' * 20_000,
        '[{"a":' * 20_000,
        '{"event": "' + "x" * 200_000 + '", "probability": 1}',
    ],
)
def test_what_holds_no_outcome_is_none(text: str) -> None:
    assert parse_outcomes(text) is None


def test_one_object_is_an_answer() -> None:
    assert parse_outcomes('{"probability": 0.4, "event": "x"}') == [Outcome("x", 0.4)]


def test_what_is_named_twice_is_one_outcome() -> None:
    text = '[{"event": "A b", "probability": 0.25}, {"event": "a  B", "probability": 0.5}]'
    assert parse_outcomes(text) == [Outcome("A b", 0.75)]


def test_marked_percent_and_shares_may_stand_together() -> None:
    text = '[{"event": "a", "probability": "50 %"}, {"event": "b", "probability": 0.5}]'
    assert parse_outcomes(text) == [Outcome("a", 0.5), Outcome("b", 0.5)]


def test_half_of_a_surrogate_pair_can_be_written_down() -> None:
    read = parse_outcomes('[{"event": "a\\ud800", "probability": 1}]')
    assert read is not None
    assert read[0].event.encode() == b"a?"


@given(st.text())
def test_no_text_makes_it_fail(text: str) -> None:
    check(parse_outcomes(text))


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists), st.text())
def test_no_value_makes_it_fail(value: object, trailing: str) -> None:
    check(parse_outcomes(json.dumps([{"event": "x", "probability": value}, {"event": value}]) + trailing))


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.text(min_size=1), st.floats(0, 1)), min_size=1, max_size=6),
    st.text(st.characters(exclude_characters="{")),
    st.text(),
)
def test_all_that_was_said_is_read(said: list[tuple[str, float]], before: str, after: str) -> None:
    rows = [{"event": f"{place} {event}", "probability": p} for place, (event, p) in enumerate(said)]
    read = parse_outcomes(f"{before}{json.dumps(rows)}]{after}")
    if sum(p for _, p in said) == 0:
        assert read is None
    else:
        assert read is not None
        assert [outcome.probability for outcome in read] == [p for _, p in said]
        check(read)


def check(read: list[Outcome] | None) -> None:
    assert read is None or read
    for outcome in read or []:
        assert outcome.event
        assert 0 <= outcome.probability < math.inf
    if read:
        assert math.isclose(sum(outcome.probability for outcome in normalised(read)), 1)


def test_probabilities_are_normalised() -> None:
    assert normalised([Outcome("a", 1.5), Outcome("b", 0.5)]) == [Outcome("a", 0.75), Outcome("b", 0.25)]
    assert normalised([]) == []
    with pytest.raises(ValueError, match="sum to 0"):
        normalised([Outcome("a", 0.0)])


def test_a_tree_of_depth_three() -> None:
    asked: list[str] = []

    def answer(prompt: list[dict[str, str]]) -> str:
        asked.append(prompt[-1]["content"])
        place = len(asked)
        return json.dumps([{"event": f"{place}{letter}", "probability": 1} for letter in "ab"])

    tree = generate_tree("A bank fails", "In spring.", 3, answer, outcomes=2)
    assert tree.asked == len(asked) == 1 + 2 + 4
    assert tree.unparsed == 0
    level = [tree.root]
    for depth in range(3):
        assert all(node.depth == depth and len(node.children) == 2 for node in level)
        assert all(sum(child.probability for child in node.children) == 1 for node in level)
        level = [child for node in level for child in node.children]
    assert not any(node.children for node in level)
    # Each prompt shows the path to its event, and the context.
    assert "1. 1b\n2. 3a\n" in asked[5]
    assert "Context: In spring." in asked[5]
    assert len(tree.lines()) == 1 + 2 + 4 + 8


def test_answers_that_cannot_be_read_are_counted_and_shown() -> None:
    answers = iter(['[{"event": "a", "probability": 1}, {"event": "b", "probability": 3}]', "no", ANSWER])
    tree = generate_tree("seed", None, 2, lambda prompt: next(answers))
    assert (tree.asked, tree.unparsed) == (3, 1)
    assert [child.unparsed for child in tree.root.children] == [None, "no"]
    assert any("could not be read: 'no'" in line for line in tree.lines())
    nothing = generate_tree("seed", None, 3, lambda prompt: "no")
    assert (nothing.asked, nothing.unparsed, nothing.root.unparsed) == (1, 1, "no")
    assert "1 of 1 answers could not be read" in nothing.lines()[-1]


def test_only_the_likeliest_of_many_are_asked_about() -> None:
    many = json.dumps([{"event": f"e{place}", "probability": place} for place in range(1, 90)])
    tree = generate_tree("seed", None, 2, lambda prompt: many, outcomes=4)
    assert tree.asked == 5
    assert {node.event for node in tree.root.children if node.children} == {"e86", "e87", "e88", "e89"}


def test_a_tree_without_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="one level"):
        generate_tree("seed", None, 0, lambda prompt: ANSWER)


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        (ANSWER, True),
        ("```json\n" + ANSWER + "\n```", True),
        (ANSWER.strip("[]"), True),
        (ANSWER.replace("]", ""), False),
        (ANSWER.replace("]", ', {"event": "c", "prob'), False),
        (ANSWER.strip("[]") + '\n{"event": "c"', False),
        (ANSWER.replace("]", ', {"event": "c", "probability": NaN}]'), False),
    ],
)
def test_an_answer_that_lacks_outcomes_is_told_from_a_whole_one(text: str, complete: bool) -> None:
    found = parse_outcomes(text)
    assert found == READ
    assert found is not None
    assert found.complete is complete


def test_incomplete_answers_are_not_scaled_up() -> None:
    cut = parse_outcomes('[{"event": "a", "probability": 0.2}, {"event": "b", "prob')
    assert cut is not None
    assert normalised(cut) == [Outcome("a", 0.2)]
    over = parse_outcomes('[{"event": "a", "probability": 0.9}, {"event": "b", "probability": 0.9}, {"ev')
    assert over is not None
    assert sum(one.probability for one in normalised(over)) == 1


def test_an_outcome_after_one_that_cannot_be_read_is_not_lost() -> None:
    bad = '{"event": "", "probability": 0.2, "meta": {"x": 1}}'
    found = parse_outcomes(ANSWER.replace("}, {", "}, " + bad + ", {"))
    assert found == READ
