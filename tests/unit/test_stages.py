import numpy as np
import pytest

from probeline import schema
from probeline.probes.controls import logged_scores
from probeline.probes.stages import (
    PAIR,
    PLAYER,
    expected_reciprocal_rank,
    ranking_of_suspects,
    stages,
    suspect_rows,
    suspects_of,
)
from probeline.schema import make_table


def acts(game, actor, label, scores, *, target=None, split="test", reveal=None, logged=None, first=0):
    """Samples of one player in one game, each with its score."""
    rows = []
    for number, score in enumerate(scores):
        row = dict.fromkeys(name for name, _, _ in schema.SAMPLES)
        row |= {"sample": f"{game}#{actor}{target}{number}", "game": game, "split": split, "label": label}
        row |= {"actor": actor, "target": target, "actor_role": "werewolf" if label else "villager"}
        row |= {"event": first + number * 10, "turn": number + 1, "logged_role_reveal_score": reveal}
        row |= {"logged_score": logged[number] if logged else None}
        rows.append((row, score))
    return rows


def unpacked(*groups):
    rows = [row for group in groups for row in group]
    return [row for row, _ in rows], np.array([score for _, score in rows], dtype=np.float64)


# Means: Ann 3, Bob 1, Cid 0; in the other game Ann 1, Dot 1.
PLAYED = unpacked(
    acts("g1", "Ann", 1, [1, 5], reveal=14.0, logged=[None, 2.0]),
    acts("g1", "Bob", 0, [2, 0], reveal=13.0, logged=[3.0, -1.0], first=1),
    acts("g1", "Cid", 0, [0, 0], first=2),
    acts("g2", "Ann", 1, [0, 2], reveal=12.0, logged=[None, None]),
    acts("g2", "Dot", 0, [1, 1, 1], reveal=12.5, logged=[0.0, 0.0, 0.0], first=1),
    acts("seen", "Eve", 1, [9], split="train", reveal=99.0),
)


def test_auroc_at_each_stage_by_hand():
    found = stages(*PLAYED, {}, resamples=200, seed=0)
    assert found["unit"] == PLAYER
    probe = found["probe"]
    assert probe["first_action"]["value"] == pytest.approx(2 / 6)
    assert probe["whole_game"]["value"] == pytest.approx(5 / 6)
    assert {step: stage["value"] for step, stage in probe["running"].items()} == {
        "1": pytest.approx(2 / 6),
        "2": pytest.approx(5 / 6),
        "3": pytest.approx(5 / 6),
        "5": pytest.approx(5 / 6),
    }
    assert [stage["with_as_many_acts"] for stage in probe["running"].values()] == [5, 5, 1, 0]
    assert (probe["whole_game"]["units"], probe["whole_game"]["positive"]) == (5, 2)
    assert probe["whole_game"]["low"] <= 5 / 6 <= probe["whole_game"]["high"]
    assert "not measured: no sentence of the input" in probe["role_reveal"]["reason"]


def test_what_told_the_role_is_scored_over_the_players_that_were_told():
    # Cid was told nothing that could be read, and Eve is a training game's.
    told = {("g1", "Ann"): 2.0, ("g1", "Bob"): 1.0, ("g2", "Ann"): -3.0, ("g2", "Dot"): -2.0}
    found = stages(*PLAYED, told | {("seen", "Eve"): 99.0}, resamples=200, seed=0)["probe"]
    reveal = found["role_reveal"]
    assert (reveal["units"], reveal["positive"], reveal["value"]) == (4, 2, 0.5)  # 2 and -3 against 1 and -2
    assert reveal["low"] <= 0.5 <= reveal["high"]
    assert reveal["within_games"]["value"] == 0.5
    assert {name: stage for name, stage in found.items() if name != "role_reveal"} == {
        name: stage
        for name, stage in stages(*PLAYED, {}, resamples=200, seed=0)["probe"].items()
        if name != "role_reveal"
    }
    rows = suspect_rows(*PLAYED, told)
    make_table(rows, schema.SUSPECTS)
    assert {(row["game"], row["actor"]): row["reveal_score"] for row in rows} == told | {
        ("g1", "Cid"): None,
        ("seen", "Eve"): None,
    }
    nobody = stages(*PLAYED, {("seen", "Eve"): 99.0}, resamples=200, seed=0)["probe"]["role_reveal"]
    assert (nobody["units"], nobody["reason"]) == (0, "no test player has it")


