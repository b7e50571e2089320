import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

from probeline import schema
from probeline.digests import split_of
from probeline.errors import ProbelineError
from probeline.files import read_json, write_json, write_json_lines, write_manifest, write_parquet
from probeline.probes import baselines, train
from probeline.probes.detector import load_detector
from probeline.probes.metrics import auroc
from probeline.probes.summary import probe_summary
from probeline.probes.train import train_probe
from tests.unit.tiny import NOTHING_LOGGED, contents

LAYERS = [1, 2, 3]
SPEC = {"concept": "trust", "method": "lr", "layers": [2], "model": "tiny", "bootstrap": 200}
FRACTIONS = {"train": 0.5, "validation": 0.25, "test": 0.25}
LOST = {"duplicates": 2, "quarantined": 1, "folders_without_stats": 3, "logs_unreadable": 1}


def make_corpus(
    root,
    games=40,
    per_game=12,
    width=16,
    strength=1.5,
    positive_rate=0.5,
    shards=2,
    told_by_text=False,
    excluded=(),
    unread=None,
    seed=0,
    edit=None,
    told=None,
):
    """Shards of dialogues and activations; every sample's numbers follow from its own game alone.

    Args:
        root: where to write.
        strength: distance of a class from the origin along a planted direction, in noise deviations.
        told_by_text: whether a word of the masked text is the label.
        excluded: events without activations in every game.
        unread: tells of a sample whether it has no activations either.
        edit: may change (sample, values [layers, width]) before they are written.
        told: how far what tells Player1 its role lies along the planted direction in each game, by the
            label of its acts; nothing is told without.
    """
    direction = np.random.default_rng(99).normal(size=(len(LAYERS), width))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    dialogues, activations = [], []
    for shard in range(shards):
        samples, sequences, index, tensors, left_out = [], [], [], [], []
        reveals, reveal_tensors = [], []
        for number in sorted(range(games), key=lambda number: f"lab/game{number}"):
            if number % shards != shard:
                continue
            game = f"lab/game{number}"
            random = np.random.default_rng([seed, number])
            messages = [{"role": "system", "content": f"You are Player{number % 7}. Trust no one."}]
            for event in range(per_game):
                label = int(random.random() < positive_rate)
                words = " ".join(random.choice(["I", "vote", "for", "the", "quiet", "one", "again"], 6))
                text = f"{words} {'ally' if label else 'foe'}" if told_by_text else words
                messages.append({"role": "assistant", "content": f"I say: {text}."})
                sample = {
                    "sample": f"{game}#{event}",
                    "sequence": f"{game}#public",
                    "game": game,
                    "content": f"content-{number}",
                    "experiment": "lab",
                    "split": split_of(f"content-{number}", FRACTIONS, 0),
                    "label": label,
                    "type": "reply" if event % 3 == 0 else "day_vote",
                    "turn": 1,
                    "event": event,
                    "actor": "Player1",
                    "actor_role": "werewolf",
                    "target": None if event % 3 == 0 else "Player2",
                    "same_team": None if event % 3 == 0 else bool(label),
                    "message": event + 1,
                    "start": 7,
                    "end": 7 + len(text),
                    "text": text,
                    **NOTHING_LOGGED,
                }
                values = random.normal(size=(len(LAYERS), width)) + strength * (2 * label - 1) * direction
                if edit:
                    edit(sample, values)
                samples.append(sample)
                if event in excluded or (unread and unread(sample)):
                    left_out.append({"sample": sample["sample"], "reason": "too long"})
                    continue
                index.append({"sample": sample["sample"], "game": game, "tokens": 4, "position": 9})
                tensors.append(values)
            sequences.append({"sequence": f"{game}#public", "game": game, "messages": messages})
            if told is not None:
                noise = random.normal(size=(2, len(LAYERS), width))
                reveals += [{"game": game, "actor": "Player1", "tokens": tokens} for tokens in (6, 2)]
                reveal_tensors += list(noise + told * (2 * sample["label"] - 1) * direction)
        folder = root / "dialogues" / f"shard-{shard}"
        write_parquet(folder / "samples.parquet", schema.make_table(samples, schema.SAMPLES))
        write_parquet(folder / "sequences.parquet", schema.make_table(sequences, schema.SEQUENCES))
        write_manifest(folder, "dialogues", {"concept": "trust"})
        dialogues.append(folder)
        folder = root / "activations" / f"shard-{shard}"
        write_parquet(folder / "index.parquet", schema.make_table(index, schema.ACTIVATION_INDEX))
        stacked = np.array(tensors, dtype=np.float32).reshape(-1, len(LAYERS), width)
        save_file({"mean": stacked}, folder / "activations.safetensors")
        write_parquet(folder / "reveals.parquet", schema.make_table(reveals, schema.REVEAL_INDEX))
        stacked = np.array(reveal_tensors, dtype=np.float32).reshape(-1, len(LAYERS), width)
        save_file({"reveal": stacked}, folder / "reveals.safetensors")
        write_json_lines(folder / "excluded.jsonl", left_out)
        facts = {"model": "tiny", "layers": LAYERS, "hidden_size": width, "samples": len(index)}
        kinds = {"dtype": "float32", "store_dtype": "float32", "weights_sha256": "0" * 64}
        kinds["adapter_sha256"] = None
        run = {"device": "cpu", "threads": 1, "token_budget": 2048, "parameters": 1000}
        write_manifest(folder, "activations", facts | kinds | run)
        activations.append(folder)
    quality = root / "quality.json"
    write_json(quality, {"games": games, **LOST, "aborted": 5, "flagged": ["x"]})
    return activations, dialogues, quality


