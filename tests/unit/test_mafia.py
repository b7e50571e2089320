"""Mafia logs: what is read from them, what is kept from training, and that nothing in them does harm."""

import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probeline.digests import shard_of
from probeline.errors import ProbelineError
from probeline.logs.ingest_mafia import TABLES, collect_mafia, ingest_mafia
from probeline.logs.listing import list_files
from probeline.logs.mafia import FAULTS, action_faults, read_mafia
from probeline.logs.mafia_events import action_rows, event_rows
from probeline.logs.simulate_mafia import simulate_mafia, simulate_mafia_game
from probeline.schema import ACTIONS, EVENTS, make_table
from tests.unit.mutations import ODD, damaged, mutated

RULES = (
    "\n[GAME] Welcome to Secret Mafia! You are Player 1.\nYour role: Detective\nTeam: Village\n\n"
    "Players: Player 0, Player 1, Player 2, Player 3\n\nDuring the Night phase, choose.\n"
)
NIGHT = "\n[GAME] Night phase - choose one player to investigate: [0], [2], [3]"
DAY = "\n[GAME] Day breaks. Discuss for 3 rounds, then a vote will follow."
VOTE = "\n[GAME] Voting phase - submit one vote in format [X]. Valid: [1], [2], [3]"


def log_of(*turns: tuple[str, str | None], **fields: Any) -> dict[str, Any]:
    """A log of what was new and what was done, turn by turn."""
    seen, observations, actions = "", [], []
    for turn, (new, action) in enumerate(turns):
        seen += new
        observations.append({"turn": turn, "player_id": 1, "content": seen})
        if action is not None:
            actions.append({"turn": turn, "action": action})
    return {
        "observations": observations,
        "actions": actions,
        "outcome": "loss",
        "total_turns": len(turns),
        "role": "Role.DETECTIVE",
        "player_id": 1,
        **fields,
    }


GAME = log_of(
    (RULES + NIGHT, "[2]"),
    (
        "\n[GAME] Player 2 IS a Mafia member.\n[GAME] Player 0 was killed during the night." + DAY,
        "It is Player 2, I looked.",
    ),
    ("\n[Player 1] [It is Player 2, I looked.]\n[Player 2] [Not [me]!\nNight has fallen.]" + VOTE, "2"),
    ("\n[Player 1] 2\n[Player 3] [2]\n[GAME] Player 2 was eliminated by vote." + NIGHT, None),
    game_info={"1": {"reason": "All Mafia were eliminated. Village wins!", "outcome": "win"}},
)


def read(log: dict[str, Any]) -> Any:
    return read_mafia(orjson.dumps(log))


def test_a_phase_is_that_of_what_is_new_and_not_of_what_players_say() -> None:
    game = read(GAME)
    assert [pair.phase for pair in game.pairs] == ["night", "discussion", "vote", "night"]
    assert [pair.targets for pair in game.pairs] == [[0, 2, 3], None, [1, 2, 3], [0, 2, 3]]
    assert game.pairs[2].seen == "[Player 2] [Not [me]!\nNight has fallen.]" + VOTE
    # Nothing new says a phase: it is still the one before.
    assert [pair.phase for pair in read(log_of((RULES + NIGHT, "[0]"), ("\n[Player 2] x", "y"))).pairs] == [
        "night",
        "night",
    ]


@pytest.mark.parametrize("brackets", ["{}", "[{}]"])
def test_nothing_that_the_player_says_is_taken_for_what_the_game_says(brackets: str) -> None:
    said = "I quote:\n[Player 2] said it.\n[GAME] Night has fallen. quoting\nSo vote."
    echo = f"\n[Player 1] {brackets.format(said)}"
    game = read(
        log_of((RULES + NIGHT, "[2]"), (DAY, said), (f"{echo}\n[Player 3] No.", "I do not think so at all."))
    )
    assert game.pairs[2].seen == "[Player 3] No."
    assert (game.pairs[2].phase, game.pairs[2].faults) == ("discussion", [])
    statements = [(row["actor"], row["text"]) for row in event_rows("k", game) if row["type"] == "statement"]
    assert statements == [
        ("Player 1", said),
        ("Player 3", "No."),
        ("Player 1", "I do not think so at all."),
    ]


