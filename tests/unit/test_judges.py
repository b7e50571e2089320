import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from probeline.cli import main
from probeline.compute.remote.secrets import secret_of_judge, secrets_of
from probeline.datasets.prompts import build_prompts, read_rubrics
from probeline.datasets.rubrics import write_rubrics
from probeline.errors import ProbelineError
from probeline.judges import JudgeRequest, RubricRequest, asking, open_judge, require_key
from probeline.judges.asking import Asking
from probeline.judges.cache import CACHE, AnswerCache
from probeline.judges.local import checks
from probeline.judges.parsing import NoAnswerError, parse_rubric, parse_score
from probeline.judges.questions import Asked, length_delimited_digest, score_question
from probeline.lineage.planned_run import check_judges
from probeline.logs.ingest_support import collect_support, ingest_support
from probeline.logs.simulate_support import simulate_support
from tests.unit.judge_server import (
    CUT,
    DRIPPING,
    ENDLESS,
    NO_CHOICES,
    NO_JSON,
    PACKED,
    SILENT,
    JudgeServer,
    judge_server,
)

REPOSITORY = Path(__file__).parents[2]
SECRET = "sk-very-secret-0123456789"


def request(completion: str, **other: str) -> JudgeRequest:
    return JudgeRequest(
        **{"prompt": "user: Hi", "rubric": "Good.", "reference": "Hello."} | other, completion=completion
    )


def score(value: float) -> str:
    return json.dumps({"score": value})


def ask(server: JudgeServer, folder: Path, completions: list[str], **settings):
    with open_judge("tried", server.settings(**settings), folder / "rewards.sqlite") as judge:
        return judge.scores([request(one) for one in completions]), judge.counts


def remembered(folder: Path) -> dict[str, float]:
    with sqlite3.connect(folder / "rewards.sqlite") as connection:
        rows = connection.execute("SELECT material, score FROM answers").fetchall()
    return {json.loads(material)["completion"]: value for material, value in rows}


# What an answer says -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"score": 0.25}', 0.25),
        (' {"score":1} \n', 1.0),
        ('```json\n{"score": 0}\n```', 0.0),
        ('```\n{"score": 5e-1}\n```', 0.5),
    ],
)
def test_a_score_is_read(text, value):
    assert parse_score(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "8/10",
        "0.8",
        "",
        "  ",
        "I would say 0.8.",
        'Here you are: {"score": 0.8}',
        '{"score": 0.8} Good.',
        '{"score": NaN}',
        '{"score": Infinity}',
        '{"score": -Infinity}',
        '{"score": 1e999}',
        '{"score": 1.2}',
        '{"score": -0.1}',
        '{"score": 8}',
        '{"score": true}',
        '{"score": "0.8"}',
        '{"score": "8/10"}',
        '{"score": null}',
        '{"score": [0.8]}',
        '{"score": {"score": 0.8}}',
        '{"result": {"score": 0.8}}',
        '[{"score": 0.8}]',
        '{"score": 0.8} {"score": 0.1}',
        '{"score": 0.8}\n{"score": 0.8}',
        '{"score": 0.8, "score": 0.1}',
        '{"score": 0.8, "reason": "good"}',
        "{'score': 0.8}",
        '{"Score": 0.8}',
        '{"score": 0.8',
        "[" * 15_000,
        '{"score": ' + "1" * 15_000 + "}",
        " " * 30_000 + "x" * 30_000,
        "{}",
        "null",
        '```\n{"score": 0.8}\n```\n```\n{"score": 0.1}\n```',
    ],
)
def test_what_is_no_score_is_a_failure(text):
    with pytest.raises(NoAnswerError):
        parse_score(text)


def test_a_rubric_is_a_text_and_nothing_else():
    assert parse_rubric('```json\n{"rubric": " Asks for the dates. "}\n```') == "Asks for the dates."
    for text in (
        '{"rubric": ""}',
        '{"rubric": 1}',
        "Asks for the dates.",
        json.dumps({"rubric": "x" * 5000}),
    ):
        with pytest.raises(NoAnswerError):
            parse_rubric(text)


# Failures ------------------------------------------------------------------------------------------------

