import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from probeline.adapters.recipes import made_from, recipe_points, settings_of
from probeline.config import (
    check_config,
    check_files,
    check_gpus,
    check_groups,
    check_target,
    method_settings,
    parse_probe_name,
    swept_methods,
)
from probeline.errors import ProbelineError

REPOSITORY = Path(__file__).parents[2]
SCHEMA = REPOSITORY / "config/schemas/config.schema.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    return copy.deepcopy(yaml.safe_load((REPOSITORY / "config/config.yaml").read_text()))


def refusal(config: dict[str, Any]) -> str:
    with pytest.raises(ProbelineError) as caught:
        check_config(config, SCHEMA)
    return str(caught.value)


def test_the_default_configuration_is_accepted(config: dict[str, Any]) -> None:
    check_config(config, SCHEMA)


def test_an_unknown_key_is_named_with_its_neighbour(config: dict[str, Any]) -> None:
    config["activations"]["layer"] = [22]
    assert "unknown key activations.layer. Did you mean layers?" in refusal(config)


def test_an_unknown_top_level_key_is_named(config: dict[str, Any]) -> None:
    config["probe"] = {}
    assert "unknown key probe. Did you mean probes?" in refusal(config)


def test_a_wrong_type_names_the_key(config: dict[str, Any]) -> None:
    config["shards"] = "four"
    assert "shards is 'four'. Expected: A whole number from 1 to 4096" in refusal(config)


def test_a_wrong_type_is_said_in_words(config: dict[str, Any]) -> None:
    config["methods"]["lr"] = "concat"
    config["evaluation"]["bootstrap"] = "1000"
    config["targets"] = ["trust_lr_l22"]
    words = refusal(config)
    assert "methods.lr is 'concat'. Expected: Settings of logistic regression. (a mapping" in words
    assert "Expected: Resamples of the bootstrap over games. (a whole number)" in words
    assert "targets is ['trust_lr_l22']. Expected: What a plain run makes. (a mapping, `key: value`)" in words


def test_a_single_layer_is_to_be_a_list(config: dict[str, Any]) -> None:
    config["activations"]["layers"] = 22
    assert "activations.layers is 22. Expected: the word all, or a list of layers" in refusal(config)


def test_a_declared_depth_is_checked_against_the_model(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 12}')
    config["models"]["mine"] = {"path": str(tmp_path)}
    config["model"] = "mine"
    config["targets"]["probes"] = ["trust_lr_l12"]
    check_config(config, SCHEMA)
    config["models"]["mine"]["depth"] = 16
    assert "models.mine.depth is 16, but that model has 12 blocks" in refusal(config)
    del config["models"]["mine"]["depth"]
    config["targets"]["probes"] = ["trust_lr_l13"]
    assert "mine has 12 blocks" in refusal(config)


def test_all_faults_are_said_at_once(config: dict[str, Any]) -> None:
    config["seed"] = -1
    config["compute"] = "modl"
    words = refusal(config)
    assert "seed" in words
    assert "compute is 'modl'" in words


def test_a_model_that_is_not_declared(config: dict[str, Any]) -> None:
    config["model"] = "smolm2-135m"
    assert "Did you mean smollm2-135m?" in refusal(config)


def test_a_model_with_a_mistyped_source(config: dict[str, Any]) -> None:
    config["models"]["mine"] = {"hub": "org/name", "revison": "main"}
    words = refusal(config)
    assert "models.mine (a model of the Hugging Face hub)" in words
    assert "revision" in words


def test_an_adapter_with_a_mistyped_key(config: dict[str, Any]) -> None:
    config["model"] = {"base": "smollm2-135m", "adaptor": "data/adapter"}
    assert "unknown key model.adaptor. Did you mean adapter?" in refusal(config)
    config["model"] = {"base": "smolm2-135m", "adapter": "data/adapter"}
    assert "model.base is 'smolm2-135m'. Did you mean smollm2-135m?" in refusal(config)