def read(output, name="metrics.json"):
    return json.loads((output / name).read_bytes())


@pytest.mark.parametrize("method", ["lr", "mms", "cmms", "lat", "mlp"])
@pytest.mark.parametrize("layers", [[2], [1, 2, 3]])
def test_planted_signal_is_found_on_unseen_games(tmp_path, method, layers):
    corpus = make_corpus(tmp_path, games=80, strength=2.5)
    train_probe(*corpus, tmp_path / "probe", SPEC | {"method": method, "layers": layers})
    test = read(tmp_path / "probe")["test"]
    assert test["metrics"]["auroc"]["value"] >= 0.95
    assert test["metrics"]["auroc"]["low"] > 0.9
    assert test["metrics"]["accuracy"]["value"] > 0.85
    assert test["metrics"]["ece"]["value"] < 0.15
    assert test["baselines"]["shuffled"]["auroc"]["value"] < 0.75
    assert len(test["baselines"]["shuffled"]["repetitions"]) == 5
    assert "beats the text on unseen games" in read(tmp_path / "probe")["verdict"]


@pytest.mark.parametrize(("method", "layers"), [("lr", [3, 1]), ("mlp", [2])])
def test_what_told_the_role_is_scored_and_never_learnt_from(tmp_path, method, layers):
    def one_label(sample, values):  # for each game's only player
        values += 3 * (1 - 2 * sample["label"]) * direction
        sample["label"] = int(sample["content"].removeprefix("content-")) % 2
        values += 3 * (2 * sample["label"] - 1) * direction

    direction = np.random.default_rng(99).normal(size=(len(LAYERS), 16))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    spec = SPEC | {"method": method, "layers": layers}
    options = {"games": 80, "per_game": 4, "strength": 3, "edit": one_label}
    for name, told in (("none", None), ("told", 8.0), ("inverse", -8.0)):
        train_probe(*make_corpus(tmp_path / name, **options, told=told), tmp_path / name / "probe", spec)
    none, told, inverse = (tmp_path / name / "probe" for name in ("none", "told", "inverse"))
    reveal = read(told)["stages"]["probe"]["role_reveal"]
    assert reveal["value"] > 0.95
    assert reveal["low"] <= reveal["value"] <= reveal["high"]
    assert reveal["units"] == read(told)["test"]["num_games"]
    assert read(inverse)["stages"]["probe"]["role_reveal"]["value"] < 0.05
    assert "not measured" in read(none)["stages"]["probe"]["role_reveal"]["reason"]
    # All else is what it is without: the detector, the scores, every metric.
    for probe in (told, inverse):
        for name in ("detector.pt", "scores.parquet"):
            assert (probe / name).read_bytes() == (none / name).read_bytes()
        assert read(probe) | {"stages": None} == read(none) | {"stages": None}
    assert set(pq.read_table(none / "suspects.parquet")["reveal_score"].to_pylist()) == {None}
    scores = {
        row["game"]: row["reveal_score"] for row in pq.read_table(told / "suspects.parquet").to_pylist()
    }
    assert len(scores) == 80
    assert None not in scores.values()


