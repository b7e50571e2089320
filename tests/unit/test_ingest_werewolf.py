import json
from copy import deepcopy
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probeline.digests import sha256_file
from probeline.logs.ingest import collect_corpus, ingest_werewolf
from probeline.logs.listing import game_content, list_games
from probeline.logs.simulate_werewolf import simulate_game
from probeline.logs.timeline import align
from probeline.schema import EVENTS, GAMES, arrow_schema
from tests.unit.test_listing import forbid
from tests.unit.werewolf_games import PLAYERS, SYSTEM, PlayedGame, answer, block, played_game, prompt


def ingest(root: Path, duplicates=None):
    """Events, games, quality and quarantine of all games under `root`."""
    output = root.parent / f"{root.name}.out"
    ingest_werewolf(list_games(root, "mine"), root, duplicates or {}, output)
    return (
        pq.read_table(output / "events.parquet").to_pylist(),
        pq.read_table(output / "games.parquet").to_pylist(),
        json.loads((output / "quality.json").read_text()),
        [json.loads(line) for line in (output / "quarantine.jsonl").read_text().splitlines()],
    )


def one(tmp_path, game: PlayedGame, *, log=True):
    game.write(tmp_path / "corpus" / "baseline" / "game1", log=log)
    return ingest(tmp_path / "corpus")


def short(events, kinds=None):
    return [
        (e["turn"], e["type"], e["actor"], e["target"]) for e in events if not kinds or e["type"] in kinds
    ]


def adds_up(quality):
    assert quality["files"] == quality["games"] + quality["duplicates"] + quality["quarantined"]
    assert quality["games"] == quality["logs_read"] + quality["logs_unreadable"] + quality["logs_missing"]
    assert quality["tallies"] == (
        quality["tallies_matched"] + quality["tallies_mismatched"] + quality["tallies_without_votes"]
    )
    assert quality["statements_with_log"] >= quality["prompts_recovered"]


TIMELINE = [
    (1, "night_vote", "Ann", "Cid"),
    (1, "night_vote", "Bob", "Eve"),
    (1, "seer_check", "Dot", "Ann"),
    (1, "night_kill", None, "Eve"),
    (1, "statement", "Ann", None),
    (1, "statement", "Bob", None),
    (1, "callout", "Ann", "Cid"),
    (1, "reply", "Cid", "Ann"),
    (1, "callout", "Bob", "Dot"),
    (1, "statement", "Cid", None),
    (1, "statement", "Dot", None),
    (1, "day_vote", "Ann", "Bob"),
    (1, "day_vote", "Bob", "Ann"),
    (1, "day_vote", "Cid", "Bob"),
    (1, "day_vote", "Dot", "Bob"),
    (1, "day_elimination", None, "Bob"),
    (2, "night_vote", "Ann", "Cid"),
    (2, "seer_check", "Dot", "Bob"),
    (2, "night_kill", None, "Cid"),
    (2, "statement", "Ann", None),
    (2, "statement", "Dot", None),
    (2, "day_vote", "Ann", "Dot"),
    (2, "day_vote", "Dot", "Ann"),
    (2, "day_elimination", None, "Dot"),
]


def test_a_game_becomes_its_timeline(tmp_path):
    events, games, quality, quarantine = one(tmp_path, played_game())
    assert short(events) == TIMELINE
    assert [event["event"] for event in events] == list(range(len(events)))
    assert {event["game"] for event in events} == {"baseline/game1"}
    (game,) = games
    assert (game["experiment"], game["winner"], game["votes_from"]) == ("baseline", "Village", "log")
    assert (game["has_log"], game["aborted"], game["tallies"], game["tallies_matched"]) == (True, False, 2, 2)
    assert game["content"] == game_content(
        (tmp_path / "corpus" / "baseline" / "game1" / "game_stats.json").read_bytes()
    )
    assert [player["role"] for player in game["players"]] == list(PLAYERS.values())
    assert quarantine == []
    adds_up(quality)
    assert quality["statements"] == quality["prompts_recovered"] == quality["statements_with_log"] == 7
    assert (quality["callouts"], quality["replies"], quality["seer_checks"]) == (2, 1, 2)


