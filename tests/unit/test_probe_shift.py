"""A probe scored on a model with and without an adapter: what is told of the difference, and of whom."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from probeline import schema
from probeline.config import adapted_names, check_config, check_target, users_adapters
from probeline.errors import ProbelineError
from probeline.files import read_json, write_json, write_parquet
from probeline.probes.detector import load_detector
from probeline.probes.shift import evaluate_probe_shift, residual_direction, shift_verdict
from probeline.probes.summary import shift_summary
from probeline.probes.train import train_probe
from tests.unit.test_train_probe import make_corpus
from tests.unit.tiny import contents

REPOSITORY = Path(__file__).parents[2]
SPEC = {"concept": "trust", "method": "lr", "layers": [2], "model": "tiny", "bootstrap": 200}
Edit = Callable[[dict[str, Any], np.ndarray], None]


class Pair:
    """A concept's activations without an adapter and with one, and a probe on the former."""

    def __init__(self, folder: Path, edit: Edit | None = None, spec: dict[str, Any] = SPEC) -> None:
        self.folder, self.spec = folder, spec
        options: dict[str, Any] = {"games": 100, "strength": 1.5}
        self.activations, self.dialogues, quality = make_corpus(folder / "base", **options)
        self.adapted, _, _ = make_corpus(folder / "adapted", edit=edit, **options)
        for shard in self.adapted:
            manifest = read_json(shard / "manifest.json")
            write_json(shard / "manifest.json", manifest | {"adapter_sha256": "a" * 64})
        self.probe = folder / "probe"
        train_probe(self.activations, self.dialogues, quality, self.probe, dict(spec))

    def shift(self, output: str = "shift", **changes: Any) -> dict[str, Any]:
        given: dict[str, Any] = {
            "activations": self.activations,
            "adapted": self.adapted,
            "trained_on": [],
        }
        evaluate_probe_shift(
            self.probe,
            dialogues=self.dialogues,
            output=self.folder / output,
            spec=self.spec | {"adapter": "/somewhere/mafia_sft"},
            **given | changes,
        )
        metrics: dict[str, Any] = read_json(self.folder / output / "metrics.json")
        return metrics


def turned(sample: dict[str, Any], values: np.ndarray) -> None:
    values *= -1


@pytest.fixture(scope="module")
def reversed_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("reversed"), turned)


def test_an_adapter_that_changes_nothing_shifts_nothing(tmp_path: Path) -> None:
    told = Pair(tmp_path).shift()
    assert told["difference"] == {"value": 0, "low": 0, "high": 0}
    assert told["score_shift"]["positive"] == {"value": 0, "low": 0, "high": 0}
    assert told["flipped"] == {"samples": 0, "share": 0}
    assert told["auroc"]["retrained"] == told["auroc"]["base"] == told["auroc"]["adapted"]
    assert told["direction"]["cosine"] == pytest.approx(1)
    assert told["direction"]["score_correlation"] == pytest.approx(1)
    assert told["relative_change"] == {"2": 0}
    assert "does as well with the adapter as without" in told["verdict"]


def test_a_direction_that_an_adapter_turns_round_is_found_anew(reversed_pair: Pair) -> None:
    told = reversed_pair.shift()
    assert told["auroc"]["base"]["value"] > 0.9
    assert told["auroc"]["adapted"]["value"] == pytest.approx(1 - told["auroc"]["base"]["value"], abs=0.05)
    assert told["auroc"]["retrained"]["value"] > 0.9
    assert told["difference"]["high"] < -0.5
    assert told["direction"]["cosine"] == pytest.approx(-1)
    assert told["score_shift"]["positive"]["high"] < 0 < told["score_shift"]["negative"]["low"]
    assert told["relative_change"]["2"] == pytest.approx(2)
    assert "does worse with the adapter" in told["verdict"]
    assert told["verdict"] in " ".join(shift_summary(reversed_pair.folder / "shift").split())


