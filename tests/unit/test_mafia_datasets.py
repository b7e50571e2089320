"""Examples and preference pairs of Mafia: what is in, what is out and why, and that splits hold."""

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from probeline.datasets.mafia_acts import INDICATORS, Act, named_in, quality_of
from probeline.datasets.preferences import (
    Pair,
    build_preferences,
    make_pairs,
    without_contradictions,
)
from probeline.datasets.sft import build_sft
from probeline.lineage.code import code_closure
from probeline.lineage.games import games_in
from probeline.logs.formats import unit_key
from probeline.logs.ingest_mafia import collect_mafia, ingest_mafia
from probeline.logs.mafia import action_faults, move_of, read_mafia
from probeline.logs.simulate_mafia import simulate_mafia
from tests.unit import tiny

SPLITS = {"by": "game", "train": 0.6, "validation": 0.2, "test": 0.2}
GAMES = 400


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mafia")
    simulate_mafia(0, range(GAMES), root / "logs")
    ingest_mafia(sorted((root / "logs/mafia").iterdir()), root / "logs", root / "shard", {})
    collect_mafia([root / "shard"], root / "corpus")
    return root / "corpus"


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def logged(corpus: Path) -> dict[tuple[str, int], dict[str, Any]]:
    rows = pq.read_table(corpus / "actions.parquet").to_pylist()
    return {(row["game"], row["turn"]): row for row in rows}


