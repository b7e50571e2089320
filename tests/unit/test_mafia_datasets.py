"""Examples and preference pairs of Mafia: what is in, what is out and why, and that splits hold."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from probeline.datasets.mafia_acts import INDICATORS, named_in, quality_of
from probeline.datasets.preferences import build_preferences
from probeline.datasets.sft import build_sft
from probeline.lineage.code import code_closure
from probeline.lineage.games import games_in
from probeline.logs.ingest_mafia import collect_mafia, ingest_mafia
from probeline.logs.mafia import action_faults
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
    assert told["total_sft_examples"] == len(rows) == told["total_high_quality_entries"]
    assert of_pairs["total_dpo_examples"] == len(lines(pairs / "mafia_dpo_dataset.jsonl"))
    with (examples / "balance_table.csv").open() as file:
        table = {(cell["role"], cell["outcome"]): cell for cell in csv.DictReader(file)}
    expected = Counter((row["role"], row["outcome"]) for row in rows)
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


def test_why_there_are_not_more_pairs_is_told(pairs: Path) -> None:
    facts = manifest(pairs)
    assert facts["could_be_chosen"] == (
        facts["pairs"] + sum(facts["pairs_excluded"].values()) + sum(facts["not_chosen"].values())
    )


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
