import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from probeline.datasets.contexts import check_wording, views_of
from probeline.datasets.dialogues import Selector, build_dialogues
from probeline.errors import ProbelineError
from probeline.files import read_json, write_parquet
from probeline.schema import EVENTS, GAMES, REVEALS, SAMPLES, SEQUENCES, make_table

REPOSITORY = Path(__file__).parents[2]
WORDING = yaml.safe_load((REPOSITORY / "config/templates/werewolf.yaml").read_text())
SPLITS = {"by": "game", "train": 0.6, "validation": 0.2, "test": 0.2}
ROLES = {
    "Ann": "villager",
    "Bob": "werewolf",
    "Cleo": "seer",
    "Dan": "werewolf",
    "Eve": "villager",
    "Fay": "villager",
}
# type, turn, actor, target, words, and what else a column needs
PLOT: list[tuple[Any, ...]] = [
    ("night_vote", 1, "Bob", "Fay", "Fay", {"reasoning": "Fay talks too much."}),
    ("night_vote", 1, "Dan", "Ann", "Ann", {}),
    ("seer_check", 1, "Cleo", "Dan", "Dan", {}),
    ("night_kill", 1, None, "Fay", None, {}),
    ("statement", 1, "Ann", None, "Poor Fay. Who was awake?", {"reasoning": "I know nothing."}),
    ("statement", 1, "Bob", None, "I slept.", {"reasoning": "As a werewolf I keep quiet."}),
    ("statement", 1, "Cleo", None, "  I have a feeling about Dan.\n", {}),
    ("callout", 1, "Cleo", "Dan", "Dan, where were you?", {}),
    ("reply", 1, "Dan", "Cleo", "At home.", {"question": "Dan, where were you?", "reasoning": "Deny."}),
    ("reply", 1, "Bob", "Ann", "I slept.", {"question": "And you, Bob?"}),
    ("day_vote", 1, "Ann", "Dan", "Dan", {"reasoning": "Dan was short."}),
    ("day_vote", 1, "Bob", "Dan", "Dan", {"reasoning": "I give him up."}),
    ("day_vote", 1, "Cleo", "Dan", "Dan", {}),
    ("day_vote", 1, "Dan", "Ann", "Ann", {}),
    ("day_vote", 1, "Eve", "Zed", "Zed", {"valid": False}),
    ("day_elimination", 1, None, "Dan", None, {}),
    ("night_vote", 2, "Bob", "Cleo", "Cleo", {"reasoning": "She sees us."}),
    ("night_kill", 2, None, "Cleo", None, {}),
    ("statement", 2, "Bob", None, "I slept.", {}),
    ("statement", 2, "Ann", None, "$ann {x} %s 🐺 ünd \\n", {}),
    ("day_vote", 2, "Bob", "Ann", "Ann", {"reasoning": "She or me."}),
]
TRUST = {
    "corpus": "werewolf",
    "events": ["day_vote", "night_vote", "reply"],
    "filter": 'actor_team == "werewolves" and valid and target is not None',
    "label": "same_team",
    "context": "private",
    "mask": "action",
}
COLLUSION = {
    "corpus": "werewolf",
    "events": ["statement", "reply"],
    "label": 'actor_team == "werewolves"',
    "context": "public",
    "mask": "action",
}
EVERYTHING = {
    **COLLUSION,
    "events": ["statement", "reply", "callout", "day_vote", "night_vote", "seer_check"],
}


def team(role):
    return role and ("werewolves" if role == "werewolf" else "village")


def make_events(game="one/game1", roles=ROLES, plot=PLOT):
    rows = []
    for number, (kind, turn, actor, target, words, more) in enumerate(plot):
        row = dict.fromkeys(name for name, _, _ in EVENTS)
        actor_role, target_role = roles.get(actor), roles.get(target)
        same = team(actor_role) == team(target_role) if actor_role and target_role else None
        row |= {"game": game, "event": number, "turn": turn, "type": kind, "text": words, "same_team": same}
        row |= {"actor": actor, "actor_role": actor_role, "actor_team": team(actor_role)}
        row |= {"target": target, "target_role": target_role, "target_team": team(target_role)}
        rows.append(row | {"valid": True, "source": "stats"} | more)
    return rows