def test_every_act_of_the_log_shows_its_true_prompt_and_span(tmp_path):
    events, *_ = one(tmp_path, played_game())
    for event in events:
        if event["actor"] is None:
            assert event["source"] == "stats"
            continue
        assert event["source"] == "log"
        assert event["system_prompt"] == SYSTEM
        assert f"Turn {event['turn']}" in event["user_prompt"]
        action = event["response"][event["action_start"] : event["action_end"]]
        if event["type"] == "callout":
            action = json.loads(action)["question"]
        assert action == event["text"]
        assert event["response"][event["reasoning_start"] : event["reasoning_end"]] == event["reasoning"]


def test_roles_teams_and_reasons_of_an_event(tmp_path):
    events, *_ = one(tmp_path, played_game())
    vote = next(event for event in events if event["type"] == "day_vote")
    assert (vote["actor_role"], vote["target_role"], vote["same_team"]) == ("werewolf", "werewolf", True)
    assert vote["actor_team"] == "werewolves"
    reply = next(event for event in events if event["type"] == "reply")
    assert (reply["question"], reply["text"], reply["target"]) == ("And you?", "I slept well.", "Ann")
    kill = next(event for event in events if event["type"] == "night_kill")
    assert (kill["same_team"], kill["target_role"], kill["system_prompt"]) == (None, "villager", None)


def test_scores_follow_the_order_of_calls(tmp_path):
    game = played_game()
    broken = game.stats["player_activations"]["Ann"][1]["activations"]
    broken.update(error="no", aggregate_score=0.5)
    events, _, quality, _ = one(tmp_path, game)
    scores = [event["logged_score"] for event in events if event["actor"] and event["actor"] != "Dot"]
    expected = [float(number) for number in (1, 2, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 17, 19)]
    assert scores == [None if score == 4 else score for score in expected]
    assert quality["activation_entries"] == 20
    assert quality["activation_errors_dropped"] == 1


@pytest.mark.parametrize(
    ("reveals", "scores", "counted"),
    [
        (
            {"Ann": {"prompt_mean_score": 14.5, "prompt_num_tokens": 80}, "Bob": {"prompt_mean_score": -3}},
            {"Ann": 14.5, "Bob": -3.0},
            {"role_reveal_entries": 2},
        ),
        ({}, {}, {}),
        (None, {}, {}),
        ([1, 2], {}, {"role_reveals_unreadable": 1}),
        (
            {
                "Ann": {"prompt_mean_score": 0.5, "error": "scorer failed"},
                "Bob": {"prompt_mean_score": "14"},
                "Cid": {"prompt_mean_score": 10**400},
                "Dot": [14.0],
                "Eve": {"prompt_mean_score": True},
                "Zoe": {"prompt_mean_score": 14.0},
            },
            {},
            {
                "role_reveal_entries": 6,
                "role_reveal_entries_without_score": 5,
                "role_reveal_entries_of_unknown_players": 1,
            },
        ),
    ],
)
def test_scores_at_role_reveal_are_kept_where_they_are_numbers(tmp_path, reveals, scores, counted):
    game = played_game()
    game.stats["role_reveal_activations"] = reveals
    _, games, quality, quarantine = one(tmp_path, game)
    found = {player["name"]: player["role_reveal_score"] for player in games[0]["players"]}
    assert found == dict.fromkeys(found) | scores
    assert {name: count for name, count in quality.items() if name.startswith("role_reveal")} == counted
    assert quarantine == []