def test_layers_that_are_a_mapping_are_refused_in_words(config: dict[str, Any]) -> None:
    config["activations"]["layers"] = {"first": 3}
    assert "activations.layers" in refusal(config)


def test_extraction_jobs_divide_the_shards(config: dict[str, Any]) -> None:
    config["activations"]["shards"] = 3
    assert "activations.shards is 3; it must divide shards, which is 4." in refusal(config)
    config["activations"]["shards"] = 2
    check_config(config, SCHEMA)


def test_token_layers_that_the_model_lacks_are_refused(config: dict[str, Any]) -> None:
    config["activations"]["token_layers"] = [22, 31]
    assert "activations.token_layers names layer 31; smollm2-135m has layers 0 to 30." in refusal(config)


def test_splits_must_sum_to_one(config: dict[str, Any]) -> None:
    config["splits"]["train"] = 0.7
    assert "splits must sum to 1" in refusal(config)


def test_a_concept_of_an_unknown_corpus(config: dict[str, Any]) -> None:
    config["probes"]["trust"]["corpus"] = "werewolfs"
    assert "probes.trust.corpus is 'werewolfs'. Did you mean werewolf?" in refusal(config)


@pytest.mark.parametrize("name", ["models", "adapters"])
def test_a_corpus_named_as_records_name_other_things(config: dict[str, Any], name: str) -> None:
    config["corpora"][name] = config["corpora"]["werewolf"]
    assert f"corpora.{name}: records use this name" in refusal(config)


def test_role_masked_is_for_contexts_that_name_the_role(config: dict[str, Any]) -> None:
    config["probes"]["trust"]["role_masked"] = False
    config["probes"]["collusion"]["role_masked"] = False
    check_config(config, SCHEMA)
    config["probes"]["collusion"]["role_masked"] = True
    assert "probes.collusion.role_masked: context public does not name the role" in refusal(config)
    config["probes"]["collusion"]["role_masked"] = "no"
    assert "probes.collusion.role_masked is 'no'. Expected: true or false" in refusal(config)


def test_the_role_masked_twin_is_a_target_where_there_is_one(config: dict[str, Any]) -> None:
    twin = "results/activations/trust.role_masked/shard-0-of-4"
    check_target(twin, config)
    for missing in (twin.replace("trust", "collusion"), twin.replace("masked", "maked")):
        with pytest.raises(ProbelineError, match="Unknown concept"):
            check_target(missing, config)
    config["probes"]["trust"]["role_masked"] = False
    with pytest.raises(ProbelineError, match=r"Unknown concept 'trust\.role_masked'"):
        check_target(twin, config)


def test_a_layer_that_the_model_lacks_is_refused_with_its_depth(config: dict[str, Any]) -> None:
    config["activations"]["layers"] = [8, 31]
    assert "layer 31; smollm2-135m has layers 0 to 30" in refusal(config)


def test_a_target_that_cannot_be_made_is_refused(config: dict[str, Any]) -> None:
    config["targets"]["probes"].append("trust_lrr_l22")
    assert "Unknown method 'lrr'" in refusal(config)


def test_a_typo_in_a_concept_or_its_template_is_named(config: dict[str, Any]) -> None:
    templates = REPOSITORY / "config/templates"
    check_files(config, templates)
    config["probes"]["trust"] |= {"label": 'actor_teem == "x"', "template": "werwolf"}
    assert "probes.trust.label" in refusal(config)
    assert "actor_team" in refusal(config)
    with pytest.raises(ProbelineError, match=r"probes\.trust\.template is 'werwolf'.* Did you mean werewolf"):
        check_files(config, templates)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("trust_lr_l22", ("trust", "lr", (22,))),
        ("collusion_cmms_l20_21_22", ("collusion", "cmms", (20, 21, 22))),
    ],
)
def test_names_of_probes(config: dict[str, Any], name: str, parts: tuple[str, str, tuple[int, ...]]) -> None:
    assert parse_probe_name(name, config) == parts


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("trust_lrr_l22", "Unknown method 'lrr' in 'trust_lrr_l22'. Did you mean lr?"),
        ("trusty_lr_l22", "Unknown concept 'trusty' in 'trusty_lr_l22'. Did you mean trust?"),
        ("trust.role_masked_lr_l22", "Unknown concept 'trust.role_masked'"),
        ("trust_lr_l99", "smollm2-135m has 30 blocks: layers 0 (embeddings) to 30"),
        ("trust_lr_22", "is not the name of a probe"),
        ("trust_lr_l22_8", "trust_lr_l8_22, not trust_lr_l22_8"),
        ("trust_lr_l022", "trust_lr_l22, not trust_lr_l022"),
        ("l99", "is not the name of a probe"),
    ],
)
def test_a_typo_in_the_name_of_a_probe(config: dict[str, Any], name: str, words: str) -> None:
    with pytest.raises(ProbelineError) as caught:
        parse_probe_name(name, config)
    assert words in str(caught.value)