@pytest.fixture(scope="module")
def examples(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("sft") / "mafia_sft"
    build_sft(corpus, output, {"kind": "sft", "corpus": "mafia"}, SPLITS, 0, simulated=True)
    return output


@pytest.fixture(scope="module")
def pairs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("preferences") / "mafia_dpo"
    build_preferences(corpus, output, {"kind": "preferences", "corpus": "mafia"}, SPLITS, 0, simulated=True)
    return output


def test_examples_are_legal_acts_of_decided_games_as_logged(corpus: Path, examples: Path) -> None:
    table, rows = logged(corpus), lines(examples / "mafia_sft_dataset.jsonl")
    assert len(rows) > 200
    for row in rows:
        source = table[row["game"], row["turn"]]
        assert row["output"] == source["action"]
        assert source["outcome"] in ("win", "loss")
        targets = [int(number) for number in (source["targets"] or "").split()]
        assert not action_faults(row["output"], row["type"], targets)
        assert row["instruction"].startswith("Welcome to Secret Mafia!")
        assert f"Phase: {row['type']}\nTurn: {row['turn']}\n" in row["input"]
        assert source["seen"] in row["input"]
        assert 0.5 <= row["quality_score"] <= 1
        if row["type"] == "discussion":
            assert len(row["output"]) >= 50
            assert sum(word in row["output"].lower() for word in INDICATORS) >= 2


def test_every_entry_is_an_example_or_left_out_for_a_reason(corpus: Path, examples: Path) -> None:
    facts = manifest(examples)
    assert facts["entries"] == len(logged(corpus))
    assert facts["entries"] == facts["examples"] + sum(facts["excluded"].values())
    assert {"fallback", "too_short", "too_few_indicators", "game_not_decided_timeout"} <= facts[
        "excluded"
    ].keys()
    assert facts["examples"] == sum(facts["splits"].values())
    assert facts["simulated"] is True


def test_the_filter_can_be_set(corpus: Path, tmp_path: Path) -> None:
    strict = {"quality": {"min_length": 200, "indicators": ["alliance"], "min_indicators": 1}}
    build_sft(corpus, tmp_path / "strict", strict, SPLITS, 0)
    for row in lines(tmp_path / "strict/mafia_sft_dataset.jsonl"):
        if row["type"] == "discussion":
            assert len(row["output"]) >= 200
            assert "alliance" in row["output"].lower()


def test_what_is_too_long_for_a_model_is_left_out_and_counted(corpus: Path, tmp_path: Path) -> None:
    model = tiny.make_model(tmp_path / "model")
    build_sft(corpus, tmp_path / "short", {"max_tokens": 400}, SPLITS, 0, model=model)
    facts = manifest(tmp_path / "short")
    assert facts["excluded"]["more_than_400_tokens"] > 0
    assert 0 < facts["examples"] == facts["entries"] - sum(facts["excluded"].values())


def test_statistics_balance_and_compliance(corpus: Path, examples: Path, pairs: Path) -> None:
    rows = lines(examples / "mafia_sft_dataset.jsonl")
    told = json.loads((examples / "dataset_statistics.json").read_text())
    of_pairs = json.loads((pairs / "dataset_statistics.json").read_text())
    assert (told["total_dpo_examples"], of_pairs["total_sft_examples"]) == (None, None)
    shared = {"total_dpo_examples": of_pairs["total_dpo_examples"], "total_sft_examples": len(rows)}
    assert told | shared == of_pairs | shared
    assert told["total_processed_games"] == GAMES == sum(told["outcome_distribution"].values())
    assert told["total_sft_examples"] == len(rows)
    excluded = manifest(examples)["excluded"]
    apart = sum(count for reason, count in excluded.items() if reason.startswith("prompt_in_"))
    assert told["total_high_quality_entries"] == len(rows) + apart
    assert of_pairs["total_dpo_examples"] == len(lines(pairs / "mafia_dpo_dataset.jsonl"))
    with (examples / "balance_table.csv").open() as file:
        table = {(cell["role"], cell["outcome"]): cell for cell in csv.DictReader(file)}
    expected = Counter((row["role"], row["outcome"]) for row in rows)
    assert table.keys() >= expected.keys()
    assert {cell: int(counts["examples"]) for cell, counts in table.items()} == {
        cell: expected[cell] for cell in table
    }
    compliance = json.loads((pairs / "compliance.json").read_text())
    assert (compliance["rewritten"], compliance["simulated"]) == (0, True)
    assert compliance["texts"] == 2 * of_pairs["total_dpo_examples"]


def test_pairs_share_a_prompt_under_which_both_are_legal(corpus: Path, pairs: Path) -> None:
    table, rows = logged(corpus), lines(pairs / "mafia_dpo_dataset.jsonl")
    assert len(rows) > 150
    assert {row["type"] for row in rows} == {"discussion", "night", "vote"}
    for row in rows:
        state = table[row["game"], row["turn"]]
        other = table[row["rejected_game"], row["rejected_turn"]]
        assert [message["role"] for message in row["prompt"]] == ["system", "user"]
        assert state["seen"] in row["prompt"][1]["content"]
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        assert (chosen, rejected) == (state["action"], other["action"])
        assert chosen != rejected
        targets = [int(number) for number in (state["targets"] or "").split()]
        assert not action_faults(chosen, row["type"], targets)
        assert not action_faults(rejected, row["type"], targets)
        assert (state["role"], state["phase"]) == (other["role"], other["phase"])
        # Of moves alone quality says how they are written.
        ranks = [
            (act["outcome"] == "win", row["type"] == "discussion" and row[f"{kind}_quality"])
            for act, kind in ((state, "chosen"), (other, "rejected"))
        ]
        assert ranks[0] > ranks[1]


def test_who_is_named_in_a_rejected_text_could_be_named_under_its_prompt(corpus: Path, pairs: Path) -> None:
    table, told = logged(corpus), manifest(pairs)["not_chosen"]
    assert told["no_lower_act_names_possible_players"] > 0
    for row in lines(pairs / "mafia_dpo_dataset.jsonl"):
        if row["type"] == "discussion":
            state, other = table[row["game"], row["turn"]], table[row["rejected_game"], row["rejected_turn"]]
            text = row["rejected"][0]["content"]
            assert named_in(text) <= set(map(int, state["alive"].split()))
            if state["player"] != other["player"]:
                assert state["player"] not in text
                assert other["player"] not in text


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Players 0,\u202f2 and 5 were quiet; player #3 was not.", {0, 2, 3, 5}),
        ("[Player 4] said 2 things in 3 rounds.", {4}),
        ("I trust P1.", {1}),
        ("Nobody of the 6 players.", set()),
    ],
)
def test_players_are_found_where_a_text_names_them(text: str, numbers: set[int]) -> None:
    assert named_in(text) == numbers


def test_no_act_is_rejected_twice_and_no_game_is_in_two_splits(pairs: Path, examples: Path) -> None:
    rows = lines(pairs / "mafia_dpo_dataset.jsonl")
    assert not [
        place
        for place, count in Counter((row["rejected_game"], row["rejected_turn"]) for row in rows).items()
        if count > 1
    ]
    split: dict[str, str] = {}
    shown = [(row[key], row["split"]) for row in rows for key in ("game", "rejected_game")]
    shown += [(row["game"], row["split"]) for row in lines(examples / "mafia_sft_dataset.jsonl")]
    assert all(split.setdefault(game, part) == part for game, part in shown)
    # What lineage and the leak check read.
    recorded = games_in({"games.parquet": pairs / "games.parquet"}, [])
    assert {game: part for part, games in recorded.items() for game in games} == {
        row[key]: row["split"] for row in rows for key in ("game", "rejected_game")
    }


