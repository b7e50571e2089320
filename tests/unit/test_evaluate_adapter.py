"""The evaluation of adapters on tiny models: numbers, pairs, masks, reports, and names in the config."""

import json
import math
import re
import shutil
import weakref
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from probeline.compute.body import BodyFiles
from probeline.config import check_config, check_target, users_adapters
from probeline.errors import ProbelineError
from probeline.evaluation import adapters as evaluation
from probeline.evaluation.estimates import Quantity, caution_of, compare_systems, spread
from probeline.evaluation.forecasts import match_judge
from probeline.evaluation.held_out import Item, draw, read_held_out, that_fit
from probeline.evaluation.mafia import faults_of, mafia_questions
from probeline.evaluation.plans import BARE, plan_comparison, plan_evaluation
from probeline.evaluation.questions import Answers, Questions, as_code, counted
from probeline.evaluation.summary import evaluation_summary
from probeline.evaluation.support import measure_support
from probeline.evaluation.systems import systems_of
from probeline.files import read_json, write_json, write_json_lines, write_manifest, write_parquet
from probeline.forecasting.expected import read_perplexities
from probeline.models import loading
from probeline.models.systems import System, in_memory
from probeline.schema import DATASET_GAMES, make_table
from tests.unit.tiny import contents, make_model

REPOSITORY = Path(__file__).parents[2]
SETTINGS = {
    "examples": 6,
    "samples": 3,
    "completion_tokens": 12,
    "temperature": 0,
    "max_tokens": 2048,
    "similarity": 0.7,
    "gates": {"perplexity": 2.5, "brier": 0.15, "matched": 0.8, "matched_deep": 0.7},
    "bootstrap": 200,
}
BASE = BARE | {"name": "base", "stage": "base"}