def test_the_paired_table_holds_what_the_figures_are_of(reversed_pair: Pair) -> None:
    told = reversed_pair.shift("again")
    folder = reversed_pair.folder / "again"
    rows = pq.read_table(folder / "shift.parquet").to_pylist()
    assert [column for column, _, _ in schema.SHIFT] == list(rows[0])
    test = [row for row in rows if row["split"] == "test"]
    assert len(test) == told["num_interactions"]
    assert len({row["game"] for row in test}) == told["num_games"]
    for label, name in ((1, "positive"), (0, "negative")):
        changes = [row["adapted"] - row["base"] for row in test if row["label"] == label]
        assert told["score_shift"][name]["value"] == pytest.approx(np.mean(changes))
    own = {
        row["sample"]: row["score"]
        for row in pq.read_table(reversed_pair.probe / "scores.parquet").to_pylist()
    }
    assert {row["sample"]: row["base"] for row in rows} == own
    assert contents(folder) == contents(reversed_pair.folder / "shift")
    assert "/somewhere" not in (folder / "manifest.json").read_text()


def test_games_that_the_adapter_was_trained_on_are_left_out_of_the_test(reversed_pair: Pair) -> None:
    whole = reversed_pair.shift("whole")
    rows = pq.read_table(reversed_pair.folder / "whole/shift.parquet").to_pylist()
    tested = sorted({(row["game"], row["content"]) for row in rows if row["split"] == "test"})
    others = sorted({(row["game"], row["content"]) for row in rows if row["split"] == "train"})
    dataset = reversed_pair.folder / "sft"
    dataset.mkdir()
    # One trained on, one only tested on, and one that the probe was trained on itself.
    games = zip((*tested[:2], others[0]), ("train", "test", "train"), strict=True)
    table = [{"game": "x", "content": content, "split": split} for (_, content), split in games]
    write_parquet(dataset / "games.parquet", schema.make_table(table, schema.DATASET_GAMES))
    told = reversed_pair.shift("seen", trained_on=[dataset])
    left = pq.read_table(reversed_pair.folder / "seen/shift.parquet").to_pylist()
    assert {row["game"] for row in rows} - {row["game"] for row in left} == {tested[0][0]}
    assert told["num_games"] == whole["num_games"] - 1
    assert told["adapter"] == {"known": True, "samples_left_out": 12}
    assert "12 test samples were left out, because the adapter was trained on their games" in told["verdict"]
    one = shift_verdict(told | {"adapter": {"known": True, "samples_left_out": 1}})
    assert "1 test sample was left out, because the adapter was trained on its game" in one


