# What the rule of activations read, and their params; no rules.

from probeline.adapters.recipes import adapter_manifest
from probeline.config import adapter_of, adapter_path, recipe_named
from probeline.digests import canonical_digest
from probeline.lineage.code import code_closure
from probeline.models.adapter import adapter_files


def dialogues_to_extract(wildcards):
    """The shards of dialogues that one shard of activations is made of."""
    concept, _ = ADAPTED.get(wildcards.concept, (wildcards.concept, None))
    together = len(SHARDS) // EXTRACTIONS
    first = ACTIVATION_SHARDS.index(wildcards.shard) * together
    return expand(
        "data/processed/dialogues/{concept}/{shard}/manifest.json",
        concept=concept,
        shard=SHARDS[first : first + together],
    )


def adapter_files_of(wildcards):
    """The files of the adapter on the model, if there is one; of a recipe's its manifest."""
    _, adapter = ADAPTED.get(wildcards.concept, (None, adapter_of(config)))
    if adapter is None:
        return []
    if recipe_named(adapter, config):
        return adapter_manifest(adapter)
    return list(map(str, adapter_files(adapter_path(adapter, config))))


def activations_spec(wildcards):
    layers = config["activations"]["layers"]
    return {
        "layers": None if layers == "all" else layers,
        "token_layers": config["activations"]["token_layers"],
        "dtype": dtype_of(config["activations"]["dtype"], "extract_activations"),
        "store": config["activations"]["store"],
        "threads": config["activations"]["threads"],
        "token_budget": config["activations"]["token_budget"],
        "engine": ENGINE,
        "code": code_of("extract_activations"),
    }


# Only this code decides about the bits of what is computed: after an edit of any other, results are reused.
ENGINE = canonical_digest(
    code_closure(SOURCES / "probeline/activations/engine.py", SOURCES)
)


def dialogues_of(wildcards):
    return expand(
        "data/processed/dialogues/{concept}/{shard}/manifest.json",
        concept=wildcards.concept,
        shard=SHARDS,
    )


def activations_of(wildcards):
    return expand(
        "results/activations/{concept}/{shard}/manifest.json",
        concept=wildcards.concept,
        shard=ACTIVATION_SHARDS,
    )