def make_game(game="one/game1", roles=ROLES):
    players = [
        {"name": name, "role": role, "team": team(role), "survived": True, "role_reveal_score": None}
        for name, role in roles.items()
    ]
    row = {"game": game, "content": f"digest of {game}", "experiment": game.rpartition("/")[0], "game_id": 1}
    row |= {"winner": "Village", "aborted": False, "turns": 2, "has_log": False, "players": players}
    row |= {"backend": "local", "probe_enabled": False, "tallies": 1, "tallies_matched": 1}
    return row | {"votes_from": "stats"}


def prompted(events):
    """The same acts as they would come from a log: with prompts, and JSON around the words."""
    for row in events:
        if row["text"] and row["type"] != "callout":
            head, middle = ' {"reasoning": "', '", "action": "'
            thought = row["reasoning"] or ""
            row["system_prompt"], row["user_prompt"] = "Answer.", f"Event {row['event']}: act!\n\n"
            row["response"] = f'{head}{thought}{middle}{row["text"]}"}}\n'
            row["reasoning_start"], row["reasoning_end"] = len(head), len(head + thought)
            row["action_start"] = len(head + thought + middle)
            row["action_end"] = row["action_start"] + len(row["text"])
    return events


def write_shard(folder, events, games):
    write_parquet(folder / "events.parquet", make_table(events, EVENTS))
    write_parquet(folder / "games.parquet", make_table(games, GAMES))
    return folder


def build(folder, concept, events=None, games=None, splits=SPLITS, name="concept"):
    events = make_events() if events is None else events
    games = [make_game()] if games is None else games
    shard = write_shard(folder / "shard", events, games)
    build_dialogues(shard, folder / "dialogues", name, concept, WORDING, splits, 0)
    out = folder / "dialogues"
    sequences = {
        row["sequence"]: row["messages"] for row in pq.read_table(out / "sequences.parquet").to_pylist()
    }
    samples = pq.read_table(out / "samples.parquet").to_pylist()
    return sequences, samples, read_json(out / "manifest.json")


def shown(messages):
    return "\n".join(message["content"] for message in messages)


def test_none_is_two_lines_per_event(tmp_path):
    sequences, samples, _ = build(tmp_path, {**EVERYTHING, "context": "none"})
    assert len(sequences) == len(samples) == 18
    assert sequences["one/game1#none-4"] == [
        {"role": "system", "content": "You are Ann in a Werewolf game."},
        {"role": "user", "content": "What do you say?"},
        {"role": "assistant", "content": "Poor Fay. Who was awake?"},
    ]
    assert sequences["one/game1#none-8"][1]["content"] == "How do you feel about Cleo?"


def test_public_is_one_transcript(tmp_path):
    sequences, samples, manifest = build(tmp_path, COLLUSION)
    assert [message["role"] for message in sequences["one/game1#public"]] == ["system", "user"]
    assert sequences["one/game1#public"][1]["content"].splitlines() == [
        "Turn 1",
        "Night: Fay was killed.",
        "Ann: Poor Fay. Who was awake?",
        "Bob: I slept.",
        "Cleo: I have a feeling about Dan.",
        "Cleo asks Dan: Dan, where were you?",
        "Dan: At home.",
        "Ann asks Bob: And you, Bob?",
        "Bob: I slept.",
        "Vote: Dan was eliminated and was a werewolf.",
        "Turn 2",
        "Night: Cleo was killed.",
        "Bob: I slept.",
        "Ann: $ann {x} %s 🐺 ünd \\n",
    ]
    assert [(row["event"], row["label"]) for row in samples] == [
        (4, 0),
        (5, 1),
        (6, 0),
        (8, 1),
        (9, 1),
        (18, 1),
        (19, 0),
    ]
    assert manifest["counts"]["positives"] == 4