def test_an_adapter_of_unknown_origin_is_said_to_be_one(reversed_pair: Pair) -> None:
    told = reversed_pair.shift("unknown", trained_on=None)
    assert told["adapter"]["known"] is False
    assert "No record says which games the adapter was trained on" in told["verdict"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"adapter_sha256": None}, "compares activations without an adapter"),
        ({"weights_sha256": "b" * 64}, "Only the adapter may differ: weights_sha256"),
    ],
)
def test_what_is_no_pair_is_refused(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    pair = Pair(tmp_path)
    for shard in pair.adapted:
        write_json(shard / "manifest.json", read_json(shard / "manifest.json") | changes)
    with pytest.raises(ProbelineError, match=fault):
        pair.shift()
    assert not (tmp_path / "shift").exists()


@pytest.mark.parametrize("settings", [{}, {"ensemble": "concat"}])
def test_the_direction_is_the_slope_of_the_score(tmp_path: Path, settings: dict[str, Any]) -> None:
    pair = Pair(tmp_path, spec=SPEC | {"layers": [1, 2]} | settings)
    detector = load_detector(pair.probe)
    direction = residual_direction(detector)
    assert direction is not None
    at = np.random.default_rng(0).normal(size=(1, *direction.shape))
    rise = detector.scores(at + direction) - detector.scores(at)
    # The score is a mean over heads.
    assert rise[0] == pytest.approx((direction**2).sum() / len(detector.heads))


def test_an_mlp_has_no_direction(tmp_path: Path) -> None:
    told = Pair(tmp_path, spec=SPEC | {"method": "mlp"}).shift()
    assert told["direction"]["cosine"] is None
    assert "cosine" not in told["verdict"]


# The configuration ------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    loaded = copy.deepcopy(yaml.safe_load((REPOSITORY / "config/config.yaml").read_text()))
    sft = {"method": "sft", "model": "smollm2-135m", "dataset": "mafia_sft"}
    loaded["models"]["tiny"] = {
        "random": {"architecture": "llama", "layers": 30, "width": 32, "heads": 2, "seed": 0}
        | {"vocabulary": 400, "max_length": 64}
    }
    loaded["comparisons"] = {}
    loaded["recipes"] = {
        "mafia_sft": sft,
        "whole": sft | {"lora": None},
        "merged": {"method": "sft", "from": "mafia_sft", "merge": True, "dataset": "mafia_sft"},
        "of_tiny": sft | {"model": "tiny"},
    }
    loaded["probe_shifts"] = {"after": {"probe": "mafia_member_lr_l22", "adapter": "mafia_sft"}}
    return loaded


def refusal(config: dict[str, Any]) -> str:
    with pytest.raises(ProbelineError) as caught:
        check_config(config, REPOSITORY / "config/schemas/config.schema.yaml")
    return str(caught.value)


def test_the_activations_of_an_adapter_are_called_after_both(config: dict[str, Any]) -> None:
    check_config(config, REPOSITORY / "config/schemas/config.schema.yaml")
    config["probe_shifts"]["twice"] = {"probe": "mafia_member_mms_l10", "adapter": "mafia_sft"}
    assert adapted_names(config) == {"mafia_member.on.mafia_sft": ("mafia_member", "mafia_sft")}
    assert users_adapters(config) == []
    check_target("results/activations/mafia_member.on.mafia_sft/shard-0-of-4", config)
    check_target("results/evaluation/probe_shift/after", config)
    config["model"] = {"base": "smollm2-135m", "adapter": "/somewhere/lora"}
    assert users_adapters(config) == [Path("/somewhere/lora")]


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        ("mafia_sfft", "neither a folder nor a recipe. Did you mean mafia_sft"),
        ("whole", "tunes the whole model and makes no adapter"),
        ("merged", "trained on smollm2-135m with mafia_sft merged into it"),
        ("of_tiny", "an adapter of tiny, but the model is smollm2-135m"),
    ],
)
def test_an_adapter_that_cannot_be_on_the_model_is_refused(
    config: dict[str, Any], adapter: str, words: str
) -> None:
    shifts = config["probe_shifts"]
    config["probe_shifts"] = {}
    config["model"] = {"base": "smollm2-135m", "adapter": adapter}
    assert f"model.adapter is {adapter!r}" in refusal(config) or f"model.adapter is {adapter}" in refusal(
        config
    )
    assert words in refusal(config)
    config["model"] = "smollm2-135m"
    config["probe_shifts"] = {"after": shifts["after"] | {"adapter": adapter}}
    assert "probe_shifts.after.adapter" in refusal(config)
    assert words in refusal(config)


def test_a_probe_shift_of_nothing_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ProbelineError, match=r"unknown probe shift 'aftr'\. Did you mean after"):
        check_target("results/evaluation/probe_shift/aftr", config)
    with pytest.raises(ProbelineError, match="ask for results/evaluation/probe_shift/after"):
        check_target("results/probe_shifts/after", config)
    config["probe_shifts"]["after"]["probe"] = "mafia_membr_lr_l22"
    assert "probe_shifts.after.probe: Unknown concept 'mafia_membr'" in refusal(config)
    config["probe_shifts"]["after"]["probe"] = "mafia_member_lr_l22"
    config["probe_shifts"]["other"] = {"probe": "trust_lr_l22", "adapter": "/elsewhere/mafia_sft"}
    assert "Rename one of them" in refusal(config)
    del config["probe_shifts"]["other"]
    config["targets"]["probe_shifts"] = ["after", "before"]
    assert "targets.probe_shifts: unknown probe shift 'before'" in refusal(config)
    config["targets"]["probe_shifts"] = []
    config["model"] = {"base": "smollm2-135m", "adapter": "mafia_sft"}
    assert "probe_shifts compare with the bare model" in refusal(config)