WRONG = {
    "500": ((500, "broken"), "HTTP 500"),
    "429": ((429, "slower"), "HTTP 429"),
    "prose": ("It is quite good.", "answer is no JSON"),
    "8/10": ("8/10", "answer is no JSON"),
    "NaN": ('{"score": NaN}', "score is not in 0..1"),
    "empty": ("", "empty answer"),
    "wrong": ('{"value": 1}', 'answer is not {"score": ...}'),
    "cut": (CUT, "connection"),
    "html": (NO_JSON, "answer is not of the protocol"),
    "none": (NO_CHOICES, "answer is not of the protocol"),
}


@pytest.mark.parametrize("kind", ["openai", "gemini"])
def test_every_kind_of_failure_is_tried_again_then_masked_and_never_remembered(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("GEMINI_API_KEY", SECRET)
    with judge_server(lambda name, attempt: WRONG[name][0] if name in WRONG else score(0.5)) as server:
        scores, counts = ask(server, tmp_path, [*WRONG, "good"], kind=kind)
        assert scores == [None] * len(WRONG) + [0.5]
        assert {server.asked[name] for name in WRONG} == {5}
        assert remembered(tmp_path) == {"good": 0.5}
        assert (counts["asked"], counts["retried"]) == (len(WRONG) + 1, 4 * len(WRONG))
        for _, reason in WRONG.values():
            assert counts[f"failed: {reason}"] == sum(reason == other for _, other in WRONG.values())
        server.behaviour = lambda name, attempt: score(0.25)
        scores, counts = ask(server, tmp_path, [*WRONG, "good"], kind=kind)
        assert scores == [0.25] * len(WRONG) + [0.5]
        assert (counts["asked"], counts["cached"]) == (len(WRONG), 1)
    assert {body["temperature"] for body in server.bodies} == {0.0}


def test_an_endpoint_that_says_nothing_is_given_up(tmp_path):
    with judge_server(lambda name, attempt: SILENT if attempt <= 2 else score(1)) as server:
        scores, counts = ask(server, tmp_path, ["a"], timeout=0.2)
    assert (scores, counts["retried"]) == ([1.0], 2)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [(DRIPPING, "timeout"), (ENDLESS, "answer is too long"), (PACKED, "answer is packed")],
)
def test_an_answer_without_an_end_is_given_up(tmp_path, monkeypatch, behaviour, reason):
    monkeypatch.setattr(asking, "ATTEMPTS", 1)
    with judge_server(lambda completion, attempt: behaviour) as server:
        scores, counts = ask(server, tmp_path, ["a"], timeout=0.3)
    assert scores == [None]
    assert counts[f"failed: {reason}"] == 1


def test_a_judge_that_never_answers_is_asked_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "ATTEMPTS", 1)
    with judge_server(lambda completion, attempt: "no idea") as server:
        with pytest.raises(ProbelineError, match=r"none of 20 questions in a row; .*judges\.tried"):
            ask(server, tmp_path, [str(number) for number in range(300)])
        assert server.asked.total() < 60


def test_an_answer_between_failures_is_hope(tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "ATTEMPTS", 1)
    completions = [str(number) for number in range(60)]
    good = {"15", "30", "45"}
    with judge_server(lambda completion, attempt: score(0.5) if completion in good else "no idea") as server:
        scores, _ = ask(server, tmp_path, completions, concurrency=1)
    assert sum(value is not None for value in scores) == len(good)


def job(rule, judge, modal):
    spec = {"judge": {"name": judge, "settings": {}}}
    return SimpleNamespace(params={"spec": spec}, rule=SimpleNamespace(name=rule), resources={"modal": modal})


def test_a_judge_needs_its_key_where_it_is_asked(monkeypatch):
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    judges = {
        "gemini": {"kind": "gemini", "model": "m"},
        "mine": {"kind": "openai", "url": "http://x", "model": "m"},
        "local": {"kind": "local"},
    }

    def check(judge, modal):
        jobs = [job("train_grpo", judge, modal)]
        check_judges(SimpleNamespace(jobs=jobs, needrun=lambda job: True), {"judges": judges})
        return secrets_of(jobs, {"judges": judges})

    assert [check(judge, 1) for judge in ("mine", "local")] == [[], []]
    assert check("gemini", 1) == [("gemini-secret", "GEMINI_API_KEY")]
    with pytest.raises(ProbelineError, match="the environment variable GEMINI_API_KEY"):
        check("gemini", 0)
    monkeypatch.setenv("GEMINI_API_KEY", SECRET)
    check("gemini", 0)


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("GEMINI_API_KEY", "gemini-secret"),
        ("MY_LAB_KEY", "my-lab-secret"),
        ("JUDGE", "judge-secret"),
        ("_API_KEY", "secret"),
    ],
)
def test_the_secret_of_a_key_is_named_after_its_variable(variable, name):
    assert secret_of_judge({"kind": "openai", "key": variable}) == (name, variable)


