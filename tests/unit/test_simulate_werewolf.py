import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probeline.digests import sha256_file
from probeline.logs.simulate_werewolf import (
    EXPERIMENTS,
    SimulatedGame,
    simulate_game,
    simulate_games,
    simulated_game_key,
)

RULE = "=" * 80


@dataclass
class Call:
    """One block of llm_log.txt, read back without the help of the code under test."""

    player: str
    role: str
    phase: str
    prompt: str
    responses: list[str]
    metadata: dict[str, Any] | None
    retries: int

    @property
    def action(self) -> Any:
        return json.loads(self.responses[-1])["action"]


def calls_of(log: str) -> list[Call]:
    calls: list[Call] = []
    if not log:
        return calls
    parts = re.split(rf"\n{RULE}\n\[LLM Call for (Player\d+)\] \((\w+)\)\n{RULE}\n", log)
    assert parts[0] == ""
    for player, role, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        asked, *answers = body.split("\n--- LLM RESPONSE ---\n")
        assert asked.startswith("\n--- SYSTEM PROMPT ---\n")
        prompt = asked.split("\n--- USER PROMPT ---\n", 1)[1]
        metadata = None
        if answers and "\n--- METADATA ---\n" in answers[-1]:
            answers[-1], text = answers[-1].split("\n--- METADATA ---\n")
            metadata = json.loads(text)
        phase = re.search(r"^Phase: (.*)$", prompt, re.MULTILINE)
        assert phase
        retries = len(re.findall(r"^\[Retry \d/5\]$", body, re.MULTILINE))
        calls.append(Call(player, role, phase.group(1), prompt, answers, metadata, retries))
    return calls


def roles_of(game: SimulatedGame) -> dict[str, str]:
    return {player["name"]: player["role"] for player in game.stats["players"]}


def events_of(game: SimulatedGame, kind: str) -> list[dict[str, Any]]:
    return [entry["data"] for entry in game.stats["history"] if entry["type"] == kind]


def statements_of(game: SimulatedGame) -> list[tuple[str, bool]]:
    roles = roles_of(game)
    return [
        (said["statement"], roles[said["player"]] == "werewolf") for said in events_of(game, "day_statement")
    ]


@pytest.fixture(scope="module")
def games() -> list[SimulatedGame]:
    return [simulate_game(1, index) for index in range(200)]


def test_key_is_a_function_of_the_index_and_belongs_to_an_experiment(games):
    for index, game in enumerate(games):
        assert game.key == simulated_game_key(index)
        assert game.key == f"{EXPERIMENTS[index % len(EXPERIMENTS)].name}/game{index}"


def test_stats_have_the_keys_and_types_of_the_format(games):
    for game in games:
        stats = game.stats
        assert type(stats["game_id"]) is int
        assert stats["backend_type"] == "simulated"
        assert type(stats["probe_enabled"]) is bool
        assert stats["winner"] in {"Werewolves", "Village", "Aborted", "Draw (max turns)"}
        assert stats["total_turns"] >= 1
        for player in stats["players"]:
            assert player.keys() == {"name", "role", "survived"}
            assert player["role"] in {"werewolf", "villager", "seer"}
        for entry in stats["history"]:
            assert entry.keys() == {"turn", "phase", "type", "data"}
            assert entry["phase"] == "night"
            assert 1 <= entry["turn"] <= stats["total_turns"]
            assert entry["type"] in {"day_statement", "night_kill", "day_elimination"}
        names = set(roles_of(game))
        assert stats["player_reasoning"].keys() == names
        assert stats["player_activations"].keys() in (set(), names)
        for entries in stats["player_activations"].values():
            for entry in entries:
                assert isinstance(entry["action"], str | dict)
                assert type(entry["activations"]["aggregate_score"]) is float


def test_same_seed_gives_the_same_bytes_and_another_seed_another_game(tmp_path):
    simulate_games(7, range(12), tmp_path / "a")
    simulate_games(7, range(12), tmp_path / "b")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) > 12
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert simulate_game(7, 0) != simulate_game(8, 0)


def test_a_game_does_not_depend_on_the_others(tmp_path):
    simulate_games(7, [5, 31], tmp_path / "few")
    simulate_games(7, range(40), tmp_path / "many")
    for index in (5, 31):
        for name in ("game_stats.json", "llm_log.txt"):
            file = Path(simulated_game_key(index)) / name
            assert (tmp_path / "few" / file).read_bytes() == (tmp_path / "many" / file).read_bytes()