def test_the_logged_probe_is_staged_on_the_players_that_it_scored():
    logged = stages(*PLAYED, {}, resamples=200, seed=0)["logged"]
    # 14 and 12 against 13 and 12.5; Cid has none, and Eve is a training game's.
    assert (logged["role_reveal"]["value"], logged["role_reveal"]["units"]) == (0.5, 4)
    # Ann's first score is that of her second act; in the other game she has none.
    assert (logged["first_action"]["value"], logged["first_action"]["units"]) == (0.5, 3)  # 2 against 3 and 0
    assert logged["whole_game"]["value"] == 1.0  # 2 against 1 and 0


def test_nothing_logged_is_said():
    samples, scores = unpacked(acts("g1", "Ann", 1, [1]), acts("g1", "Bob", 0, [0]))
    logged = stages(samples, scores, {}, resamples=100, seed=0)["logged"]
    for stage in ("role_reveal", "first_action", "whole_game"):
        assert logged[stage] == {
            "units": 0,
            "positive": 0,
            "value": None,
            "low": None,
            "high": None,
            "reason": "no test player has it",
        }


def test_the_ranking_of_suspects_by_hand():
    found = stages(*PLAYED, {}, resamples=200, seed=0)["suspects"]
    assert (found["games"], found["games_of_one_class"]) == (2, 0)
    # In the second game Dot has the same score as Ann, which counts against the ranking.
    assert found["top_is_positive"]["value"] == 0.5
    assert found["top_is_positive"]["chance"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert found["mean_reciprocal_rank"]["value"] == 0.75
    assert found["mean_reciprocal_rank"]["chance"] == pytest.approx((11 / 18 + 3 / 4) / 2)
    assert found["auroc_within_games"]["value"] == 0.75
    for measure in ("top_is_positive", "mean_reciprocal_rank", "auroc_within_games"):
        assert found[measure]["low"] <= found[measure]["value"] <= found[measure]["high"]


@pytest.mark.parametrize(("players", "positives"), [(2, 1), (5, 1), (6, 2), (7, 3), (3, 3)])
def test_chance_is_what_random_orders_give(players, positives):
    random = np.random.default_rng(0)
    labels = np.arange(players) < positives
    first = [1 + int(random.permutation(labels).argmax()) for _ in range(20_000)]
    assert expected_reciprocal_rank(players, positives) == pytest.approx(
        np.mean(1 / np.array(first)), abs=0.01
    )


def test_games_of_one_class_rank_nobody():
    samples, scores = unpacked(acts("g1", "Ann", 1, [1]), acts("g1", "Bob", 1, [0]))
    _, everybody = suspects_of(samples)
    found = ranking_of_suspects(list(zip(everybody, scores.tolist(), strict=True)), 100, 0)
    assert found == {"games": 0, "reason": "no test game has players of both classes"}


def test_acts_that_differ_by_target_are_ranked_as_pairs():
    samples, scores = unpacked(
        acts("g1", "Ann", 1, [3, 1], target="Bob"),
        acts("g1", "Ann", 0, [0], target="Cid", first=3),
        acts("g2", "Ann", 1, [1], target="Bob"),
        acts("g2", "Dot", 0, [2], target="Cid"),
    )
    found = stages(samples, scores, {}, resamples=100, seed=0)
    assert found["unit"] == PAIR
    assert found["probe"]["whole_game"]["value"] == 0.625  # 2 and 1 against 0 and 2: 1.5 and 1 of 4
    told = {("g1", "Ann"): 1.0, ("g2", "Ann"): 1.0, ("g2", "Dot"): 0.0}
    for probe in (found["logged"], stages(samples, scores, told, resamples=100, seed=0)["probe"]):
        assert "varies within a player" in probe["role_reveal"]["reason"]
    assert {(row["actor"], row["target"], row["rank"]) for row in suspect_rows(samples, scores, {})} == {
        ("Ann", "Bob", 1),
        ("Ann", "Cid", 2),
        ("Dot", "Cid", 1),
    } | {("Ann", "Bob", 2)}


def test_a_label_that_varies_within_a_player_is_not_defined_for_it():
    samples, scores = unpacked(acts("g1", "Ann", 1, [3, 1]), acts("g1", "Ann", 0, [0], first=1))
    assert stages(samples, scores, {}, 100, 0) == {"reason": "not defined: the label varies within a player"}
    rows = suspect_rows(samples, scores, {})
    assert [(row["act"], row["label"], row["score"]) for row in rows] == [
        (1, None, 3),
        (2, None, 0),
        (3, None, 1),
    ]


def test_the_rows_draw_a_timeline():
    rows = suspect_rows(*PLAYED, {})
    make_table(rows, schema.SUSPECTS)
    ann = [row for row in rows if (row["game"], row["actor"]) == ("g1", "Ann")]
    assert [(row["act"], row["event"], row["turn"], row["score"]) for row in ann] == [
        (1, 0, 1, 1),
        (2, 10, 2, 5),
    ]
    assert [row["running_score"] for row in ann] == [1, 3]
    assert {(row["mean_score"], row["samples"], row["rank"]) for row in ann} == {(3, 2, 1)}
    ranks = {(row["game"], row["actor"]): row["rank"] for row in rows}
    assert [ranks["g1", name] for name in ("Ann", "Bob", "Cid")] == [1, 2, 3]
    assert ranks["g2", "Ann"] == ranks["g2", "Dot"] == 1
    assert {row["split"] for row in rows if row["actor"] == "Eve"} == {"train"}


def test_logged_scores_are_compared_on_exactly_the_samples_that_have_them():
    samples, scores = unpacked(
        acts("g1", "Ann", 1, [9, 1], logged=[None, 3.0]),
        acts("g1", "Bob", 0, [2, 0], logged=[4.0, 1.0]),
        acts("g2", "Ann", 1, [3], logged=[5.0]),
        acts("g2", "Dot", 0, [7], logged=[float("nan")]),
        acts("g3", "Eve", 1, [0], split="train", logged=[0.0]),
    )
    found = logged_scores(samples, scores, resamples=200, seed=0)
    test = found["logged_score"]["test"]
    assert [test[f"num_{name}"] for name in ("games", "interactions", "positive", "negative")] == [2, 4, 2, 2]
    assert test["small"] is True
    assert found["logged_score"]["every_split"]["small"] is True
    assert test["auroc"]["value"] == 0.75  # 3 and 5 against 4 and 1
    assert test["probe"]["value"] == 0.75  # 1 and 3 against 2 and 0
    assert test["difference"]["value"] == 0.0
    assert test["difference"]["low"] <= 0 <= test["difference"]["high"]
    # Only the first game has both classes there: 3 against 4 and 1, and 1 against 2 and 0.
    assert test["within_games"]["games"] == 1
    assert (test["within_games"]["auroc"]["value"], test["within_games"]["probe"]["value"]) == (0.5, 0.5)
    assert "two games" in test["within_games"]["auroc"]["reason"]
    every = found["logged_score"]["every_split"]
    assert (every["num_games"], every["num_interactions"]) == (3, 5)
    assert every["auroc"]["value"] == 0.5  # 3, 5 and 0 against 4 and 1
    assert found["logged_cot_score"] == {"reason": "no sample has it"}


def test_scales_that_differ_from_game_to_game_do_not_count_within_games():
    samples, scores = unpacked(
        *(acts(f"g{n}", "Ann", 1, [0.0], logged=[100.0 * n + 1]) for n in range(6)),
        *(acts(f"g{n}", "Bob", 0, [1.0], logged=[100.0 * n]) for n in range(6)),
    )
    test = logged_scores(samples, scores, resamples=100, seed=0)["logged_score"]["test"]
    assert test["small"] is False
    assert test["auroc"]["value"] == pytest.approx(21 / 36)
    within = test["within_games"]
    assert [within[name]["value"] for name in ("auroc", "probe", "difference")] == [1.0, 0.0, -1.0]
    assert (within["difference"]["low"], within["difference"]["high"]) == (-1.0, -1.0)
    stage = stages(samples, scores, {}, resamples=100, seed=0)["logged"]["whole_game"]
    assert (stage["value"], stage["within_games"]["value"]) == (pytest.approx(21 / 36), 1.0)


def test_the_sign_of_a_logged_score_is_not_chosen():
    samples, scores = unpacked(
        *(acts(f"g{n}", "Ann", 1, [1.0], logged=[-1.0]) for n in range(6)),
        *(acts(f"g{n}", "Bob", 0, [0.0], logged=[1.0]) for n in range(6)),
    )
    test = logged_scores(samples, scores, resamples=100, seed=0)["logged_score"]["test"]
    assert (test["auroc"]["value"], test["probe"]["value"], test["difference"]["value"]) == (0.0, 1.0, 1.0)


def test_a_score_that_no_test_sample_has_is_only_shown_on_the_others():
    samples, scores = unpacked(
        acts("g1", "Ann", 1, [1], split="train", logged=[1.0]),
        acts("g1", "Bob", 0, [0], split="train", logged=[0.0]),
        acts("g2", "Bob", 0, [0]),
    )
    found = logged_scores(samples, scores, resamples=100, seed=0)["logged_score"]
    assert found["test"]["reason"] == "no test sample has it"
    assert found["every_split"]["auroc"]["value"] == 1.0
