# What the rules of datasets read, and their params; no rules.

from probeline.config import ROLE_MASKED, datasets_with_rubrics, is_simulated
from probeline.digests import in_key_order


def declaration_of(wildcards):
    """What the config says of a concept, also for its role-masked twin."""
    return config["probes"][wildcards.concept.removesuffix(ROLE_MASKED)]


def corpus_shard_of(wildcards):
    corpus = declaration_of(wildcards)["corpus"]
    return f"data/processed/{corpus}/shards/{wildcards.shard}/manifest.json"


def template_of(wildcards):
    concept = declaration_of(wildcards)
    name = concept.get("template", config["corpora"][concept["corpus"]]["format"])
    return f"config/templates/{name}.yaml"


def dialogues_spec(wildcards):
    # Whether there is a twin changes nothing in either of the two.
    concept = declaration_of(wildcards)
    return {
        "concept": in_key_order(
            {key: concept[key] for key in concept if key != "role_masked"}
        ),
        "role_masked": wildcards.concept.endswith(ROLE_MASKED),
        "splits": in_key_order(config["splits"]),
        "seed": config["seed"],
        "code": code_of("build_dialogues"),
    }


def table_to_train_on(wildcards):
    """The manifest of the corpus that a dataset for fine-tuning is made of."""
    corpus = config["datasets"][wildcards.dataset]["corpus"]
    return f"data/processed/{corpus}/manifest.json"


def model_to_render(wildcards):
    """The manifest of the model whose chat template and tokenizer a dataset is measured with, if it is."""
    model = config["datasets"][wildcards.dataset].get("model")
    return [] if model is None else f"data/models/{model}/manifest.json"


def dataset_spec(wildcards, code):
    dataset = config["datasets"][wildcards.dataset]
    corpus = config["corpora"][dataset["corpus"]]
    return {
        "dataset": in_key_order(dataset),
        "simulated": is_simulated(dataset["corpus"], corpus),
        "splits": in_key_order(config["splits"]),
        "seed": config["seed"],
        "code": code,
    }


def rubrics_to_judge_by(wildcards):
    """The manifest of the rubrics that a judge has written for a dataset, if it asks for them."""
    if wildcards.dataset not in datasets_with_rubrics(config):
        return []
    return f"data/processed/rubrics/{wildcards.dataset}/manifest.json"


def judge_spec(name):
    """A judge, as params of a rule: what decides about its answers; jobs find in the config how to ask it."""
    decisive = ("kind", "url", "model", "temperature")
    settings = config["judges"][name]
    return {
        "name": name,
        "settings": {key: settings[key] for key in decisive if key in settings},
    }


def rubrics_spec(wildcards):
    dataset = config["datasets"][wildcards.dataset]
    return {
        "dataset": in_key_order(
            {key: dataset[key] for key in dataset if key != "rubrics"}
        ),
        "splits": in_key_order(config["splits"]),
        "seed": config["seed"],
        "judge": judge_spec(dataset["rubrics"]),
        "code": code_of("write_rubrics"),
    }