def test_repeated_statements_keep_their_own_prompts(tmp_path):
    events, *_ = one(tmp_path, played_game())
    same = [event for event in events if event["actor"] == "Ann" and event["type"] == "statement"]
    assert [event["text"] for event in same] == ["I slept well."] * 2
    assert ["Turn 1" in same[0]["user_prompt"], "Turn 2" in same[1]["user_prompt"]] == [True, True]


def test_a_sentence_counts_in_the_tally_under_its_own_text(tmp_path):
    events, _, quality, _ = one(tmp_path, played_game())
    vote = next(event for event in events if event["type"] == "day_vote" and event["actor"] == "Cid")
    assert (vote["text"], vote["target"], vote["valid"]) == ("Cid votes for Bob", "Bob", False)
    assert (quality["day_votes"], quality["day_votes_invalid"], quality["day_votes_free_text"]) == (6, 1, 1)
    assert (quality["wolf_on_ally_day_votes"], quality["tallies_matched"]) == (2, 2)


def test_votes_for_the_dead_and_oneself_are_invalid(tmp_path):
    game = PlayedGame()
    game.night(1, {"Ann": "Eve", "Bob": "Eve"}, "Eve")
    game.vote(1, {"Ann": "Ann", "Bob": "Eve", "Cid": "Bob", "Dot": "Bob"}, "Bob")
    events, _, quality, _ = one(tmp_path, game)
    assert [e["valid"] for e in events if e["type"] == "day_vote"] == [False, False, True, True]
    assert (quality["day_votes_for_self"], quality["day_votes_for_dead"]) == (1, 1)
    assert quality["wolf_on_ally_day_votes"] == 0


def test_a_night_vote_for_an_ally_is_valid_only_where_the_victim_shows_it(tmp_path):
    rejected, accepted = PlayedGame(1), PlayedGame(2)
    rejected.night(1, {"Ann": "Bob", "Bob": "Cid"}, "Cid")
    accepted.night(1, {"Ann": "Bob", "Bob": "I vote for Cid"}, "Bob")
    rejected.write(tmp_path / "corpus" / "game1")
    accepted.write(tmp_path / "corpus" / "game2")
    events, _, quality, _ = ingest(tmp_path / "corpus")
    assert [e["valid"] for e in events if e["type"] == "night_vote"] == [False, True, True, False]
    assert quality["wolf_on_ally_night_votes"] == 2
    assert quality["wolf_on_ally_night_votes_invalid"] == 1


def test_a_missing_log_takes_prompts_but_not_votes(tmp_path):
    game = played_game()
    with_log, *_ = one(tmp_path / "with", game)
    without, games, quality, _ = one(tmp_path / "without", game, log=False)
    # Where among the statements an unanswered callout was made, the statistics do not say.
    expected = [row for row in TIMELINE if row[1] != "seer_check"]
    assert sorted(short(without), key=str) == sorted(expected, key=str)
    assert [row for row in short(without) if row[1] != "callout"] == [
        r for r in expected if r[1] != "callout"
    ]
    assert games[0]["votes_from"] == "stats"
    scores = {tuple(row): e["logged_score"] for row, e in zip(short(with_log), with_log, strict=True)}
    assert [e["logged_score"] for e in without] == [scores[row] for row in short(without)]
    assert all(e["source"] == "stats" and e["user_prompt"] is None for e in without)
    assert (quality["statements_with_log"], quality["logs_missing"], quality["tallies_matched"]) == (0, 1, 2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda stats: stats["player_activations"].clear(), "no_activations"),
        (lambda stats: stats["player_activations"]["Ann"].pop(3), "ambiguous"),
        (lambda stats: stats["player_activations"]["Cid"][-1].update(action="Ann"), "tally_differs"),
    ],
)
def test_votes_that_stats_do_not_establish_are_left_out_and_counted(tmp_path, change, reason):
    game = played_game()
    change(game.stats)
    events, games, quality, _ = one(tmp_path, game, log=False)
    assert not short([e for e in events if e["turn"] == 1], {"day_vote"})
    assert quality[f"turns_without_voters_{reason}"] >= 1
    assert quality["day_votes_without_voter"] >= 4
    assert games[0]["tallies_matched"] == quality["tallies_matched"] < 2
    adds_up(quality)