def test_pure_noise_stays_at_chance_and_the_verdict_says_so(tmp_path):
    corpus = make_corpus(tmp_path, games=80, strength=0)
    train_probe(*corpus, tmp_path / "probe", SPEC)
    result = read(tmp_path / "probe")
    estimate = result["test"]["metrics"]["auroc"]
    assert estimate["low"] < 0.5 < estimate["high"]
    assert result["train"]["auroc"] > 0.6  # what a report on the training games would have claimed
    assert "cannot be told from chance" in result["verdict"]


def test_a_label_told_by_the_text_is_the_texts_merit(tmp_path):
    corpus = make_corpus(tmp_path, strength=1, told_by_text=True)
    train_probe(*corpus, tmp_path / "probe", SPEC)
    result = read(tmp_path / "probe")
    for baseline in ("text_masked", "text_input"):
        assert result["test"]["baselines"][baseline]["auroc"]["value"] > 0.99
    assert result["test"]["baselines"]["length"]["auroc"]["low"] > 0.5  # "ally" is longer than "foe"
    assert result["test"]["difference_to_text"]["high"] < 0
    assert result["verdict"].startswith("The text does better than the probe")


def test_counts_by_hand(tmp_path):
    corpus = make_corpus(tmp_path, games=40, per_game=6, excluded=[5], shards=3)
    train_probe(*corpus, tmp_path / "probe", SPEC)
    result, manifest = read(tmp_path / "probe"), read(tmp_path / "probe", "manifest.json")
    samples = [row for shard in corpus[1] for row in pq.read_table(shard / "samples.parquet").to_pylist()]
    used = [row for row in samples if row["event"] != 5]
    scores = pq.read_table(tmp_path / "probe" / "scores.parquet").to_pylist()
    assert {row["sample"]: row["label"] for row in scores} == {row["sample"]: row["label"] for row in used}
    for split in ("train", "validation", "test"):
        rows = [row for row in scores if row["split"] == split]
        positive = [row["score"] for row in rows if row["label"] == 1]
        negative = [row["score"] for row in rows if row["label"] == 0]
        assert result[split]["num_games"] == len({row["game"] for row in rows})
        assert result[split]["num_interactions"] == len(rows)
        assert result[split]["num_positive"] == len(positive)
        assert result[split]["num_negative"] == len(negative)
        assert result[split]["positive_mean_score"] == pytest.approx(np.mean(positive))
        assert result[split]["separation"] == pytest.approx(np.mean(positive) - np.mean(negative))
    assert result["samples"] == {"used": 200, "excluded": {"too long": 40}, "beyond_max_samples": 0}
    votes = [row for row in used if row["type"] == "day_vote"]
    assert result["by_type"][0] == {
        "type": "day_vote",
        "actor_role": "werewolf",
        "interactions": len(votes),
        "positive": sum(row["label"] for row in votes),
        "with_target": len(votes),
        "same_team": sum(row["label"] for row in votes),
        "different_team": len(votes) - sum(row["label"] for row in votes),
    }
    assert manifest["kind"] == "probe"
    assert manifest["quality"] == {"games": 40, **LOST, "aborted": 5}
    assert manifest["hidden_size"] == 16
    assert manifest["layers"] == [2]
    assert manifest["headline"]["verdict"] == result["verdict"]
    assert set(manifest["files"]) == {"detector.pt", "metrics.json", "scores.parquet", "suspects.parquet"}


