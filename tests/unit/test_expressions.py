import pytest
from hypothesis import given
from hypothesis import strategies as st

from probeline.datasets.concepts import COLUMN_TYPES, check_concept, concept_notes
from probeline.datasets.expressions import MAX_LENGTH, compile_expression
from probeline.errors import ProbelineError

COLUMNS = {"text": "string?", "actor": "string", "turn": "int32", "score": "double?", "same_team": "bool?"}
ROW = {"text": "I am the seer, Player2.", "actor": "Player2", "turn": 3, "score": -1.5, "same_team": True}
TRUST = {
    "corpus": "werewolf",
    "events": ["day_vote", "night_vote", "reply"],
    "filter": 'actor_team == "werewolves" and valid and target is not None',
    "label": "same_team",
    "context": "private",
    "mask": "action",
}


def evaluate(text, row=ROW):
    return compile_expression(text, COLUMNS).evaluate(row)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("same_team", True),
        ('actor == "Player2" and turn >= 3', True),
        ("turn < 2 or score < 0", True),
        ("not (turn == 3)", False),
        ("turn in [1, 3]", True),
        ("turn not in (1, 3)", False),
        ('actor in ["Player1"]', False),
        ("text is None", False),
        ("text is not None", True),
        ("turn * 2 - 1 == 5", True),
        ("-score / 3 + turn == 3.5", True),
        ("len(text) == 23", True),
        ('lower(text) != "x"', True),
        ('contains(text, "Seer")', False),
        ('contains(lower(text), "seer")', True),
        ('startswith(text, "I am")', True),
        ('mentions(text, "SEER")', True),
        ('mentions(text, "see")', False),
        ("mentions(text, actor)", True),
        ('mentions(text, "Player")', False),
        ('mentions(text, ".*")', False),
        ("turn\n  == 3", True),
    ],
)
def test_values(text, value):
    assert evaluate(text) is value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("same_team", None),
        ("not same_team", None),
        ("same_team == False", None),
        ("same_team != True", None),
        ("same_team in [True]", None),
        ("score < 0", None),
        ("score + 1 == 0", None),
        ('mentions(text, "seer")', None),
        ("len(text) > 0", None),
        ("same_team and turn == 3", None),
        ("turn == 3 and same_team", None),
        ("same_team and turn == 4", False),
        ("same_team or turn == 3", True),
        ("same_team or turn == 4", None),
        ("same_team is None", True),
        ("same_team is not None", False),
        ("same_team is None or same_team", True),
        ("turn / (turn - 3) > 0", None),
    ],
)
def test_null_is_neither_true_nor_false(text, value):
    assert evaluate(text, {**ROW, "same_team": None, "score": None, "text": None}) is value


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("same_tem", 1, "same_team"),
        ("turn == 3 and atcor is None", 15, "actor"),
        ('"ü" == atcor', 8, "actor"),
        ('mention(text, "x")', 1, "mentions"),
        ("actor == Player2", 10, "quotes"),
        ("turn = 3", 6, "invalid syntax"),
        ("turn ==", 8, "invalid syntax"),
        ("turn == 3)", 10, "unmatched"),
        ("", None, "0 characters"),
        ("turn > " + "1" * MAX_LENGTH, None, str(MAX_LENGTH)),
        ("turn > " + "1" * 20, 8, "1e+15"),
        ("turn > 1e999", 8, "1e+15"),
        ("not " * 240 + "same_team", 1, "parts"),
        ("(" * 400 + "turn" + ")" * 400, None, "Expression"),
        ("-" * 900 + "turn", 1, ""),
        ("turn\0", None, ""),
        ("1 < turn < 3", 1, "and"),
        ("turn is 3", 9, "None"),
        ("text == None", 1, "is None"),
        ('"seer" in text', 11, "contains"),
        ("turn in [score]", 10, "texts and numbers"),
        ('turn in ["3"]', 10, "a number"),
        ("turn < text", 8, "a number"),
        ("turn == text", 9, "a number"),
        ("text + actor == text", 1, "a number"),
        ("turn and same_team", 1, "true or false"),
        ("not text", 5, "true or false"),
        ("len(turn) > 1", 5, "a text"),
        ("len(text, text) > 1", 1, "1 argument"),
        ("len(text=text) > 1", 1, "1 argument"),
        ("len(*text) > 1", 5, "not allowed"),
        ("len > 1", 1, "function"),
        ("text.upper()", 1, "functions can be called"),
        ("text.__class__", 1, "not allowed"),
        ("text[0]", 1, "not allowed"),
        ("turn ** 9", 1, "not allowed"),
        ("turn % 2", 1, "not allowed"),
        ("turn if same_team else 3", 1, "not allowed"),
        ("[turn for turn in text]", 1, "not allowed"),
        ("(lambda: 1)()", None, "functions can be called"),
        ("(turn := 3)", None, "not allowed"),
        ('f"{turn}"', 1, "not allowed"),
        ('b"x" == text', 1, "neither text"),
        ("2j == turn", 1, "neither text"),
        ("... == turn", 1, "neither text"),
        ("__import__('os')", 1, "unknown function"),
        ("__builtins__", 1, "unknown column"),
    ],
)
def test_faults_are_named_with_their_position(text, position, words):
    with pytest.raises(ProbelineError) as fault:
        compile_expression(text, COLUMNS)
    assert words in str(fault.value)
    if position is not None:
        assert f"position {position}:" in str(fault.value)