def test_a_game_logged_again_at_another_time_is_in_the_split_of_the_first(tmp_path: Path) -> None:
    simulate_mafia(0, range(80), tmp_path / "logs")
    again: dict[str, str] = {}
    for file in sorted((tmp_path / "logs/mafia").glob("game_*.json")):
        log = orjson.loads(file.read_bytes())
        other = file.with_name(f"again_{file.name}")
        other.write_bytes(orjson.dumps(log | {"timestamp": "20300101_000000", "game_duration": 1.5}))
        first, second = (read_mafia(one.read_bytes()) for one in (file, other))
        assert first.played == second.played
        again[unit_key(first.content)] = unit_key(second.content)
        log["actions"] = [{**act, "action": act["action"] + "!"} for act in log["actions"]]
        assert not log["actions"] or read_mafia(orjson.dumps(log)).played != first.played
    ingest_mafia(sorted((tmp_path / "logs/mafia").iterdir()), tmp_path / "logs", tmp_path / "shard", {})
    collect_mafia([tmp_path / "shard"], tmp_path / "corpus")
    build_sft(tmp_path / "corpus", tmp_path / "sft", {}, SPLITS, 0)
    split = {row["game"]: row["split"] for row in lines(tmp_path / "sft/mafia_sft_dataset.jsonl")}
    assert set(split.values()) == {"train", "validation", "test"}
    assert [split.get(game) for game in again] == [split.get(game) for game in again.values()]
    # Nor is a turn of the one rejected for another turn of the other.
    build_preferences(tmp_path / "corpus", tmp_path / "dpo", {}, SPLITS, 0)
    first_of = {key: game for game, copy in again.items() for key in (game, copy)}
    rows = lines(tmp_path / "dpo/mafia_dpo_dataset.jsonl")
    assert rows
    assert all(first_of[row["game"]] != first_of[row["rejected_game"]] for row in rows)


def test_no_prompt_is_in_two_splits(examples: Path, pairs: Path) -> None:
    shown = [
        ((row["instruction"], row["input"]), row["split"])
        for row in lines(examples / "mafia_sft_dataset.jsonl")
    ]
    shown += [
        (tuple(message["content"] for message in row["prompt"]), row["split"])
        for row in lines(pairs / "mafia_dpo_dataset.jsonl")
    ]
    split: dict[Any, str] = {}
    assert all(split.setdefault(prompt, part) == part for prompt, part in shown)
    for told in (manifest(examples)["excluded"], manifest(pairs)["not_chosen"]):
        assert told["prompt_in_validation_too"] > 0 < told["prompt_in_test_too"]


def test_pairs_do_not_contradict_each_other(pairs: Path) -> None:
    rows = lines(pairs / "mafia_dpo_dataset.jsonl")
    chosen, rejected = (
        [(row["prompt"][0]["content"], row["prompt"][1]["content"], row[kind][0]["content"]) for row in rows]
        for kind in ("chosen", "rejected")
    )
    assert not set(chosen) & set(rejected)
    both = list(zip(chosen, rejected, strict=True))
    assert len(set(both)) == len(both)


def a_vote(game: str, output: str, *, won: bool) -> Act:
    """A villager's on day one; games whose names begin alike have one prompt."""
    number = move_of(output)
    return Act(
        **dict.fromkeys(("content", "played", "game"), game),
        **{"split": "train", "turn": 4, "phase": "vote", "player": "Player 1", "role": "villager"},
        **{"won": won, "instruction": "Rules.", "input": game[0], "output": output},
        **{"alive": frozenset(range(6)), "targets": frozenset({2, 3, 5}), "target": number},
        **{"quality": 0.5 + 0.1 * won, "lacks": None},
    )