def test_one_good_answer_after_failures_counts(tmp_path):
    with judge_server(lambda name, attempt: "8/10" if attempt < 5 else score(0.75)) as server:
        scores, counts = ask(server, tmp_path, ["a", "a", "b"])
        assert (scores, counts["repeated"]) == ([0.75] * 3, 1)
        assert sum(server.answered.values()) == 10


def test_a_request_that_is_refused_for_what_it_holds_is_asked_once(tmp_path):
    with judge_server(lambda name, attempt: (400, "too long") if name == "long" else score(1)) as server:
        scores, counts = ask(server, tmp_path, ["long", "good"])
        assert (scores, server.asked["long"], counts["failed: HTTP 400"]) == ([None, 1.0], 1, 1)


@pytest.mark.parametrize(
    ("status", "said", "words"),
    [
        (401, "Incorrect API key provided: {key}", "judges.tried.key"),
        (403, "not allowed", "judges.tried.key"),
        (400, "API key not valid", "judges.tried.key"),
        (404, "no such model", "judges.tried.model"),
        (402, "no money", "not paid for"),
    ],
)
def test_what_no_further_attempt_helps_ends_in_words_and_shows_no_key(
    tmp_path, monkeypatch, caplog, status, said, words
):
    monkeypatch.setenv("TRIED_KEY", SECRET)
    with judge_server(lambda name, attempt: (status, said.format(key=SECRET))) as server:
        with pytest.raises(ProbelineError, match=words) as caught:
            ask(server, tmp_path, [str(number) for number in range(50)], key="TRIED_KEY", concurrency=2)
        assert max(server.asked.values()) == 1
        assert len(server.asked) < 10
    assert server.keys == {f"Bearer {SECRET}"}
    shown = str(caught.value) + caplog.text + repr(caught.value.__cause__)
    assert SECRET not in shown
    assert "tiny" in shown
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_an_endpoint_that_wants_a_key_where_none_is_named_is_told_of(tmp_path):
    said = r"wants a key: .* None was sent: .* in judges\.tried\.key\."
    with (
        judge_server(lambda name, attempt: (401, "who?")) as server,
        pytest.raises(ProbelineError, match=said),
    ):
        ask(server, tmp_path, ["one"])


def test_a_missing_key_is_refused_in_words_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    settings = {"kind": "gemini", "model": "some"}
    for refuse in (
        lambda: open_judge("g", settings, tmp_path / "r.sqlite"),
        lambda: require_key("g", settings),
    ):
        with pytest.raises(ProbelineError) as caught:
            refuse()
        for word in ("GEMINI_API_KEY", "judges.g.key", "openai", "local"):
            assert word in str(caught.value)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("GEMINI_API_KEY", SECRET + "\n and more")
    with pytest.raises(ProbelineError, match="is no key") as caught:
        require_key("g", settings)
    assert SECRET not in str(caught.value)
    require_key("l", {"kind": "local"})


def test_a_judge_without_a_key_gets_none_of_the_users(tmp_path, monkeypatch):
    for variable in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(variable, SECRET)
    with judge_server(lambda name, attempt: score(1)) as server:
        assert ask(server, tmp_path, ["a"])[0] == [1.0]
    assert server.keys == {"Bearer none"}


# The cache -----------------------------------------------------------------------------------------------

WORKER = """
import json, sys
from pathlib import Path
from probeline.judges import JudgeRequest, open_judge
settings, cache, first, last = json.loads(sys.argv[1])
requests = [JudgeRequest("user: Hi", "Good.", "Hello.", str(number)) for number in range(first, last)]
with open_judge("tried", settings, Path(cache)) as judge:
    print(json.dumps([judge.scores(requests), judge.counts]))
"""