def test_private_is_a_chat_per_player(tmp_path):
    sequences, samples, _ = build(tmp_path, TRUST)
    assert list(sequences) == ["one/game1#private-Bob", "one/game1#private-Dan"]
    system, *turns = sequences["one/game1#private-Dan"]
    assert "You are Dan in a Werewolf game. Your role: werewolf." in system["content"]
    assert system["content"].endswith("Your fellow werewolves: Bob.")
    assert [(turn["role"], turn["content"]) for turn in turns] == [
        ("user", "Turn 1\nWhom do the werewolves kill?"),
        ("assistant", "Ann"),
        (
            "user",
            "Night: Fay was killed.\nAnn: Poor Fay. Who was awake?\nBob: I slept.\n"
            "Cleo: I have a feeling about Dan.\nCleo asks Dan: Dan, where were you?\nYour answer to Cleo?",
        ),
        ("assistant", "At home."),
        ("user", "Ann asks Bob: And you, Bob?\nBob: I slept.\nYour vote to eliminate?"),
        ("assistant", "Ann"),
    ]
    assert {(row["event"], row["label"]) for row in samples if row["label"]} == {(11, 1)}
    assert all(row["actor_role"] == "werewolf" for row in samples)


def told(views):
    """Player → the sentences that tell the role."""
    return {
        view.player: [view.messages[span.message]["content"][span.start : span.end] for span in view.reveals]
        for view in views
    }


def test_what_tells_a_player_the_role_is_marked_in_the_private_view_alone(tmp_path):
    events, chosen = make_events(), {4, 5, 6, 8}
    views = views_of("private", "action", make_game(), events, chosen, WORDING)
    assert told(views) == {
        "Ann": ["Your role: villager."],
        "Bob": ["Your role: werewolf.", "Your fellow werewolves: Dan."],
        "Cleo": ["Your role: seer."],
        "Dan": ["Your role: werewolf.", "Your fellow werewolves: Bob."],
    }
    masked = views_of("private", "action", make_game(), events, chosen, WORDING, role_masked=True)
    others = [
        view
        for context in ("none", "public", "prompt")
        for view in views_of(context, "action", make_game(), prompted(make_events()), chosen, WORDING)
    ]
    assert not any(view.reveals for view in [*masked, *others])


def test_marked_sentences_are_whole_in_any_wording():
    template = copy.deepcopy(WORDING)
    system = "  Who wins? $players.\nYou, $actor, costs $$5. are ${role}! Mates:\n$allies Again: $role"
    template["private"]["system"] = system
    template["private"]["allies"] = "$allies."
    roles = {"Mr. A? B!": "were. wolf", "Dan": "werewolf", "Eve": "werewolf"}
    game = make_game(roles=roles)
    for player in game["players"]:
        player["team"] = "werewolves"
    events = make_events(roles=roles, plot=[("statement", 1, "Mr. A? B!", None, "Yes.", {})])
    views = views_of("private", "action", game, events, {0}, template)
    assert told(views) == {"Mr. A? B!": ["are were. wolf!", "Dan, Eve. Again: were. wolf"]}
    assert (
        views[0]
        .messages[0]["content"]
        .startswith("Who wins? Dan, Eve, Mr. A? B!.\nYou, Mr. A? B!, costs $5.")
    )
    # Someone who is not among the players has no role that could be told; nor does wording without $role.
    stranger = make_events(roles=roles, plot=[("statement", 1, "Zed", None, "Yes.", {})])
    assert told(views_of("private", "action", game, stranger, {0}, template)) == {"Zed": []}
    template["private"]["system"] = "You are $actor."
    assert told(views_of("private", "action", game, events, {0}, template)) == {"Mr. A? B!": []}


def test_reveals_are_a_table_of_their_own_and_no_samples(tmp_path):
    _, samples, manifest = build(tmp_path, TRUST)
    rows = pq.read_table(tmp_path / "dialogues" / "reveals.parquet").to_pylist()
    assert [(row["sequence"], row["actor"], row["text"]) for row in rows] == [
        ("one/game1#private-Bob", "Bob", "Your role: werewolf."),
        ("one/game1#private-Bob", "Bob", "Your fellow werewolves: Dan."),
        ("one/game1#private-Dan", "Dan", "Your role: werewolf."),
        ("one/game1#private-Dan", "Dan", "Your fellow werewolves: Bob."),
    ]
    assert manifest["counts"]["reveals"] == 2
    assert manifest["counts"]["samples"] == len(samples) == len([row for row in samples if row["message"]])


def test_a_seer_learns_the_role_after_the_check_and_alone(tmp_path):
    sequences, _, _ = build(tmp_path, {**EVERYTHING, "context": "private"})
    seer = sequences["one/game1#private-Cleo"]
    assert seer[2] == {"role": "assistant", "content": "Dan"}
    assert seer[3]["content"].startswith("Dan is a werewolf.\nNight: Fay was killed.")
    others = [shown(chat) for name, chat in sequences.items() if not name.endswith("Cleo")]
    assert not any("Dan is a werewolf" in text for text in others)