def test_the_columns_that_are_read():
    expression = compile_expression('mentions(text, "seer") and len(actor) > turn', COLUMNS)
    assert expression.columns == {"text", "actor", "turn"}
    assert expression.is_flag
    assert not compile_expression("turn + 1", COLUMNS).is_flag


FLAGS = st.recursive(
    st.sampled_from(
        ["same_team", "score < turn", "mentions(text, actor)", "text is None", "turn / score == 1"]
    ),
    lambda inner: st.one_of(
        inner.map(lambda part: f"not ({part})"),
        st.tuples(inner, st.sampled_from(["and", "or", "==", "!="]), inner).map(
            lambda parts: f"({parts[0]}) {parts[1]} ({parts[2]})"
        ),
    ),
    max_leaves=6,
)


@given(
    FLAGS,
    st.fixed_dictionaries(
        {
            "text": st.none() | st.text(max_size=8),
            "actor": st.text(max_size=8),
            "turn": st.integers(-(2**31), 2**31 - 1),
            "score": st.none() | st.floats(),
            "same_team": st.none() | st.booleans(),
        }
    ),
)
def test_what_compiles_never_fails_on_a_row(text, row):
    assert compile_expression(text, COLUMNS).evaluate(row) in (True, False, None)


def test_the_default_concepts_are_accepted():
    check_concept("trust", TRUST)
    check_concept(
        "collusion",
        {
            "corpus": "werewolf",
            "events": ["statement", "reply"],
            "label": 'actor_team == "werewolves"',
            "context": "public",
            "mask": "action",
        },
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"events": ["day_votes"]}, ["probes.trust.events", "day_vote"]),
        ({"events": ["night_kill"]}, ["probes.trust.events", "no actor"]),
        ({"events": []}, ["probes.trust.events", "at least one"]),
        ({"context": "privat"}, ["probes.trust.context", "private"]),
        ({"mask": "actions"}, ["probes.trust.mask", "action"]),
        ({"filter": "vaild"}, ["probes.trust.filter", "valid"]),
        ({"filter": "turn"}, ["probes.trust.filter", "true or false"]),
        ({"filter": True}, ["probes.trust.filter", "text"]),
        ({"label": "turn + 1"}, ["probes.trust.label", "true or false"]),
        ({"label": "actor_tem == target_team"}, ["probes.trust.label", "actor_team"]),
        ({"template": "../secret"}, ["probes.trust.template"]),
        ({"labels": "same_team"}, ["probes.trust", "labels", "label"]),
        ({"context": "public", "events": ["day_vote"]}, ["probes.trust.events", "context public"]),
        ({"context": "public", "mask": "reasoning"}, ["probes.trust.mask", "private"]),
    ],
)
def test_faulty_concepts_are_refused_by_key(changes, words):
    with pytest.raises(ProbelineError) as fault:
        check_concept("trust", {**TRUST, **changes})
    for word in words:
        assert word in str(fault.value)


def test_a_missing_key_is_named():
    with pytest.raises(ProbelineError, match=r"probes.trust: label is missing"):
        check_concept("trust", {key: value for key, value in TRUST.items() if key != "label"})


def test_notes_say_what_the_input_gives_away():
    def notes(**changes):
        return " ".join(concept_notes("trust", {**TRUST, **changes}))

    assert "cannot be known" in notes(context="none")
    assert "names the actor's role" in notes(context="private")
    assert "cannot be known" not in notes(context="private")
    assert "day_vote, night_vote" in notes(context="public")
    assert "computed from words" in notes(label='mentions(text, "seer")')


def test_every_column_of_the_event_table_can_be_used():
    for column in COLUMN_TYPES:
        assert compile_expression(f"{column} is None", COLUMN_TYPES).columns == {column}


def test_a_value_that_a_column_never_has_is_refused():
    concept = {
        "corpus": "werewolf",
        "events": ["statement"],
        "label": 'actor_team == "werewolf"',
        "context": "none",
        "mask": "action",
    }
    with pytest.raises(ProbelineError, match=r"actor_team is never 'werewolf'. Did you mean werewolves\?"):
        check_concept("mine", concept)
    check_concept("mine", {**concept, "label": 'actor_team in ["werewolves", "village"]'})