def test_a_layer_that_is_not_extracted(config: dict[str, Any]) -> None:
    config["activations"]["layers"] = [8, 15]
    config["targets"]["probes"] = []
    check_config(config, SCHEMA)
    with pytest.raises(
        ProbelineError, match=r"layer 22, which is not extracted: activations.layers is \[8, 15\]"
    ):
        parse_probe_name("trust_lr_l22", config)


def test_a_filter_that_no_statement_can_pass_is_refused(config: dict[str, Any]) -> None:
    config["datasets"]["mafia_sft"]["quality"] = {"indicators": []}
    assert "datasets.mafia_sft.quality wants 2 indicators of 0" in refusal(config)
    config["datasets"]["mafia_sft"]["quality"] = {"indicators": [], "min_indicators": 0}
    check_config(config, SCHEMA)


def test_a_requested_path_is_checked_before_anything_runs(config: dict[str, Any]) -> None:
    check_target("results/probes/trust_lr_l22/metrics.json", config)
    check_target("data/processed/werewolf/quality.json", config)
    check_target("data/processed/mafia.lineage.json", config)
    for target in ("data/processed/mafa/quality.json", "data/processed/mafa.lineage.json"):
        with pytest.raises(ProbelineError, match=r"Unknown corpus 'mafa' in .* Did you mean mafia"):
            check_target(target, config)
    with pytest.raises(ProbelineError) as caught:
        check_target("data/processed/mafi/quality.json", config)
    assert "Allowed: forecast, mafia, support, werewolf." in str(caught.value)
    with pytest.raises(ProbelineError, match="Did you mean collusion"):
        check_target("results/activations/colusion", config)
    with pytest.raises(ProbelineError, match="Did you mean lr"):
        check_target("results/probes/trust_lrr_l22/metrics.json", config)
    with pytest.raises(ProbelineError, match="Ask for results/probes/trust_lr_l22, the folder"):
        check_target("trust_lr_l22", config)
    with pytest.raises(ProbelineError, match=r"no shard-0-of-2 in .* 4 shards, shard-0-of-4 to shard-3-of-4"):
        check_target("results/activations/trust/shard-0-of-2", config)
    with pytest.raises(ProbelineError, match="ask for results/activations/trust/shard-0-of-4"):
        check_target("results/activations/trust", config)
    config["activations"]["shards"] = 2
    check_target("results/activations/trust/shard-0-of-2/manifest.json", config)
    check_target("data/processed/dialogues/trust/shard-3-of-4", config)


def test_a_sweep_of_an_unknown_concept_is_refused(config: dict[str, Any]) -> None:
    check_target("results/sweeps/trust", config)
    check_target("results/sweeps/trust/figure.svg", config)
    with pytest.raises(ProbelineError, match=r"Unknown concept 'trst'.*Did you mean trust"):
        check_target("results/sweeps/trst", config)
    config["targets"]["sweeps"] = ["colusion"]
    assert "targets.sweeps: unknown concept 'colusion'. Did you mean collusion?" in refusal(config)


