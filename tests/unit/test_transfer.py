"""Probes tested on games of another kind than those they were trained on."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from probeline import schema
from probeline.config import check_config, check_target
from probeline.digests import split_of
from probeline.errors import ProbelineError
from probeline.files import read_json, write_json, write_parquet
from probeline.probes import transfer
from probeline.probes.detector import load_detector
from probeline.probes.summary import transfer_summary
from probeline.probes.train import train_probe
from probeline.probes.transfer import by_concept, evaluate_transfer, matrix_verdict
from tests.unit.test_train_probe import FRACTIONS, make_corpus, read
from tests.unit.tiny import contents

PROBE = {"method": "lr", "layers": [2], "model": "tiny", "bootstrap": 200}
EXPERIMENTS = PROBE | {"concept": "trust"}
BETWEEN = PROBE | {"train": ["a", "b"], "test": ["a", "b"]}
REPOSITORY = Path(__file__).parents[2]


def corpora(folder, **options):
    """The corpora of some concepts, one per name, as `evaluate_transfer` takes them; and their quality."""
    made = {name: make_corpus(folder / name, **arguments) for name, arguments in options.items()}
    return [{name: corpus[part] for name, corpus in made.items()} for part in range(3)]


def two_experiments(sample, values):
    """Even games are of the experiment `even`, where the planted direction is turned round."""
    number = int(sample["game"].rpartition("game")[2])
    sample["experiment"] = "lab/odd" if number % 2 else "lab/even"
    if number % 2 == 0:
        values *= -1


def cell(folder, train, test):
    return next(cell for cell in read(folder)["cells"] if (cell["train"], cell["test"]) == (train, test))


def auroc(folder, train, test):
    return cell(folder, train, test)["metrics"]["auroc"]["value"]


@pytest.fixture(scope="module")
def turned(tmp_path_factory):
    """A matrix of two experiments whose labels point in opposite directions."""
    folder = tmp_path_factory.mktemp("turned")
    activations, dialogues, _ = corpora(
        folder, trust={"games": 120, "strength": 2, "edit": two_experiments, "excluded": [5]}
    )
    evaluate_transfer(activations, dialogues, folder / "result", EXPERIMENTS)
    return folder / "result"


def test_a_direction_that_holds_in_one_experiment_only_does_not_carry_over(turned):
    for name, other in (("lab/even", "lab/odd"), ("lab/odd", "lab/even")):
        assert auroc(turned, name, name) > 0.9
        assert auroc(turned, name, other) < 0.1
        assert cell(turned, name, other)["difference_to_text"]["high"] < 0
        assert "worse than chance" in cell(turned, name, other)["verdict"]
    assert read(turned)["verdict"].startswith(
        "Trained on one and tested on another, the probe is above chance in 0 of 2 pairs"
    )


def test_counts_add_up(turned):
    result = read(turned)
    assert result["samples"]["trust"] == {
        "used": 120 * 11,
        "excluded": {"too long": 120},
        "beyond_max_samples": 0,
        "in_no_group": 0,
    }
    parts = result["parts"]
    splits = [split for part in parts.values() for split in part["splits"].values()]
    assert sum(split["num_interactions"] for split in splits) == 120 * 11
    assert sum(split["num_games"] for split in splits) == 120
    for one in result["cells"]:
        test = parts[one["test"]]["splits"]["test"]
        assert one["num_interactions"] + one["seen_in_training"] == test["num_interactions"]
        assert one["num_positive"] + one["num_negative"] == one["num_interactions"]
    assert parts["lab/even"]["experiments"] == ["lab/even"]


def test_table_and_summary_say_what_the_metrics_say(turned):
    rows = pq.read_table(turned / "transfer.parquet").to_pylist()
    assert [column for column, _, _ in schema.TRANSFER] == list(rows[0])
    assert [(row["train"], row["test"]) for row in rows] == [
        (train, test) for train in ("lab/even", "lab/odd") for test in ("lab/even", "lab/odd")
    ]
    summary = transfer_summary(turned)
    for row in rows:
        one = cell(turned, row["train"], row["test"])
        assert row["auroc"] == one["metrics"]["auroc"]["value"]
        assert row["difference_low"] == one["difference_to_text"]["low"]
        assert row["text"] == one["baselines"][row["text_baseline"]]["auroc"]["value"]
        assert f"{row['auroc']:.3f} ({row['text']:.3f})" in summary
    assert str(turned) in summary
    assert set(read_json(turned / "manifest.json")["files"]) == {
        "metrics.json",
        "transfer.parquet",
        "transfer.png",
        "transfer.svg",
    }


def test_the_diagonal_is_what_train_probe_says(tmp_path):
    activations, dialogues, quality = corpora(
        tmp_path, a={"strength": 0.4, "told_by_text": True}, b={"strength": 1, "seed": 1}
    )
    evaluate_transfer(activations, dialogues, tmp_path / "result", BETWEEN)
    for name in "ab":
        spec = PROBE | {"concept": name}
        train_probe(activations[name], dialogues[name], quality[name], tmp_path / f"probe-{name}", spec)
        expected, one = read(tmp_path / f"probe-{name}")["test"], cell(tmp_path / "result", name, name)
        assert one["metrics"] == expected["metrics"]
        assert one["difference_to_text"] == expected["difference_to_text"]
        for baseline in ("text_masked", "text_input"):
            assert one["baselines"][baseline] == expected["baselines"][baseline]
        assert one["threshold"] == load_detector(tmp_path / f"probe-{name}").threshold


def test_the_text_is_transferred_too(tmp_path):
    """A word that tells the label in one corpus tells nothing in another, and the baseline shows it."""
    activations, dialogues, _ = corpora(
        tmp_path, a={"strength": 2, "told_by_text": True}, b={"strength": 2, "seed": 1}
    )
    evaluate_transfer(activations, dialogues, tmp_path / "result", BETWEEN)
    assert cell(tmp_path / "result", "a", "a")["baselines"]["text_masked"]["auroc"]["value"] > 0.99
    assert cell(tmp_path / "result", "a", "b")["baselines"]["text_masked"]["auroc"]["value"] < 0.7
    assert cell(tmp_path / "result", "a", "b")["difference_to_text"]["low"] > 0
    assert "above chance in 2 of 2 pairs, and in 2 of them it beats" in read(tmp_path / "result")["verdict"]


def test_only_the_targets_test_games_are_scored_and_only_the_sources_others_are_fitted_on(tmp_path):
    def spoil_training(sample, values):
        if sample["split"] != "test":
            values += 100 * sample["event"]
            sample["label"] = int(sample["event"] % 2)

    def spoil_test(sample, values):
        if sample["split"] == "test":
            values += 100 * sample["event"]
            sample["label"] = int(sample["event"] % 2)

    plain, spoilt = tmp_path / "plain", tmp_path / "spoilt"
    for folder, edits in ((plain, {}), (spoilt, {"a": spoil_test, "b": spoil_training})):
        activations, dialogues, _ = corpora(
            folder, a={"edit": edits.get("a")}, b={"seed": 1, "edit": edits.get("b")}
        )
        evaluate_transfer(activations, dialogues, folder / "result", PROBE | {"train": ["a"], "test": ["b"]})
    assert cell(plain / "result", "a", "b") == cell(spoilt / "result", "a", "b")


def test_a_game_that_the_source_was_trained_on_is_left_out_and_counted(tmp_path):
    """The same game in two corpora whose splits differ, as they do where experiments are held out."""
    moved = [n for n in range(40) if split_of(f"content-{n}", FRACTIONS, 0) == "train"][:3]

    def move(sample, values):
        if int(sample["game"].rpartition("game")[2]) in moved:
            sample["split"] = "test"
            values *= 1000

    activations, dialogues, _ = corpora(tmp_path, a={}, b={"edit": move}, c={})
    spec = PROBE | {"train": ["a"], "test": ["b", "c"]}
    evaluate_transfer(activations, dialogues, tmp_path / "result", spec)
    one, clean = (cell(tmp_path / "result", "a", name) for name in "bc")
    assert one["seen_in_training"] == 3 * 12
    assert clean["seen_in_training"] == 0
    assert {k: v for k, v in one.items() if k not in ("seen_in_training", "test")} == {
        k: v for k, v in clean.items() if k not in ("seen_in_training", "test")
    }
    assert "their game was in the source's training: 36" in transfer_summary(tmp_path / "result")


def test_pairs_without_enough_data_say_why_and_the_others_have_numbers(tmp_path):
    def three(sample, values):
        number = int(sample["game"].rpartition("game")[2])
        sample["experiment"] = "tiny" if number < 3 else "silent" if number % 2 else "whole"
        if sample["experiment"] == "silent" and sample["split"] == "train":
            sample["label"] = 0

    activations, dialogues, _ = corpora(tmp_path, trust={"games": 120, "strength": 2, "edit": three})
    evaluate_transfer(activations, dialogues, tmp_path / "result", EXPERIMENTS)
    cells = read(tmp_path / "result")["cells"]
    assert {(one["train"], one["test"]) for one in cells if one["reason"] is None} == {
        ("whole", "whole"),
        ("whole", "silent"),
    }
    for name in ("tiny", "silent", "whole"):
        reason = cell(tmp_path / "result", "silent", name)["reason"]
        assert reason == "not enough data to train: no positive sample in train"
        assert "metrics" not in cell(tmp_path / "result", "silent", name)
    reason = cell(tmp_path / "result", "whole", "tiny")["reason"]
    assert reason.startswith("not enough data to test: ")
    assert "at least 2 games and both classes are needed" in reason
    assert "5 pairs without enough data for a number" in read(tmp_path / "result")["verdict"]
    assert transfer_summary(tmp_path / "result").count("too few") == 7


def test_a_number_from_few_games_is_marked_and_makes_no_verdict(tmp_path):
    def two(sample, values):
        number = int(sample["game"].rpartition("game")[2])
        sample["experiment"] = "few" if number in few else "many"

    test = [n for n in range(120) if split_of(f"content-{n}", FRACTIONS, 0) == "test"]
    few = [n for n in range(120) if n not in test][:20] + test[:3]
    activations, dialogues, _ = corpora(tmp_path, trust={"games": 120, "strength": 2, "edit": two})
    evaluate_transfer(activations, dialogues, tmp_path / "result", EXPERIMENTS)
    one = cell(tmp_path / "result", "many", "few")
    assert one["num_games"] == 3
    assert one["small"]
    assert one["verdict"].startswith("No verdict: 3 test games")
    assert not cell(tmp_path / "result", "few", "many")["small"]
    verdict = read(tmp_path / "result")["verdict"]
    assert "above chance in 1 of 1 pair," in verdict
    assert verdict.endswith("1 pair with too few test games or samples for a verdict.")
    summary = transfer_summary(tmp_path / "result")
    assert f"{one['metrics']['auroc']['value']:.3f} (" in summary
    assert "* too few test games" in summary


def test_no_pair_with_enough_data_is_an_error_with_counts(tmp_path):
    def alone(sample, values):
        sample["experiment"] = sample["game"]

    activations, dialogues, _ = corpora(tmp_path, trust={"games": 8, "edit": alone})
    with pytest.raises(ProbelineError) as caught:
        evaluate_transfer(activations, dialogues, tmp_path / "result", EXPERIMENTS)
    words = str(caught.value)
    assert words.startswith("Not enough data for any pair.")
    assert "lab/game3" in words
    assert "(groups)" in words
    assert not (tmp_path / "result").exists()


def test_groups_are_shell_patterns_and_the_rest_is_counted(tmp_path):
    def four(sample, values):
        number = int(sample["game"].rpartition("game")[2])
        sample["experiment"] = ("final_base_1", "final_base_2", "final_probe_1", "")[number % 4]

    activations, dialogues, _ = corpora(tmp_path, trust={"games": 120, "strength": 2, "edit": four})
    groups = {"base": ["final_base*"], "probe": ["final_probe_?"]}
    evaluate_transfer(activations, dialogues, tmp_path / "result", EXPERIMENTS | {"groups": groups})
    result = read(tmp_path / "result")
    assert result["parts"]["base"]["experiments"] == ["final_base_1", "final_base_2"]
    assert result["samples"]["trust"]["in_no_group"] == 30 * 12
    assert len(result["cells"]) == 4
    with pytest.raises(
        ProbelineError, match=r"b: no experiment of trust fits 'final_prob'. Did you mean final_p"
    ):
        evaluate_transfer(
            activations,
            dialogues,
            tmp_path / "other",
            EXPERIMENTS | {"groups": {"a": ["*base*"], "b": ["final_prob"]}},
        )


def test_the_picture_names_the_transfer(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(transfer, "draw_transfer", lambda table, title, folder: titles.append(title))
    activations, dialogues, _ = corpora(tmp_path, trust={"games": 60, "edit": two_experiments})
    evaluate_transfer(activations, dialogues, tmp_path / "odd_and_even", EXPERIMENTS)
    assert titles == ["odd_and_even\ntrust, lr on layer 2 of tiny"]


def test_groups_that_share_an_experiment_are_no_transfer(tmp_path):
    activations, dialogues, _ = corpora(
        tmp_path, trust={"games": 120, "strength": 2, "edit": two_experiments, "told_by_text": True}
    )
    groups = {"all": ["*"], "even": ["lab/even"], "odd": ["lab/odd"]}
    evaluate_transfer(activations, dialogues, tmp_path / "result", EXPERIMENTS | {"groups": groups})
    result = read(tmp_path / "result")
    crossing = {(one["train"], one["test"]) for one in result["cells"] if not one["overlap"]}
    assert crossing == {("even", "odd"), ("odd", "even")}
    assert "in 0 of 2 pairs" in result["verdict"]
    assert result["verdict"].endswith("4 pairs of groups that share experiments, which is no transfer.")
    rows = pq.read_table(tmp_path / "result" / "transfer.parquet").to_pylist()
    assert [row["overlap"] for row in rows] == [one["overlap"] for one in result["cells"]]
    summary = transfer_summary(tmp_path / "result")
    assert summary.count("†") == 4 + 1
    assert "† the two share experiments" in summary
    # Between concepts, games of one experiment are shown in another way.
    activations, dialogues, _ = corpora(tmp_path / "two", a={}, b={"seed": 1})
    evaluate_transfer(activations, dialogues, tmp_path / "between", BETWEEN)
    overlap = {(one["train"], one["test"]): one["overlap"] for one in read(tmp_path / "between")["cells"]}
    assert overlap == {("a", "a"): True, ("a", "b"): False, ("b", "a"): False, ("b", "b"): True}


def test_the_text_is_chosen_on_the_sources_validation_games(tmp_path):
    """On test games without the telling word the other text is better, and yet it is not the one chosen."""

    def scrambled(sample, values):
        if sample["split"] == "test":
            sample["text"] = sample["text"].replace("ally", "friend").replace("foe", "friend")

    for name, edit in (("plain", None), ("scrambled", scrambled)):
        options = {"strength": 2, "told_by_text": True, "edit": edit}
        activations, dialogues, _ = corpora(tmp_path / name, a=options, b=options | {"seed": 1})
        evaluate_transfer(activations, dialogues, tmp_path / name / "result", BETWEEN)
    chosen = [
        cell(tmp_path / name / "result", "a", "b")["difference_to_text"] for name in ("plain", "scrambled")
    ]
    assert chosen[0]["baseline"] == chosen[1]["baseline"]
    assert chosen[0]["value"] != chosen[1]["value"]
    texts = cell(tmp_path / "scrambled" / "result", "a", "b")["baselines"]
    assert texts["text_input"]["auroc"]["value"] > texts[chosen[1]["baseline"]]["auroc"]["value"]


@pytest.mark.parametrize(("whole", "better"), [(0.1, 1), (-0.1, 0)])
def test_a_probe_beats_the_text_only_if_it_beats_both_texts(whole, better):
    low = {"text_masked": 0.1, "text_input": whole}
    pair = {
        **{"train": "a", "test": "b", "overlap": False, "small": False, "reason": None},
        "metrics": {"auroc": {"low": 0.7}},
        "baselines": {name: {"difference": {"low": value}} for name, value in low.items()},
        "difference_to_text": {"baseline": "text_masked", "low": 0.1},
    }
    assert f"in 1 of 1 pair, and in {better} of them it beats both text" in matrix_verdict([pair])


def test_one_experiment_makes_no_matrix(tmp_path):
    activations, dialogues, _ = corpora(tmp_path, trust={})
    with pytest.raises(ProbelineError, match="trust has 1 experiments or groups"):
        evaluate_transfer(activations, dialogues, tmp_path / "result", EXPERIMENTS)


@pytest.mark.parametrize("fact", ["weights_sha256", "adapter_sha256"])
def test_activations_of_different_models_are_refused(tmp_path, fact):
    activations, dialogues, _ = corpora(tmp_path, a={}, b={})
    for shard in activations["b"]:
        write_json(shard / "manifest.json", read_json(shard / "manifest.json") | {fact: "f" * 64})
    with pytest.raises(ProbelineError, match=f"{fact} is .* for a, but {'f' * 64} for b"):
        evaluate_transfer(activations, dialogues, tmp_path / "result", BETWEEN)


def test_a_layer_that_one_of_them_lacks_is_refused(tmp_path):
    activations, dialogues, _ = corpora(tmp_path, a={}, b={})
    with pytest.raises(ProbelineError, match="holds no activations of layer 9"):
        evaluate_transfer(activations, dialogues, tmp_path / "result", BETWEEN | {"layers": [9]})


def test_same_bytes_again_and_in_other_shards(tmp_path):
    for name, shards in (("first", 2), ("again", 2), ("other", 5)):
        options = {"games": 60, "edit": two_experiments, "shards": shards}
        activations, dialogues, _ = corpora(tmp_path / name, trust=options)
        evaluate_transfer(activations, dialogues, tmp_path / name / "result", EXPERIMENTS)
    first = contents(tmp_path / "first" / "result")
    assert first == contents(tmp_path / "again" / "result") == contents(tmp_path / "other" / "result")


def test_views_of_one_game_with_the_same_name_are_kept_apart(tmp_path):
    """Two concepts name the sequences of a game alike: each text baseline must read its own."""
    activations, dialogues, _ = corpora(tmp_path, a={}, b={})
    for shard in dialogues["b"]:
        rows = pq.read_table(shard / "sequences.parquet").to_pylist()
        samples = pq.read_table(shard / "samples.parquet").to_pylist()
        labels = {(row["sequence"], row["message"]): row["label"] for row in samples}
        for row in rows:
            for number, message in enumerate(row["messages"]):
                told = {1: " ally", 0: " foe"}.get(labels.get((row["sequence"], number)), "")
                message["content"] = f"I say: {told}" + message["content"][7:] if told else message["content"]
        write_parquet(shard / "sequences.parquet", schema.make_table(rows, schema.SEQUENCES))
    evaluate_transfer(activations, dialogues, tmp_path / "result", BETWEEN)
    whole = {
        name: cell(tmp_path / "result", name, name)["baselines"]["text_input"]["auroc"]["value"]
        for name in "ab"
    }
    assert whole["b"] > whole["a"] + 0.1


def test_concepts_are_told_from_the_paths_of_their_shards():
    paths = ["results/activations/b/shard-0/manifest.json", "results/activations/a/shard-0/manifest.json"]
    assert by_concept(paths) == {
        "b": [Path("results/activations/b/shard-0")],
        "a": [Path("results/activations/a/shard-0")],
    }


@pytest.fixture
def config():
    config = yaml.safe_load((REPOSITORY / "config/config.yaml").read_text())
    config["transfers"] = {
        "trust_experiments": {"concept": "trust", "method": "lr", "layers": [22]},
        "both": {"train": ["trust"], "test": ["collusion"], "method": "mms", "layers": [8, 22]},
    }
    return config


SCHEMA = REPOSITORY / "config/schemas/config.schema.yaml"


def test_both_forms_are_accepted_as_targets(config):
    config["targets"]["transfers"] = ["trust_experiments", "both"]
    check_config(config, SCHEMA)
    check_target("results/evaluation/both", config)
    check_target("results/evaluation/both/metrics.json", config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"both": {"train": ["trusst"], "test": ["trust"], "method": "lr", "layers": [3]}},
            "Did you mean trust",
        ),
        ({"one": {"concept": "trust", "method": "lrr", "layers": [3]}}, "Unknown method 'lrr'"),
        ({"one": {"concept": "trust", "method": "lr", "layers": [31]}}, "smollm2-135m has 30 blocks"),
        ({"one": {"concept": "trust", "method": "lr", "layers": 3}}, "a list of layers such as"),
        ({"one": {"concept": "trust", "method": "lr", "layer": [3]}}, "Did you mean layers"),
        ({"one": {"train": ["trust"], "method": "lr", "layers": [3]}}, "lacks test"),
        ({"Two": {"concept": "trust", "method": "lr", "layers": [3]}}, "lower-case letters"),
    ],
)
def test_faults_of_a_transfer_are_said_in_words(config, change, words):
    config["transfers"] = change
    with pytest.raises(ProbelineError) as caught:
        check_config(config, SCHEMA)
    assert words in str(caught.value)


def test_an_unknown_transfer_gets_near_misses(config):
    with pytest.raises(ProbelineError, match=r"unknown transfer 'bth'. Did you mean both"):
        check_target("results/evaluation/bth", config)
    config["targets"]["transfers"] = ["trust_experiment"]
    with pytest.raises(ProbelineError, match="Did you mean trust_experiments"):
        check_config(config, SCHEMA)
