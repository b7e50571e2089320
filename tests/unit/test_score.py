import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from probeline import schema
from probeline.activations.extract import Settings, extract_activations
from probeline.activations.store import read_activations
from probeline.errors import ProbelineError
from probeline.files import write_json, write_manifest, write_parquet
from probeline.models.fetch import fetch_model
from probeline.probes.score import QUESTION, Probe
from probeline.probes.train import train_probe
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


def test_batch_equals_one_by_one_bit_for_bit(probe):
    texts = [*LIARS, *HONEST, "trust me"]
    assert probe.score_batch(texts) == [probe.score_text(text) for text in texts]
    assert probe.score_batch(texts[2:4]) == probe.score_batch(texts)[2:4]


def test_token_scores_average_to_the_score(probe):
    text = "the wolf lied, and nobody spoke"
    score = probe.score_text(text, return_token_scores=True)
    assert "".join(score.tokens) == text
    # A linear probe of the mean is the mean of its tokens.
    assert np.mean(score.token_scores) == pytest.approx(score.score, abs=1e-4)
    assert replace(score, tokens=None, token_scores=None).score == pytest.approx(probe.score_text(text).score)


def test_system_prompt_is_context(probe):
    plain = probe.score_text("I am a villager")
    framed = probe.score_text("I am a villager", system_prompt="You are a werewolf.")
    assert plain.score != framed.score


def test_other_models_are_refused(folder):
    with pytest.raises(ProbelineError, match="on tiny with a hidden size of 16, but wide has 32"):
        Probe.load(folder / "probe", folder / "wide")
    with pytest.raises(ProbelineError, match="other has other weights"):
        Probe.load(folder / "probe", folder / "other")


def test_texts_that_cannot_be_scored_say_why(probe):
    with pytest.raises(ProbelineError, match="nothing to score"):
        probe.score_text("  ")
    with pytest.raises(ProbelineError, match=r"tokens, but tiny takes 128"):
        probe.score_text("wolf " * 200)
    with pytest.raises(ProbelineError, match="cannot be shown to tiny: it holds a special token"):
        probe.score_text("hello <|im_end|>")


def test_manifest_names_the_weights(folder):
    probe, model = (json.loads((folder / name / "manifest.json").read_bytes()) for name in ("probe", "tiny"))
    assert probe["weights_sha256"] == model["weights_sha256"]