def test_a_call_is_heard_when_it_is_answered(tmp_path):
    unanswered = ("callout", 1, "Ann", "Eve", "Eve, a word?", {})
    plot = [*PLOT[:7], unanswered, *PLOT[7:]]
    events = make_events(plot=plot)
    public, _, manifest = build(tmp_path / "public", {**EVERYTHING, "context": "public"}, events)
    assert "a word" not in shown(public["one/game1#public"])
    assert shown(public["one/game1#public"]).count("Dan, where were you?") == 1
    assert manifest["counts"]["excluded"] == {"not public": 12}
    private, _, _ = build(tmp_path / "private", {**EVERYTHING, "context": "private"}, events)
    assert [name for name, chat in private.items() if "a word" in shown(chat)] == ["one/game1#private-Ann"]
    asker = private["one/game1#private-Cleo"]
    number = next(i for i, turn in enumerate(asker) if turn["content"] == "Dan, where were you?")
    assert asker[number - 1]["content"].endswith("You call on Dan. What do you ask?")
    assert asker[number + 1]["content"].startswith("Dan: At home.")


def test_prompt_is_the_logged_call(tmp_path):
    events = prompted(make_events())
    sequences, samples, manifest = build(tmp_path, {**EVERYTHING, "context": "prompt"}, events)
    assert sequences["one/game1#prompt-5"] == [
        {"role": "system", "content": "Answer."},
        {"role": "user", "content": "Event 5: act!"},
        {
            "role": "assistant",
            "content": '{"reasoning": "As a werewolf I keep quiet.", "action": "I slept."}',
        },
    ]
    assert {row["event"]: row["text"] for row in samples}[5] == "I slept."
    assert manifest["counts"]["excluded"] == {"prompt not recovered": 1}


@pytest.mark.parametrize("context", ["none", "private", "prompt"])
def test_masks(tmp_path, context):
    expected = {
        "action": "I slept.",
        "reasoning": "As a werewolf I keep quiet.",
        "generation": {
            "prompt": 'As a werewolf I keep quiet.", "action": "I slept.',
        }.get(context, "As a werewolf I keep quiet.\nI slept."),
        "prompt_last": {"none": "?", "private": ".", "prompt": "!"}[context],
    }
    for mask, text in expected.items():
        concept = {**EVERYTHING, "context": context, "mask": mask}
        sequences, samples, _ = build(tmp_path / mask, concept, prompted(make_events()))
        sample = next(row for row in samples if row["event"] == 5)
        assert sample["text"] == text
        role = sequences[sample["sequence"]][sample["message"]]["role"]
        assert role == ("user" if mask == "prompt_last" else "assistant")


def test_the_last_character_before_public_words_is_the_colon(tmp_path):
    sequences, samples, _ = build(tmp_path, {**COLLUSION, "mask": "prompt_last"})
    text = sequences["one/game1#public"][1]["content"]
    assert {row["text"] for row in samples} == {":"}
    assert text[samples[0]["start"] :].startswith(": Poor Fay.")
    assert text[samples[-1]["start"] :].startswith(": $ann")


def test_reasoning_is_shown_only_under_a_mask_that_reads_it(tmp_path):
    plain, _, _ = build(tmp_path / "a", {**EVERYTHING, "context": "private"})
    assert "keep quiet" not in "".join(map(shown, plain.values()))
    thinking, _, manifest = build(tmp_path / "b", {**EVERYTHING, "context": "private", "mask": "reasoning"})
    assert "keep quiet" in shown(thinking["one/game1#private-Bob"])
    assert "keep quiet" not in shown(thinking["one/game1#private-Ann"])
    assert manifest["counts"]["excluded"] == {"no reasoning": 10}