def test_a_log_that_contradicts_the_tally_is_flagged(tmp_path):
    game = played_game()
    game.stats["history"][-1]["data"]["votes"] = {"Ann": 2}
    _, games, quality, _ = one(tmp_path, game)
    assert quality["flagged"] == ["baseline/game1"]
    assert (quality["tallies_mismatched"], games[0]["tallies_matched"]) == (1, 1)


def test_an_earlier_response_counts_where_only_it_fits(tmp_path):
    game = PlayedGame()
    options = ["Bob", "Cid"]
    game.log += block("Ann", prompt(1, "DAY VOTE", options), answer("Bob"), answer("Cid"))
    game.log += block("Ann", prompt(1, "DAY DISCUSSION"), answer("One."), answer("Two."))
    game.event(1, "day_statement", player="Ann", statement="One.")
    game.event(1, "day_elimination", victim="Bob", role="werewolf", votes={"Bob": 1})
    events, _, quality, _ = one(tmp_path, game)
    assert [e["text"] for e in events if e["actor"] == "Ann"] == ["One.", "Bob"]
    assert (quality["tallies_by_first_response"], quality["prompts_recovered"]) == (1, 1)


def test_statements_that_were_objects_or_broken_json_are_found(tmp_path):
    game = PlayedGame()
    plan = {"plan": "wait", "who": ["Bob"]}
    game.say(1, "Ann", str(plan), raw=answer(plan))
    game.say(1, "Ann", json.dumps(plan), raw=answer(plan))
    game.say(1, "Bob", 'I "trust" Ann.', raw='```json\n{"reasoning": "r", "action": "I "trust" Ann."}\n```')
    game.say(1, "Cid", "No JSON at all", raw="No JSON at all\n")
    events, _, quality, _ = one(tmp_path, game)
    assert quality["prompts_recovered"] == quality["statements"] == 4
    assert quality["statements_like_json"] == 2
    assert events[2]["response"][events[2]["action_start"] : events[2]["action_end"]] == 'I "trust" Ann.'


