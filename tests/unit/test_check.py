import pytest

from probeline.datasets.check import data_check, format_check
from probeline.errors import ProbelineError

from .test_dialogues import COLLUSION, SPLITS, TRUST, build, make_events, make_game, write_shard


@pytest.fixture
def corpus(tmp_path):
    games = [make_game(f"exp{number % 2}/game{number}") for number in range(12)]
    games[0]["aborted"], games[0]["winner"] = True, "Aborted"
    events = [row for game in games for row in make_events(game["game"])]
    return write_shard(tmp_path / "werewolf", events, games), events, games


def test_interactions_are_counted_by_type_and_role(corpus):
    folder, _, _ = corpus
    report = data_check(folder, {}, SPLITS, 0, 1)
    assert report["corpus"] == "werewolf"
    assert report["games"] == {
        "games": 12,
        "experiments": 2,
        "aborted": 1,
        "with_log": 0,
        "winners": {"Aborted": 1, "Village": 11},
        "tallies": 12,
        "tallies_matched": 12,
    }
    assert report["interactions"]["day_vote"] == {
        "seer": {"events": 12, "with_target": 12, "same_team": 0, "different_team": 12, "invalid": 0},
        "villager": {"events": 24, "with_target": 24, "same_team": 0, "different_team": 12, "invalid": 12},
        "werewolf": {"events": 36, "with_target": 36, "same_team": 12, "different_team": 24, "invalid": 0},
    }
    assert report["interactions"]["statement"]["werewolf"]["with_target"] == 0
    assert report["interactions"]["night_kill"] == {
        "nobody": {"events": 24, "with_target": 24, "same_team": 0, "different_team": 0, "invalid": 0}
    }
    assert (
        sum(sum(role["events"] for role in kind.values()) for kind in report["interactions"].values()) == 252
    )


def test_a_concept_gets_what_its_dialogues_would_hold(corpus, tmp_path):
    folder, events, games = corpus
    concepts = {"trust": TRUST, "collusion": COLLUSION}
    report = data_check(folder, concepts, SPLITS, 0, 1)["concepts"]
    for name, concept in concepts.items():
        _, _, manifest = build(tmp_path / name, concept, events, games)
        counts = {
            key: value for key, value in manifest["counts"].items() if key not in ("sequences", "reveals")
        }
        assert {key: report[name][key] for key in counts} == counts
        assert counts["samples"] > 0
        assert report[name]["notes"] == manifest["notes"]


def test_a_split_without_a_class_is_a_problem(corpus):
    folder, _, _ = corpus
    concept = {**TRUST, "filter": 'actor_team == "village" and valid'}
    problems = data_check(folder, {"trust": concept}, SPLITS, 0, 1)["concepts"]["trust"]["problems"]
    assert len(problems) == 3
    assert problems[0].startswith("Not enough data: train has 0 positive")


def test_too_few_test_games_for_a_verdict_are_a_caution(corpus, tmp_path):
    folder, _, _ = corpus
    report = data_check(folder, {"trust": TRUST}, SPLITS, 0, 1)
    concept = report["concepts"]["trust"]
    test = concept["splits"]["test"]
    assert not concept["problems"]
    assert test["games"] < 5, "the fixture has become too large for this test"
    assert concept["cautions"][0].startswith(f"{test['games']} test game")
    assert "too few for a verdict" in concept["cautions"][0]
    assert "caution: " in format_check(report)
    assert "simulated games of 2 experiments." in format_check(report, simulated=True)

    games = [make_game(f"exp0/game{number}") for number in range(60)]
    events = [row for game in games for row in make_events(game["game"])]
    report = data_check(write_shard(tmp_path / "many", events, games), {"trust": TRUST}, SPLITS, 0, 1)
    assert report["concepts"]["trust"]["cautions"] == []
    assert "many: 60 games of 1 experiment." in format_check(report)


def test_fewer_training_samples_than_a_probe_needs_are_a_problem(corpus):
    folder, _, _ = corpus
    samples = data_check(folder, {"trust": TRUST}, SPLITS, 0, 0)["concepts"]["trust"]["splits"]["train"][
        "samples"
    ]
    for least, words in ((samples, []), (samples + 1, [f"{samples} training", f"{samples + 1} are needed"])):
        problems = data_check(folder, {"trust": TRUST}, SPLITS, 0, least)["concepts"]["trust"]["problems"]
        assert len(problems) == bool(words)
        assert all(word in problems[0] for word in [*words, "evaluation.min_samples"][: 3 * len(problems)])


def test_the_tables_hold_the_counts_and_nothing_a_terminal_obeys(tmp_path):
    roles = {"Ann": "villager", "Bob": "werewolf", "Cleo": "\x1b[31mseer", "Dan": "[bold]wolf"}
    folder = write_shard(tmp_path / "mine", make_events(roles=roles), [make_game(roles=roles)])
    text = format_check(data_check(folder, {"trust": TRUST}, SPLITS, 0, 1))
    assert "\x1b" not in text
    assert "?[31mseer" in text
    assert "[bold]wolf" in text
    assert "Not enough data" in text
    assert "(filter)" in text
    row = next(line for line in text.splitlines() if "night_vote" in line and "werewolf" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][2:] == ["2", "2", "0", "1", "0"]


def test_the_share_of_an_empty_split_is_not_a_number(tmp_path):
    text = format_check(data_check(write_shard(tmp_path / "no", [], []), {"trust": TRUST}, SPLITS, 0, 1))
    assert "none" in text
    assert "0 games of 0 experiments" in text


def test_logs_that_were_not_read_are_named(corpus):
    folder, _, _ = corpus
    assert "Not read" not in format_check(data_check(folder, {}, SPLITS, 0, 1))
    (folder / "quarantine.jsonl").write_text('{"path": "a"}\n{"path": "b"}\n')
    text = format_check(data_check(folder, {}, SPLITS, 0, 1))
    assert "Not read: 2 logs; the reasons are in data/processed/werewolf/quarantine.jsonl" in text


def test_a_missing_corpus_and_a_faulty_concept_are_named(tmp_path, corpus):
    with pytest.raises(ProbelineError, match=r"games\.parquet does not exist"):
        data_check(tmp_path / "nowhere", {}, SPLITS, 0, 1)
    with pytest.raises(ProbelineError, match=r"probes\.trust\.label"):
        data_check(corpus[0], {"trust": {**TRUST, "label": "same_tem"}}, SPLITS, 0, 1)
