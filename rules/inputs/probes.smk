# What the rules of probes read, and their params; no rules.

from probeline.config import ROLE_MASKED, base_model, method_settings, swept_methods
from probeline.digests import in_key_order


def twin_of(wildcards):
    """The name of a concept's role-masked twin, in a list; an empty one where it has none."""
    twin = wildcards.concept + ROLE_MASKED
    return [twin] if twin in EXTRACTED else []


def role_masked_dialogues_of(wildcards):
    return expand(
        "data/processed/dialogues/{twin}/{shard}/manifest.json",
        twin=twin_of(wildcards),
        shard=SHARDS,
    )


def role_masked_activations_of(wildcards):
    return expand(
        "results/activations/{twin}/{shard}/manifest.json",
        twin=twin_of(wildcards),
        shard=ACTIVATION_SHARDS,
    )


def quality_of(wildcards):
    return f"data/processed/{declaration_of(wildcards)['corpus']}/quality.json"


def settings_of_probe(method, layers):
    """How a probe is fitted and tested; not the evaluation of adapters, which no probe depends on."""
    evaluation = config["evaluation"].items()
    tested = {key: value for key, value in evaluation if key != "adapters"}
    return in_key_order({**method_settings(method, layers, config), **tested})


def probe_spec(wildcards):
    layers = [int(layer) for layer in wildcards.layers.split("_")]
    return {
        "concept": wildcards.concept,
        "method": wildcards.method,
        "layers": layers,
        "model": base_model(config),
        "seed": config["seed"],
        **settings_of_probe(wildcards.method, layers),
        "code": code_of("train_probe"),
    }


def sweep_spec(wildcards):
    sweeps, evaluation = config["sweeps"], config["evaluation"]
    used = ("bootstrap", "min_samples", "max_samples")
    return {
        "concept": wildcards.concept,
        "methods": swept_methods(config),
        "layers": sweeps["layers"],
        "folds": sweeps["folds"],
        "by": config["splits"]["by"],
        "model": base_model(config),
        "seed": config["seed"],
        **{key: evaluation[key] for key in used if key in evaluation},
        "code": code_of("sweep_probes"),
    }