def test_bytes_do_not_depend_on_the_hash_seed_of_the_process():
    code = (
        "import hashlib, json; from probeline.logs.simulate_werewolf import simulate_game;"
        "games = [simulate_game(3, i) for i in range(20)];"
        "print(hashlib.sha256(json.dumps([[g.stats, g.log] for g in games]).encode()).hexdigest())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_manifest_lists_every_file_with_its_digest(tmp_path):
    simulate_games(7, [4, 3, 8], tmp_path / "corpus")
    manifest = json.loads((tmp_path / "corpus/manifest.json").read_bytes())
    assert manifest["kind"] == "simulated-logs"
    assert manifest["seed"] == 7
    assert manifest["indices"] == [3, 4, 8]
    written = {
        path.relative_to(tmp_path / "corpus").as_posix(): sha256_file(path)
        for path in (tmp_path / "corpus").rglob("game*/*")
    }
    assert {name: facts["sha256"] for name, facts in manifest["files"].items()} == written
    assert f"{simulated_game_key(4)}/llm_log.txt" in written


def test_importing_the_simulation_stays_light():
    code = "import sys, probeline.logs.simulate_werewolf; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"numpy", "torch", "pandas", "pyarrow", "sklearn", "tqdm"} & set(loaded.split())


def test_every_statement_has_its_call_in_the_log_in_order(games):
    checked = 0
    for game in games:
        if game.log is None:
            continue
        calls = [call for call in calls_of(game.log) if call.phase.startswith("DAY DISCUSSION")]
        calls = [call for call in calls if call.responses]
        said = events_of(game, "day_statement")
        assert [(call.player, call.action) for call in calls] == [(s["player"], s["statement"]) for s in said]
        for call, statement in zip(calls, said, strict=True):
            caller = statement.get("called_by")
            assert call.phase == (f"DAY DISCUSSION (Called Upon by {caller})" if caller else "DAY DISCUSSION")
            assert statement.get("question", "") in call.prompt
            checked += 1
    assert checked > 2000


def test_day_votes_rebuild_every_tally_and_the_first_voted_wins(games):
    checked = 0
    for game in games:
        if game.log is None:
            continue
        alive = set(roles_of(game))
        rounds: list[list[str]] = []
        previous = ""
        for call in calls_of(game.log):
            if call.phase == "DAY VOTE" and call.responses:
                if previous != "DAY VOTE":
                    rounds.append([])
                rounds[-1].append(call.action)
            previous = call.phase
        tallies = []
        kills = [data["victim"] for data in events_of(game, "night_kill")]
        for ballots, kill in zip(rounds, kills, strict=False):
            alive.discard(kill)
            if len(ballots) < len(alive):
                assert game.stats["winner"] == "Aborted"
                continue
            tally: dict[str, int] = {}
            for name in ballots:
                tally[name] = tally.get(name, 0) + 1
            top = max(tally, key=tally.__getitem__)
            if top in alive:
                tallies.append((top, tally))
                alive.discard(top)
        logged = [(data["victim"], data["votes"]) for data in events_of(game, "day_elimination")]
        assert logged == tallies
        assert [list(tally) for _, tally in logged] == [list(tally) for _, tally in tallies]
        checked += len(tallies)
    assert checked > 200


def test_night_votes_are_recorded_and_explain_the_victim(games):
    checked = 0
    for game in games:
        roles = roles_of(game)
        alive = set(roles)
        cast = [call for call in calls_of(game.log or "") if call.phase == "NIGHT" and call.responses]
        for entry in game.stats["history"]:
            data = entry["data"]
            if entry["type"] == "night_kill":
                wolves = {name for name in alive if roles[name] == "werewolf"}
                votes = data.get("werewolf_votes", {})
                assert votes.keys() in (set(), wolves)
                if game.log is not None:
                    calls = [cast.pop(0) for _ in wolves]
                    while cast and cast[0].role == "seer":
                        assert cast.pop(0).action in alive
                    assert not votes or votes == {call.player: call.action for call in calls}
                    options = [set(re.search(r"Options: (.*)", c.prompt)[1].split(", ")) for c in calls]
                    pairs = zip(calls, options, strict=True)
                    tally = Counter(call.action for call, allowed in pairs if call.action in allowed)
                    assert bool(tally) == bool(votes)
                    assert not tally or tally[data["victim"]] == max(tally.values())
                    checked += 1
            if entry["type"] != "day_statement":
                alive.remove(data["victim"])
        assert alive == {player["name"] for player in game.stats["players"] if player["survived"]}
    assert checked > 200


def test_activations_are_the_calls_with_metadata_in_order(games):
    checked = 0
    for game in games:
        if game.log is None or not game.stats["probe_enabled"] or not game.stats["history"]:
            continue
        calls = calls_of(game.log)
        for player, entries in game.stats["player_activations"].items():
            own = [call for call in calls if call.player == player and call.metadata]
            assert [call.metadata["activations"] for call in own] == [
                entry["activations"] for entry in entries
            ]
            assert [call.action for call in own] == [entry["action"] for entry in entries]
            checked += len(own)
    assert checked > 1000


def test_the_winner_is_right_by_the_roles(games):
    for game in games:
        roles = roles_of(game)
        left = [roles[player["name"]] for player in game.stats["players"] if player["survived"]]
        wolves = left.count("werewolf")
        winner = game.stats["winner"]
        if winner == "Village":
            assert wolves == 0
        elif winner == "Werewolves":
            assert 2 * wolves >= len(left)
        else:
            assert 0 < 2 * wolves < len(left)


def test_prompts_tell_the_role_the_fellows_and_the_game_so_far(games):
    for game in games:
        if game.log is None:
            continue
        roles = roles_of(game)
        heard: list[str] = []
        for call in calls_of(game.log):
            assert call.role == roles[call.player]
            if call.phase == "NIGHT":
                assert f"Your character: {call.player} " in call.prompt
                continue
            assert f"You are {'the' if call.role == 'seer' else 'a'} {call.role.upper()}." in call.prompt
            fellows = [n for n, role in roles.items() if role == "werewolf" and n != call.player]
            named = re.search(r"Your fellow \w+ \w+: (.*)", call.prompt)
            assert (named.group(1).split(", ") if named else []) == (
                fellows if call.role == "werewolf" else []
            )
            if call.phase == "DAY VOTE":
                assert all(text in call.prompt for text in heard)
            if call.phase.startswith("DAY DISCUSSION") and call.responses:
                heard.append(call.action)


def test_every_variant_occurs(games):
    seen: Counter[str] = Counter()
    for game in games:
        stats = game.stats
        seen[stats["winner"]] += 1
        seen["seer"] += "seer" in roles_of(game).values()
        seen["large"] += len(stats["players"]) >= 8
        seen["no log"] += game.log is None
        seen["log"] += game.log is not None
        seen["empty history"] += not stats["history"]
        seen["no activations"] += not stats["player_activations"]
        seen["no role_reveal"] += "role_reveal_activations" not in stats
        seen["other id"] += f"game{stats['game_id']}" != game.key.rsplit("/", 1)[1]
        kills = events_of(game, "night_kill")
        seen["werewolf killed by night"] += any(roles_of(game)[k["victim"]] == "werewolf" for k in kills)
        seen["night without votes"] += sum("werewolf_votes" not in kill for kill in kills)
        eliminations = events_of(game, "day_elimination")
        names = set(roles_of(game))
        seen["free text vote"] += sum(bool(event["votes"].keys() - names) for event in eliminations)
        seen["tie"] += sum(
            list(event["votes"].values()).count(max(event["votes"].values())) > 1 for event in eliminations
        )
        ended = {entry["turn"] for entry in stats["history"] if entry["type"] == "day_elimination"}
        seen["nobody eliminated"] += not set(range(1, stats["total_turns"])) <= ended
        texts: Counter[tuple[str, str]] = Counter()
        for said in events_of(game, "day_statement"):
            texts[said["player"], said["statement"]] += 1
            seen[f"reasoning {type(said.get('reasoning')).__name__}"] += 1
            seen["reasoning N/A"] += said.get("reasoning") == "N/A"
            seen["reply"] += "called_by" in said
            seen["reply without question"] += "called_by" in said and "question" not in said
            seen["looks like JSON"] += said["statement"].startswith("{")
            seen["claims to be the seer"] += "I am the seer" in said["statement"]
        seen["said twice"] += max(texts.values(), default=0) > 1
        for entries in stats["player_activations"].values():
            for entry in entries:
                scores = entry["activations"]
                seen["dict action"] += isinstance(entry["action"], dict)
                seen["error"] += "error" in scores and scores["aggregate_score"] == 0.5
                seen["null cot_score"] += scores.get("cot_score", 0) is None
                seen["null action_score"] += scores.get("action_score", 0) is None
                seen["short scores"] += "prompt_score" not in scores
        for call in calls_of(game.log or ""):
            seen["retry"] += call.retries > 0
            seen["two responses"] += len(call.responses) == 2
            seen["no response"] += not call.responses
            seen["PASS"] += call.phase == "PLAYER CALLOUT" and "PASS" in str(call.responses[-1:])
            seen["detector"] += "[LIE DETECTOR: " in call.prompt
            seen["public reasoning"] += '(thinking: "' in call.prompt
    expected = {
        *("Werewolves", "Village", "Aborted", "Draw (max turns)", "seer", "large", "no log", "log"),
        *("empty history", "no activations", "no role_reveal", "other id", "night without votes"),
        *("free text vote", "tie", "nobody eliminated", "reasoning str", "reasoning dict", "reasoning list"),
        *("reasoning NoneType", "reasoning N/A", "reply", "reply without question", "looks like JSON"),
        *("claims to be the seer", "said twice", "dict action", "error", "null cot_score"),
        *("null action_score", "short scores", "retry", "two responses", "no response", "PASS", "detector"),
        *("public reasoning", "werewolf killed by night"),
    }
    assert {name for name in expected if not seen[name]} == set()
    assert 2 <= seen["Aborted"] <= 24
    assert min(seen["Werewolves"], seen["Village"]) > 50


def test_an_experiment_keeps_its_variant(games):
    for index, game in enumerate(games):
        experiment = EXPERIMENTS[index % len(EXPERIMENTS)]
        assert (game.log is not None) == experiment.log
        assert game.stats["probe_enabled"] == experiment.probe
        assert ("seer" in roles_of(game).values()) == experiment.seer
        assert any("called_by" in said for said in events_of(game, "day_statement")) <= experiment.callouts


def test_transcripts_are_short_and_statements_varied(games):
    lengths = [len(text) for game in games for text, _ in statements_of(game)]
    assert 110 <= np.median(lengths) <= 160
    assert max(lengths) < 400
    small = [game for game in games if len(game.stats["players"]) <= 7]
    totals = [sum(len(text) + 12 for text, _ in statements_of(game)) for game in small]
    assert np.quantile(totals, 0.9) < 4800
    texts = [text for game in games for text, _ in statements_of(game)]
    assert len(set(texts)) > 0.6 * len(texts)


def test_words_give_roles_away_only_weakly():
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    games = [statements_of(simulate_game(1, index)) for index in range(150)]
    folds = [[pair for game in games[start::3] for pair in game] for start in range(3)]
    scores = []
    for held_out in range(3):
        train = [pair for fold in range(3) if fold != held_out for pair in folds[fold]]
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
        model = LogisticRegression(class_weight="balanced", max_iter=1000)
        model.fit(vectorizer.fit_transform([text for text, _ in train]), [wolf for _, wolf in train])
        texts, labels = zip(*folds[held_out], strict=True)
        scores.append(roc_auc_score(labels, model.decision_function(vectorizer.transform(texts))))
    assert 0.60 < np.mean(scores) < 0.85


def test_werewolves_spare_their_own_but_not_always(games):
    by_ally: Counter[bool] = Counter()
    for game in games:
        roles = roles_of(game)
        alive_wolves = {name for name, role in roles.items() if role == "werewolf"}
        for call in calls_of(game.log or ""):
            if call.phase == "DAY VOTE" and call.role == "werewolf" and call.responses:
                by_ally[call.action in alive_wolves - {call.player}] += 1
    assert 0.1 < by_ally[True] / by_ally.total() < 0.25


def test_sixty_games_hold_enough_acts_on_allies():
    acts = 0
    for index in range(60):
        game = simulate_game(1, index)
        roles = roles_of(game)
        wolves = {name for name, role in roles.items() if role == "werewolf"}
        acts += sum(
            said["player"] in wolves and said.get("called_by") in wolves
            for said in events_of(game, "day_statement")
        )
        for player in wolves if game.log is None else ():
            entries = game.stats["player_activations"].get(player, [])
            acts += sum(entry["action"] in wolves - {player} for entry in entries)
        for call in calls_of(game.log or ""):
            if call.player in wolves and call.phase in ("NIGHT", "DAY VOTE") and call.responses:
                acts += call.action in wolves - {call.player}
    assert acts >= 60