def test_scores_are_those_of_the_saved_detector(tmp_path):
    corpus = make_corpus(tmp_path, shards=1)
    train_probe(*corpus, tmp_path / "probe", SPEC | {"layers": [1, 3]})
    assert read_json(tmp_path / "probe/manifest.json")["layers"] == [1, 3]
    values = load_file(corpus[0][0] / "activations.safetensors")["mean"][:, [0, 2]]
    samples = pq.read_table(corpus[0][0] / "index.parquet")["sample"].to_pylist()
    detector = load_detector(tmp_path / "probe")
    scores = dict(zip(samples, detector.scores(values), strict=True))
    rows = pq.read_table(tmp_path / "probe" / "scores.parquet").to_pylist()
    assert [row["score"] for row in rows] == pytest.approx([scores[row["sample"]] for row in rows])
    probabilities = detector.probability(np.array([row["score"] for row in rows]))
    assert [row["probability"] for row in rows] == pytest.approx(list(probabilities))


@pytest.mark.parametrize("method", ["lr", "lat", "mlp"])
def test_nothing_is_fitted_on_test_games(tmp_path, method):
    def spoil(sample, values):
        if sample["split"] == "test":
            values += 1000
            sample["label"] = int(sample["event"] % 2)
            sample["text"] = "spoilt " * sample["event"]

    spec = SPEC | {"method": method}
    train_probe(*make_corpus(tmp_path / "a"), tmp_path / "a" / "probe", spec)
    train_probe(*make_corpus(tmp_path / "b", edit=spoil), tmp_path / "b" / "probe", spec)
    original, spoilt = tmp_path / "a" / "probe", tmp_path / "b" / "probe"
    assert (original / "detector.pt").read_bytes() == (spoilt / "detector.pt").read_bytes()
    assert read(original)["train"] == read(spoilt)["train"]
    assert read(original)["test"] != read(spoilt)["test"]


def test_validation_games_set_the_threshold_but_not_the_direction(tmp_path):
    def shift(sample, values):
        if sample["split"] == "validation":
            values += 1

    for name, edit in (("a", None), ("b", shift)):
        train_probe(*make_corpus(tmp_path / name, edit=edit), tmp_path / name / "probe", SPEC)
    first, second = (load_detector(tmp_path / name / "probe") for name in "ab")
    assert np.array_equal(first.heads[0].direction, second.heads[0].direction)
    assert np.array_equal(first.scaler_mean, second.scaler_mean)
    assert first.threshold != second.threshold
    assert first.intercept != second.intercept


@pytest.mark.parametrize("method", ["lr", "mms", "cmms", "lat", "mlp"])
def test_same_bytes_again_and_in_other_shards(tmp_path, method):
    spec = SPEC | {"method": method}
    for name, shards in (("a", 2), ("b", 2), ("c", 5)):
        train_probe(*make_corpus(tmp_path / name, shards=shards), tmp_path / name / "probe", spec)
    assert contents(tmp_path / "a" / "probe") == contents(tmp_path / "b" / "probe")
    assert contents(tmp_path / "a" / "probe") == contents(tmp_path / "c" / "probe")


def test_same_bytes_at_any_thread_count(tmp_path):
    corpus = make_corpus(tmp_path, games=60, per_game=20, width=256)
    code = (
        "import sys, json; from pathlib import Path; from probeline.probes.train import train_probe;"
        "a, d, q, o, s = json.loads(sys.argv[1]);"
        "train_probe([Path(x) for x in a], [Path(x) for x in d], Path(q), Path(o), s)"
    )
    for threads in ("1", "4"):
        output = tmp_path / threads
        arguments = [list(map(str, corpus[0])), list(map(str, corpus[1])), str(corpus[2]), str(output), SPEC]
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = os.environ | dict.fromkeys(names, threads)
        subprocess.run([sys.executable, "-c", code, json.dumps(arguments)], env=environment, check=True)
    assert contents(tmp_path / "1") == contents(tmp_path / "4")