def test_a_sweep_of_what_is_not_there_is_refused(config: dict[str, Any]) -> None:
    config["sweeps"] = {"methods": ["lr", "latt"], "layers": [22, 40], "folds": 5}
    words = refusal(config)
    assert "sweeps.methods: unknown method 'latt'. Did you mean lat" in words
    config["sweeps"]["methods"] = ["lr"]
    config["activations"]["layers"] = [22]
    assert "sweeps.layers names layer 40, which is not extracted" in refusal(config)
    config["sweeps"]["folds"] = 2
    assert "sweeps.folds is 2: the least is 3. Expected: A whole number from 3 to 20" in refusal(config)


def test_bounds_of_the_schema_are_said_in_words(config: dict[str, Any]) -> None:
    config["transfers"] = {"one": {"concept": "trust", "groups": {"a": ["x"]}, "method": "lr", "layers": [3]}}
    config["targets"]["transfers"] = ["one", "one"]
    config["splits"]["test"] = 1
    config["sweeps"]["methods"] = []
    words = refusal(config)
    assert "groups is {'a': ['x']}: too few entries, the least is 2. Expected: two or more groups" in words
    assert "targets.transfers is ['one', 'one']: each entry may stand there once only." in words
    assert "splits.test is 1: it must be below 1." in words
    assert "sweeps.methods is []: too few entries, the least is 1. Expected: a list of keys" in words


def test_a_group_of_no_experiment_is_refused_with_its_near_misses(config: dict[str, Any]) -> None:
    config["transfers"]["mine"] = {
        "concept": "trust",
        "method": "lr",
        "layers": [2],
        "groups": {"a": ["final_*", "lab"], "b": ["final_prob"]},
    }
    check_config(config, SCHEMA)
    check_groups(config, {"werewolf": {"final_base", "final_prob", "lab"}})
    with pytest.raises(ProbelineError) as caught:
        check_groups(config, {"werewolf": {"final_base", "final_probe"}})
    words = str(caught.value)
    assert "transfers.mine.groups.a: no experiment of trust fits 'lab'." in words
    assert (
        "transfers.mine.groups.b: no experiment of trust fits 'final_prob'. Did you mean final_probe" in words
    )
    assert "'final_*'" not in words


def test_the_ensemble_counts_for_several_layers_only(config: dict[str, Any]) -> None:
    for method in config["methods"]:
        config["methods"][method] = {"ensemble": "concat"}
    check_config(config, SCHEMA)
    assert method_settings("lr", [20, 21], config) == {"ensemble": "concat"}
    assert method_settings("lr", [20], config) == {}
    assert swept_methods(config) == {"lr": {}, "mms": {}, "lat": {}}
    config["methods"]["cmms"] = {"ensemble": "conkat"}
    assert "methods.cmms.ensemble is 'conkat'. Did you mean concat? Allowed: concat, mean." in refusal(config)
    config["methods"]["cmms"] = {"ensembel": "concat"}
    assert "unknown key methods.cmms.ensembel. Did you mean ensemble?" in refusal(config)


def test_a_sweep_depends_on_the_backend_only_where_it_uses_it(config: dict[str, Any]) -> None:
    config["methods"]["lr"] = {"regularization": 3, "backend": "torch"}
    assert swept_methods(config) == {"lr": {"regularization": 3}, "mms": {}, "lat": {}}
    config["methods"]["lr"]["penalty"] = "l1"
    assert swept_methods(config)["lr"] == {"regularization": 3, "backend": "torch", "penalty": "l1"}


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ("results/sweep/trust", "results/sweeps/trust"),
        ("results/transfers/both", "results/evaluation/both"),
        ("results/transfer/both/metrics.json", "results/evaluation/both/metrics.json"),
        ("results/probe/trust_lr_l22", "results/probes/trust_lr_l22"),
    ],
)
def test_a_likely_guess_of_a_folder_is_answered(config: dict[str, Any], target: str, meant: str) -> None:
    config["transfers"]["both"] = {"train": ["trust"], "test": ["collusion"], "method": "lr", "layers": [3]}
    with pytest.raises(ProbelineError, match=rf"ask for {meant}\.$"):
        check_target(target, config)
    with pytest.raises(ProbelineError, match=r"Did you mean (trust|both)"):
        check_target(target.replace("trust", "trst").replace("both", "bth"), config)