def test_a_lost_part_of_the_log_costs_only_its_own_statements(tmp_path):
    game = PlayedGame()
    for number in range(30):
        game.say(1 + number // 10, "Ann", f"Statement {number % 7}")
    lines = game.log.split("\n" + "=" * 80 + "\n[LLM")
    game.log = ("\n" + "=" * 80 + "\n[LLM").join([*lines[:4], *lines[9:]])
    events, _, quality, _ = one(tmp_path, game)
    assert quality["prompts_recovered"] == 25
    assert all(f"Turn {e['turn']}" in (e["user_prompt"] or f"Turn {e['turn']}") for e in events)


def test_players_cannot_forge_calls(tmp_path):
    game = PlayedGame()
    forged = "Hi." + block("Bob", prompt(1, "DAY VOTE", ["Ann"]), answer("Ann"), score=0)
    game.say(1, "Ann", forged)
    game.say(1, "Cid", "I saw that.", history=f"  Ann: {forged}")
    events, _, quality, _ = one(tmp_path, game)
    assert short(events) == [(1, "statement", "Ann", None), (1, "statement", "Cid", None)]
    assert quality["prompts_recovered"] == 2
    assert events[1]["user_prompt"].endswith("Task: act")


def test_reasoning_of_any_kind_becomes_text_or_null(tmp_path):
    game = PlayedGame()
    for reasoning in ("plain", "N/A", None, {"a": 1}, ["b", "c"]):
        game.event(1, "day_statement", player="Ann", statement="Hm.", reasoning=reasoning)
    events, _, quality, _ = one(tmp_path, game, log=False)
    assert [e["reasoning"] for e in events] == ["plain", None, None, '{"a": 1}', '["b", "c"]']
    assert (quality["reasonings_not_text"], quality["reasonings_not_available"]) == (2, 1)


def test_passing_is_no_callout(tmp_path):
    game = PlayedGame()
    for action in (
        "PASS",
        {"target": "PASS", "question": "PASS"},
        "hm",
        '{"target": "Bob", "question": "a pass?"}',
    ):
        game.call("Ann", prompt(1, "PLAYER CALLOUT"), action)
    events, _, quality, _ = one(tmp_path, game)
    assert [(e["target"], e["text"]) for e in events] == [("Bob", "a pass?")]
    assert (quality["callouts_passed"], quality["callouts_unreadable"], quality["callouts"]) == (2, 1, 1)


def test_an_aborted_game_keeps_what_was_played(tmp_path):
    game = PlayedGame()
    game.stats["winner"] = "Aborted"
    game.call("Ann", prompt(1, "NIGHT", ["Cid"]), "Cid")
    game.log += block("Bob", prompt(1, "NIGHT", ["Cid"]), retries=5)
    events, games, quality, _ = one(tmp_path, game)
    assert short(events) == [(1, "night_vote", "Ann", "Cid")]
    assert games[0]["aborted"]
    assert (quality["aborted"], quality["games_with_empty_history"], quality["calls_without_response"]) == (
        1,
        1,
        1,
    )


@pytest.mark.parametrize("data", [b"", b"=" * 500, b"\xff\xfe log", "…".encode()[:2]])
def test_a_broken_log_does_not_lose_the_game(tmp_path, data):
    folder = played_game().write(tmp_path / "corpus" / "game1")
    (folder / "llm_log.txt").write_bytes(data)
    events, games, quality, quarantine = ingest(tmp_path / "corpus")
    assert games[0]["has_log"] is False
    assert len(short(events, {"statement", "reply"})) == 7
    assert (quality["games"], quality["quarantined"], quality["logs_unreadable"]) == (1, 0, 1)
    (line,) = quarantine
    assert (line["path"], line["file"]) == ("game1", "llm_log.txt")
    assert line["sha256"] == sha256_file(folder / "llm_log.txt")


def with_value(value, *path) -> bytes:
    """The statistics of a good game with the value at `path` replaced, or removed where it is MISSING."""
    stats = deepcopy(played_game().stats)
    parent = stats
    for key in path[:-1]:
        parent = parent[key]
    if value is MISSING:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return json.dumps(stats).encode()


MISSING = object()
GOOD = json.dumps(played_game().stats).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (GOOD[:300], "not JSON"),
        (b"", "not JSON"),
        (GOOD.replace(b"slept", b"sl\xffpt"), "not UTF-8"),
        (b"[1, 2]", "a list, expected an object"),
        (b'{"game_number": 4, "observations": []}', "players is missing"),
        (b'{"players": ' + b"[" * 100_000, "deep"),
        *[(GOOD[:-1] + b', "extra": ' + b"[" * n + b"]" * n + b"}", "deep") for n in (300, 1020, 1500)],
        (with_value(MISSING, "winner"), "winner is missing"),
        (with_value("2", "total_turns"), "total_turns is a text, expected an integer"),
        (with_value(2**70, "game_id"), "game_id"),
        (with_value({}, "history"), "history is an object, expected a list"),
        (with_value(MISSING, "players", 2, "role"), "players[2].role is missing"),
        (with_value("Ann", "players", 1, "name"), "players[1].name is empty or occurs twice"),
        (with_value([], "players"), "players is empty"),
        (with_value(0, "history", 1, "turn"), "history[1].turn is 0"),
        (with_value(10**12, "history", 1, "turn"), "history[1].turn is"),
        (with_value(3, "history", 1, "data", "statement"), "history[1].data.statement is an integer"),
        (with_value("Zoe", "history", 1, "data", "player"), "history[1].data.player"),
        (with_value([], "history", 0, "data", "werewolf_votes"), "werewolf_votes is a list"),
        (with_value({"Zoe": "Ann"}, "history", 0, "data", "werewolf_votes"), "werewolf_votes: 'Zoe'"),
        (with_value({"Ann": "2"}, "history", -1, "data", "votes"), "votes holds a text"),
        (with_value({}, "player_activations", "Ann"), "player_activations: 'Ann'"),
        (with_value(played_game().stats["history"] * 1000, "history"), "more than 5000"),
    ],
)
def test_a_bad_file_is_quarantined_with_its_reason(tmp_path, data, reason):
    played_game().write(tmp_path / "corpus" / "game1")
    bad = played_game().write(tmp_path / "corpus" / "game2")
    (bad / "game_stats.json").write_bytes(data)
    _, games, quality, quarantine = ingest(tmp_path / "corpus")
    assert [game["game"] for game in games] == ["game1"]
    (line,) = quarantine
    assert line["path"] == "game2"
    assert reason in line["reason"]
    assert line["sha256"] == sha256_file(bad / "game_stats.json")
    assert str(tmp_path) not in json.dumps(line)
    adds_up(quality)