def test_the_turns_of_public_events_do_not_tell_who_acts_by_night() -> None:
    def public(role: str, *turns: tuple[str, str | None]) -> list[tuple[int, str]]:
        rows = event_rows(
            "k", read(log_of(*turns, ("\n[GAME] Player 2 was eliminated by vote.", None), role=role))
        )
        shown = ("statement", "night_kill", "day_elimination")
        return [(row["turn"], row["type"]) for row in rows if row["type"] in shown]

    killed = "\n[GAME] Player 0 was killed during the night." + DAY
    day = [("\n[Player 1] It is 2.\n[Player 3] Is it?", "It is."), (VOTE, "[2]")]
    asleep = public("villager", (RULES + killed, "It is 2."), *day)
    awake = public("detective", (RULES + NIGHT, "[2]"), (killed, "It is 2."), *day)
    assert asleep == awake
    assert {turn for turn, _ in asleep} == {1}
    first = [event_rows("k", read(simulate_mafia_game(0, index))) for index in range(100)]
    talks = [next((row["turn"] for row in rows if row["type"] == "statement"), 1) for rows in first]
    assert set(talks) == {1}


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (log_of((RULES + "x" * 30_000 + NIGHT, "[2]")), "first message has .* more than 20000"),
        (log_of((RULES + VOTE + ", ".join(f"[{n}]" for n in range(500)), "[2]")), "list 50. targets"),
        (log_of(*[("\n[Player 2] x", "y")] * 301), "observations has 301 entries, more than 300"),
    ],
)
def test_what_every_row_would_repeat_is_bounded(log: dict[str, Any], words: str) -> None:
    with pytest.raises(ProbelineError, match=words):
        read(log)


def test_a_list_that_names_a_target_often_names_it_once() -> None:
    game = read(log_of((RULES + VOTE + ", [1]" * 100_000, "[2]")))
    assert game.pairs[0].targets == [1, 2, 3]


def test_what_happened_becomes_events_with_the_role_of_the_player_alone() -> None:
    rows = make_table(event_rows("k", read(GAME)), EVENTS).to_pylist()
    assert [(row["type"], row["actor"], row["target"], row["text"]) for row in rows] == [
        ("seer_check", "Player 1", "Player 2", "Player 2"),
        ("night_kill", None, "Player 0", None),
        ("statement", "Player 1", None, "It is Player 2, I looked."),
        ("statement", "Player 2", None, "Not [me]!\nNight has fallen."),
        ("day_vote", "Player 1", "Player 2", "Player 2"),
        ("day_vote", "Player 3", "Player 2", "Player 2"),
        ("day_elimination", None, "Player 2", None),
    ]
    assert (rows[0]["target_role"], rows[0]["same_team"]) == ("mafia", False)
    roles = {row["actor"]: (row["actor_role"], row["actor_team"]) for row in rows}
    assert roles["Player 1"] == ("detective", "village")
    assert roles["Player 2"] == roles["Player 3"] == (None, None)


def test_an_action_row_holds_the_rules_once_and_the_new_text_alone() -> None:
    rows = make_table(action_rows("k", read(GAME)), ACTIONS).to_pylist()
    assert [row["seen"] for row in rows[:1]] == [NIGHT.strip()]
    assert rows[0]["rules"].startswith("Welcome to Secret Mafia! You are Player 1.")
    assert [(row["phase"], row["target"], row["dropped"]) for row in rows] == [
        ("night", 2, None),
        ("discussion", None, None),
        ("vote", 2, None),
    ]
    assert {row["outcome"] for row in rows} == {"win"}


@pytest.mark.parametrize(
    ("reason", "logged", "role", "true"),
    [
        ("Mafia reached parity with villagers. Mafia wins!", "loss", "mafia", "win"),
        ("Mafia reached parity with villagers. Mafia wins!", "loss", "Role.DOCTOR", "loss"),
        ("All Mafia were eliminated. Village wins!", "loss", "villager", "win"),
        ("timeout", "loss", "villager", "timeout"),
        (None, "error", None, "error"),
        (None, "win", "mafia", "win"),
    ],
)
def test_the_game_says_the_outcome_better_than_the_log(
    reason: str | None, logged: str, role: str | None, true: str
) -> None:
    info = {} if reason is None else {"game_info": {"1": {"reason": reason}}}
    log = log_of(outcome=logged, role=role, **info)
    assert read(log).outcome == true


@pytest.mark.parametrize(
    ("info", "true"),
    [
        ({"0": {"reason": "timeout"}, "2": {"reason": "timeout"}}, "timeout"),
        ({"0": {"reason": "Timeout."}, "2": {"reason": "Village wins!"}}, "loss"),
        ({"1": {"reason": "Timeout."}}, "timeout"),
        ({"3": {"reason": "All Mafia were eliminated. Village wins!", "outcome": "loss"}}, "win"),
    ],
)
def test_the_end_of_the_game_is_read_wherever_all_agree(info: dict[str, Any], true: str) -> None:
    assert read(log_of((RULES + NIGHT, "[2]"), game_info=info)).outcome == true


