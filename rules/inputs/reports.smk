# What the rules of reports read, and their params; no rules.

from probeline.adapters.recipes import adapter_manifest, grids, lineage_of
from probeline.config import (
    ROLE_MASKED,
    SHIFTS,
    adapter_of,
    base_model,
    is_simulated,
    parse_probe_name,
    transfer_concepts,
)
from probeline.evaluation.plans import plan_comparison, plan_evaluation


def tokens_spec(wildcards):
    """With the settings of the extraction, so that scores are the stored ones."""
    settings = activations_spec(wildcards)
    return {
        "concept": wildcards.concept,
        "games": config["report"]["transcripts"],
        **{key: settings[key] for key in ("dtype", "threads", "token_budget")},
        "code": code_of("score_tokens"),
    }


def targets_of(kind):
    """What a plain run makes of a kind, as the config names it."""
    return config["targets"].get(kind, [])


def concepts_to_report():
    """The concepts behind the probes, sweeps, transfers and probe shifts that the targets name, each once."""
    probes = [*targets_of("probes")]
    probes += [shift["probe"] for shift in shifts_of_targets()]
    found = [parse_probe_name(name, config).concept for name in probes]
    found += targets_of("sweeps")
    for name in targets_of("transfers"):
        found += transfer_concepts(config["transfers"][name])
    return list(dict.fromkeys(found))


def recipes_to_report():
    """The recipes whose training is shown: those named, and those that are evaluated."""
    named = [*targets_of("adapters"), *targets_of("evaluations")]
    return [name for name in dict.fromkeys(named) if name in RECIPES]


def plans_to_report():
    """What the evaluations and comparisons that the targets name compare and read."""
    plans = [plan_evaluation(name, config) for name in targets_of("evaluations")]
    return plans + [plan_comparison(name, config) for name in targets_of("comparisons")]


def shifts_of_targets():
    """The probe shifts that the targets name, as the config declares them."""
    return [config["probe_shifts"][name] for name in targets_of("probe_shifts")]


def trained_recipes():
    """Every recipe that is trained for what the targets name, each once, also what others begin from."""
    named = recipes_to_report() + points_to_report()
    named += [name for plan in plans_to_report() for name in plan.adapters]
    adapters = [shift["adapter"] for shift in shifts_of_targets()]
    # All concepts are read through the adapter on the model.
    adapters += [adapter_of(config)] if concepts_to_report() else []
    named += [name for name in adapters if name in RECIPES]
    return list(
        dict.fromkeys(one for name in named for one in lineage_of(name, RECIPES))
    )


def corpora_to_report(wildcards):
    """The corpora behind everything that the targets name, each once."""
    datasets = [RECIPES[name]["dataset"] for name in trained_recipes()]
    datasets += [name for plan in plans_to_report() for name, _ in plan.datasets]
    corpora = [config["probes"][concept]["corpus"] for concept in concepts_to_report()]
    corpora += [config["datasets"][name]["corpus"] for name in datasets]
    return expand(
        "data/processed/{corpus}/manifest.json", corpus=dict.fromkeys(corpora)
    )


def activations_to_report(wildcards):
    """All that went through a model for what the targets name: also role-masked twins, and with adapters."""
    shifts = shifts_of_targets()
    probes = [*targets_of("probes"), *(shift["probe"] for shift in shifts)]
    trained = [parse_probe_name(name, config).concept for name in probes]
    twins = [name + ROLE_MASKED for name in trained if name + ROLE_MASKED in EXTRACTED]
    read = {
        (parse_probe_name(shift["probe"], config).concept, str(shift["adapter"]))
        for shift in shifts
    }
    adapted = [name for name, called in ADAPTED.items() if called in read]
    return expand(
        "results/activations/{concept}/{shard}/manifest.json",
        concept=dict.fromkeys([*concepts_to_report(), *twins, *adapted]),
        shard=ACTIVATION_SHARDS,
    )


def trained_to_report(wildcards):
    return list(map(adapter_manifest, trained_recipes()))


def probes_to_report(wildcards):
    return expand("results/probes/{name}/manifest.json", name=targets_of("probes"))


def transcripts_to_report(wildcards):
    """The transcripts of the probes; none where the config asks for no game of them."""
    names = targets_of("probes") if config["report"]["transcripts"] else []
    return expand("results/transcripts/{name}/manifest.json", name=names)


def sweeps_to_report(wildcards):
    return expand("results/sweeps/{name}/manifest.json", name=targets_of("sweeps"))


def transfers_to_report(wildcards):
    return expand(
        "results/evaluation/{name}/manifest.json", name=targets_of("transfers")
    )


def shifts_to_report(wildcards):
    return expand(
        "results/evaluation/{folder}/{name}/manifest.json",
        folder=SHIFTS,
        name=targets_of("probe_shifts"),
    )


def adapters_to_report(wildcards):
    return list(map(adapter_manifest, recipes_to_report()))


def named_grids():
    """The recipes with a grid among the adapters that the targets name."""
    return [name for name in targets_of("adapters") if name in GRIDS]


def points_to_report():
    """The points of these grids."""
    return [point for name in named_grids() for point in GRIDS[name]]


def grids_to_report(wildcards):
    return expand("results/evaluation/grids/{name}/manifest.json", name=named_grids())


def evaluations_to_report(wildcards):
    return expand(
        "results/evaluation/adapters/{name}/manifest.json",
        name=targets_of("evaluations"),
    )


def comparisons_to_report(wildcards):
    return expand(
        "results/evaluation/comparisons/{name}/manifest.json",
        name=targets_of("comparisons"),
    )


def report_spec():
    corpora = config["corpora"].items()
    concepts = concepts_to_report()
    return {
        "model": base_model(config),
        "simulated": sorted(
            name for name, corpus in corpora if is_simulated(name, corpus)
        ),
        "labels": {name: config["probes"][name]["label"] for name in concepts},
        "errors": config["report"]["errors"],
        "code": code_of("write_report"),
    }