def test_what_is_left_out_is_counted_by_reason_and_adds_up(tmp_path):
    events = make_events()
    events[4]["text"] = " \n"
    events[9]["same_team"] = None
    concept = {**EVERYTHING, "label": "same_team", "filter": 'type != "night_vote"'}
    _, samples, manifest = build(tmp_path, concept, events)
    counts = manifest["counts"]
    # Statements have no target, and a vote for nobody at the table has no team.
    assert counts["excluded"] == {"filter": 3, "label undefined": 7, "not public": 7}
    assert counts["events"] == counts["samples"] + sum(counts["excluded"].values()) == 18
    assert counts["samples"] == len(samples) == 1
    # A filter that cannot be answered takes nothing.
    concept = {**EVERYTHING, "label": "valid", "filter": "same_team", "context": "none"}
    _, samples, _ = build(tmp_path / "null", concept, events)
    assert {row["same_team"] for row in samples} == {True}
    _, _, manifest = build(tmp_path / "words", COLLUSION, events)
    assert manifest["counts"]["excluded"] == {"no words": 1}


def test_counts_by_split_and_type(tmp_path):
    games = [make_game(f"one/game{number}") for number in range(30)]
    events = [row for game in games for row in make_events(game["game"])]
    _, samples, manifest = build(tmp_path, TRUST, events, games)
    counts = manifest["counts"]
    assert counts["games"] == 30
    assert counts["sequences"] == 60
    for split, facts in counts["splits"].items():
        own = [row for row in samples if row["split"] == split]
        assert facts["samples"] == len(own) > 0
        assert facts["games"] == len({row["game"] for row in own})
        assert facts["positives"] == sum(row["label"] for row in own) == facts["games"]
        assert facts["types"]["day_vote"]["samples"] == sum(row["type"] == "day_vote" for row in own)


def test_splits_follow_the_content_or_the_experiment(tmp_path):
    games = [make_game(f"exp{number % 6}/game{number}") for number in range(24)]
    games[1]["content"] = games[0]["content"]
    events = [row for game in games for row in make_events(game["game"])]
    _, by_game, _ = build(tmp_path / "game", TRUST, events, games)
    split = {row["game"]: row["split"] for row in by_game}
    assert split[games[0]["game"]] == split[games[1]["game"]]
    assert len(set(split.values())) == 3
    _, fewer, _ = build(tmp_path / "fewer", TRUST, make_events(games[5]["game"]), [games[5]])
    assert {row["split"] for row in fewer} == {split[games[5]["game"]]}
    _, by_experiment, _ = build(tmp_path / "experiment", TRUST, events, games, {**SPLITS, "by": "experiment"})
    splits = {row["experiment"]: set() for row in by_experiment}
    for row in by_experiment:
        splits[row["experiment"]].add(row["split"])
    assert all(len(parts) == 1 for parts in splits.values())


def test_a_game_depends_on_itself_alone(tmp_path):
    games = [make_game(f"one/game{number}") for number in range(4)]
    events = [row for game in games for row in make_events(game["game"])]
    together, samples, _ = build(tmp_path / "all", COLLUSION, events, games)
    alone, own, _ = build(tmp_path / "one", COLLUSION, make_events("one/game2"), [games[2]])
    assert alone.items() <= together.items()
    assert own == [row for row in samples if row["game"] == "one/game2"]


def test_same_input_same_bytes(tmp_path):
    build(tmp_path / "a", TRUST)
    build(tmp_path / "b", TRUST)
    for name in ("sequences.parquet", "samples.parquet", "reveals.parquet", "manifest.json"):
        assert (tmp_path / "a/dialogues" / name).read_bytes() == (
            tmp_path / "b/dialogues" / name
        ).read_bytes()
    assert str(tmp_path) not in (tmp_path / "a/dialogues/manifest.json").read_text()


def test_an_empty_shard_and_a_game_without_events(tmp_path):
    sequences, samples, manifest = build(tmp_path, TRUST, [], [make_game()])
    assert (sequences, samples) == ({}, [])
    assert manifest["counts"]["games"] == 1
    assert manifest["counts"]["splits"]["test"] == {"games": 0, "samples": 0, "positives": 0, "types": {}}
    for name, columns in (("sequences", SEQUENCES), ("samples", SAMPLES), ("reveals", REVEALS)):
        table = pq.read_table(tmp_path / f"dialogues/{name}.parquet")
        assert table.schema.equals(make_table([], columns).schema)


def test_scattered_games_are_refused(tmp_path):
    games = [make_game("one/game1"), make_game("one/game2")]
    events = make_events("one/game1") + make_events("one/game2") + make_events("one/game1")
    with pytest.raises(ProbelineError, match="one/game1 do not lie together"):
        build(tmp_path, TRUST, events, games)
    assert not (tmp_path / "dialogues").exists()