def test_seed_draws_other_resamples(tmp_path):
    corpus = make_corpus(tmp_path)
    for seed in (0, 1):
        train_probe(*corpus, tmp_path / str(seed), SPEC | {"seed": seed})
    first, second = (read(tmp_path / str(seed))["test"]["metrics"]["auroc"] for seed in (0, 1))
    assert first["value"] == second["value"]
    assert first["low"] != second["low"]


def test_5_percent_positives(tmp_path):
    corpus = make_corpus(tmp_path, games=120, positive_rate=0.05, strength=2.5)
    train_probe(*corpus, tmp_path / "probe", SPEC)
    test = read(tmp_path / "probe")["test"]
    assert test["num_positive"] < 0.1 * test["num_negative"]
    assert test["metrics"]["auroc"]["value"] > 0.9
    assert test["metrics"]["auprc"]["value"] > 0.5
    assert test["metrics"]["brier"]["value"] < 0.1  # probabilities are calibrated to the true base rate


def test_one_class_is_refused_with_counts_and_nothing_is_written(tmp_path):
    def all_negative_in_test(sample, values):
        if sample["split"] == "test":
            sample["label"] = 0

    corpus = make_corpus(tmp_path, edit=all_negative_in_test, excluded=[0])
    with pytest.raises(ProbelineError) as caught:
        train_probe(*corpus, tmp_path / "probe", SPEC)
    lines = str(caught.value).splitlines()
    assert lines[0] == "Not enough data for trust: no positive sample in test."
    games = {split_of(f"content-{number}", FRACTIONS, 0): 0 for number in range(40)}
    for number in range(40):
        games[split_of(f"content-{number}", FRACTIONS, 0)] += 1
    assert lines[4].split() == ["test", str(games["test"]), "0", str(games["test"] * 11)]
    assert lines[5] == "  left out before (too long): 40"
    assert "Add games" in lines[-1]
    assert [path.name for path in tmp_path.iterdir() if "probe" in path.name] == []


def test_too_few_training_samples_are_refused(tmp_path):
    with pytest.raises(
        ProbelineError, match=r"240 training samples, at least 1000 are needed|training samples, at"
    ):
        train_probe(*make_corpus(tmp_path), tmp_path / "probe", SPEC | {"min_samples": 1000})


def test_empty_shards_and_no_samples_at_all(tmp_path):
    with pytest.raises(
        ProbelineError, match=r"Not enough data for trust: 0 training samples.*no positive and no neg"
    ):
        train_probe(*make_corpus(tmp_path, games=0), tmp_path / "probe", SPEC)
    corpus = make_corpus(tmp_path / "more", games=40, shards=60)  # 20 of them empty
    train_probe(*corpus, tmp_path / "probe", SPEC)
    assert read(tmp_path / "probe")["samples"]["used"] == 480


def test_bad_numbers_name_sample_and_layer(tmp_path):
    def spoil(sample, values):
        if sample["sample"] == "lab/game7#3":
            values[2, 5] = np.inf

    corpus = make_corpus(tmp_path, edit=spoil)
    with pytest.raises(ProbelineError, match=r"1 samples .* sample lab/game7#3, layer 3"):
        train_probe(*corpus, tmp_path / "probe", SPEC | {"layers": [2, 3]})
    train_probe(*corpus, tmp_path / "probe", SPEC)  # layer 2 is whole


def test_activations_of_other_dialogues_are_refused(tmp_path):
    old, new = make_corpus(tmp_path / "a", games=40), make_corpus(tmp_path / "b", games=41)
    with pytest.raises(ProbelineError, match=r"not of these dialogues: 12 samples .* lab/game40#0"):
        train_probe(old[0], new[1], new[2], tmp_path / "probe", SPEC)


def test_a_game_in_two_splits_is_refused(tmp_path):
    def leak(sample, values):
        if sample["sample"] == "lab/game7#3":
            sample["split"] = "test" if sample["split"] == "train" else "train"

    with pytest.raises(ProbelineError, match="Game lab/game7 is in the splits"):
        train_probe(*make_corpus(tmp_path, edit=leak), tmp_path / "probe", SPEC)