def system(name: str, recipe: str, step: int | None = None) -> dict[str, Any]:
    return BASE | {"name": name, "recipe": recipe, "step": step, "stage": "GRPO"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", max_length=2048)


def make_adapter(model: Path, folder: Path, texts: Sequence[str] = (), steps: int = 0) -> Path:
    """An adapter as PEFT writes it: untrained it changes nothing; else it has learned some texts."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    loader: Any = AutoModelForCausalLM
    base = loader.from_pretrained(model)
    tuned = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"]))
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=0.02)
    for step in range(steps):
        ids = torch.tensor([tokenizer(texts[step % len(texts)]).input_ids])
        tuned(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    tuned.save_pretrained(str(folder))
    write_manifest(folder, "adapter", {})
    return folder


def make_dataset(folder: Path, games: Sequence[str], **lines: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    for name, rows in lines.items():
        write_json_lines(folder / f"{name}.jsonl", rows)
    units = [{"game": game, "content": game * 64, "split": "test"} for game in games]
    write_parquet(folder / "games.parquet", make_table(units, DATASET_GAMES))
    write_manifest(folder, "dataset", {"simulated": True})
    return folder


def forecasts(folder: Path) -> Path:
    """Four events with two questions each; one of the training split."""
    rows = []
    for event in "abcd":
        for depth in (1, 3):
            prompt = [{"role": "user", "content": f"What follows {event} at {depth}?"}]
            rows.append({"id": f"{event}#{depth}", "event": event, "depth": depth, "prompt": prompt})
    split = [row | {"split": "train" if row["event"] == "d" else "test"} for row in rows]
    text = json.dumps([{"event": "it ends", "probability": 0.7}, {"event": "it goes on", "probability": 0.3}])
    examples = [row | {"completion": [{"role": "assistant", "content": text}]} for row in split]
    return make_dataset(folder, "abc", sft=examples, grpo=[row | {"actual": "it ends"} for row in split])


def run(
    folder: Path,
    family: str,
    model: Path,
    datasets: dict[str, Path],
    adapters: dict[str, Path],
    systems: list[dict[str, Any]],
    **more: Any,
) -> Path:
    names = [one["name"] for one in systems]
    spec = {
        "title": "Evaluation of a",
        "family": family,
        "model_name": "tiny",
        "systems": systems,
        "pairs": [[first, second] for first, second in pairwise(names)],
        "adapters": list(adapters),
        "datasets": [[path.name, kind] for kind, path in datasets.items()],
        "settings": SETTINGS,
        "dtype": "float32",
        "threads": 1,
        "seed": 0,
        **more,
    }
    inputs = {
        "model": [model / "manifest.json"],
        "adapters": [path / "manifest.json" for path in adapters.values()],
        "datasets": [path / "manifest.json" for path in datasets.values()],
    }
    if family == "forecasts":
        spec["expected"] = read_perplexities(REPOSITORY / "config/costs/forecasts.yaml")
    output = folder / "evaluation"
    evaluation.evaluate_systems(
        spec,
        BodyFiles("results/evaluation/adapters/a", inputs, output, folder / "work", folder / "figures.json"),
    )
    return output


def test_forecasts_before_and_after(tmp_path: Path, model: Path) -> None:
    dataset = forecasts(tmp_path / "forecasts")
    target = read_held_out(dataset, "forecasts")[0].row["completion"][0]["content"]
    trained = make_adapter(model, tmp_path / "trained", [target], 40)
    nothing = make_adapter(model, tmp_path / "nothing")
    systems = [BASE, system("nothing", "nothing"), system("trained", "trained")]
    given = ("forecasts", model, {"forecasts": dataset}, {"nothing": nothing, "trained": trained}, systems)
    output = run(tmp_path, *given)
    metrics = json.loads((output / "metrics.json").read_bytes())
    loss = metrics["quantities"]["loss"]
    unchanged, learned = loss["differences"]
    assert unchanged["value"] == unchanged["low"] == unchanged["high"] == 0
    assert learned["value"] < 0
    # Three events are too few, however far the numbers lie apart.
    assert learned["high"] < 0
    assert learned["verdict"] == "too few to tell"
    assert loss["systems"]["base"]["items"] == 6
    assert loss["systems"]["base"]["groups"] == 3
    # A random model writes no JSON: that is counted, and each forecast is a miss.
    assert metrics["forecasts"]["base"]["unparsed"] == 3
    assert metrics["quantities"]["perplexity"]["systems"]["base"]["value"] == pytest.approx(1000)
    assert metrics["counts"]["held_out"] == {"examples": 6, "questions": 6}
    assert metrics["quantities"]["reward"]["systems"]["base"]["value"] == 0
    summary = evaluation_summary(output)
    assert "base to nothing: too few to tell" in summary
    assert "REPORT.md" in summary
    report = (output / "REPORT.md").read_text()
    assert "too few to tell  perplexity 1000, must be below 2.5 (3 forecasts of 3 events)" in report
    assert "cannot tell opposites" in report
    assert "RED FLAG: none 100%" in report
    assert "| GRPO | 1.9 | 1000 [1000, 1000] | nothing |" in report
    assert "| GRPO | 1.9 | 1000 [1000, 1000] | trained |" in report
    assert "| SFT 1 epoch | 4 to 5 | - | - |" in report
    samples = [json.loads(line) for line in (output / "samples.jsonl").read_bytes().splitlines()]
    assert len({sample["group"] for sample in samples}) == 3
    assert all(set(sample["answers"]) == {"base", "nothing", "trained"} for sample in samples)
    before = contents(output)
    assert contents(run(tmp_path, *given)) == before


def mafia_rows(games: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    acts, pairs = [], []
    for game in games:
        for turn, phase, targets in ((1, "discussion", ""), (2, "vote", "\n\nValid targets: [1], [3]")):
            row = {"game": game, "turn": turn, "type": phase, "split": "test", "role": "villager"}
            shown = f"Phase: {phase}\nTurn: {turn}\n\nHi.{targets}"
            output = "I suspect and trust you." if phase == "discussion" else "[1]"
            acts.append(row | {"instruction": "You play.", "input": shown, "output": output})
            prompt = [{"role": "system", "content": "You play."}, {"role": "user", "content": shown}]
            chosen, rejected = ([{"role": "assistant", "content": text}] for text in (output, "No."))
            pairs.append(
                row | {"prompt": prompt, "chosen": chosen, "rejected": rejected, "rejected_game": game}
            )
    return acts, pairs


def test_mafia_acts_pairs_and_moves(tmp_path: Path, model: Path) -> None:
    acts, pairs = mafia_rows("abc")
    datasets = {
        "sft": make_dataset(tmp_path / "acts", "abc", mafia_sft_dataset=acts),
        "preferences": make_dataset(tmp_path / "pairs", "abc", mafia_dpo_dataset=pairs),
    }
    adapter = make_adapter(model, tmp_path / "a", ["I suspect and trust you."], 30)
    (tmp_path / "a/checkpoints").mkdir()
    make_adapter(model, tmp_path / "a/checkpoints/step-10", ["I suspect and trust you."], 10)
    systems = [BASE, system("a@10", "a", 10), system("a", "a")]
    output = run(tmp_path, "mafia", model, datasets, {"a": adapter}, systems)
    metrics = json.loads((output / "metrics.json").read_bytes())
    quantities = metrics["quantities"]
    assert quantities["loss"]["systems"]["a"]["value"] < quantities["loss"]["systems"]["base"]["value"]
    assert quantities["preference_accuracy"]["systems"]["base"]["items"] == 6
    assert 0 <= quantities["preference_accuracy"]["systems"]["a"]["value"] <= 1
    # Some of the three answers are votes: a random model names no target.
    votes = quantities["legal_moves"]["systems"]["base"]
    assert votes["items"] + quantities["legal_words"]["systems"]["base"]["items"] == 3
    assert votes["value"] == 0
    assert {sample["phase"] for sample in map(json.loads, open_lines(output / "samples.jsonl"))} == {
        "discussion",
        "vote",
    }
    assert [one["phase"] for one in metrics["scenarios"]] == ["discussion", "discussion", "vote"]
    assert set(metrics["scenarios"][2]["answers"]) == {"base", "a@10", "a"}
    assert metrics["scenarios"][2]["answers"]["a"]["faults"]
    report = (output / "REPORT.md").read_text()
    assert "sum of ln p" in report
    assert "## Scenario: doctor voting" in report


def test_pairs_alone_can_be_held_out(tmp_path: Path, model: Path) -> None:
    acts, pairs = mafia_rows("ab")
    datasets = {
        "sft": make_dataset(
            tmp_path / "acts", "ab", mafia_sft_dataset=[act | {"split": "train"} for act in acts]
        ),
        "preferences": make_dataset(tmp_path / "pairs", "ab", mafia_dpo_dataset=pairs),
    }
    questions = mafia_questions(datasets, model, SETTINGS | {"seed": 0})
    assert set(questions.items) == {"pairs"}
    assert "none of the test split" in questions.not_measured[0]
    with pytest.raises(ProbelineError, match="none of the test split"):
        mafia_questions({"sft": datasets["sft"]}, model, SETTINGS | {"seed": 0})


def open_lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def test_legality_is_that_of_the_logs() -> None:
    (discussion, vote), _ = mafia_rows("a")
    items = [Item("x", "a", ("a",), [], row) for row in (discussion, vote)]
    assert faults_of("I think so", items[0]) == []
    assert faults_of("[3]", items[0]) == ["number_in_discussion"]
    assert faults_of("", items[0]) == ["empty"]
    assert faults_of("[3]", items[1]) == []
    assert faults_of("[2]", items[1]) == ["target_not_valid"]
    assert faults_of("I vote for 3", items[1]) == ["prose_in_vote_or_night"]


def support(folder: Path) -> Path:
    rows = [
        {"id": f"{dialogue}#2", "dialogue_id": dialogue, "split": "test", "rubric": None}
        | {"prompt": [{"role": "user", "content": f"Hi {dialogue}"}], "ground_truth": "How can I help?"}
        for dialogue in ("test/1", "test/2", "test/3")
    ]
    return make_dataset(folder, "xyz", prompts=rows)


def test_support_with_the_local_judge(tmp_path: Path, model: Path) -> None:
    adapter = make_adapter(model, tmp_path / "a", ["How can I help?"], 5)
    judge = {"name": "local", "settings": {"kind": "local"}}
    given = ("support", model, {"prompts": support(tmp_path / "support")}, {"a": adapter})
    output = run(tmp_path, *given, [BASE, system("a", "a")], judge=judge)
    metrics = json.loads((output / "metrics.json").read_bytes())
    assert set(metrics["judge_scores"]["a"]) == {"items", "mean", "sd", "min", "max"}
    assert metrics["judge_failed"] == {"base": 0, "a": 0}
    assert metrics["quantities"]["judge_score"]["differences"][0]["items"] == 3
    assert metrics["judge"]["kind"] == "local"
    assert metrics["judge"]["template"] == "local-1"
    assert "| a | 3 |" in (output / "REPORT.md").read_text()


class Judge:
    """Fails on every second reply, or on all."""

    name = "half"

    def __init__(self, always: bool = False) -> None:
        self.always = always
        self.asked: list[int] = []

    def described(self) -> dict[str, str]:
        return {"name": self.name, "kind": "openai", "endpoint": "", "model": "m", "template": "1"}

    def scores(self, requests: Sequence[Any]) -> list[float | None]:
        self.asked.append(len(requests))
        return [None if self.always or place % 2 else 0.5 + place / 10 for place in range(len(requests))]


def test_what_a_judge_failed_on_is_masked_and_counted(tmp_path: Path) -> None:
    items = read_held_out(support(tmp_path / "support"), "prompts")
    questions = Questions(items={"prompts": items})
    answers = {name: Answers({}, {"prompts": ["x", "y", "z"]}) for name in ("base", "a")}
    measured = measure_support(questions, answers, Judge())
    assert measured.facts["judge_failed"] == {"base": 1, "a": 1}
    assert measured.facts["judge_scores"]["a"]["mean"] == pytest.approx(0.6)
    found = compare_systems(measured.quantities[0], [("base", "a")], 100, 0)
    assert found["systems"]["a"] | {"low": 0, "high": 0} == {
        "value": pytest.approx(0.6),
        "low": 0,
        "high": 0,
        "items": 2,
        "groups": 2,
    }
    assert measured.samples[1]["answers"]["a"]["score"] is None


def test_a_judge_that_has_judged_nothing_ends_in_words(tmp_path: Path) -> None:
    items = read_held_out(support(tmp_path / "support"), "prompts")
    answers = {name: Answers({}, {"prompts": ["x", "y", "z"]}) for name in ("base", "a")}
    with pytest.raises(ProbelineError, match="judge half has judged none of 6 replies"):
        measure_support(Questions(items={"prompts": items}), answers, Judge(always=True))


def test_a_judge_is_asked_about_all_open_matches_at_once() -> None:
    judge, failures = Judge(), Counter[str]()
    same = match_judge(judge, failures)
    assert same([("x", ["a", "b"]), ("y", ["c"])]) == [[0.5, None], [0.7]]
    assert judge.asked == [3]
    assert failures == {"asked": 3, "failed": 1}


def test_names_of_others_are_no_part_of_a_report() -> None:
    assert as_code("7\n\n<img src=x> [a](b) `c` ``d``") == "``` 7 <img src=x> [a](b) `c` ``d`` ```"


def test_an_attempt_that_broke_off_is_gone_on_with(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, adapter = forecasts(tmp_path / "forecasts"), make_adapter(model, tmp_path / "a")
    given = ("forecasts", model, {"forecasts": dataset}, {"a": adapter}, [BASE, system("a", "a")])
    asked: list[Path | None] = []
    ask = evaluation.ask

    def breaks_off(generator: Any, *rest: Any) -> Answers:
        asked.append(generator.adapter)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return ask(generator, *rest)

    monkeypatch.setattr(evaluation, "ask", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, *given)
    assert not (tmp_path / "evaluation").exists()
    output = run(tmp_path, *given)
    assert asked == [None, adapter, adapter]
    assert not list((tmp_path / "work/evaluation").iterdir())
    monkeypatch.undo()
    broken_off = contents(output)
    assert contents(run(tmp_path, *given)) == broken_off


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path, model: Path) -> None:
    adapter = make_adapter(model, tmp_path / "a")
    (tmp_path / "a/checkpoints/step-20").mkdir(parents=True)
    given = ("forecasts", model, {"forecasts": forecasts(tmp_path / "f")}, {"a": adapter})
    with pytest.raises(ProbelineError, match=r"no checkpoint of step 40; there are: 20"):
        run(tmp_path, *given, [BASE, system("a@40", "a", 40)])


def test_nothing_held_out_is_said(tmp_path: Path) -> None:
    rows = [{"id": "a#1", "event": "a", "split": "train", "prompt": []}]
    dataset = make_dataset(tmp_path / "forecasts", "a", grpo=rows)
    with pytest.raises(ProbelineError, match="none of the test split"):
        read_held_out(dataset, "questions")
    with pytest.raises(ProbelineError, match=r"sft\.jsonl does not exist"):
        read_held_out(dataset, "forecasts")


def test_what_does_not_fit_is_left_out_whole_and_counted(tmp_path: Path, model: Path) -> None:
    items = read_held_out(forecasts(tmp_path / "f"), "questions")
    excluded: Counter[str] = Counter()
    assert that_fit(items, model, [], 12, 2048, excluded) == items
    assert that_fit(items, model, [], 12, 20, excluded) == []
    assert excluded == {"more_than_20_tokens": 6}
    assert counted(excluded) == "6 more than 20 tokens"
    assert counted({}) == "nothing"
    # The model's own length is what a training goes by, wherever the model's config says it.
    short = tmp_path / "short"
    shutil.copytree(model, short)
    write_json(short / "manifest.json", read_json(short / "manifest.json") | {"max_length": 20})
    write_json(short / "config.json", {"text_config": read_json(short / "config.json")})
    assert that_fit(items, short, [], 12, 2048, excluded) == []
    assert excluded == {"more_than_20_tokens": 12}


def test_more_items_are_the_same_and_more_of_as_many_groups_as_possible() -> None:
    items = [Item(f"{group}{row}", group, (), [], {}) for group in "abc" for row in range(3)]
    drawn = [draw(items, most, 0) for most in range(10)]
    assert all(longer[: len(shorter)] == shorter for shorter, longer in pairwise(drawn))
    assert {item.group for item in drawn[3]} == {item.group for item in drawn[6][3:]} == set("abc")
    assert drawn[3] == draw(items[::-1], 3, 0)
    assert drawn[3] != draw(items, 3, 1)


def test_estimates_by_hand() -> None:
    values = {"a": [(1.0, 1.0), (3.0, 1.0), (5.0, 2.0)], "b": [(2.0, 1.0), (9.0, 0.0), (9.0, 2.0)]}
    quantity = Quantity("x", "X", "lower", ["g", "g", "h"], values)
    found = compare_systems(quantity, [("a", "b")], 500, 0)
    assert found["systems"]["a"]["value"] == pytest.approx(9 / 4)
    # The second item is masked in one: (2 + 9) / 3 - (1 + 5) / 3.
    difference = found["differences"][0]
    assert difference["value"] == pytest.approx(11 / 3 - 2)
    assert difference["items"] == 2
    # Resamples hold g twice, both, or h twice: differences of 1, 5/3 and 2.
    assert (difference["low"], difference["high"]) == (pytest.approx(1), pytest.approx(2))
    assert difference["verdict"] == "too few to tell"
    perplexity = compare_systems(Quantity("x", "X", "", "gh", {"a": [(0, 1), (2, 1)]}, True), [], 100, 0)
    assert perplexity["systems"]["a"]["value"] == pytest.approx(math.e)


@pytest.mark.parametrize(
    ("groups", "said", "caution"),
    [(4, "too few to tell", ""), (5, "worse", " (caution: 5 groups)"), (10, "worse", "")],
)
def test_a_verdict_needs_groups(groups: int, said: str, caution: str) -> None:
    values = {"a": [(1.0, 1.0)] * groups, "b": [(2.0, 1.0)] * groups}
    quantity = Quantity("x", "X", "lower", [str(group) for group in range(groups)], values)
    difference = compare_systems(quantity, [("a", "b")], 100, 0)["differences"][0]
    assert (difference["verdict"], caution_of(difference)) == (said, caution)


def test_estimates_of_next_to_nothing() -> None:
    one = compare_systems(
        Quantity("x", "X", "lower", ["g"], {"a": [(1, 1)], "b": [(2, 1)]}), [("a", "b")], 100, 0
    )
    assert one["differences"][0]["low"] is None
    assert one["differences"][0]["verdict"] == "too few to tell"
    none = compare_systems(Quantity("x", "X", "lower", [], {"a": []}), [], 100, 0)
    assert none["systems"]["a"]["reason"] == "nothing to measure"
    assert spread([(1, 1), (9, 0), (3, 1)]) == {
        "items": 2,
        "mean": 2,
        "sd": pytest.approx(math.sqrt(2)),
        "min": 1,
        "max": 3,
    }
    assert spread([])["mean"] is None


def test_what_is_no_number_has_no_interval_and_says_so() -> None:
    values = {"a": [(1.0, 1.0)] * 6, "b": [(math.nan, 1.0)] * 6}
    told = compare_systems(Quantity("loss", "loss", "lower", "abcdef", values), [("a", "b")], 50, 0)
    assert told["systems"]["b"]["value"] is None
    assert told["systems"]["b"]["reason"] == "it is no finite number"
    assert told["differences"][0]["verdict"] == "no interval"


def test_expected_perplexities_are_read(tmp_path: Path) -> None:
    expected = read_perplexities(REPOSITORY / "config/costs/forecasts.yaml")
    assert expected == {
        "base": (8.5, 8.5),
        "SFT 1 epoch": (4, 5),
        "SFT 3 epochs": (2.8, 2.8),
        "GRPO": (1.9, 1.9),
    }
    with pytest.raises(ProbelineError, match=r"x\.yaml does not exist"):
        read_perplexities(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text("perplexities: {base: low}")
    with pytest.raises(ProbelineError, match=r"perplexities\.base is 'low'"):
        read_perplexities(tmp_path / "x.yaml")


RECIPES = {
    "mafia_sft": {"method": "sft", "model": "smollm2-135m", "dataset": "mafia_sft", "checkpoints": [20, 40]},
    "mafia_dpo": {"method": "dpo", "from": "mafia_sft", "dataset": "mafia_dpo"},
    "forecast_sft": {"method": "sft", "model": "smollm2-135m", "dataset": "forecasts", "epochs": 3},
    "forecast_grpo": {"method": "grpo", "from": "forecast_sft", "merge": True, "dataset": "forecasts"}
    | {"reward": "tree", "checkpoints": {"every": 5}},
    "support_grpo": {"method": "grpo", "model": "smollm2-135m", "dataset": "support", "reward": "judge"}
    | {"judge": "local", "grid": {"learning_rate": [1.0e-6, 1.0e-5]}},
}


def config(**changes: Any) -> dict[str, Any]:
    declared = yaml.safe_load((REPOSITORY / "config/config.yaml").read_text())
    return declared | {"recipes": RECIPES, "comparisons": {}} | changes


def refused(**changes: Any) -> str:
    with pytest.raises(ProbelineError) as caught:
        check_config(config(**changes), REPOSITORY / "config/schemas/config.schema.yaml")
    return str(caught.value)


def test_plans_follow_what_a_recipe_is_made_from() -> None:
    plan = plan_evaluation("mafia_dpo", config())
    assert [one["name"] for one in plan.systems] == ["base", "mafia_sft", "mafia_dpo"]
    assert plan.pairs == [["base", "mafia_dpo"], ["mafia_sft", "mafia_dpo"]]
    assert plan.datasets == [["mafia_sft", "sft"], ["mafia_dpo", "preferences"]]
    merged = plan_evaluation("forecast_grpo", config())
    assert [(one["merged"], one["stage"]) for one in merged.systems] == [
        ([], "base"),
        ([], "SFT 3 epochs"),
        (["forecast_sft"], "GRPO"),
    ]
    assert merged.judge is None
    declared = config()
    declared["evaluation"]["adapters"]["checkpoints"] = True
    ended_at_40 = RECIPES["mafia_sft"] | {"max_steps": 40}
    steps = plan_evaluation("mafia_sft", declared)
    assert [one["name"] for one in steps.systems] == ["base", "mafia_sft@20", "mafia_sft@40", "mafia_sft"]
    # That of the last step is what it ends with.
    ended = plan_evaluation("mafia_sft", declared | {"recipes": RECIPES | {"mafia_sft": ended_at_40}})
    assert [one["name"] for one in ended.systems] == ["base", "mafia_sft@20", "mafia_sft"]
    assert "each once" in refused(recipes=RECIPES | {"mafia_sft": ended_at_40 | {"checkpoints": [20, 20]}})


def test_checkpoints_at_every_so_many_steps_are_compared_too() -> None:
    declared = config()
    declared["evaluation"]["adapters"]["checkpoints"] = True
    with pytest.raises(ProbelineError, match=r"every: 5.*without max_steps"):
        plan_evaluation("forecast_grpo", declared)
    short = RECIPES["forecast_grpo"] | {"max_steps": 12}
    plan = plan_evaluation("forecast_grpo", declared | {"recipes": RECIPES | {"forecast_grpo": short}})
    names = [one["name"] for one in plan.systems]
    assert names == ["base", "forecast_sft", "forecast_grpo@5", "forecast_grpo@10", "forecast_grpo"]


def test_comparisons_are_of_everything_with_everything() -> None:
    declared = config(comparisons={"steps": {"of": ["base", "forecast_grpo@10", "forecast_grpo"]}})
    check_config(declared, REPOSITORY / "config/schemas/config.schema.yaml")
    plan = plan_comparison("steps", declared)
    assert plan.adapters == ["forecast_grpo", "forecast_sft"]
    assert len(plan.pairs) == 3
    assert plan.systems[1]["step"] == 10


def test_an_adapter_of_others_is_one_of_a_comparison() -> None:
    declared = config(comparisons={"mine": {"of": ["mafia_sft", "./made/elsewhere"]}})
    check_config(declared, REPOSITORY / "config/schemas/config.schema.yaml")
    plan = plan_comparison("mine", declared)
    assert plan.folders == ["./made/elsewhere"]
    assert plan.pairs == [["mafia_sft", "elsewhere"]]
    systems = systems_of(plan.systems, Path("model"), {"mafia_sft": Path("a")}, [Path("made/elsewhere")])
    assert systems[1] == System("elsewhere", Path("model"), Path("made/elsewhere"))
    assert users_adapters(declared) == [Path("made/elsewhere")]


def test_systems_of_a_merged_base_come_after_those_of_the_base(tmp_path: Path, model: Path) -> None:
    first = make_adapter(model, tmp_path / "first", ["I trust you."], 5)
    nothing = make_adapter(model, tmp_path / "nothing")
    systems = [
        System("second", model, nothing, (first,)),
        System("base", model),
        System("first", model, first),
    ]
    chat = [{"role": "user", "content": "Whom?"}]
    losses = {
        system.name: generator.completion_losses([chat], ["I trust you."])[0][0]
        for system, generator in in_memory(systems, "float32", 1)
    }
    # What learned nothing on top of the merged adapter says what that says, but for rounding.
    assert losses["second"] == pytest.approx(losses["first"], rel=1e-3)
    assert losses["first"] < losses["base"]


def test_one_base_is_in_memory_at_a_time(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, load = make_adapter(model, tmp_path / "first"), loading.load_weights
    loaded: list[weakref.ref[Any]] = []

    def loads(*given: Any) -> Any:
        assert all(weight() is None for weight in loaded)
        found = load(*given)
        # A weight, which the model with an adapter on it shares.
        loaded.append(weakref.ref(found.lm_head.weight))
        return found

    monkeypatch.setattr(loading, "load_weights", loads)
    systems = [System("base", model), System("first", model, first), System("second", model, None, (first,))]
    for _, generator in in_memory(systems, "float32", 1):
        generator.completion_losses([[{"role": "user", "content": "Whom?"}]], ["I trust you."])
    assert len(loaded) == 2
    assert all(weight() is None for weight in loaded)


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (["base", "mafia_stf"], "Did you mean mafia_sft"),
        (["base", "mafia_sft@30"], r"keeps no checkpoint of step 30: its checkpoints are \[20, 40\]"),
        (["base", "forecast_grpo@7"], "keeps no checkpoint of step 7"),
        (["base", "support_grpo"], "is a grid: name one of its points"),
        (["mafia_sft", "forecast_sft"], "several corpora"),
        (["base"], "too few entries"),
        (["base", "/elsewhere/a"], "names no recipe"),
        (["mafia_sft", "/elsewhere/a", "./a"], "two systems a"),
        (["mafia_sft", "./a|b"], r"let 'a\|b' have letters"),
        (["mafia_sft", "./a\n# b"], r"let 'a\\n# b' have letters"),
    ],
)
def test_comparisons_that_cannot_be_are_refused(of: list[str], said: str) -> None:
    assert re.search(said, refused(comparisons={"x": {"of": of}}))


def test_settings_that_cannot_be_are_refused() -> None:
    declared = config()["evaluation"]
    wrong = declared | {"adapters": declared["adapters"] | {"match_judge": "gemnii"}}
    assert "evaluation.adapters.match_judge is 'gemnii'" in refused(evaluation=wrong)
    wrong = declared | {"adapters": declared["adapters"] | {"sampels": 3}}
    assert "Did you mean samples" in refused(evaluation=wrong)
    targets = config()["targets"]
    assert "Did you mean mafia_dpo" in refused(targets=targets | {"evaluations": ["mafia_dop"]})
    assert "unknown comparison 'x'" in refused(targets=targets | {"comparisons": ["x"]})
    transfer = {"concept": "trust", "method": "lr", "layers": [1]}
    assert "Choose another name" in refused(transfers={"adapters": transfer})


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("results/evaluation/adapters/mafia_stf", "Did you mean mafia_sft"),
        ("results/evaluation/adapters/mafia_sft@20", "declare `comparisons"),
        ("results/evaluation/adapters/support_grpo", "is a grid"),
        ("results/evaluation/comparisons/stepps", "Did you mean steps"),
    ],
)
def test_a_mistyped_target_is_refused(target: str, said: str) -> None:
    declared = config(comparisons={"steps": {"of": ["base", "mafia_sft"]}})
    with pytest.raises(ProbelineError, match=said):
        check_target(target, declared)
    check_target("results/evaluation/adapters/mafia_sft/metrics.json", declared)
    check_target("results/evaluation/comparisons/steps", declared)
