"""The sentence on a probe, from figures made by hand."""

import numpy as np
import pytest

from probeline.probes.evaluate import stronger_text, verdict


def estimate(value, low, high):
    return {"value": value, "low": low, "high": high}


def figures(masked, whole, chosen="text_masked"):
    """A test side with a probe of AUROC 0.8, and the differences to the two texts."""
    baselines = {
        name: {"auroc": estimate(0.8 - value, 0.0, 1.0), "difference": estimate(value, low, high)}
        for name, (value, low, high) in (("text_masked", masked), ("text_input", whole))
    }
    return {
        "num_games": 50,
        "num_positive": 100,
        "num_negative": 100,
        "metrics": {"auroc": estimate(0.8, 0.7, 0.9)},
        "baselines": baselines,
        "difference_to_text": {"baseline": chosen, **baselines[chosen]["difference"]},
    }


BETTER, ALIKE, WORSE = (0.2, 0.1, 0.3), (0.0, -0.1, 0.1), (-0.2, -0.3, -0.1)


@pytest.mark.parametrize(
    ("masked", "whole", "words"),
    [
        (BETTER, BETTER, "The probe beats the text"),
        (
            BETTER,
            ALIKE,
            "the text does about as well: AUROC 0.800 (0.700 to 0.900) against 0.800 from the whole",
        ),
        (
            ALIKE,
            BETTER,
            "the text does about as well: AUROC 0.800 (0.700 to 0.900) against 0.800 from the masked",
        ),
        (WORSE, BETTER, "The text does better than the probe"),
        # Better by chance among two is not enough: the text was not the one that validation chose.
        (ALIKE, WORSE, "the text does about as well"),
    ],
)
def test_a_probe_beats_the_text_only_if_it_beats_both_texts(masked, whole, words):
    assert words in verdict(figures(masked, whole), None)


@pytest.mark.parametrize(("games", "said"), [(4, False), (5, True)])
def test_a_few_games_do_not_speak_for_the_role_masked_probe(games, said):
    without = {"num_games": games, "auroc": estimate(0.5, 0.4, 0.6)}
    assert ("Without the role" in verdict(figures(BETTER, BETTER), without)) is said


def test_the_stronger_text_is_chosen_by_its_ranking():
    labels = np.array([0, 0, 1, 1], dtype=np.int8)
    scores = {"text_masked": np.array([0.0, 1, 2, 3]), "text_input": np.array([3.0, 2, 1, 0])}
    assert stronger_text(labels, scores) == "text_masked"