def test_a_missing_shard_is_named(tmp_path):
    with pytest.raises(ProbelineError, match=r"games\.parquet does not exist"):
        build_dialogues(tmp_path, tmp_path / "out", "trust", TRUST, WORDING, SPLITS, 0)


def test_notes_reach_the_manifest(tmp_path):
    _, _, manifest = build(tmp_path, {**TRUST, "context": "none"})
    assert "cannot be known" in manifest["notes"][0]


@pytest.mark.parametrize("context", ["none", "public", "private", "prompt"])
@pytest.mark.parametrize("mask", ["action", "prompt_last", "reasoning", "generation"])
def test_nothing_after_an_act_changes_what_stands_before_it(context, mask):
    """Cut the game after every act: the text up to the masked span must be the same."""
    if context == "public" and mask in ("reasoning", "generation"):
        return
    events = prompted(make_events())
    chosen = {row["event"] for row in events if row["actor"] and row["reasoning"]} - {0, 10, 11, 16, 20}
    whole = {
        number: (view, span)
        for view in views_of(context, mask, make_game(), events, chosen, WORDING)
        for number, span in view.spans.items()
    }
    assert whole.keys() == chosen
    for number in chosen:
        [part] = [
            view
            for view in views_of(context, mask, make_game(), events[: number + 1], {number}, WORDING)
            if number in view.spans
        ]
        view, span = whole[number]
        assert part.spans[number] == span
        assert part.messages[: span.message] == view.messages[: span.message]
        ends = [chat[span.message]["content"][: span.end] for chat in (part.messages, view.messages)]
        assert ends[0] == ends[1]


def test_a_chat_ends_with_its_last_sample():
    events = make_events()
    [public] = views_of("public", "action", make_game(), events, {5}, WORDING)
    assert public.messages[-1]["content"].endswith("Bob: I slept.")
    assert "At home" not in shown(public.messages)
    [private] = views_of("private", "action", make_game(), events, {8}, WORDING)
    assert private.messages[-1] == {"role": "assistant", "content": "At home."}


def test_swapping_the_roles_of_living_players_changes_no_public_word():
    """Bob (werewolf) and Eve (villager) are never revealed: who is which must not show."""
    swapped = ROLES | {"Bob": "villager", "Eve": "werewolf"}
    views = [
        views_of("public", "action", make_game(roles=roles), make_events(roles=roles), {5, 18}, WORDING)
        for roles in (ROLES, swapped, dict(reversed(ROLES.items())))
    ]
    assert views[0] == views[1] == views[2]


def test_before_the_reveal_no_role_shows_at_all():
    reveal = next(row["event"] for row in make_events() if row["type"] == "day_elimination")
    shuffled = dict(zip(ROLES, [*list(ROLES.values())[1:], "villager"], strict=True))
    views = []
    for roles in (ROLES, shuffled):
        events = [row for row in make_events(roles=roles) if row["event"] < reveal]
        views.append(views_of("public", "action", make_game(roles=roles), events, {5, 9}, WORDING))
    assert views[0] == views[1]


def test_a_villager_sees_neither_roles_nor_votes_of_others():
    swapped = ROLES | {"Bob": "villager", "Eve": "werewolf"}
    chats = [
        views_of("private", "action", make_game(roles=roles), make_events(roles=roles), {10}, WORDING)
        for roles in (ROLES, swapped)
    ]
    assert chats[0] == chats[1]
    plot = [
        (kind, turn, actor, "Eve", "Eve", more) if kind.endswith("vote") and actor != "Ann" else row
        for row in PLOT
        for kind, turn, actor, _, _, more in [row]
    ]
    assert views_of("private", "action", make_game(), make_events(plot=plot), {10}, WORDING) == chats[0]


def test_a_werewolf_knows_the_pack_but_not_its_votes():
    [view] = views_of("private", "action", make_game(), make_events(), {0, 11}, WORDING)
    assert view.messages[2]["content"] == "Fay"
    assert "Dan" not in shown(view.messages[1:3])
    assert "Dan" in view.messages[0]["content"]