def unlucky(name: str, attempt: int) -> bool:
    """30 % of all calls; those of some names, always."""
    return name.endswith("77") or hashlib.sha256(f"{name}:{attempt}".encode()).digest()[0] < 77


def workers(server: JudgeServer, cache: Path, ranges: list[tuple[int, int]]) -> list[tuple[list, dict]]:
    """What processes get that ask side by side."""
    settings = server.settings(concurrency=16)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, json.dumps([settings, str(cache), *numbers])],
            stdout=subprocess.PIPE,
            text=True,
        )
        for numbers in ranges
    ]
    outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0] * len(ranges)
    return [tuple(json.loads(output)) for output in outputs]


def test_a_thousand_requests_of_two_processes_with_failures(tmp_path):
    """No failure is remembered, no key asked twice with success, no row lost; the second run asks nobody."""

    def behaviour(name: str, attempt: int) -> str | tuple[int, str]:
        bad = [(500, "broken"), (429, "slower"), "8/10", "", '{"score": NaN}', CUT]
        return bad[(int(name) + attempt) % len(bad)] if unlucky(name, attempt) else score(int(name) / 1000)

    ranges, cache = [(0, 500), (300, 800)], tmp_path / "rewards.sqlite"
    with judge_server(behaviour) as server:
        first = workers(server, cache, ranges)
        good = {name for name in map(str, range(800)) if name in remembered(tmp_path)}
        assert {str(number) for number in range(800) if number % 100 == 77}.isdisjoint(good)
        assert len(good) > 780
        for (scores, counts), numbers in zip(first, ranges, strict=True):
            for number, value in zip(range(*numbers), scores, strict=True):
                assert value in (None, number / 1000)
                assert value is None or str(number) in good
            assert counts["asked"] + counts["cached"] == 500
            failed = sum(count for name, count in counts.items() if name.startswith("failed"))
            assert failed == scores.count(None)
        # Everything usable that was said was said once and is there.
        assert {name: count for name, count in server.said_well.items() if count} == dict.fromkeys(good, 1)
        assert remembered(tmp_path) == {name: int(name) / 1000 for name in good}
        server.behaviour = lambda name, attempt: score(int(name) / 1000)
        before = server.asked.total()
        every = [str(number) for number in range(800)]
        ask(server, tmp_path, every)
        assert server.asked.total() - before == 800 - len(good)
        scores, counts = ask(server, tmp_path, every)
        assert server.asked.total() - before == 800 - len(good)
    assert scores == [number / 1000 for number in range(800)]
    assert (counts["cached"], counts["asked"]) == (800, 0)
    with sqlite3.connect(cache) as connection:
        assert connection.execute("SELECT count(*) FROM claims").fetchone() == (0,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_killed_process_holds_nobody_up(tmp_path):
    asked = Asked("openai", "http://x", "m", 0.0)
    question = score_question(request("a"), asked)
    code = (
        "import sys, time; from pathlib import Path; from probeline.judges.cache import AnswerCache\n"
        "print(AnswerCache(Path(sys.argv[1]), lease=1.5).claim(sys.argv[2], 'killed'), flush=True)\n"
        "time.sleep(60)"
    )
    path = tmp_path / "rewards.sqlite"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path), question.key], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "(None, True)\n"
        process.send_signal(signal.SIGKILL)
    cache = AnswerCache(path)
    assert cache.claim(question.key, "other") == (None, False)
    asking = Asking("tried", cache, lambda one: 0.5, 1, 0.0)
    assert asking.answers([question]) == [0.5]
    assert asking.counts["asked"] == 1


def test_a_claim_is_renewed_while_an_answer_takes_longer_than_the_lease(tmp_path):
    question = score_question(request("a"), Asked("openai", "http://x", "m", 0.0))
    calls, go_on = [], threading.Event()

    def slow(one) -> float:
        calls.append(one)
        assert go_on.wait(20)
        return 0.5

    askings = [Asking("tried", AnswerCache(tmp_path / "r.sqlite", lease=0.3), slow, 1, 0.0) for _ in range(2)]
    found: list = []
    threads = [threading.Thread(target=lambda a=a: found.append(a.answers([question]))) for a in askings]
    for thread in threads:
        thread.start()
    threading.Timer(1.2, go_on.set).start()
    for thread in threads:
        thread.join(30)
    assert found == [[0.5], [0.5]]
    assert len(calls) == 1