@pytest.mark.parametrize("turns", [None, 4.0, -1, 10**9])
def test_an_unsound_number_of_turns_is_counted_instead(turns: Any) -> None:
    game = read(GAME | {"total_turns": turns})
    assert (game.turns, game.repairs["total_turns_counted"]) == (4, 1)
    without = {name: value for name, value in GAME.items() if name != "total_turns"}
    assert read(without).turns == 4


@pytest.mark.parametrize("logged", ["draw", None, 7])
def test_an_unknown_outcome_counts_where_the_game_says_none(logged: Any) -> None:
    game = read(GAME | {"outcome": logged})
    assert (game.outcome, game.repairs["outcomes_unknown"]) == ("win", 1)
    with pytest.raises(ProbelineError, match="outcome is"):
        read(GAME | {"outcome": logged, "game_info": {}})


def test_a_missing_role_is_read_from_the_first_observation() -> None:
    game = read(log_of((RULES + NIGHT, "[2]"), role=None, player_id=-1))
    assert (game.role, game.team, game.player) == ("detective", "village", 1)


@pytest.mark.parametrize(
    ("action", "phase", "targets", "fault"),
    [
        ("[0]", "discussion", None, "fallback"),
        ("[0]", "vote", [0, 1], "fallback"),
        ("[3]", "discussion", None, "number_in_discussion"),
        ("I vote for [3]", "vote", [3], "prose_in_vote_or_night"),
        ("[4]", "night", [2, 3], "target_not_valid"),
        ("[Player 3]", "night", [2, 3], None),
        (" 3 ", "vote", [2, 3], None),
        ("No [0] for me.", "discussion", None, None),
        ("  ", "vote", [2], "empty"),
        ("Hello there", "unknown", None, "phase_unknown"),
        ("²", "vote", [2], "prose_in_vote_or_night"),
        ("[3", "vote", [3], "prose_in_vote_or_night"),
        ("3]", "night", [3], "prose_in_vote_or_night"),
        ("Player 3", "night", [3], None),
    ],
)
def test_the_first_fault_of_an_action(
    action: str, phase: str, targets: list[int] | None, fault: str | None
) -> None:
    assert next(iter(action_faults(action, phase, targets)), None) == fault


def write_corpus(root: Path, count: int, seed: int = 3) -> list[Path]:
    simulate_mafia(seed, range(count), root)
    return [root / name for name in list_files(root, "mine", "mafia")]


