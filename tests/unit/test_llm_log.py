import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probeline.errors import ProbelineError
from probeline.logs.llm_log import read_calls
from probeline.logs.responses import answers
from tests.unit.werewolf_games import RULE, SYSTEM, answer, block, prompt


def first(response):
    return next(answers(response))


def test_a_call_is_read_whole():
    user = prompt(3, "DAY VOTE", ["Bob", "Cid"])
    (call,) = read_calls(block("Ann", user, answer("Bob"), score=1.5))
    assert (call.index, call.player, call.system, call.user) == (0, "Ann", SYSTEM, user)
    assert (call.turn, call.phase, call.options, call.scored) == (3, "DAY VOTE", ["Bob", "Cid"], True)
    assert call.responses == [answer("Bob")]
    assert call.readings[0][1].action == "Bob"


def test_retries_and_several_or_no_responses():
    text = block("Ann", "Phase: NIGHT", retries=2) + block("Bob", "Phase: NIGHT", "nonsense", answer("Cid"))
    silent, repeated = read_calls(text)
    assert (silent.responses, silent.readings, silent.retries) == ([], [], 2)
    assert repeated.responses == ["nonsense", answer("Cid")]
    assert [reading[1].action for reading in repeated.readings] == ["Cid", "nonsense"]
    assert not repeated.scored


def test_the_last_phase_line_counts_and_a_question_is_read():
    phase = "DAY DISCUSSION (Called Upon by Bob)"
    asks = 'Bob asks you: "Is it "you"?\nReally?"'
    user = prompt(2, phase, history="Ann: I think\nPhase: NIGHT\nwas long", asks=asks)
    (call,) = read_calls(block("Ann", user, answer("No.")))
    assert (call.phase, call.caller, call.question) == (phase, "Bob", 'Is it "you"?\nReally?')


@pytest.mark.parametrize("change", [lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff" + text])
def test_other_line_ends_and_a_byte_order_mark_change_nothing(change):
    text = block("Ann", prompt(1, "NIGHT", ["Bob"]), answer("Bob"), score=1) + block("Bob", "x", answer("y"))
    assert read_calls(change(text)) == read_calls(text)


def test_a_line_end_inside_a_response_is_kept():
    (call,) = read_calls(block("Ann", "Phase: NIGHT", '{"action": "a\r\nb"}'))
    assert call.responses == ['{"action": "a\r\nb"}']


def test_words_that_look_like_structure_do_not_make_calls():
    forged = "hello" + block(
        "Bob", prompt(9, "NIGHT", ["Ann"]), answer("I am a werewolf"), retries=1, score=9
    )
    user = prompt(1, "DAY DISCUSSION", history=f"  Cid: {forged}\n  Dot: fine")
    text = block("Ann", user, answer("ok")) + block("Cid", prompt(1, "DAY VOTE"), answer("Ann"))
    calls = read_calls(text, [forged])
    assert [call.player for call in calls] == ["Ann", "Cid"]
    assert (calls[0].user, calls[0].turn, calls[0].retries) == (user, 1, 0)
    assert calls[0].responses == [answer("ok")]
    assert len(read_calls(text)) == 3


def test_words_cannot_erase_the_real_structure():
    text = block("Ann", prompt(1, "DAY DISCUSSION"), answer("ok"))
    assert read_calls(
        text, ["\n--- LLM RESPONSE ---\n", f"\n{RULE}\n", "\n--- USER PROMPT ---\n"]
    ) == read_calls(text)


def test_a_text_without_calls_is_refused():
    with pytest.raises(ProbelineError, match="LLM Call for"):
        read_calls("=" * 80 + "\nnothing")


@pytest.mark.parametrize(
    ("response", "action"),
    [
        ('{"reasoning": "r", "action": "Bob"}', "Bob"),
        ('```json\n{"reasoning": "r", "action": "Bob"}\n```', "Bob"),
        ('Sure: {"reasoning": "r", "action": "Bob"} I hope {this} helps "action".', "Bob"),
        ('{"reasoning": "it says "action" here", "action": "Bob"}', "Bob"),
        ('{"reasoning": "r", "action": "Bob', "Bob"),
        ('{"reasoning": "r", "action": "Bob"', "Bob"),
        ('{"action": "Cid", "action": "Bob"}', "Bob"),
        ('{"reasoning": "two\nlines", "action": "Bob"}', "Bob"),
        ("{'reasoning': 'r', 'action': Bob}", "Bob"),
        ('{"reasoning": {"action": "Cid"}, "action": "Bob"}', "Bob"),
        ('{"reasoning": "r", "action": "I am "sure", Ann"}', 'I am "sure", Ann'),
        ('{"reasoning": "r", "action": "caf\\u00e9 \\"x\\""}', 'café "x"'),
        ("Bob", "Bob"),
    ],
)
def test_the_action_is_found_in_good_and_broken_json(response, action):
    found = first(response)
    assert found.action == action
    assert (
        json.loads(f'"{response[found.start : found.end]}"'.replace('I am "sure"', r"I am \"sure\""))
        == action
    )


def test_a_quoted_object_as_in_the_example_of_the_prompt_is_read():
    response = '{"reasoning": "r", "action": "{"target": "Bob", "question": "Why?"}"}'
    found = first(response)
    assert found.action == {"target": "Bob", "question": "Why?"}
    assert response[found.start : found.end] == '{"target": "Bob", "question": "Why?"}'


def test_spans_come_from_the_keys_not_from_the_text():
    response = '{"reasoning": "I will say: Vote Bob", "action": "Vote Bob"}'
    found = first(response)
    assert found.start == response.rindex("Vote Bob") != response.index("Vote Bob")
    assert response[found.start : found.end] == "Vote Bob"
    assert response[found.reasoning_start : found.reasoning_end] == found.reasoning == "I will say: Vote Bob"


def test_the_span_of_an_object_is_the_whole_object():
    response = '{"action": {"target": "Bob", "question": "Why?"}, "reasoning": ["a", "b"]}'
    found = first(response)
    assert (
        json.loads(response[found.start : found.end]) == found.action == {"target": "Bob", "question": "Why?"}
    )
    assert json.loads(response[found.reasoning_start : found.reasoning_end]) == ["a", "b"]


def test_absurd_depth_and_length_are_no_trouble():
    for response in (
        '{"action": ' * 5000,
        '{"action": ' + "[" * 900 + "]" * 900 + "}",
        '"action": "' * 20000,
    ):
        assert len(list(answers(response))) < 100


@given(st.text() | st.text(alphabet='{}[]":,\\n`action ').map(lambda text: '{"action": "' + text))
def test_any_response_yields_spans_inside_it(response):
    for found in answers(response):
        assert 0 <= found.start <= found.end <= len(response)
        assert (found.reasoning_start is None) == (found.reasoning_end is None)


@given(st.dictionaries(st.sampled_from(["reasoning", "plan", "action"]), st.text() | st.lists(st.text())))
def test_the_first_reading_of_valid_json_is_what_json_says(members):
    members["action"] = members.get("action", "Bob")
    response = json.dumps(members, indent=1)
    found = first(response)
    assert found.action == members["action"]
    assert found.reasoning == members.get("reasoning")
    inside = response[found.start : found.end]
    assert json.loads(f'"{inside}"' if isinstance(found.action, str) else inside) == members["action"]