def test_a_judge_is_one_of_three_kinds_with_keys_of_its_own(config: dict[str, Any]) -> None:
    config["judges"] |= {
        "mine": {"kind": "openai", "url": "http://127.0.0.1:1/v1", "model": "m", "key": "MY_KEY"}
    }
    config["judges"] |= {
        "google": {"kind": "gemini", "model": "m", "timeout": 5, "concurrency": 2, "wait": 0.5}
    }
    check_config(config, SCHEMA)
    config["judges"] |= {"other": {"kind": "openia"}, "short": {"kind": "openai", "model": "m"}}
    config["judges"]["local"]["modle"] = "m"
    words = refusal(config)
    assert "judges.other.kind is 'openia'. Did you mean openai?" in words
    assert "judges.short lacks url" in words
    assert "unknown key judges.local.modle" in words


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": "sk-Secret123"},
        {"url": "https://me:sk-Secret123@example.org/v1"},
        {"url": "https://example.org/v1?key=sk-Secret123"},
        {"api_key": "sk-Secret123"},
    ],
)
def test_a_secret_in_the_config_is_refused_and_not_shown(
    config: dict[str, Any], wrong: dict[str, str]
) -> None:
    config["judges"]["mine"] = {"kind": "openai", "url": "https://example.org/v1", "model": "m"} | wrong
    words = refusal(config)
    assert f"judges.mine.{next(iter(wrong))}" in words
    assert "Secret" not in words


def test_rubrics_want_a_judge_that_writes(config: dict[str, Any]) -> None:
    config["judges"]["google"] = {"kind": "gemini", "model": "m"}
    config["datasets"]["support"]["rubrics"] = "google"
    check_config(config, SCHEMA)
    config["datasets"]["support"]["rubrics"] = "gogle"
    assert "datasets.support.rubrics is 'gogle'. Did you mean google?" in refusal(config)
    config["datasets"]["support"]["rubrics"] = "local"
    assert "a judge of the kind local writes no rubrics" in refusal(config)
    config["datasets"]["mafia_sft"]["rubrics"] = "google"
    assert "unknown key datasets.mafia_sft.rubrics" in refusal(config)