def test_a_folder_without_stats_is_listed_and_a_huge_file_is_quarantined(tmp_path, monkeypatch):
    (tmp_path / "corpus" / "game1").mkdir(parents=True)
    played_game().write(tmp_path / "corpus" / "game2")
    monkeypatch.setattr("probeline.logs.reading.MAX_FILE_BYTES", 1000)
    _, games, quality, quarantine = ingest(tmp_path / "corpus")
    assert games == []
    assert quarantine[0]["reason"] == "no game_stats.json"
    assert quarantine[0]["sha256"] is None
    assert "more than 1000" in quarantine[1]["reason"]
    assert quality["folders_without_stats"] == 1
    assert quality["quarantined"] == quality["files"] == 1


@pytest.mark.parametrize("name", ["game_stats.json", "llm_log.txt"])
def test_a_file_that_must_not_be_read_is_quarantined(tmp_path, monkeypatch, name):
    for game in ("game1", "game2"):
        played_game().write(tmp_path / "corpus" / game)
    listed = list_games(tmp_path / "corpus", "mine")
    forbid(monkeypatch, tmp_path / "corpus" / "game1" / name)
    ingest_werewolf(listed, tmp_path / "corpus", {}, tmp_path / "out")
    (line,) = map(json.loads, (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines())
    reason = "the file could not be read (Permission denied)"
    assert line == {"path": "game1", "file": name, "reason": reason, "sha256": None}
    quality = json.loads((tmp_path / "out" / "quality.json").read_text())
    kept = name == "llm_log.txt"
    assert quality["games"] == 1 + kept
    assert (quality["quarantined"], quality["logs_unreadable"]) == (not kept, kept)
    adds_up(quality)


def test_quarantine_is_told_once_and_with_nothing_a_terminal_obeys(tmp_path, caplog):
    name = "exp\x1b[2J"
    (tmp_path / "corpus" / name / "game1").mkdir(parents=True)
    played_game().write(tmp_path / "corpus" / name / "game2")
    (tmp_path / "corpus" / name / "game2" / "game_stats.json").write_text('{"players": "\x9b2J"}')
    shard = tmp_path / "out" / "shards" / "one"
    with caplog.at_level("INFO"):
        ingest_werewolf(list_games(tmp_path / "corpus", "mine"), tmp_path / "corpus", {}, shard)
        told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert told[0] == "Quarantined exp?[2J/game1/game_stats.json: no game_stats.json"
        assert told[1].startswith("Quarantined exp?[2J/game2/game_stats.json: ")
        caplog.clear()
        collect_corpus([shard], tmp_path / "out")
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told == [f"2 in quarantine: see {tmp_path / 'out' / 'quarantine.jsonl'}"]
    lines = [json.loads(line) for line in (shard / "quarantine.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [f"{name}/game1", f"{name}/game2"]


def test_a_corpus_of_one_folder_is_a_game_without_an_experiment(tmp_path):
    played_game().write(tmp_path / "corpus")
    ingest_werewolf(["."], tmp_path / "corpus", {}, tmp_path / "out")
    (game,) = pq.read_table(tmp_path / "out" / "games.parquet").to_pylist()
    assert (game["game"], game["experiment"]) == (".", "")
    assert set(pq.read_table(tmp_path / "out" / "events.parquet")["game"].to_pylist()) == {"."}


def test_python_only_json_is_mended(tmp_path):
    folder = played_game().write(tmp_path / "corpus" / "game1")
    text = json.dumps(played_game().stats).replace("I suspect Bob.", "\\ud83d!\\u0000")
    text = text.replace('"aggregate_score": 1.0', '"aggregate_score": NaN')
    (folder / "game_stats.json").write_text(text)
    events, _, quality, _ = ingest(tmp_path / "corpus")
    assert "\ufffd!\x00" in [event["text"] for event in events]
    assert (quality["files_nonstandard_json"], quality["activation_entries_without_score"]) == (1, 1)


def test_copies_are_counted_and_left_out(tmp_path):
    for name in ("game1", "game2"):
        played_game().write(tmp_path / "corpus" / name)
    events, games, quality, _ = ingest(tmp_path / "corpus", {"game2": "game1"})
    assert [game["game"] for game in games] == ["game1"]
    assert (quality["files"], quality["games"], quality["duplicates"]) == (2, 1, 1)
    assert {event["game"] for event in events} == {"game1"}


def simulated(root: Path, count: int) -> list[str]:
    for index in range(count):
        game = simulate_game(11, index)
        folder = root / game.key
        folder.mkdir(parents=True)
        (folder / "game_stats.json").write_text(json.dumps(game.stats))
        if game.log is not None:
            (folder / "llm_log.txt").write_text(game.log)
    return list_games(root, "mine")


def test_simulated_games_are_understood_completely(tmp_path):
    simulated(tmp_path / "corpus", 40)
    events, games, quality, quarantine = ingest(tmp_path / "corpus")
    assert (quality["games"], quarantine, quality["flagged"]) == (40, [], [])
    assert quality["prompts_recovered"] == quality["statements_with_log"] > 100
    assert all(game["tallies_matched"] == game["tallies"] for game in games if game["has_log"])
    assert {event["type"] for event in events} >= {"statement", "reply", "callout", "day_vote", "seer_check"}
    adds_up(quality)


def test_the_corpus_does_not_depend_on_the_shards(tmp_path):
    games = simulated(tmp_path / "corpus", 30)
    (tmp_path / "corpus" / "game99").mkdir()
    games = list_games(tmp_path / "corpus", "mine")
    copies = {games[3]: games[2]}
    contents = []
    for shards in (1, 4):
        output = tmp_path / f"out{shards}"
        folders = [output / "shards" / f"s{index}" for index in range(shards)]
        for index, folder in enumerate(folders):
            ingest_werewolf(games[index::shards][::-1], tmp_path / "corpus", copies, folder)
        collect_corpus(folders[::-1], output)
        assert not [file for file in output.iterdir() if file.name.startswith(".")]
        contents.append({file.name: file.read_bytes() for file in output.iterdir() if file.is_file()})
        assert (output / "shards").is_dir()
    assert contents[0] == contents[1]
    manifest = json.loads(contents[0]["manifest.json"])
    assert set(manifest["files"]) == {"events.parquet", "games.parquet", "quality.json", "quarantine.jsonl"}
    merged = pq.read_table(tmp_path / "out4" / "events.parquet")
    assert merged["game"].to_pylist() == sorted(merged["game"].to_pylist())
    quality = json.loads(contents[0]["quality.json"])
    assert (quality["files"], quality["games"], quality["quarantined"]) == (30, 29, 0)
    assert quality["folders_without_stats"] == 1


def test_an_empty_shard_has_all_files_and_the_schema(tmp_path):
    ingest_werewolf([], tmp_path, {}, tmp_path / "shard")
    collect_corpus([tmp_path / "shard"], tmp_path / "out")
    for folder in (tmp_path / "shard", tmp_path / "out"):
        events, games = (pq.read_table(folder / f"{name}.parquet") for name in ("events", "games"))
        assert events.num_rows == games.num_rows == 0
        assert (events.schema, games.schema) == (arrow_schema(EVENTS), arrow_schema(GAMES))
        adds_up(json.loads((folder / "quality.json").read_text()))
        assert (folder / "quarantine.jsonl").read_bytes() == b""


def test_alignment_finds_the_longest_common_order():
    assert align(["a", "b", "a"], [["a"], ["x"], ["b", "y"], ["a"]]) == [0, 2, 3]
    assert align(["a", "b", "c"], [["b"], ["a"], ["c"]]) in ([None, 0, 2], [1, None, 2])
    assert align(["lost", "a", "a", "b"], [["a"], ["b"]])[3] == 1
    assert align([], [["a"]]) == []
    assert align(["a"], []) == [None]


@given(st.lists(st.sampled_from("abc"), max_size=12), st.sets(st.integers(0, 11)))
def test_what_is_left_of_a_sequence_is_found_in_it(texts, lost):
    wanted = [text for index, text in enumerate(texts) if index not in lost]
    places = align(wanted, [[text] for text in texts])
    assert None not in places
    assert places == sorted(set(places))
    assert [texts[place] for place in places] == wanted


JUNK = st.sampled_from(
    [
        None,
        True,
        -1,
        10**30,
        0.5,
        "",
        "x\x00",
        "\ud800",
        "Ann",
        [],
        {},
        {"target": 3},
        [[["deep"]]],
        {"Ann": {}},
    ]
)


def paths(value, at=()):
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths(item, (*at, key))


PATHS = [path for path in paths(played_game().stats) if path]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(PATHS), st.booleans(), JUNK), min_size=1, max_size=3),
    st.none() | st.floats(0, 1),
    st.none() | st.tuples(st.floats(0, 1), st.text(alphabet='\n-=[]{}":\\ LMRESPON', max_size=20)),
)
def test_damage_of_any_kind_is_accounted_for(tmp_path_factory, changes, cut, insertion):
    game = played_game()
    for path, delete, junk in changes:
        parent = game.stats
        for key in path[:-1]:
            reachable = isinstance(parent, dict) and key in parent
            reachable |= isinstance(parent, list) and isinstance(key, int) and key < len(parent)
            parent = parent[key] if reachable else None
        if isinstance(parent, dict) and delete:
            parent.pop(path[-1], None)
        elif isinstance(parent, dict) or (isinstance(parent, list) and path[-1] < len(parent)):
            parent[path[-1]] = deepcopy(junk)
    root = tmp_path_factory.mktemp("damaged") / "corpus"
    folder = played_game().write(root / "game2").parent / "game1"
    game.write(folder)
    data = json.dumps(game.stats).encode()
    if cut is not None:
        (folder / "game_stats.json").write_bytes(data[: int(cut * len(data))])
    if insertion is not None:
        position = int(insertion[0] * len(game.log))
        (folder / "llm_log.txt").write_text(game.log[:position] + insertion[1] + game.log[position:])
    events, games, quality, quarantine = ingest(root)
    adds_up(quality)
    assert len(games) == quality["games"]
    assert len(quarantine) == quality["quarantined"] + quality["logs_unreadable"]
    assert short([event for event in events if event["game"] == "game2"]) == TIMELINE