def test_everything_that_decides_about_an_answer_is_in_its_key():
    asked = Asked("openai", "http://x", "m", 0.0)
    keys = [score_question(request("a"), asked).key]
    keys += [
        score_question(request("a", **{name: "x"}), asked).key for name in ("prompt", "rubric", "reference")
    ]
    keys.append(score_question(request("b"), asked).key)
    keys += [
        score_question(request("a"), Asked(*other)).key
        for other in (
            ("gemini", "http://x", "m", 0.0),
            ("openai", "http://y", "m", 0.0),
            ("openai", "http://x", "n", 0.0),
            ("openai", "http://x", "m", 0.5),
        )
    ]
    keys.append(score_question(request("a"), asked, "score-2").key)
    # What stands where counts, too.
    keys.append(score_question(request("", rubric="Good.a"), asked).key)
    assert len(set(keys)) == len(keys)
    assert length_delimited_digest(["ab", "c"]) != length_delimited_digest(["a", "bc"])


def test_a_number_that_is_no_score_cannot_be_stored(tmp_path):
    cache = AnswerCache(tmp_path / "r.sqlite")
    question = score_question(request("a"), Asked("openai", "http://x", "m", 0.0))
    for wrong in (float("nan"), 1.5, -0.1):
        with pytest.raises(sqlite3.IntegrityError):
            cache.store(question, "me", wrong)
    assert cache.known([question.key]) == {}
    assert cache.store(question, "me", 0.5) == 0.5
    assert cache.store(question, "other", 0.75) == 0.5


def damage(path: Path) -> None:
    AnswerCache(path).close()
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(os.urandom(30_000))


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE answers (key)")


def use(path: Path) -> None:
    cache = AnswerCache(path)
    cache.claim("a" * 64, "me")
    cache.store(score_question(request("a"), Asked("openai", "http://x", "m", 0.0)), "me", 0.5)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"no database" * 1000),
        foreign,
        damage,
        lambda path: path.mkdir(),
    ],
)
def test_a_file_that_is_no_cache_is_refused_with_a_remedy_and_left_as_it_is(tmp_path, spoil):
    path = tmp_path / "rewards.sqlite"
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(ProbelineError) as caught:
        use(path)
    assert str(path) in str(caught.value)
    assert "Move it away" in str(caught.value) or "disk of this machine" in str(caught.value)
    assert before is None or len(path.read_bytes()) >= len(before)


# The judge of this machine -------------------------------------------------------------------------------


def test_the_local_judge_prefers_the_reference_and_asks_nobody(tmp_path):
    reference = "For how many nights would you like to stay in the hotel?"
    completions = [reference, "How many nights will you stay?", "The weather is fine.", "", "blah " * 80]
    requests = [request(one, reference=reference) for one in completions]
    with open_judge("local", {"kind": "local"}, tmp_path / "r.sqlite") as judge:
        scores = judge.scores(requests)
        assert scores[0] == 1.0
        assert scores[0] > scores[1] > scores[2] > scores[4] >= scores[3] == 0.0
        assert judge.scores(requests[::-1]) == scores[::-1]
        assert (judge.counts["asked"], judge.counts["cached"]) == (5, 5)
        assert judge.scores([request("a", reference=" ")]) == [None]
        assert judge.rubrics([RubricRequest("task", "user: Hi", "Hello.")]) == [None]


def test_the_checks_of_the_local_judge_by_hand():
    assert checks("Which city?", "What city?") == {"concise": 1, "asks": 1, "new": 1, "own_part": 1}
    assert checks("word " * 40, "What city?")["concise"] == 0.5
    assert checks("a b c a b c", "Fine.")["new"] == 3 / 4
    assert checks("Fine.\nUser: And then?", "Fine.") == {"concise": 1, "asks": 0, "new": 1, "own_part": 0}


# Rubrics -------------------------------------------------------------------------------------------------


