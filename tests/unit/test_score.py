import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import torch

from probeline import cli, schema
from probeline.activations.extract import Settings, extract_activations
from probeline.activations.store import read_activations
from probeline.errors import ProbelineError
from probeline.files import write_bytes, write_json, write_manifest, write_parquet
from probeline.models.fetch import fetch_model
from probeline.probes.page import page
from probeline.probes.score import QUESTION, Probe, Score
from probeline.probes.show import ABOVE, BELOW, as_json, pieces, shade, show
from probeline.probes.train import train_probe
from probeline.visible import visible
from tests.unit.tiny import NOTHING_LOGGED

LIARS, HONEST = (
    ("the wolf lied to us", "a wolf spoke against me"),
    ("I trust the village", "the seer told the truth"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model, and a probe on it that tells two sorts of sentences apart."""
    folder = tmp_path_factory.mktemp("score")
    for name, width, seed in (("tiny", 16, 0), ("wide", 32, 0), ("other", 16, 1)):
        shape = {"architecture": "llama", "layers": 3, "heads": 2, "vocabulary": 400, "max_length": 128}
        fetch_model({"random": shape | {"width": width, "seed": seed}}, folder / name)
    samples, sequences = [], []
    for number in range(60):
        text = (LIARS if number % 2 else HONEST)[number // 2 % 2] + "!" * (number // 4 % 5)
        game = f"game{number // 2:02}"
        messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": text}]
        sequences.append({"sequence": f"{game}#{number}", "game": game, "messages": messages})
        samples.append(
            {
                "sample": f"{game}#{number}",
                "sequence": f"{game}#{number}",
                "game": game,
                "content": game,
                "experiment": "",
                "split": ("train", "validation", "test")[number // 2 % 3],
                "label": number % 2,
                "type": "statement",
                "turn": 1,
                "event": number,
                "actor": "Player1",
                "actor_role": "werewolf",
                "target": None,
                "same_team": None,
                "message": 1,
                "start": 0,
                "end": len(text),
                "text": text,
                **NOTHING_LOGGED,
            }
        )
    dialogues = folder / "dialogues"
    write_parquet(dialogues / "samples.parquet", schema.make_table(samples, schema.SAMPLES))
    write_parquet(dialogues / "sequences.parquet", schema.make_table(sequences, schema.SEQUENCES))
    write_parquet(dialogues / "reveals.parquet", schema.make_table([], schema.REVEALS))
    write_manifest(dialogues, "dialogues", {})
    write_json(folder / "quality.json", {"games": 30})
    settings = Settings(None, "float32", "float32", 1)
    extract_activations([dialogues], folder / "tiny", folder / "activations", settings)
    spec = {"concept": "lies", "method": "lr", "layers": [3, 1], "model": "tiny", "bootstrap": 100}
    train_probe([folder / "activations"], [dialogues], folder / "quality.json", folder / "probe", spec)
    return folder


@pytest.fixture(scope="module")
def probe(folder):
    return Probe.load(folder / "probe", folder / "tiny")


def test_scores_new_text_as_the_training_scored_its_samples(folder, probe):
    stored = {row["sample"]: row for row in pq.read_table(folder / "probe" / "scores.parquet").to_pylist()}
    for row in pq.read_table(folder / "dialogues" / "samples.parquet").to_pylist():
        score = probe.score_text(row["text"])
        assert score.score == pytest.approx(stored[row["sample"]]["score"], abs=1e-4)
        assert score.probability == pytest.approx(stored[row["sample"]]["probability"], abs=1e-4)
        assert score.label == (score.score >= probe.detector.threshold)


def test_layers_keep_the_order_that_the_probe_names(folder, probe):
    values = read_activations([folder / "activations"], [3, 1]).values
    assert probe.detector.layers == (3, 1)
    assert probe.engine.layers == (1, 3)
    assert not np.allclose(probe.detector.scores(values), probe.detector.scores(values[:, ::-1]), atol=1e-2)


def close(scores, expected):
    assert [score.tokens for score in scores] == [score.tokens for score in expected]
    for score, other in zip(scores, expected, strict=True):
        assert score.score == pytest.approx(other.score, abs=1e-4)
        assert score.probability == pytest.approx(other.probability, abs=1e-4)
        assert score.token_scores == pytest.approx(other.token_scores, abs=1e-4)


@pytest.mark.parametrize("system", ["", "You are a wolf, and all of this is more than an opening."])
def test_scores_do_not_depend_on_the_batch(probe, monkeypatch, system):
    texts = [*LIARS, *HONEST, "trust me", *LIARS, "a wolf " * 12]
    passes = []
    game_means = probe.engine.game_means
    monkeypatch.setattr(
        probe.engine, "game_means", lambda found: passes.append(len(found)) or game_means(found)
    )
    alone = [probe.score_text(text, system, return_token_scores=True) for text in texts]
    assert passes == [1] * 8
    assert probe.score_batch(texts, system, return_token_scores=True, batch_size=1) == alone
    passes.clear()
    close(probe.score_batch(texts, system, return_token_scores=True), alone)
    close(probe.score_batch(texts, system, return_token_scores=True, batch_size=3), alone)
    assert passes == [8, 3, 3, 2]
    assert probe.score_batch([]) == []
    with pytest.raises(ProbelineError, match="batch_size is 0"):
        probe.score_batch(texts, batch_size=0)


def test_a_batch_beyond_the_gpu_is_parted(probe, monkeypatch, caplog):
    texts = [*LIARS, *HONEST]
    expected = probe.score_batch(texts, return_token_scores=True)
    run = probe.engine._run

    def small_memory(row):
        if row.pack.tokens > 32:
            raise torch.OutOfMemoryError
        return run(row)

    monkeypatch.setattr(probe.engine, "_run", small_memory)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    close(probe.score_batch(texts, return_token_scores=True), expected)
    assert "Out of memory" in caplog.text


def test_token_scores_average_to_the_score(probe):
    text = "the wolf lied, and nobody spoke"
    score = probe.score_text(text, return_token_scores=True)
    assert "".join(score.tokens) == text
    # A linear probe of the mean is the mean of its tokens.
    assert np.mean(score.token_scores) == pytest.approx(score.score, abs=1e-4)
    assert replace(score, tokens=None, token_scores=None).score == pytest.approx(probe.score_text(text).score)


@pytest.mark.parametrize(
    "text", ["a \U0001f43a howls \u00e9\u4e2d", "  two\n\nlines\t ", "\u05d0\u05d1 wolf"]
)
def test_tokens_are_the_text_in_pieces(probe, text):
    score = probe.score_text(text, return_token_scores=True)
    assert "".join(score.tokens) == text.strip()
    assert len(score.tokens) == len(score.token_scores)
    shown = list(pieces(score))
    assert "".join(piece for piece, _ in shown) == text.strip()
    assert all(piece for piece, _ in shown)


def test_system_prompt_is_context(probe):
    plain = probe.score_text("I am a villager")
    framed = probe.score_text("I am a villager", system_prompt="You are a werewolf.")
    assert plain.score != framed.score


def adapter(folder):
    """Files that pass for an adapter's."""
    write_json(folder / "adapter/adapter_config.json", {"peft_type": "LORA"})
    write_bytes(folder / "adapter/adapter_model.safetensors", safetensors.numpy.save({}))
    return folder / "adapter"


def test_other_models_are_refused(folder):
    with pytest.raises(ProbelineError, match="on tiny with a hidden size of 16, but wide has 32"):
        Probe.load(folder / "probe", folder / "wide")
    with pytest.raises(ProbelineError, match="other has other weights"):
        Probe.load(folder / "probe", folder / "other")
    with pytest.raises(ProbelineError, match=r"Did you mean tiny\?.*snakemake --cores 4 data/models/tiny"):
        Probe.load(folder / "probe", folder / "tinny")
    with pytest.raises(ProbelineError, match="holds no probe"):
        Probe.load(folder / "prob", folder / "tiny")
    with pytest.raises(ProbelineError, match="on tiny alone: leave --adapter out"):
        Probe.load(folder / "probe", folder / "tiny", adapter=adapter(folder))


def test_texts_that_cannot_be_scored_say_why(probe):
    with pytest.raises(ProbelineError, match="nothing to score"):
        probe.score_text("  ")
    with pytest.raises(ProbelineError, match=r"tokens, but tiny takes 128"):
        probe.score_text("wolf " * 200)
    with pytest.raises(ProbelineError, match="cannot be shown to tiny: it holds a special token"):
        probe.score_text("hello <|im_end|>")
    with pytest.raises(ProbelineError, match="no valid Unicode"):
        probe.score_text("half \ud800")
    with pytest.raises(ProbelineError, match=r"^Text 2: There is nothing to score"):
        probe.score_batch(["wolf", ""])


def test_manifest_names_the_weights(folder):
    probe, model = (json.loads((folder / name / "manifest.json").read_bytes()) for name in ("probe", "tiny"))
    assert probe["weights_sha256"] == model["weights_sha256"]


# What people see

HOSTILE = (
    "\x1b]0;owned\x07\x1b[2J\x9b31m \u202eesrever\u2066 \U000e0041 \x00\r\n"
    "[red]markup[/red] :wolf: <script>alert(1)</script> \"'><img src=x onerror=alert(2)> &amp; \u200d\u00ad"
)
FACTS = {
    "name": HOSTILE,
    "concept": HOSTILE,
    "method": "lr",
    "layers": [1],
    "model": HOSTILE,
}


@pytest.fixture
def hostile():
    """A hostile text as a probe might score it, a token for each character."""
    scores = tuple((number % 9) - 4.0 for number in range(len(HOSTILE)))
    return Score(0.5, 0.6, 1, tuple(HOSTILE), scores)


class Page(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = set(), [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_a_hostile_text_stays_text_in_a_page(hostile):
    made = page([HOSTILE] * 2, [hostile] * 2, 0.1, FACTS, system_prompt=HOSTILE, verdict=HOSTILE)
    seen = Page(made)
    assert not seen.tags & {"script", "img", "link", "iframe", "object", "base", "form"}
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name in ("src", "style")]
    assert all(value.startswith("#text-") for name, value in seen.attributes if name == "href")
    assert "http://" not in made
    assert "https://" not in made
    assert "url(" not in made
    assert seen.text.count("<script>alert(1)</script>") >= 4
    assert "␛]0;owned␇" in seen.text
    assert "<U+202E>esrever<U+2066>" in seen.text
    assert not re.search(
        r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]", made
    )
    assert "default-src 'none'" in made


@pytest.mark.parametrize("terminal", [True, False])
def test_no_escape_sequence_of_a_text_reaches_the_terminal(hostile, terminal):
    from rich.console import Console

    file = io.StringIO()
    console = Console(
        file=file, force_terminal=terminal, color_system="truecolor" if terminal else None, width=40
    )
    show(console, [HOSTILE], [hostile], 0.1, tokens=True)
    output = file.getvalue()
    assert ("\x1b[30;48;2;" in output) == terminal
    own = re.sub(r"\x1b\[[0-9;]*m", "", output)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", own)
    assert "[red]markup[/red] :wolf:" in own
    assert "␛[2J<U+009B>31m" in own


def test_json_of_a_hostile_text_gives_it_back(hostile):
    text = as_json([HOSTILE], [hostile], 0.1, {"name": HOSTILE})
    assert text.isascii()
    (row,) = json.loads(text)
    assert row["text"] == "".join(row["tokens"]) == row["probe"]["name"] == HOSTILE
    assert (row["score"], row["probability"], row["label"], row["threshold"]) == (0.5, 0.6, 1, 0.1)
    assert len(row["token_scores"]) == len(row["tokens"])


def test_letters_of_all_scripts_are_left_as_they_are():
    persian = "\u0646\u0645\u06cc\u200c\u062e"
    for text in (f"naïve 中文 שלום {persian}", "👨\u200d👩\u200d👧 🐺 ❤\ufe0f", "a\u00a0b", "한국어 ⠃⠗"):
        assert visible(text) == text
    assert visible("a\nb") == "a⏎b"


@pytest.mark.parametrize("number", [0xAD, 0x34F, 0x115F, 0x17B4, 0x200B, 0x2800, 0x3164, 0xFFA0, 0xE0101])
def test_what_is_unseen_is_shown(number):
    assert visible(f"a{chr(number)}b") == f"a<U+{number:04X}>b"


def test_colours_are_centred_on_the_threshold():
    distances = [-3.5, -2, -1.5, -0.5, -0.4, 0, 0.4, 0.5, 1.5, 2, 3.5]
    assert [shade(2 + distance, 2) for distance in distances] == [-4, -3, -2, -1, 0, 0, 0, 1, 2, 3, 4]
    assert len(ABOVE) == len(BELOW) == 4


# The command

STATEMENTS = "the wolf lied to us\n\nI trust the village\r\n"


@pytest.fixture
def project(folder, tmp_path, monkeypatch):
    """A folder in which `probeline` finds the probe by its name."""
    (tmp_path / "results/probes").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "results/probes/lies_lr_l1_3").symlink_to(folder / "probe")
    (tmp_path / "data/models").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def score(*words):
    return cli.main(["score", "--probe", "lies_lr_l1_3", *words])


@pytest.mark.parametrize(("texts", "number"), [([""], "1 of 1"), (["wolf", " \n", "wolf"], "2 of 3")])
def test_an_empty_text_is_said_before_the_model_is_loaded(project, capsys, monkeypatch, texts, number):
    monkeypatch.setattr(Probe, "load", None)
    assert score(*texts) == 1
    assert f"probeline: text {number} is empty: give words to score" in capsys.readouterr().err


def test_texts_come_from_the_command_line_a_file_or_standard_input(project, probe, capsys, monkeypatch):
    first, second = probe.score_text("the wolf lied to us"), probe.score_text("I trust the village")
    expected = [
        f"{found.score:+.3f}  probability {found.probability:.2f}  label {found.label}  {text}"
        for found, text in ((first, "the wolf lied to us"), (second, "I trust the village"))
    ]
    (project / "texts.txt").write_text(STATEMENTS, newline="")
    lines = ['{"text": "the wolf lied to us", "turn": 3}', "", '{"text": "I trust the village"}']
    (project / "texts.jsonl").write_text("\n".join(lines))
    assert score("the wolf lied to us", "I trust the village") == 0
    assert score("--file", "texts.txt", "--batch-size", "1") == 0
    assert score("--file", "texts.jsonl", "--model", "data/models/tiny") == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(STATEMENTS.encode())))
    assert cli.main(["score", "--probe", "results/probes/lies_lr_l1_3", "-"]) == 0
    assert capsys.readouterr().out.splitlines() == expected * 4