def test_another_model_is_refused(tmp_path):
    with pytest.raises(ProbelineError, match="activations of the model tiny, but the probe is for huge"):
        train_probe(*make_corpus(tmp_path), tmp_path / "probe", SPEC | {"model": "huge"})


def test_unknown_names_get_near_misses(tmp_path):
    corpus = make_corpus(tmp_path)
    with pytest.raises(ProbelineError, match="Did you mean lr"):
        train_probe(*corpus, tmp_path / "probe", SPEC | {"method": "lrr"})
    with pytest.raises(ProbelineError, match="Did you mean bootstrap"):
        train_probe(*corpus, tmp_path / "probe", SPEC | {"bootstraps": 3})
    with pytest.raises(ProbelineError, match="lack 'concept'"):
        train_probe(*corpus, tmp_path / "probe", {"method": "lr"})
    with pytest.raises(ProbelineError, match="no setting 'regularization'"):
        train_probe(*corpus, tmp_path / "probe", SPEC | {"method": "mms", "regularization": 3})


def test_the_code_that_the_workflow_names_leaves_no_trace(tmp_path):
    corpus = make_corpus(tmp_path)
    for name, more in (("a", {}), ("b", {"code": {"train.py": "abc"}})):
        train_probe(*corpus, tmp_path / name, SPEC | more)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_max_samples_keeps_the_shares_of_splits_and_classes(tmp_path):
    corpus = make_corpus(tmp_path, games=100, positive_rate=0.2)
    for name, most in (("all", None), ("some", 300), ("again", 300)):
        train_probe(*corpus, tmp_path / name, SPEC | {"max_samples": most})
    whole, part = read(tmp_path / "all"), read(tmp_path / "some")
    assert 290 <= part["samples"]["used"] <= 300
    assert part["samples"]["used"] + part["samples"]["beyond_max_samples"] == 1200
    for split in ("train", "validation", "test"):
        for count in ("num_positive", "num_negative"):
            assert part[split][count] == whole[split][count] // 4
    assert contents(tmp_path / "some") == contents(tmp_path / "again")


def test_too_little_memory_comes_with_advice(tmp_path, monkeypatch):
    def exhausted(*arguments):
        raise MemoryError("Unable to allocate 3 TiB")

    monkeypatch.setattr(train, "fit_calibrated", exhausted)
    with pytest.raises(ProbelineError, match=r"Not enough memory .* 3 TiB.* Name fewer layers"):
        train_probe(*make_corpus(tmp_path), tmp_path / "probe", SPEC)
    assert not (tmp_path / "probe").exists()


def test_whole_input_is_everything_up_to_the_end_of_the_mask(monkeypatch):
    """Counting each stretch of text once gives what vectorising every input by itself would."""
    monkeypatch.setattr(baselines, "NGRAMS", (1, 1))
    chats = {
        "a": [
            "You are Player1.",
            "Day 1. It begins.",
            "I say: trust me!",
            "Hm.",
            "I trust you, you and you.",
        ],
        "b": ["You are Player2.", "Good night"],
    }
    sequences = {
        name: [{"role": "user", "content": content} for content in chat] for name, chat in chats.items()
    }
    places = [("a", 4, 25), ("a", 2, 12), ("a", 4, 11), ("b", 1, 4), ("a", 2, 16), ("a", 2, 16)]
    samples = [dict(zip(("sequence", "message", "end"), place, strict=True)) for place in places]
    train = np.array([True, True, False, True, False, True])
    texts = ["\n".join([*chats[name][:message], chats[name][message][:end]]) for name, message, end in places]
    counts = HashingVectorizer(
        token_pattern=baselines.WORDS, n_features=baselines.HASHED_FEATURES, alternate_sign=False, norm=None
    ).transform(texts)
    expected = TfidfTransformer(sublinear_tf=True).fit(counts[np.flatnonzero(train)]).transform(counts)
    features = baselines.input_features(sequences, samples, train)
    assert abs(features - expected).max() < 1e-12


def test_texts_without_words_are_all_the_same_to_the_text_baseline():
    train = np.array([True, False, True])
    assert baselines.text_features(["!", "word", "?"], train).toarray().any(axis=0).sum() == 0


