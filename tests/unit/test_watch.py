import doctest
import json
import re
import runpy
import shlex
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from probeline import cli
from probeline.errors import ProbelineError
from probeline.files import MANIFEST, read_json, write_manifest
from probeline.models.render import render_chat, token_span
from probeline.probes import watch
from probeline.probes.detector import DETECTOR, Detector
from probeline.probes.methods import Head
from probeline.probes.score import QUESTION, Probe, chat
from probeline.probes.watch import LiveProbe, Monitor, Suspicion
from tests.unit.tiny import make_model

WIDTH, HIDDEN = 32, 5
ANSWERS = ("the wolf lied to us, and nobody spoke", "trust me")


def random_detector(method, layers, joint=False):
    generator = np.random.default_rng(len(layers))
    heads_of = [len(layers)] if joint else [1] * len(layers)

    def normal(*shape):
        return generator.normal(size=shape)

    heads = [
        Head(normal(HIDDEN), 0.3, normal(count * WIDTH, HIDDEN) / 4, normal(HIDDEN))
        if method == "mlp"
        else Head(normal(WIDTH) / 4, 0.3)
        for count in heads_of
    ]
    return Detector(
        method,
        "tiny",
        layers,
        normal(len(layers), WIDTH) / 10,
        0.5 + generator.random((len(layers), WIDTH)),
        tuple(heads),
        normal(len(heads)),
        0.5 + generator.random(len(heads)),
        1.0,
        threshold=0.2,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model, and probes on it: of one layer, of several in an odd order, and with hidden layers."""
    folder = tmp_path_factory.mktemp("watch")
    model = make_model(folder / "data/models/tiny", width=WIDTH)
    facts = {"model": "tiny", "dtype": "float32", "adapter_sha256": None, "concept": "lies"}
    facts["weights_sha256"] = read_json(model / MANIFEST)["weights_sha256"]
    for name, method, layers in (
        ("one", "lr", (2,)),
        ("several", "lr", (3, 0, 1)),
        ("mlp", "mlp", (2, 1)),
        ("side by side", "mlp", (3, 0, 1)),
    ):
        detector = random_detector(method, layers, joint=name == "side by side")
        detector.save(folder / "results/probes" / name / DETECTOR)
        write_manifest(
            folder / "results/probes" / name, "probe", facts | {"layers": layers, "method": method}
        )
    return folder


@pytest.fixture(scope="module", params=["one", "several", "mlp", "side by side"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def probe(folder, name):
    return Probe.load(folder / "results/probes" / name, folder / "data/models/tiny")


@pytest.fixture(scope="module")
def live(folder, name):
    return LiveProbe.load(folder / "results/probes" / name, folder / "data/models/tiny")


def answer_ids(live, text, system=""):
    """The tokens of an answer, after the prompt that `watch` makes."""
    rendered = render_chat(live.tokenizer, chat(text, system))
    prompt = live._inputs(QUESTION, system)["input_ids"][0].tolist()
    assert list(rendered.input_ids[: len(prompt)]) == prompt
    return list(rendered.input_ids[len(prompt) : token_span(rendered, -1, 0, len(text)).stop])


def end_of(live):
    end = live.model.generation_config.eos_token_id
    return end if isinstance(end, int) else end[0]


def forced(prompt_tokens, answers):
    """Makes `generate` say these tokens, one list for each sequence."""

    def allowed(sequence, tokens):
        answer = answers[sequence]
        place = len(tokens) - prompt_tokens
        return [answer[min(place, len(answer) - 1)]]

    return allowed


def generate(live, monitor, inputs, answers):
    length = inputs["input_ids"].shape[1]
    return monitor.generate(
        **inputs,
        max_new_tokens=max(map(len, answers)),
        do_sample=False,
        prefix_allowed_tokens_fn=forced(length, answers),
    )


def same(found, expected):
    assert found.score == pytest.approx(expected.score, abs=1e-4)
    assert found.probability == pytest.approx(expected.probability, abs=1e-4)
    assert found.label == expected.label


@pytest.mark.parametrize("system", ["", "You are a werewolf."])
@pytest.mark.parametrize("ended", [True, False])
def test_generated_tokens_are_scored_as_the_same_text_is(live, probe, system, ended):
    ids = answer_ids(live, ANSWERS[0], system)
    with Monitor(live.model, live.detector, live.tokenizer) as monitor:
        generate(live, monitor, live._inputs(QUESTION, system), [ids + [end_of(live)] * ended])
    (found,) = monitor.scores()
    expected = probe.score_text(ANSWERS[0], system, return_token_scores=True)
    same(found, expected)
    assert found.tokens == expected.tokens
    assert found.token_scores == pytest.approx(expected.token_scores, abs=1e-4)


def test_a_batch_scores_each_sequence_until_its_end(live, probe):
    answers = [[*answer_ids(live, text), end_of(live)] for text in ANSWERS]
    live.tokenizer.padding_side = "left"
    prompts = [live._inputs(QUESTION, system)["input_ids"][0] for system in ("", "You are a werewolf.")]
    width = max(map(len, prompts))
    inputs = {
        "input_ids": torch.stack([torch.cat([ids.new_zeros(width - len(ids)), ids]) for ids in prompts]),
        "attention_mask": torch.stack(
            [torch.cat([ids.new_zeros(width - len(ids)), torch.ones_like(ids)]) for ids in prompts]
        ),
    }
    with Monitor(live.model, live.detector, live.tokenizer) as monitor:
        generate(live, monitor, inputs, answers)
    first, second = monitor.scores()
    same(first, probe.score_text(ANSWERS[0]))
    same(second, probe.score_text(ANSWERS[1], "You are a werewolf."))
    assert "".join(second.tokens) == ANSWERS[1]


def test_white_space_at_the_ends_does_not_count(live, probe):
    line_break = live.tokenizer("\n\n", add_special_tokens=False)["input_ids"]
    tokens = []
    with Monitor(live.model, live.detector, live.tokenizer, tokens.append) as monitor:
        answer = [*answer_ids(live, ANSWERS[0]), *line_break]
        generate(live, monitor, live._inputs(QUESTION, ""), [answer])
        same(monitor.scores()[0], probe.score_text(ANSWERS[0]))
        assert len(tokens) == len(answer)
        generate(live, monitor, live._inputs(QUESTION, ""), [line_break])
        assert [token.mean for token in monitor.tokens[0]] == [None] * len(line_break)
        with pytest.raises(ProbelineError, match="answer 1 holds no word"):
            monitor.scores()


def test_every_token_is_told_as_soon_as_it_is_scored(live):
    seen = []

    def look(token):
        seen.append((token, len(monitor.tokens[0])))

    with Monitor(live.model, live.detector, live.tokenizer, look) as monitor:
        generate(live, monitor, live._inputs(QUESTION, ""), [answer_ids(live, ANSWERS[0])])
    assert [count for _, count in seen] == list(range(1, len(seen) + 1))
    assert "".join(token.text for token, _ in seen) == ANSWERS[0]
    assert seen[-1][0].mean == monitor.scores()[0].score
    if live.detector.method == "lr":
        scores = [token.score for token, _ in seen]
        means = [np.mean(scores[: count + 1]) for count in range(len(scores))]
        assert [token.mean for token, _ in seen] == pytest.approx(means)


def test_it_changes_nothing_and_leaves_nothing_behind(live):
    inputs = live._inputs(QUESTION, "")
    plain = live.model.generate(**inputs, max_new_tokens=12, do_sample=False)
    monitor = Monitor(live.model, live.detector, live.tokenizer)
    with monitor:
        assert torch.equal(monitor.generate(**inputs, max_new_tokens=12, do_sample=False), plain)
        with pytest.raises(ProbelineError, match="attached already"):
            monitor.__enter__()
    with pytest.raises(KeyboardInterrupt), monitor:
        raise KeyboardInterrupt
    modules = [live.model, *live.model.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    before = list(monitor.tokens[0])
    live.model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert monitor.tokens[0] == before
    with pytest.raises(ProbelineError, match="not attached"):
        monitor.generate(**inputs, max_new_tokens=3)


def test_the_models_own_generate_is_watched_too(live):
    inputs = live._inputs(QUESTION, "")
    with Monitor(live.model, live.detector, live.tokenizer, ends=()) as monitor:
        monitor.generate(**inputs, max_new_tokens=6, do_sample=False)
        whole = monitor.tokens[0]
        live.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    # Nothing is run after the last token.
    assert [token.token for token in monitor.tokens[0]] == [token.token for token in whole][:5]
    assert [token.score for token in monitor.tokens[0]] == pytest.approx([token.score for token in whole[:5]])


def test_what_cannot_be_watched_is_refused(folder, tmp_path):
    live = LiveProbe.load(folder / "results/probes/one", folder / "data/models/tiny")
    inputs = live._inputs(QUESTION, "")
    with (
        Monitor(live.model, live.detector, live.tokenizer) as monitor,
        pytest.raises(ProbelineError, match="use_cache=True"),
    ):
        monitor.generate(**inputs, max_new_tokens=2, use_cache=False)
    with pytest.raises(ProbelineError, match="reads layer 7; the model has 3 layers"):
        Monitor(live.model, random_detector("lr", (7,)), live.tokenizer)
    wide = AutoModelForCausalLM.from_pretrained(make_model(tmp_path / "wide", width=64))
    with pytest.raises(ProbelineError, match="hidden size of 32, but llama has 64"):
        Monitor(wide, live.detector, live.tokenizer)
    with pytest.raises(ProbelineError, match="max_new_tokens is 0"):
        live.watch("Who?", max_new_tokens=0)
    with pytest.raises(ProbelineError, match="at most 0 can follow"):
        live.watch("Who? " * 300)
    with pytest.raises(ProbelineError, match="prompt cannot be shown to tiny: it holds a special token"):
        live.watch("<|im_end|>")
    with pytest.raises(
        ProbelineError, match="seed is -1; give a whole number from 0 to 18446744073709551615"
    ):
        live.watch("Who?", seed=-1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_beams", 2),
        ("guidance_scale", 1.5),
        ("prefill_chunk_size", 1),
        ("prompt_lookup_num_tokens", 3),
        ("assistant_early_exit", 1),
    ],
)
@pytest.mark.parametrize("place", ["keyword", "generation_config", "model"])
def test_what_runs_other_tokens_is_refused_wherever_it_is_set(folder, monkeypatch, name, value, place):
    live = LiveProbe.load(folder / "results/probes/one", folder / "data/models/tiny")
    settings = {name: value} if place == "keyword" else {}
    if place == "generation_config":
        settings = {"generation_config": GenerationConfig(**{name: value})}
    if place == "model":
        monkeypatch.setattr(live.model.generation_config, name, value)
    with Monitor(live.model, live.detector, live.tokenizer) as monitor:
        with pytest.raises(ProbelineError, match=f"leave {name} out"):
            monitor.generate(**live._inputs(QUESTION, ""), **settings)
        off = {"num_beams": 1, "guidance_scale": 1.0}.get(name)
        monitor.generate(**live._inputs(QUESTION, ""), max_new_tokens=2, **{name: off})
    assert len(monitor.tokens[0]) == 2


@pytest.mark.parametrize("place", ["keyword", "generation_config"])
def test_the_end_that_generate_is_given_ends_a_sequence(live, probe, place):
    wolf, *rest = answer_ids(live, "wolf lied to us")
    end = answer_ids(live, "wolf~")[-1]
    answers = [[wolf, end], [wolf, *rest]]
    one = live._inputs(QUESTION, "")
    inputs = {name: ids.repeat(2, 1) for name, ids in one.items()}
    settings = {"eos_token_id": end, "max_new_tokens": len(answers[1]), "do_sample": False}
    if place == "generation_config":
        settings = {"generation_config": GenerationConfig(**settings)}
    allowed = forced(one["input_ids"].shape[1], answers)
    with Monitor(live.model, live.detector, live.tokenizer) as monitor:
        monitor.generate(**inputs, prefix_allowed_tokens_fn=allowed, **settings)
        assert [[token.token for token in row] for row in monitor.tokens] == [[wolf], [wolf, *rest]]
        same(monitor.scores()[1], probe.score_text("wolf lied to us"))
        # Only there: the model's own end is still that of the next answer.
        generate(live, monitor, one, [[wolf, end_of(live)]])
        assert [token.token for token in monitor.tokens[0]] == [wolf]


def test_filler_behind_a_stop_string_is_not_scored(live):
    answers = [answer_ids(live, text) for text in ("wolf~", "wolf lied to us")]
    one = live._inputs(QUESTION, "")
    with Monitor(live.model, live.detector, live.tokenizer) as monitor:
        monitor.generate(
            **{name: ids.repeat(2, 1) for name, ids in one.items()},
            max_new_tokens=len(answers[1]),
            stop_strings=["~"],
            tokenizer=live.tokenizer,
            prefix_allowed_tokens_fn=forced(one["input_ids"].shape[1], answers),
        )
    assert [[token.token for token in row] for row in monitor.tokens] == answers


def test_several_answers_to_a_prompt_are_scored_each(live, probe):
    torch.manual_seed(0)
    inputs = live._inputs(QUESTION, "")
    with Monitor(live.model, live.detector, live.tokenizer) as monitor:
        found = monitor.generate(
            **inputs,
            max_new_tokens=5,
            do_sample=True,
            num_return_sequences=3,
            suppress_tokens=live.tokenizer.all_special_ids,
        )
    new = found[:, inputs["input_ids"].shape[1] :].tolist()
    assert [[token.token for token in row] for row in monitor.tokens] == new
    with Monitor(live.model, live.detector, live.tokenizer) as alone:
        generate(live, alone, inputs, new[2:])
    assert alone.tokens[0][-1].score == pytest.approx(monitor.tokens[2][-1].score, abs=1e-4)


def test_a_score_that_is_not_finite_is_said(live):
    with Monitor(live.model, live.detector, live.tokenizer) as monitor:
        generate(live, monitor, live._inputs(QUESTION, ""), [answer_ids(live, ANSWERS[0])])
    monitor.tokens[0][-1] = replace(monitor.tokens[0][-1], score=float("nan"))
    with pytest.raises(ProbelineError, match="A score is nan, not a finite number: the weights of tiny"):
        monitor.scores()


@pytest.mark.parametrize("prompt", ["", " "])
def test_an_empty_prompt_is_said_before_the_model_is_loaded(folder, monkeypatch, capsys, prompt):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(LiveProbe, "load", None)
    assert cli.main(["watch", "--probe", "one", prompt]) == 1
    assert "probeline: PROMPT is empty: give what the user says" in capsys.readouterr().err


def test_the_command_streams_or_prints_json(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    command = ["watch", "--probe", "one", "--max-new-tokens", "8", "--seed", "3", "What do you say?"]
    assert cli.main([*command, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert len(row["tokens"]) == len(row["token_scores"]) == 8
    assert row["label"] == (row["score"] >= row["threshold"])
    assert cli.main(command) == 0
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert f"{row['score']:+.3f}  probability {row['probability']:.2f}  label {row['label']}" in output
    assert cli.main([*command[:-2], "4", "What do you say?", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["text"] != row["text"]


def test_players_are_ranked_by_their_mean():
    assert doctest.testmod(watch).attempted >= 3
    assert doctest.testmod(watch).failed == 0
    suspicion = Suspicion()
    assert suspicion.ranking() == []
    assert [suspicion.update("Ben", score) for score in (1.0, 3.0)] == [1.0, 2.0]
    suspicion.update("Ann", 2.0)
    assert suspicion.ranking() == [("Ann", 2.0), ("Ben", 2.0)]


# What docs/scoring.md and the help show

DOCUMENTED = (Path(__file__).parents[2] / "docs/scoring.md").read_text()
INDENTED = re.findall(r"(?:^    .*\n|^\n(?=    ))+", DOCUMENTED, re.MULTILINE)
PYTHON = "".join(textwrap.dedent(block) for block in INDENTED if "import" in block)
COMMANDS = re.findall(
    r"^ +probeline ((?:score|watch) .*)", DOCUMENTED + cli.SCORE_EXAMPLES + cli.WATCH_EXAMPLES, re.MULTILINE
)


@pytest.fixture
def documented(folder, tmp_path, monkeypatch):
    """A folder in which the documented commands find what they name."""
    (tmp_path / "results/probes").mkdir(parents=True)
    (tmp_path / "results/probes/trust_lr_l22").symlink_to(folder / "results/probes/one")
    (tmp_path / "data").symlink_to(folder / "data")
    (tmp_path / "statements.txt").write_text("I trust Player3.\nIt was Player5.\n")
    (tmp_path / "statements.jsonl").write_text('{"text": "I trust Player3."}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS))
def test_the_documented_commands_run(documented, monkeypatch, capsys, command):
    words, *files = re.split(r" [<>] ", command)
    if "<" in command:
        monkeypatch.setattr("sys.stdin", (documented / files[0]).open())
    assert cli.main(shlex.split(words)) == 0
    assert ("[" in capsys.readouterr().out[:1]) == ("--json" in words)


def test_the_documented_python_runs(documented, capsys):
    (documented / "documented.py").write_text(PYTHON)
    names = runpy.run_path("documented.py")
    assert len(COMMANDS) >= 10
    assert len(names["scores"]) == 2
    assert names["suspicion"].ranking()
    assert capsys.readouterr().out
