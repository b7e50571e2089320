import json
import math

import pytest

from probeline.adapters.rewards import different, tree_reward
from probeline.models.sentences import sentence_model


def said(**chances: float) -> str:
    return json.dumps([{"event": event, "probability": chance} for event, chance in chances.items()])


def test_a_tree_by_hand():
    # Entropy of (.7, .1, .1, .1): -.7 ln .7 - .3 ln .1 = .249672 + .690776 = .940448 nats.
    reward = tree_reward(said(Rain=0.7, Snow=0.1, Hail=0.1, Sun=0.1), ["rain"])
    assert reward.parsed
    assert reward.calibration == pytest.approx(0.7)
    assert reward.sharpness == pytest.approx(1 / 1.940448, abs=1e-6)
    assert reward.diversity == 1.0
    assert reward.total == pytest.approx(0.4 * 0.7 + 0.3 * 0.515345 + 0.3, abs=1e-6)


def test_probabilities_are_normalised_first():
    # (.6, .6) is (.5, .5): entropy ln 2.
    reward = tree_reward(said(Rain=0.6, Snow=0.6), ["Snow"])
    assert (reward.calibration, reward.diversity) == (0.5, 0.5)
    assert reward.sharpness == pytest.approx(1 / (1 + math.log(2)))
    assert reward.total == pytest.approx(0.4 * 0.5 + 0.3 / (1 + math.log(2)) + 0.15)


def test_one_sure_outcome_is_sharp_and_not_varied():
    right, wrong = (tree_reward(said(Rain=1.0), [event]) for event in ("RAIN", "Snow"))
    assert (right.calibration, right.sharpness, right.diversity) == (1.0, 1.0, 0.25)
    assert right.total == pytest.approx(0.4 + 0.3 + 0.075)
    assert wrong.total == pytest.approx(0.375)


def test_an_answer_that_was_cut_off_earns_no_more_than_it_says():
    cut = tree_reward('[{"event": "Rain", "probability": 0.2}, {"event": "Sn', ["Rain"])
    assert cut.calibration == 0.2
    assert cut.sharpness == tree_reward(said(Rain=0.2, Snow=0.8), ["Rain"]).sharpness


def test_an_opposite_is_not_what_happened():
    text = said(**{"The central bank does not raise interest rates": 0.9, "No stadium opens": 0.1})
    happened = ["The central bank raises interest rates"]
    assert tree_reward(text, happened, lambda first, second: 0.99).calibration == 0.0


def test_several_things_may_have_happened():
    text = said(Rain=0.5, Snow=0.25, Hail=0.25)
    assert tree_reward(text, ["rain", "hail", "Rain"]).calibration == 0.75
    assert tree_reward(text, []).calibration == 0.0


@pytest.mark.parametrize("text", ["", "It will rain.", "[]", "{}", '[{"event": "Rain"}]', said(Rain=0.0)])
def test_what_cannot_be_read_earns_nothing_and_says_so(text):
    reward = tree_reward(text, ["Rain"])
    assert (reward.total, reward.parsed) == (0.0, False)


def test_outcomes_without_a_chance_do_not_make_an_answer_varied():
    assert tree_reward(said(Rain=1.0, Snow=0.0, Hail=0.0, Sun=0.0), ["Rain"]).diversity == 0.25


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("The Fed raises rates.", "the fed raises rates", True),
        ("Rates, raised by the Fed", "By the Fed raised rates", True),
        ("The Fed raises its key rate again in March", "The Fed raises its key rate again", False),
        ("Parliament votes to pass the new budget law", "Parliament votes to pass the budget law", True),
        ("Parliament will pass the law this year", "Parliament will not pass the law this year", False),
        ("The index of large firms rises by 2% in May", "The index of large firms rises by 3% in May", False),
        (
            "Prices of houses in the north increase next year",
            "Prices of houses in the north fall next year",
            False,
        ),
        ("!", "?", False),
    ],
)
def test_near_duplicates_are_told_by_words_numbers_and_negations(first, second, same):
    assert len(different([first, second])) == (1 if same else 2)
    assert len(different([second, first, first])) == (1 if same else 2)


def test_near_duplicates_count_once():
    text = said(**{"Rain falls": 0.25, "The rain falls.": 0.25, "rain, falls": 0.25, "Snow": 0.25})
    assert tree_reward(text, []).diversity == 0.5


def test_what_happened_is_found_by_its_meaning_where_words_differ():
    text = said(**{"The central bank lifts interest rates": 0.75, "A new stadium opens": 0.25})
    happened = ["Interest rates are raised by the central bank"]
    assert tree_reward(text, happened).calibration == 0.0
    assert tree_reward(text, happened, sentence_model().similarity).calibration == 0.75