def test_pairs_that_contradict_or_repeat_are_left_out_and_counted() -> None:
    three, five = a_vote("a1", "[3]", won=True), a_vote("a2", "[5]", won=True)
    no_three, no_five = a_vote("b1", "[3]", won=False), a_vote("b2", "[5]", won=False)
    elsewhere = a_vote("c1", "[5]", won=True)
    left_out: Counter[str] = Counter()
    found = [Pair(three, no_five), Pair(five, no_three), Pair(elsewhere, no_three), Pair(elsewhere, no_three)]
    assert list(without_contradictions(found, left_out)) == [Pair(elsewhere, no_three)]
    assert left_out == {"excluded.chosen_is_rejected_elsewhere": 2, "excluded.same_pair_twice": 1}


def test_moves_pair_only_with_moves_of_the_same_form() -> None:
    unpaired: Counter[str] = Counter()
    lower = [a_vote("b1", "3", won=False), a_vote("b2", "Player 3", won=False)]
    best = a_vote("a1", "[5]", won=True)
    assert make_pairs([best, *lower], unpaired) == []
    assert unpaired["no_lower_act_has_the_same_form"] == 1
    bracketed = a_vote("b3", "[2]", won=False)
    assert make_pairs([best, *lower, bracketed], unpaired) == [Pair(best, bracketed)]


def test_why_there_are_not_more_pairs_is_told(pairs: Path) -> None:
    facts = manifest(pairs)
    assert facts["could_be_chosen"] == (
        facts["pairs"] + sum(facts["pairs_excluded"].values()) + sum(facts["not_chosen"].values())
    )


def test_pairs_differ_in_quality_by_as_much_as_is_asked_for(
    corpus: Path, pairs: Path, tmp_path: Path
) -> None:
    dataset = {"kind": "preferences", "corpus": "mafia", "min_gap": 0.15}
    build_preferences(corpus, tmp_path / "apart", dataset, SPLITS, 0, simulated=True)
    rows = lines(tmp_path / "apart/mafia_dpo_dataset.jsonl")
    facts = manifest(tmp_path / "apart")

    assert 0 < len(rows) < len(lines(pairs / "mafia_dpo_dataset.jsonl"))
    assert all(round(row["chosen_quality"] - row["rejected_quality"], 6) >= 0.15 for row in rows)
    assert facts["not_chosen"]["no_lower_act_is_far_enough"] > 0
    assert facts["could_be_chosen"] == (
        facts["pairs"] + sum(facts["pairs_excluded"].values()) + sum(facts["not_chosen"].values())
    )


@pytest.mark.parametrize(("better", "worse"), [(0.70, 0.55), (0.65, 0.50)])
def test_a_difference_as_large_as_is_asked_for_is_enough(better: float, worse: float) -> None:
    chosen = replace(a_vote("a1", "[5]", won=True), quality=better)
    rejected = replace(a_vote("b1", "[3]", won=False), quality=worse)
    assert make_pairs([chosen, rejected], Counter(), 0.15) == [Pair(chosen, rejected)]
    assert make_pairs([chosen, rejected], Counter(), 0.151) == []


def test_a_dataset_does_not_depend_on_anything_but_the_corpus(
    corpus: Path, pairs: Path, tmp_path: Path
) -> None:
    dataset = {"kind": "preferences", "corpus": "mafia"}
    build_preferences(corpus, tmp_path / "again", dataset, SPLITS, 0, simulated=True)
    assert {file.name: file.read_bytes() for file in (tmp_path / "again").iterdir()} == {
        file.name: file.read_bytes() for file in pairs.iterdir()
    }


def test_quality_is_what_its_formula_says() -> None:
    said = "I suspect you: the evidence shows it. I will investigate."
    assert quality_of(said, "detective", INDICATORS, won=True) == pytest.approx(
        0.5 + 0.15 + len(said) / 1000 + 0.1 + 0.06
    )
    assert quality_of("suspect " * 50, "villager", INDICATORS, won=False) == pytest.approx(0.5 + 0.05 + 0.2)
    assert quality_of(" ".join(INDICATORS) + "x" * 300, "detective", INDICATORS, won=True) == 1.0


@pytest.mark.parametrize("rule", ["build_sft", "build_preferences"])
def test_editing_how_concepts_are_built_does_not_make_examples_again(rule: str) -> None:
    sources = Path(__file__).parents[2] / "scripts"
    code = code_closure(sources / f"{rule}.py", sources)
    assert "scripts/probeline/datasets/mafia_acts.py" in code
    assert not [file for file in code if "dialogues" in file or "contexts" in file]
    assert ("scripts/probeline/datasets/preferences.py" in code) == (rule == "build_preferences")