def test_length_tells_long_from_short():
    labels = np.tile([0, 1], 30).astype(np.int8)
    texts = ["word " * (4 + row % 2 * 3 + row % 4) for row in range(60)]
    train, validation = np.arange(60) < 30, (np.arange(60) >= 30) & (np.arange(60) < 45)
    assert auroc(labels[45:], baselines.length_scores(texts, labels, train, validation)[45:]) > 0.9


def test_small_test_sides_get_a_caution(tmp_path):
    for games, words in (
        (16, "No verdict: 4 test games with"),
        (24, "Caution: the test side is small"),
        (100, ""),
    ):
        folder = tmp_path / str(games)
        train_probe(*make_corpus(folder, games=games), folder / "probe", SPEC)
        verdict = read(folder / "probe")["verdict"]
        assert words in verdict
        assert ("Caution" in verdict or "No verdict" in verdict) is bool(words)


def test_summary_shows_the_numbers_of_the_files(tmp_path):
    corpus = make_corpus(tmp_path, excluded=[1])
    train_probe(*corpus, tmp_path / "probe", SPEC | {"layers": [1, 2]})
    result = read(tmp_path / "probe")
    lines = probe_summary(tmp_path / "probe").splitlines()
    assert lines[0] == "trust: method lr, layers 1 2, model tiny"
    keys = ("num_games", "num_interactions", "num_positive", "num_negative")
    for line, split in zip(lines[2:5], ("train", "validation", "test"), strict=True):
        assert line.split() == [split, *(str(result[split][key]) for key in keys)]
    text = "\n".join(lines)
    losses = "2 copies of other games, 1 game in quarantine, 3 game folders without game_stats.json, 1 "
    assert f"logs left out: {losses}llm_log.txt that could not be read" in " ".join(text.split())
    assert "aborted" not in text  # their statements are among the samples
    assert "40 too long" in text
    auroc = result["test"]["metrics"]["auroc"]
    assert f"probe                {auroc['value']:.3f}  ({auroc['low']:.3f} to {auroc['high']:.3f})" in text
    assert f"{result['test']['baselines']['text_masked']['auroc']['value']:.3f}" in text
    assert result["verdict"] in " ".join(text.split())
    assert lines[-1].strip() == str(tmp_path / "probe")
    assert max(map(len, lines[:-1])) <= 100


def masked(corpus):
    return {"role_masked_activations": corpus[0], "role_masked_dialogues": corpus[1]}


def test_a_probe_that_reads_the_role_off_the_input_is_told_so(tmp_path):
    corpus = make_corpus(tmp_path / "told", games=80, strength=2.5)
    blind = make_corpus(tmp_path / "blind", games=80, strength=0)
    train_probe(*corpus, tmp_path / "probe", SPEC, **masked(blind))
    result = read(tmp_path / "probe")
    without = result["role_masked"]
    assert without["auroc"]["low"] < 0.5 < without["auroc"]["high"]
    assert without["difference"]["low"] > 0
    counts = ("num_games", "num_interactions", "num_positive", "num_negative")
    assert [without[key] for key in counts] == [result["test"][key] for key in counts]
    assert (without["only_with_role"], without["only_role_masked"]) == (0, 0)
    sentence = "Without the role in the prompt the same kind of probe cannot be told from chance: AUROC "
    assert f"{sentence}{without['auroc']['value']:.3f}" in result["verdict"]
    assert f"role masked          {without['auroc']['value']:.3f}" in probe_summary(tmp_path / "probe")
    # The probe itself, and what it is held against besides, is that of a run without the twin.
    train_probe(*corpus, tmp_path / "alone", SPEC)
    alone = read(tmp_path / "alone")
    assert alone["test"] == result["test"]
    assert "does not tell the actor's role" in alone["role_masked"]["reason"]
    assert "role masked" not in probe_summary(tmp_path / "alone")