def test_rubrics_are_written_once_for_each_row_that_is_kept(tmp_path):
    simulate_support(0, range(6), tmp_path / "raw")
    files = [path for path in sorted((tmp_path / "raw").rglob("*.json")) if path.name != "manifest.json"]
    ingest_support(files, tmp_path / "raw", tmp_path / "shard", {})
    collect_support([tmp_path / "shard"], tmp_path / "corpus")
    splits = {"train": 0.6, "validation": 0.2, "test": 0.2}
    given = (tmp_path / "corpus", tmp_path / "rubrics", {}, splits, 0)

    def behaviour(reference: str, attempt: int) -> str:
        return json.dumps({"rubric": f"Says {reference}"}) if "?" in reference else "no idea"

    with judge_server(behaviour) as server:
        judge = {"name": "tried", "settings": server.settings()}
        write_rubrics(*given, judge, cache=tmp_path / "rewards.sqlite")
        rubrics = read_rubrics(tmp_path / "rubrics" / "rubrics.jsonl")
        asked = server.asked.copy()
        write_rubrics(*given, judge, cache=tmp_path / "rewards.sqlite")
        again = server.asked - asked
        assert again
        assert not [reference for reference in again if "?" in reference]
        server.behaviour = lambda reference, attempt: "no idea"
        with pytest.raises(ProbelineError, match="none of"):
            write_rubrics(*given, judge, cache=tmp_path / "other.sqlite")
    assert read_rubrics(tmp_path / "rubrics" / "rubrics.jsonl") == rubrics
    build_prompts(given[0], tmp_path / "prompts", *given[2:], simulated=True, rubrics=rubrics)
    build_prompts(given[0], tmp_path / "plain", *given[2:], simulated=True)
    rows, plain = (
        [json.loads(line) for line in (tmp_path / name / "prompts.jsonl").read_text().splitlines()]
        for name in ("prompts", "plain")
    )
    assert [row["id"] for row in rows] == list(rubrics)
    # The judge is told the task by itself: the conversation is what the two sides have said.
    for body in server.bodies:
        told = json.loads(body["messages"][1]["content"])
        assert told["task"]
        assert told["task"] not in told["conversation"]
    for row in rows:
        truth = row["ground_truth"]
        assert row["rubric"] == (f"Says {truth}" if "?" in truth else None)
    assert [row | {"rubric": None} for row in rows] == plain
    counts = json.loads((tmp_path / "prompts/dataset_statistics.json").read_text())["rubrics"]
    assert counts["written"] > 0 < counts["failed"] == sum(row["rubric"] is None for row in rows)


# What people see of it -----------------------------------------------------------------------------------


def test_rewards_lists_by_judge_and_shows_one_answer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPOSITORY / "config", "config")
    assert main(["rewards"]) == 1
    assert "no judge has been asked" in capsys.readouterr().err
    with judge_server(lambda name, attempt: score(int(name) / 10)) as server:
        with open_judge("tried", server.settings(), CACHE) as judge:
            judge.scores([request(str(number)) for number in (2, 4, 9)])
        with open_judge("other", server.settings(model="m\x1b[31m"), CACHE) as judge:
            judge.scores([request("5")])
        server.behaviour = lambda name, attempt: json.dumps({"rubric": "Be kind."})
        with open_judge("tried", server.settings(), CACHE) as judge:
            judge.rubrics([RubricRequest("task", "user: Hi", "Hello.")])
        settings = {"judges": {"tried": server.settings()}}
    Path("own.yaml").write_text(json.dumps(settings))
    assert main(["rewards"]) == 0
    written = capsys.readouterr().out
    assert "3 scores, mean 0.500 ± 0.361 (sd), 0.200 to 0.900" in written
    assert "1 rubric\n" in written
    assert "1 score, mean 0.500, 0.500 to 0.500" in written
    assert "\x1b" not in written
    assert main(["rewards", "--judge", "tried", "--json", "--configfile", "own.yaml"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["answers"] for row in found["judges"]] == [1, 3]
    assert sorted(row["score"] for row in found["answers"] if row["score"] is not None) == [0.2, 0.4, 0.9]
    key = next(row["key"] for row in found["answers"] if row["score"] == 0.9)
    assert main(["rewards", key[:12]]) == 0
    shown = capsys.readouterr().out
    assert f"key: {key}\n" in shown
    assert "completion:\n  9\nscore:\n  0.9\n" in shown
    for wrong, words in (("zzzz", "is no key"), ("ab", "is no key"), ("0" * 20, "No answer has")):
        assert main(["rewards", wrong]) == 1
        assert words in capsys.readouterr().err
    assert main(["rewards", "--judge", "lokal"]) == 1
    assert "Did you mean local?" in capsys.readouterr().err