def test_tokens_json_and_page_of_one_run(project, probe, capsys):
    text = "the wolf\nlied"
    assert score("--tokens", text) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(probe.score_text(text, return_token_scores=True).tokens)
    assert score("--json", "--html", "scores.html", text) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert "".join(row["tokens"]) == row["text"] == text
    assert row["score"] == pytest.approx(probe.score_text(text).score, abs=1e-4)
    assert row["probe"]["name"] == "lies_lr_l1_3"
    made = Page((project / "scores.html").read_text())
    assert "the wolf⏎\nlied" in made.text
    assert f"{row['score']:+.3f}" in made.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give the texts, or --file FILE, or - for standard input"),
        (["--file", "texts.txt", "wolf"], "one of them"),
        (["--file", "text.txt"], r"text.txt does not exist. Did you mean texts.txt\?"),
        (["--file", "data"], "data is a folder"),
        (["--file", "void"], "void holds no text"),
        (["--file", "latin.txt"], "latin.txt is not UTF-8 text: byte 2"),
        (["--file", "mixed.jsonl"], "mixed.jsonl, line 3: expected a JSON object with a text"),
        (
            ["--file", "upper.jsonl"],
            'line 1: .*no key "text"; its keys are id, Text. Did you mean "text" by "Text"',
        ),
        (["--file", "number.jsonl"], 'number.jsonl, line 2: the value of "text" is int, not a text'),
        (["  "], "text 1 of 1 is empty: give words to score"),
        (["wolf " * 200], "tokens, but tiny takes 128"),
        (["--threads", "0", "wolf"], "--threads is 0"),
        (
            ["--threads", str(10**12), "wolf"],
            "--threads is 1000000000000; give a whole number from 1 to 1024",
        ),
        (["--batch-size", "0", "wolf"], "--batch-size is 0; give at least 1"),
        (["--model", "data/models/tinny", "wolf"], r"Did you mean tiny\?"),
        (["--model", "data/models/wide", "wolf"], "hidden size of 16, but wide has 32"),
    ],
)
def test_mistakes_are_said_in_words(project, capsys, words, said):
    (project / "texts.txt").write_text(STATEMENTS)
    (project / "void").write_text(" \n\n")
    (project / "latin.txt").write_bytes(b"na\xefve")
    (project / "mixed.jsonl").write_text('{"text": "wolf"}\n\nwolf\n')
    (project / "upper.jsonl").write_text('{"id": 1, "Text": "wolf"}\n')
    (project / "number.jsonl").write_text('{"text": "wolf"}\n{"text": 3}\n')
    assert score(*words) == 1
    assert re.search(said, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["watch", "--probe", "lies_lr_l1_3", "--seed", str(2**70), "Who?"],
            "--seed is 1180591620717411303424; ",
        ),
        (["watch", "--probe", "lies_lr_l1_3", "--max-new-tokens", "0", "Who?"], "--max-new-tokens is 0; "),
        (["check", "--cores", "0"], "--cores is 0; give at least 1"),
        (["simulate", "--games", "0", "--output", "new"], "--games is 0; give at least 1"),
        (
            ["simulate", "--games", "1", "--seed", str(2**63), "--output", "new"],
            "--seed is 9223372036854775808; ",
        ),
    ],
)
def test_numbers_out_of_range_are_said_in_words(project, capsys, words, said):
    assert cli.main(words) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dtype": None}, "'dtype' is null, not a text"),
        ({"dtype": "float3"}, "its dtype is float3. Did you mean"),
        ({"layers": 3}, "'layers' is 3, not a list"),
        ({"weights_sha256": 1}, "'weights_sha256' is 1, not a text or null"),
        ({"headline": None}, "its headline is not"),
        ({"headline": {"auroc": None}}, "its headline is not a verdict and an auroc with its value"),
        ({"headline": {"auroc": {"value": "high"}}}, "its headline is not"),
        ({"headline": {"verdict": 1}}, "its headline is not"),
        ("dtype", "'dtype' is missing"),
        ("model", "'model' is missing"),
    ],
)
def test_a_manifest_of_another_version_is_refused(folder, tmp_path, capsys, change, said):
    facts = json.loads((folder / "probe/manifest.json").read_bytes())
    facts = (
        facts | change if isinstance(change, dict) else {key: facts[key] for key in facts if key != change}
    )
    write_json(tmp_path / "manifest.json", facts)
    assert cli.main(["score", "--probe", str(tmp_path), "wolf"]) == 1
    assert re.search(f"manifest.json is not that of a probe of this version: {said}", capsys.readouterr().err)


def test_a_model_of_another_version_is_refused(folder, tmp_path):
    facts = json.loads((folder / "tiny/manifest.json").read_bytes())
    del facts["max_length"]
    write_json(tmp_path / "manifest.json", facts)
    with pytest.raises(ProbelineError, match="that of a model of this version: 'max_length' is missing"):
        Probe.load(folder / "probe", tmp_path)


def test_a_score_that_is_not_finite_is_said(project, probe, monkeypatch, capsys):
    huge = replace(probe.detector, score_mean=np.full(2, -1e308), score_scale=np.full(2, 1e-300))
    monkeypatch.setattr("probeline.probes.score.load_detector", lambda directory: huge)
    assert score("--json", "wolf") == 1
    assert "A score is NaN or infinite: the probe's numbers are far too large" in capsys.readouterr().err