NAMES = ["Ann", "Bob", "Cleo", "Dan"]
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
MORE = st.fixed_dictionaries({"reasoning": st.none() | WORDS, "question": st.none() | WORDS})
ACTS = st.sampled_from(EVERYTHING["events"])
PLAYER, TURN = st.sampled_from(NAMES), st.integers(1, 3)
EVENT = st.one_of(
    st.tuples(ACTS, TURN, PLAYER, st.none() | PLAYER, st.none() | WORDS, MORE),
    st.tuples(st.sampled_from(["night_kill", "day_elimination"]), TURN, st.none(), PLAYER, st.none(), MORE),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENT, max_size=10), st.sampled_from(["none", "public", "private"]), st.data())
def test_spans_hold_exactly_the_words_and_roles_alternate(plot, context, data):
    masks = ["action", "prompt_last"] + ([] if context == "public" else ["reasoning", "generation"])
    mask = data.draw(st.sampled_from(masks))
    concept = {**EVERYTHING, "context": context, "mask": mask, "label": "turn == 1"}
    events = make_events(plot=plot)
    labels, excluded = Selector("concept", concept).labels(events)
    assert len(labels) + excluded.total() == sum(row["type"] in EVERYTHING["events"] for row in events)
    views = views_of(context, mask, make_game(), events, labels, WORDING)
    assert sorted(number for view in views for number in view.spans) == sorted(labels)
    for view in views:
        roles = [message["role"] for message in view.messages]
        assert roles[:2] == ["system", "user"]
        assert all(first != second for first, second in pairwise(roles))
        assert all(message["content"] == message["content"].strip() != "" for message in view.messages)
        for number, span in view.spans.items():
            text = view.messages[span.message]["content"][span.start : span.end]
            words, reasoning = events[number]["text"].strip(), (events[number]["reasoning"] or "").strip()
            wanted = {"action": words, "reasoning": reasoning, "generation": f"{reasoning}\n{words}"}
            assert text == wanted[mask] if mask in wanted else len(text.strip()) == 1


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("public.system", "Players: $player", ["public.system", "$player", "players"]),
        ("transcript.statement", "$actor speaks", ["transcript.statement", "$words"]),
        ("transcript.statement", "$actor: $words $", ["transcript.statement", "$$"]),
        ("none.reply", "", ["none.reply"]),
        ("none.reply", 3, ["none.reply", "3"]),
        ("none.replies", "x", ["none.replies", "reply"]),
    ],
)
def test_faulty_wording_is_refused_by_key(path, text, words):
    template = copy.deepcopy(WORDING)
    section, key = path.split(".")
    template[section][key] = text
    with pytest.raises(ProbelineError) as fault:
        check_wording(template)
    for word in words:
        assert word in str(fault.value)


def test_missing_wording_is_refused_by_key():
    template = copy.deepcopy(WORDING)
    del template["private"]["allies"]
    with pytest.raises(ProbelineError, match=r"private\.allies is missing"):
        check_wording(template)
    with pytest.raises(ProbelineError, match="transcript is missing"):
        check_wording({"plural": {}})
    with pytest.raises(ProbelineError, match="none"):
        check_wording({**WORDING, "none": "What do you say?"})
    with pytest.raises(ProbelineError, match="sections"):
        check_wording(None)
    with pytest.raises(ProbelineError, match=r"plural\.seer"):
        check_wording({**WORDING, "plural": {"seer": 2}})


def test_words_that_occur_in_the_speakers_name_are_not_confused_with_it():
    events = make_events(plot=[("statement", 1, "Ann", None, "Ann", {})])
    [view] = views_of("public", "action", make_game(), events, {0}, WORDING)
    assert view.messages[1]["content"] == "Turn 1\nAnn: Ann"
    assert view.spans[0].start == len("Turn 1\nAnn: ")


def test_other_wording_keeps_spans_exact():
    template = copy.deepcopy(WORDING)
    template["transcript"]["statement"] = "  costs $$5 (${words}) says $actor, ${words}?  "
    [view] = views_of("public", "action", make_game(), make_events(), {5, 19}, template)
    text = view.messages[1]["content"]
    assert "costs $5 (I slept.) says Bob, I slept.?" in text
    assert [text[span.start : span.end] for span in view.spans.values()] == [
        "I slept.",
        "$ann {x} %s 🐺 ünd \\n",
    ]
    assert text[view.spans[5].start - 1] == "("
