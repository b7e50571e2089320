import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from probeline.datasets.contexts import views_of
from probeline.datasets.dialogues import build_dialogues
from probeline.datasets.role_mask import prompt_without_team, role_hider
from probeline.logs.ingest import ingest_werewolf
from probeline.logs.simulate_werewolf import simulate_games, simulated_game_key
from tests.unit.test_dialogues import (
    COLLUSION,
    ROLES,
    SPLITS,
    TRUST,
    WORDING,
    make_events,
    make_game,
    prompted,
    shown,
)

ROLE_WORD = re.compile(r"(?<!\w)(werewolf|werewolves|villagers?|seers?)(?!\w)", re.IGNORECASE)
GAMES = 50


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    simulate_games(0, range(GAMES), root / "logs")
    ingest_werewolf(
        [simulated_game_key(number) for number in range(GAMES)], root / "logs", {}, root / "shard"
    )
    return root


def read(folder):
    sequences = pq.read_table(folder / "sequences.parquet").to_pylist()
    return {row["sequence"]: row["messages"] for row in sequences}, pq.read_table(
        folder / "samples.parquet"
    ).to_pylist()


@pytest.mark.parametrize("concept", [COLLUSION, TRUST], ids=["collusion", "trust"])
@pytest.mark.parametrize("context", ["private", "prompt"])
@pytest.mark.parametrize("mask", ["action", "prompt_last", "generation"])
def test_no_message_before_the_words_names_a_role(corpus, tmp_path, concept, context, mask):
    concept = {**concept, "context": context, "mask": mask}
    for masked in (False, True):
        out = tmp_path / str(masked)
        build_dialogues(corpus / "shard", out, "c", concept, WORDING, SPLITS, 0, role_masked=masked)
    (told, samples), (hidden, twins) = read(tmp_path / "False"), read(tmp_path / "True")
    named = {name: ROLE_WORD.search(shown(chat[:2])) is not None for name, chat in told.items()}
    assert all(named.values())
    for messages in hidden.values():
        for message in messages:
            if message["role"] != "assistant":
                assert not ROLE_WORD.search(message["content"])
                assert not re.search(
                    r"(?im)^ *(your fellow|teammate|you saw|your previous)", message["content"]
                )
    assert len(samples) > 100
    same = ("sample", "label", "split", "event", *(() if mask == "prompt_last" else ("text",)))
    assert [[row[key] for key in same] for row in samples] == [[row[key] for key in same] for row in twins]
    for row in twins:
        content = hidden[row["sequence"]][row["message"]]["content"]
        assert content[row["start"] : row["end"]] == row["text"]


def test_a_chat_is_the_same_whatever_role_its_actor_has():
    """Bob acts as a werewolf by night; of all he is asked and told, nothing may show it."""
    swapped = ROLES | {"Bob": "villager", "Eve": "werewolf"}
    chats = []
    for roles in (ROLES, swapped):
        events, game = make_events(roles=roles), make_game(roles=roles)
        chats.append(views_of("private", "action", game, events, {5, 9, 11, 18}, WORDING, role_masked=True))
    assert chats[0] == chats[1]
    assert "kill?" not in shown(chats[0][0].messages)
    told = views_of("private", "action", make_game(), make_events(), {5, 9, 11, 18}, WORDING)
    assert "kill?" in shown(told[0].messages)


def test_a_seer_is_neither_asked_nor_told():
    [view] = views_of("private", "action", make_game(), make_events(), {6}, WORDING, role_masked=True)
    assert "Whose role" not in shown(view.messages)
    assert "Dan is" not in shown(view.messages)
    # The check itself can be a sample: then it is shown, but not what came of it.
    [view] = views_of("private", "action", make_game(), make_events(), {2, 6}, WORDING, role_masked=True)
    assert view.messages[2] == {"role": "assistant", "content": "Dan"}
    assert "Dan is" not in shown(view.messages)


PROMPT = """\
Your character: Ann - You are {role}.{told}
GAME SETUP: 3 players total - 1 werewolves, 2 villagers (1 seer)

=== GAME HISTORY ===
Vote: Cid eliminated (was {seen}).
Discussion:
  Bob: My fellow villagers, a WEREWOLF's lie!

{thoughts}
Phase: DAY DISCUSSION
Task: speak"""