def test_rubrics_of_a_dataset_without_a_judge_are_no_target(config: dict[str, Any]) -> None:
    with pytest.raises(ProbelineError, match="Unknown dataset 'support'"):
        check_target("data/processed/rubrics/support", config)
    config["judges"]["google"] = {"kind": "gemini", "model": "m"}
    config["datasets"]["support"]["rubrics"] = "google"
    check_target("data/processed/rubrics/support", config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"forecast_grpo": {"generations": 1}}, "generations is 1: a group needs 2 or more"),
        ({"forecast_grpo": {"generations": 3}}, "which generations, 3, does not divide"),
        ({"forecast_grpo": {"reward": "judge"}}, "a dataset of the kind forecasts has the reward tree"),
        ({"support_grpo": {"judge": "lokal"}}, "recipes.support_grpo.judge is 'lokal'. Did you mean local?"),
        ({"mafia_dpo": {"from": "mafia_dpo"}}, "goes in a circle: mafia_dpo from mafia_dpo"),
        ({"mafia_dpo": {"from": "mafia_stf"}}, "from is 'mafia_stf'. Did you mean mafia_sft"),
        ({"mafia_dpo": {"model": "other"}}, "an adapter of smollm2-135m, and cannot tune other"),
        ({"mafia_dpo": {"lora": {"rank": 4}}}, "lora.rank: the adapter of mafia_sft is trained on"),
        (
            {"mafia_dpo": {"dataset": "forecasts"}},
            "of the kind forecasts; dpo trains on the kind preferences",
        ),
        ({"mafia_sft": {"dataset": "mafia"}}, "recipes.mafia_sft.dataset is 'mafia'. Did you mean mafia_sft"),
        ({"mafia_sft": {"merge": True}}, "there is nothing to merge without from"),
        ({"mafia_sft": {"beta": 0.1}}, "recipes.mafia_sft.beta: sft has no such setting, dpo has"),
        ({"mafia_sft": {"epochs": 2}}, "sets both epochs and max_steps"),
        ({"mafia_sft": {"epochs": 2}}, "one that another file sets is taken back with null"),
        (
            {"mafia_sft": {"max_steps": 3, "checkpoints": {"every": 20}}},
            "asks for step 20, but max_steps is 3",
        ),
        ({"mafia_sft": {"quantization": "4bit"}}, "recipes.mafia_sft.quantization: 4bit needs a GPU and"),
        (
            {"forecast_grpo": {"quantization": "4bit"}},
            "forecast_sft would be merged into weights of four bits",
        ),
        ({"mafia_dpo": {"lora": {"dropout": 0.1}}}, "mafia_dpo.lora.dropout: dpo trains without"),
        ({"forecast_grpo": {"max_tokens": 96}}, "completion_tokens 96: no prompt fits"),
        ({"mafia_sft": {"learning_rate": "1e-6"}}, "write 1.0e-6, which YAML takes for a number"),
        (
            {"mafia_sft": {"grid": {"learning_rate": ["1e6"]}}},
            "grid.learning_rate.0 is '1e6'. Expected: The learning rate",
        ),
        ({"mafia_sft": {"grid": {"learning_rate": ["1e6"]}}}, "write 1.0e+6"),
        ({"mafia_sft": {"grid": {"batch": [0]}}}, "recipes.mafia_sft.grid.batch.0 is 0: the least is 1"),
        ({"mafia_sft": {"grid": {"lora": [{"rnk": 3}]}}}, "grid.lora.0.rnk. Did you mean rank"),
        ({"forecast_grpo": {"grid": {"generations": ["4"]}}}, "grid.generations.0 is '4'"),
        ({"mafia_sft": {"grid": {"dataset": []}}}, "recipes.mafia_sft.grid.dataset is []: too few entries"),
        ({"mafia_sft": {"checkpoints": [99]}}, "checkpoints asks for step 99, but max_steps is 12"),
        ({"mafia_sft": {"lora": None}}, "mafia_dpo.from is mafia_sft, which has no adapter"),
        ({"mafia_sft": {"learning_rat": 1.0}}, "Did you mean learning_rate"),
        ({"mafia_sft": {"grid": {"beta": [1]}}}, "recipes.mafia_sft.grid: beta cannot be varied"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(
    config: dict[str, Any], changes: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name, change in changes.items():
        config["recipes"][name] |= change
    assert words in refusal(config)


def test_where_a_training_is_told_of_changes_nothing_about_it(config: dict[str, Any]) -> None:
    quiet = settings_of("mafia_sft", recipe_points(config["recipes"]))
    config["recipes"]["mafia_sft"] |= {"report_to": "tensorboard", "epochs": None}
    check_config(config, SCHEMA)

    assert settings_of("mafia_sft", recipe_points(config["recipes"])) == quiet


def test_the_points_of_a_grid_are_named_by_what_they_set(config: dict[str, Any]) -> None:
    config["comparisons"] = {}
    config["recipes"]["support_grpo"]["grid"] = {"learning_rate": [1e-6, 1e-5], "generations": [2, 4]}
    check_config(config, SCHEMA)
    points = recipe_points(config["recipes"])
    names = [name for name in points if name.startswith("support_grpo")]

    assert len(names) == 4
    assert "support_grpo" not in points
    assert {(points[name]["learning_rate"], points[name]["generations"]) for name in names} == {
        (rate, group) for rate in (1e-6, 1e-5) for group in (2, 4)
    }
    check_target(f"results/adapters/{names[0]}", config)
    # Equal settings are one run, however they are ordered.
    turned = {"generations": [4, 2], "learning_rate": [1e-5, 1e-6]}
    config["recipes"]["support_grpo"]["grid"] = turned
    assert sorted(recipe_points(config["recipes"])) == sorted(points)


def in_full_size(config: dict[str, Any]) -> dict[str, Any]:
    """The default with config/full.yaml laid over it."""
    from probeline.config import _merged

    return _merged(config, yaml.safe_load((REPOSITORY / "config/full.yaml").read_text()))


def lora(rank: int, alpha: int, dropout: float, targets: Any = "auto") -> dict[str, Any]:
    return {"rank": rank, "alpha": alpha, "dropout": dropout, "targets": targets}


QWEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LARGE = "A100-80GB"
FULL_SIZE = {
    "mafia_sft": {"method": "sft", "model": "qwen2.5-7b", "lora": lora(16, 32, 0.1, QWEN), "epochs": 3}
    | {"learning_rate": 2e-4, "batch": 4, "accumulation": 4, "max_tokens": 2048, "warmup": 0.03}
    | {"weight_decay": 0.01, "gpu": f"{LARGE}:2", "timeout": 4 * 3600},
    "mafia_dpo": {"method": "dpo", "from": "mafia_sft", "epochs": 1, "learning_rate": 5e-5, "beta": 0.1}
    | {"batch": 2, "accumulation": 4, "gpu": f"{LARGE}:2", "timeout": 3 * 3600},
    "forecast_sft": {"method": "sft", "model": "gpt-oss-20b", "lora": lora(64, 128, 0.05, "all-linear")}
    | {"learning_rate": 3e-4, "epochs": 3, "timeout": 2 * 3600},
    "forecast_sft_quick": {"epochs": 1},
    "forecast_grpo": {"method": "grpo", "from": "forecast_sft", "merge": True, "reward": "tree"}
    | {"lora": lora(4, 8, 0, "all-linear"), "learning_rate": 5e-4, "generations": 4, "temperature": 0.8}
    | {"completion_tokens": 256, "epochs": 3, "timeout": 3 * 3600},
    "support_grpo": {"method": "grpo", "model": "gemma-2-2b", "lora": lora(16, 32, 0), "learning_rate": 5e-6}
    | {"max_steps": 40, "batch": 1, "generations": 2, "completion_tokens": 128, "checkpoints": [20, 40]}
    | {"gpu": "A10", "memory": 32, "timeout": 2 * 3600, "reward": "judge"},
}
"""What the reference systems train with; epochs stand for max_steps, which then is not set."""


def test_the_recipes_in_full_size_are_those_of_the_references(config: dict[str, Any]) -> None:
    declared = in_full_size(config)["recipes"]
    recipes = recipe_points(declared)
    assert declared.keys() == FULL_SIZE.keys()
    found = {name: declared[name] | settings_of(name, recipes) for name in declared}
    assert {name: {key: found[name][key] for key in told} for name, told in FULL_SIZE.items()} == FULL_SIZE
    for name, told in FULL_SIZE.items():
        assert found[name]["max_steps"] == told.get("max_steps"), name
    assert found["forecast_sft_quick"] == found["forecast_sft"] | {"epochs": 1}


def test_the_layer_is_22_where_none_is_chosen(config: dict[str, Any]) -> None:
    for settings in (config, in_full_size(config)):
        assert [parse_probe_name(name, settings).layers for name in settings["targets"]["probes"]] == [
            (22,)
        ] * 2


def test_the_recipes_in_full_size_are_accepted(config: dict[str, Any]) -> None:
    merged = in_full_size(config)
    check_config(merged, SCHEMA)
    check_gpus(merged)
    recipes = recipe_points(merged["recipes"])
    assert settings_of("forecast_grpo", recipes)["model"] == "gpt-oss-20b"
    assert settings_of("mafia_dpo", recipes)["lora"]["rank"] == 16
    assert made_from("forecast_grpo", recipes) == (["forecast_sft"], None)
    assert made_from("mafia_dpo", recipes) == ([], "mafia_sft")