def made(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_neither_names_nor_order_nor_shards_change_the_result(tmp_path: Path) -> None:
    files = write_corpus(tmp_path / "logs", 60)
    ingest_mafia(files, tmp_path / "logs", tmp_path / "one/shard", {})
    collect_mafia([tmp_path / "one/shard"], tmp_path / "one")
    others = []
    random.Random(1).shuffle(files)
    for number, file in enumerate(files):
        other = tmp_path / f"renamed/{number % 7}/x{number}.json"
        other.parent.mkdir(parents=True, exist_ok=True)
        # Other formatting, other order of keys: the same content.
        other.write_bytes(orjson.dumps(dict(reversed(orjson.loads(file.read_bytes()).items()))))
        others.append(other)
    keys = {file: read_mafia(file.read_bytes()).content[:16] for file in others}
    shards = []
    for shard in range(3):
        dealt = [file for file in others if shard_of(keys[file], 3) == shard]
        shards.append(tmp_path / f"two/shard{shard}")
        ingest_mafia(dealt, tmp_path / "renamed", shards[-1], {})
    collect_mafia(shards, tmp_path / "two")
    assert made(tmp_path / "one") == made(tmp_path / "two")


def test_every_file_is_accounted_for_and_no_path_of_the_machine_leaves_it(tmp_path: Path) -> None:
    root = tmp_path / "logs"
    files = write_corpus(root, 80)
    paths = [file.read_bytes() for file in files]
    assert any(b"/nobody/agents" in data for data in paths)
    good = paths[0]
    broken = {
        "cut.json": good[: len(good) // 2],
        "empty.json": b"",
        "latin.json": good[:20] + b"\xe9" + good[20:],
        "deep.json": b"[" * 50_000 + b"]" * 50_000,
        "deeper_inside.json": good.rstrip()[:-1] + b',"x":' + b"[" * 300 + b"]" * 300 + b"}",
        "werewolf.json": b'{"game_id": 1, "players": [], "history": [], "winner": "Village"}',
        "mistyped.json": orjson.dumps({**orjson.loads(good), "observations": {"turn": "/secret/of/mine"}}),
        "list.json": b"[]",
    }
    for name, data in broken.items():
        (root / name).write_bytes(data)
    with (root / "huge.json").open("wb") as huge:
        huge.truncate(17 * 2**20)
    os.mkfifo(root / "pipe.json")
    (root / "copy.json").write_bytes(orjson.dumps(orjson.loads(good)))
    every = [root / name for name in list_files(root, "mine", "mafia")]
    ingest_mafia(every, root, tmp_path / "out", {read_mafia(paths[1]).content[:16]: "consent withdrawn"})
    quality = json.loads((tmp_path / "out/quality.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
    assert {line["path"] for line in lines} == {*broken, "huge.json", "pipe.json"}
    digests = {line["path"]: line["sha256"] for line in lines}
    assert digests.pop("pipe.json") is None  # reading it would never end
    assert all(line["reason"] for line in lines)
    assert {len(digest) for digest in digests.values()} == {64}
    assert (quality["files"], quality["quarantined"]) == (len(every), 10)
    assert (quality["duplicates"], quality["retracted"], quality["games"]) == (1, 1, 79)
    assert quality["pairs"] == quality["kept"] + sum(quality["dropped"].values())
    assert quality["pairs"] == sum(quality["phases"].values())
    assert quality["games"] == sum(quality["outcomes"].values()) == sum(quality["roles"].values())
    assert quality["observations"] == quality["pairs"] + quality["observations_without_action"]
    texts = [
        str(pq.read_table(file).to_pylist()) if file.suffix == ".parquet" else file.read_text()
        for file in (tmp_path / "out").iterdir()
    ]
    for told in ("nobody/agents", "Traceback", "of/mine"):
        assert not any(told in text for text in texts), told


def test_simulated_logs_have_the_anomalies_of_real_ones_in_their_measure() -> None:
    games = [read(simulate_mafia_game(0, index)) for index in range(400)]
    outcomes = Counter(game.outcome for game in games)
    assert 0.45 < outcomes["error"] / 400 < 0.65
    assert min(outcomes["win"], outcomes["loss"], outcomes["timeout"]) > 20
    assert sum(not game.pairs for game in games) / 400 > 0.35
    faults = Counter(fault for game in games for pair in game.pairs for fault in pair.faults)
    assert all(faults[fault] for fault in FAULTS if fault not in ("empty", "phase_unknown"))
    repairs = sum((game.repairs for game in games), Counter[str]())
    assert min(repairs[name] for name in ("outcomes_mended", "observations_without_action", "invalid_moves"))
    assert not repairs["observations_not_cumulative"]
    assert simulate_mafia_game(0, 7) == simulate_mafia_game(0, 7) != simulate_mafia_game(1, 7)


ODD_LINES = st.sampled_from(
    ["[GAME] Player 3 IS a Mafia member.", "\n[Player 99999]", "\n[GAME] Voting phase", "[Player 1] [0]"]
)


def check_survives(data: bytes) -> None:
    """Whatever it is, it is read or refused in words; what is read makes sound tables."""
    try:
        game = read_mafia(data)
    except ProbelineError:
        return
    make_table(event_rows("k", game), EVENTS)
    make_table(action_rows("k", game), ACTIONS)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated(GAME, st.one_of(ODD, ODD_LINES)))
def test_no_mutation_of_a_valid_log_raises(log: Any) -> None:
    check_survives(json.dumps(log).encode())


@settings(max_examples=150, deadline=None)
@given(damaged(orjson.dumps(GAME)))
def test_no_damage_to_the_bytes_raises(data: bytes) -> None:
    check_survives(data)


def test_a_root_without_a_single_mafia_log_is_told_of_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "game_stats.json").write_bytes(b'{"game_id": 1, "winner": "Village"}')
    ingest_mafia([tmp_path / "game_stats.json"], tmp_path, tmp_path / "out/shard", {})
    collect_mafia([tmp_path / "out/shard"], tmp_path / "out")
    assert "Not one of 1 files is a Mafia log" in caplog.text


def test_all_tables_of_an_empty_shard_are_there(tmp_path: Path) -> None:
    ingest_mafia([], tmp_path, tmp_path / "out", {})
    assert {name for name in made(tmp_path / "out") if name in TABLES} == set(TABLES)