@pytest.mark.parametrize(("told", "blind"), [(2.5, 2.5), (0, 0)])
def test_the_role_is_no_explanation_where_masking_changes_nothing(tmp_path, told, blind):
    corpus = make_corpus(tmp_path / "told", games=80, strength=told)
    twin = make_corpus(tmp_path / "blind", games=80, strength=blind)
    train_probe(*corpus, tmp_path / "probe", SPEC, **masked(twin))
    result = read(tmp_path / "probe")
    assert result["role_masked"]["auroc"] == result["test"]["metrics"]["auroc"]
    assert result["role_masked"]["difference"]["value"] == 0
    assert "Without the role" not in result["verdict"]


def test_text_on_the_masked_input_says_what_is_left_to_read(tmp_path):
    corpus = make_corpus(tmp_path / "told")
    twin = make_corpus(tmp_path / "blind", told_by_text=True)
    train_probe(*corpus, tmp_path / "probe", SPEC, **masked(twin))
    result = read(tmp_path / "probe")
    assert result["role_masked"]["text_input"]["auroc"]["value"] > 0.99
    assert result["test"]["baselines"]["text_input"]["auroc"]["value"] < 0.8


def test_samples_that_only_one_of_the_two_has_are_counted(tmp_path):
    corpus = make_corpus(tmp_path / "told", excluded=[0])
    twin = make_corpus(tmp_path / "blind", excluded=[1, 2])
    train_probe(*corpus, tmp_path / "probe", SPEC, **masked(twin))
    result = read(tmp_path / "probe")
    assert (result["role_masked"]["only_with_role"], result["role_masked"]["only_role_masked"]) == (80, 40)
    assert result["role_masked"]["num_interactions"] == result["test"]["num_interactions"] / 11 * 9
    train_probe(*corpus, tmp_path / "fewer", SPEC | {"max_samples": 300}, **masked(twin))
    assert read(tmp_path / "fewer")["role_masked"]["only_role_masked"] == 40


def test_no_common_samples_of_a_class_is_a_reason_and_no_failure(tmp_path):
    def negative(sample, values):
        if sample["split"] == "test":
            sample["label"] = 0

    twin = make_corpus(tmp_path / "blind", edit=negative)
    train_probe(*make_corpus(tmp_path / "told"), tmp_path / "probe", SPEC, **masked(twin))
    assert "test samples" in read(tmp_path / "probe")["role_masked"]["reason"]


def test_the_logged_probe_stands_beside_ours(tmp_path):
    def logged(sample, values):
        if sample["event"] < 6:
            sample["logged_score"] = sample["label"] + values[0, 0] / 2

    train_probe(*make_corpus(tmp_path, edit=logged), tmp_path / "probe", SPEC)
    result = read(tmp_path / "probe")
    test = result["logged"]["logged_score"]["test"]
    assert test["num_interactions"] == result["test"]["num_interactions"] / 2
    assert test["auroc"]["low"] > 0.5
    text = probe_summary(tmp_path / "probe")
    assert f"logged in the games  {test['auroc']['value']:.3f}" in text
    assert (
        f"on {test['num_interactions']} samples; there the probe reaches {test['probe']['value']:.3f}" in text
    )
    assert "caution" not in text
    # Its labels differ within a player, and not every act has a target.
    assert "varies within a player" in result["stages"]["reason"]


def test_a_logged_probe_on_few_games_is_marked(tmp_path):
    few = set()

    def logged(sample, values):
        if sample["split"] == "test" and len(few | {sample["game"]}) <= 3:
            few.add(sample["game"])
            sample["logged_score"] = sample["label"] + values[0, 0] / 2

    train_probe(*make_corpus(tmp_path, edit=logged), tmp_path / "probe", SPEC)
    test = read(tmp_path / "probe")["logged"]["logged_score"]["test"]
    assert (test["num_games"] < 5, test["small"]) == (True, True)
    assert (
        f"caution: too few for a conclusion ({test['num_games']} games, {test['num_positive']} positive, "
        f"{test['num_negative']} negative)" in probe_summary(tmp_path / "probe")
    )


def test_summary_starts_without_heavy_libraries():
    code = (
        "import sys, probeline.probes.summary;"
        "print(sorted({'numpy', 'torch', 'sklearn', 'pyarrow'} & sys.modules.keys()))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