def test_prompts_of_all_roles_become_one():
    thoughts = "Your previous thoughts this game:\n  1. My teammate is Bob.\n\n  2. As a wolf I lie.\n\n\n"
    prompts = [
        PROMPT.format(
            role="a WEREWOLF", told="\nYour fellow werewolf is: Bob", seen="villager", thoughts=thoughts
        ),
        PROMPT.format(role="a WEREWOLF", told="\nTeammate: Bob", seen="seer", thoughts=thoughts),
        PROMPT.format(role="the SEER", told="\nYou saw: Bob is a villager", seen="werewolf", thoughts=""),
        PROMPT.format(role="a VILLAGER", told="", seen="werewolf", thoughts=""),
    ]
    hide = role_hider(["werewolf", "villager"], WORDING["plural"])
    masked = {hide(prompt_without_team(prompt)) for prompt in prompts}
    assert len(masked) == 1
    text = masked.pop()
    assert "You are a player." in text
    assert "1 players, 2 players (1 player)" in text
    assert "  Bob: My fellow players, a player's lie!\n\nPhase: DAY" in text


def test_thoughts_end_with_an_empty_line_where_no_phase_follows():
    text = "Before.\nYour previous thoughts this game:\n  1. One.\n  2. Two.\n\nAfter."
    assert prompt_without_team(text) == "Before.\n\nAfter."
    assert prompt_without_team("Before.\nYour previous thoughts this game:\n  1. One.") == "Before.\n"


def test_own_reasoning_is_not_shown_before_the_action():
    events = prompted(make_events())
    [view] = views_of("prompt", "action", make_game(), events, {5}, WORDING, role_masked=True)
    assert view.messages[2]["content"] == '{"reasoning": "", "action": "I slept."}'
    span = view.spans[5]
    assert view.messages[2]["content"][span.start : span.end] == "I slept."
    # Under a mask that reads the reasoning, the words are the sample.
    [view] = views_of("prompt", "reasoning", make_game(), events, {5}, WORDING, role_masked=True)
    assert "As a werewolf I keep quiet." in view.messages[2]["content"]


def test_roles_of_any_name_are_hidden_as_whole_words():
    hide = role_hider(["mad scientist", "C++", "", "player", "Doctor"], {"werewolf": "werewolves"})
    text = "A Mad Scientist, the doctors, doctored C++ and an old werewolf; Werewolves play."
    assert hide(text) == "a player, the players, doctored player and an old player; players play."
    assert role_hider([], {})("a werewolf") == "a werewolf"


def test_other_wording_is_masked_as_well(tmp_path):
    wording = yaml.safe_load(yaml.safe_dump(WORDING))
    wording["plural"] |= {"seer": "seeresses"}
    wording["private"]["system"] = "$actor the $role among $setup. Seeresses see."
    [view] = views_of("private", "action", make_game(), make_events(), {5}, wording, role_masked=True)
    assert view.messages[0]["content"] == "Bob a player among 2 players, 3 players, 1 player. players see."


def test_the_manifest_says_which_of_the_two_it_is(tmp_path):
    from probeline.files import read_json
    from tests.unit.test_dialogues import write_shard

    shard = write_shard(tmp_path / "shard", make_events(), [make_game()])
    for masked in (False, True):
        out = tmp_path / str(masked)
        build_dialogues(shard, Path(out), "trust", TRUST, WORDING, SPLITS, 0, role_masked=masked)
        assert read_json(out / "manifest.json")["role_masked"] is masked


@pytest.mark.parametrize(
    ("prompt", "left"),
    [
        ("Before.\nYour fellow werewolves:\n- Player2\n- Player3\nAfter.", "Before.\nAfter."),
        ("You saw:\n  Player2: werewolf\n  Player3: villager\n\nAfter.", "\nAfter."),
        ("Fellow werewolves: Player2\nWerewolf team: Player1, Player2\nAfter.", "After."),
        ("You are Player1. Your fellow werewolf is: Player2\nAfter.", "You are Player1.\nAfter."),
        ("Alive:\n  Player2\n- Your teammates: Player2\nAfter.", "Alive:\n  Player2\nAfter."),
        ("Player2 said: I saw the team play.\nAfter.", "Player2 said: I saw the team play.\nAfter."),
    ],
)
def test_team_mates_go_in_whatever_form_they_are_told(prompt, left):
    assert prompt_without_team(prompt) == left


def test_thoughts_that_hold_a_line_like_the_next_section_go_whole():
    text = (
        "Your previous thoughts this game:\n  1. Wait.\nPhase: soon.\n  2. kill Player3\n\nPhase: DAY\nSpeak."
    )
    assert prompt_without_team(text) == "\nPhase: DAY\nSpeak."


def test_roles_with_an_underscore_beside_them_are_hidden():
    assert role_hider(["werewolf"], {})("Werewolf_2 and _werewolf_") == "player_2 and _player_"
