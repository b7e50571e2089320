"""Checking a configuration and the names of targets while the workflow is parsed, in words."""

import argparse
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from probeline.adapters.recipes import check_trained, recipe_faults
from probeline.datasets.mafia_acts import QUALITY
from probeline.digests import shard_name
from probeline.errors import ProbelineError, near_misses
from probeline.evaluation.plans import check_evaluated, compared_folders, comparison_faults
from probeline.experiments import fitting, misfit
from probeline.files import MANIFEST, read_json
from probeline.logs.formats import DATASET_FORMATS, GAME_FORMATS
from probeline.models.adapter import FOLDER_NAME, adapter_files

DEFAULT_CONFIG = Path("config/config.yaml")
SCHEMA = Path("config/schemas/config.schema.yaml")
ROLE_MASKED = ".role_masked"
"""Ends the name of a concept's dialogues and activations that do not tell the actor's role."""
ADAPTED = ".on."
"""Stands in the name of activations between a concept and the adapter that they were read with."""
ADAPTERS = Path("results/adapters")
SHIFTS = "probe_shift"
TAKEN = ("models", "adapters")
"""Records call what lies outside the project raw/<corpus>, raw/models/<model>, raw/adapters/<adapter>."""
MODEL_SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model")

BOUNDS = {
    "minimum": "the least is {}",
    "maximum": "the most is {}",
    "exclusiveMinimum": "it must be above {}",
    "exclusiveMaximum": "it must be below {}",
    "minItems": "too few entries, the least is {}",
    "minProperties": "too few entries, the least is {}",
    "minLength": "it must not be empty",
    "uniqueItems": "each entry may stand there once only",
}
"""What the rules of the schema that set a bound ask for, in words."""
TYPES = {
    "object": "a mapping, `key: value`",
    "array": "a list",
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "boolean": "true or false",
}
"""The types of the schema in words."""
RESULTS = {
    "probe": "probes",
    "sweep": "sweeps",
    "transcript": "transcripts",
    "adapter": "adapters",
    "recipes": "adapters",
    "transfer": "evaluation",
    "transfers": "evaluation",
    "evaluations": "evaluation",
    "probe_shift": f"evaluation/{SHIFTS}",
    "probe_shifts": f"evaluation/{SHIFTS}",
}
"""Folders that someone may look for under results, and where what is meant lies."""
OF_ADAPTERS = ("adapters", "comparisons", "grids")
"""Folders of results/evaluation that hold other things than transfers."""


class ProbeName(NamedTuple):
    """What the name of a probe says: `trust_lr_l20_21_22` is (trust, lr, (20, 21, 22))."""

    concept: str
    method: str
    layers: tuple[int, ...]


def load_config(files: Sequence[Path] = ()) -> dict[str, Any]:
    """The settings in config/config.yaml with those of other files laid over them, checked.

    Raises:
        ProbelineError: a file is missing or no YAML, or the configuration cannot be used.
    """
    config: dict[str, Any] = {}
    for file in (DEFAULT_CONFIG, *files):
        if not file.is_file():
            raise ProbelineError(
                f"{file} does not exist; run this in the folder of the Snakefile."
                if file == DEFAULT_CONFIG
                else f"--configfile: {file} is no file. If it is a target, put it before --configfile."
            )
        try:
            settings = yaml.safe_load(file.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ProbelineError(f"{file} is not valid YAML: {error}") from error
        if not isinstance(settings, dict):
            raise ProbelineError(f"{file} holds no settings: expected `key: value` lines.")
        config = _merged(config, settings)
    check_config(config, SCHEMA)
    return config


def _merged(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    """`base` with `update` laid over it, key by key, as Snakemake merges config files."""
    merged = dict(base)
    for key, value in update.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def check_config(config: Mapping[str, Any], schema: Path) -> None:
    """Refuse a configuration that does not fit the schema or contradicts itself.

    Args:
        config: the merged configuration.
        schema: the JSON schema, as YAML.

    Raises:
        ProbelineError: names every key at fault, what was expected, and the near misses.
    """
    import jsonschema

    declaration = yaml.safe_load(schema.read_text())
    validator = jsonschema.Draft202012Validator(declaration)
    faults = [_in_words(error) for error in validator.iter_errors(config)]
    if not faults:
        faults = list(_contradictions(config))
    if faults:
        raise ProbelineError("The configuration cannot be used:\n  " + "\n  ".join(sorted(set(faults))))


def _in_words(error: Any) -> str:
    """One sentence about one schema violation."""
    key = ".".join(str(part) for part in error.absolute_path) or "(top level)"
    if error.validator == "additionalProperties":
        allowed = error.schema.get("properties", {})
        unknown = [name for name in error.instance if name not in allowed]
        return "; ".join(
            f"unknown key {'.'.join([*map(str, error.absolute_path), str(name)])}. "
            + near_misses(str(name), allowed)
            for name in unknown
        )
    if error.validator == "enum":
        allowed = map(str, error.validator_value)
        return f"{key} is {error.instance!r}. {near_misses(str(error.instance), allowed)}"
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return f"{key} lacks {', '.join(missing)}."
    description = error.schema.get("description")
    if error.schema.get("writeOnly"):
        # Someone may have written a key, or a password, where its place is not.
        return f"{key} cannot be used; what stands there is not shown. Expected: {description}"
    if error.validator in BOUNDS:
        bound = BOUNDS[error.validator].format(error.validator_value)
        return f"{key} is {error.instance!r}: {bound}." + (f" Expected: {description}" if description else "")
    if error.validator == "type" and isinstance(error.validator_value, str):
        kind = TYPES[error.validator_value] + _number_hint(error.instance)
        if description is None:
            return f"{key} is {error.instance!r}. Expected: {kind}."
        told = "" if kind in description.lower() else f" ({kind})"
        return f"{key} is {error.instance!r}. Expected: {description}{told}"
    described = error.validator in ("pattern", "oneOf") and description is not None
    if described and not isinstance(error.instance, dict):
        return f"{key} is {error.instance!r}. Expected: {description}"
    if error.validator == "oneOf" and isinstance(error.instance, dict):
        kinds = {
            choice["properties"]["kind"]["const"]: choice
            for choice in error.validator_value
            if "kind" in choice.get("properties", {})
        }
        if kinds and error.instance.get("kind") not in kinds:
            written = error.instance.get("kind")
            return f"{key}.kind is {written!r}. {near_misses(str(written), kinds)}"
        # Report against the alternative that shares most keys with what was written.
        best = kinds.get(error.instance.get("kind")) or max(
            error.validator_value,
            key=lambda choice: len(choice.get("properties", {}).keys() & error.instance),
        )
        inner = [e for e in error.context if e.schema_path[0] == error.validator_value.index(best)]
        return (
            "; ".join(
                f"{key} ({best.get('title', error.schema.get('description', key))}): {_in_words(e)}"
                for e in inner
            )
            or f"{key}: {error.message}"
        )
    return f"{key}: {error.message}."


def _number_hint(written: Any) -> str:
    """How a text is written so that YAML reads it as the number that it is."""
    match = isinstance(written, str) and re.fullmatch(r"([-+]?\d+)(\.\d*)?[eE]([-+]?)(\d+)", written)
    if not match:
        return ""
    whole, part, sign, power = match.groups()
    return f": write {whole}{part or '.0'}e{sign or '+'}{power}, which YAML takes for a number"


def _contradictions(config: Mapping[str, Any]) -> list[str]:
    """Faults that a schema cannot express."""
    from probeline.datasets.concepts import check_concept

    model = base_model(config)
    if model not in config["models"]:
        key = "model" if isinstance(config["model"], str) else "model.base"
        return [f"{key} is {model!r}. {near_misses(model, config['models'])}"]
    faults = []
    shares = {name: config["splits"][name] for name in ("train", "validation", "test")}
    if abs(sum(shares.values()) - 1) > 1e-9:
        faults.append(f"splits must sum to 1; they are {shares}, which is {sum(shares.values()):g}.")
    for name, concept in config["probes"].items():
        if concept["corpus"] not in config["corpora"]:
            faults.append(
                f"probes.{name}.corpus is {concept['corpus']!r}. "
                + near_misses(concept["corpus"], config["corpora"])
            )
        elif config["corpora"][concept["corpus"]]["format"] not in GAME_FORMATS:
            faults.append(
                f"probes.{name}.corpus is {concept['corpus']!r}, whose logs are no games: concepts are told "
                f"from logs of the formats {' and '.join(GAME_FORMATS)}."
            )
        try:
            check_concept(name, concept)
        except ProbelineError as error:
            faults.append(str(error))
    # What builds on a faulty declaration says nothing by itself.
    faults += _dataset_faults(config) or recipe_faults(config) or comparison_faults(config)
    for name, corpus in config["corpora"].items():
        if name in TAKEN:
            faults.append(f"corpora.{name}: records use this name for other things. Choose another.")
        if is_simulated(name, corpus) and "simulated_games" not in corpus:
            faults.append(f"corpora.{name} lacks simulated_games, the number of games to simulate.")
    depth = model_depth(config)
    declared = config["models"][model].get("depth", depth)
    if declared != depth:
        faults.append(f"models.{model}.depth is {declared}, but that model has {depth} blocks.")
    for key in ("layers", "token_layers"):
        layers = config["activations"][key]
        if depth is not None and layers != "all":
            faults += [
                f"activations.{key} names layer {layer}; {model} has layers 0 to {depth}."
                for layer in layers
                if layer > depth
            ]
    if config["shards"] % config["activations"].get("shards", 1):
        faults.append(
            f"activations.shards is {config['activations']['shards']}; it must divide shards, which is "
            f"{config['shards']}."
        )
    if not faults:
        for target in config["targets"]["probes"]:
            try:
                parse_probe_name(target, config)
            except ProbelineError as error:
                faults.append(f"targets.probes: {error}")
        faults += [
            f"targets.transfers: {_unknown_transfer(target, config)}"
            for target in config["targets"]["transfers"]
            if target not in config["transfers"]
        ]
    faults += _transfer_faults(config) + _sweep_faults(config)
    adapter = adapter_of(config)
    if adapter is not None:
        faults += _adapter_faults("model.adapter", adapter, config)
    return faults + _shift_faults(config)


def _adapter_faults(key: str, adapter: str, config: Mapping[str, Any]) -> list[str]:
    """Why an adapter cannot be put on the configured model, as far as the config says it."""
    from probeline.adapters.recipes import made_from, model_of, recipe_points, settings_of

    recipes = recipe_points(config.get("recipes", {}))
    if adapter not in recipes:
        if "/" in adapter or Path(adapter).is_dir():
            return []
        return [
            f"{key} is {adapter!r}, neither a folder nor a recipe. {near_misses(adapter, recipes)} "
            "They are declared under recipes: in the config, or in a file that --configfile names."
        ]
    try:
        base, (merged, _) = model_of(adapter, recipes), made_from(adapter, recipes)
    except (ProbelineError, KeyError):
        return []  # told of the recipe itself
    if settings_of(adapter, recipes)["lora"] is None:
        return [
            f"{key} is {adapter}, which tunes the whole model and makes no adapter: name the folder that it "
            f"makes as models.<name>.path, {ADAPTERS / adapter}."
        ]
    if merged:
        return [
            f"{key} is {adapter}, which was trained on {base} with {' and '.join(merged)} merged into it: "
            "activations are read from models as they are, with one adapter."
        ]
    if base != base_model(config):
        return [f"{key} is {adapter}, an adapter of {base}, but the model is {base_model(config)}."]
    return []


def _shift_faults(config: Mapping[str, Any]) -> list[str]:
    """What the probe shifts ask for and the config lacks."""
    faults: list[str] = []
    folders: dict[str, str] = {}
    for name, shift in config.get("probe_shifts", {}).items():
        adapter = shift["adapter"]
        try:
            parse_probe_name(shift["probe"], config)
        except ProbelineError as error:
            faults.append(f"probe_shifts.{name}.probe: {error}")
        faults += _adapter_faults(f"probe_shifts.{name}.adapter", adapter, config)
        called = adapter_path(adapter, config).name
        if not FOLDER_NAME.fullmatch(called):
            faults.append(
                f"probe_shifts.{name}.adapter: activations are called after the folder, so let its name have "
                "letters, digits, points, hyphens and underscores only."
            )
        if folders.setdefault(called, adapter) != adapter:
            faults.append(
                f"probe_shifts.{name}.adapter is {adapter}, and another is {folders[called]}: activations "
                "are called after the folder. Rename one of them."
            )
    if folders and adapter_of(config) is not None:
        faults.append("probe_shifts compare with the bare model, but model names an adapter, too.")
    faults += [
        f"targets.probe_shifts: {_unknown_shift(target, config)}"
        for target in config["targets"].get("probe_shifts", ())
        if target not in config.get("probe_shifts", {})
    ]
    return faults


def _dataset_faults(config: Mapping[str, Any]) -> list[str]:
    """What the datasets for fine-tuning ask for and the config lacks."""
    faults = []
    for name, dataset in config["datasets"].items():
        corpora, wanted = config["corpora"], DATASET_FORMATS[dataset["kind"]]
        fitting = [corpus for corpus, declared in corpora.items() if declared["format"] == wanted]
        if dataset["corpus"] not in fitting:
            faults.append(
                f"datasets.{name}.corpus is {dataset['corpus']!r}; the kind {dataset['kind']} is made of a "
                f"corpus of the format {wanted}. {near_misses(dataset['corpus'], fitting)}"
            )
        if "model" in dataset and dataset["model"] not in config["models"]:
            near = near_misses(dataset["model"], config["models"])
            faults.append(f"datasets.{name}.model is {dataset['model']!r}. {near}")
        if "rubrics" in dataset:
            faults += _rubrics_faults(name, dataset["rubrics"], config["judges"])
        if ("model" in dataset) != ("max_tokens" in dataset):
            faults.append(f"datasets.{name}: model and max_tokens go together, the one says nothing alone.")
        quality = {**QUALITY, **dataset.get("quality", {})}
        if quality["min_indicators"] > len(quality["indicators"]):
            faults.append(
                f"datasets.{name}.quality wants {quality['min_indicators']} indicators of "
                f"{len(quality['indicators'])}: no statement has them. Lower min_indicators, or name more."
            )
    return faults


def _rubrics_faults(name: str, judge: str, judges: Mapping[str, Any]) -> list[str]:
    """What is wrong with the judge that is to write the rubrics of a dataset."""
    writers = [other for other, settings in judges.items() if settings["kind"] != "local"]
    if judge in writers:
        return []
    local = f"; a judge of the kind {judges[judge]['kind']} writes no rubrics" if judge in judges else ""
    return [
        f"datasets.{name}.rubrics is {judge!r}{local}. {near_misses(judge, writers)} "
        "Judges are declared under judges: in the config; without the key, the generic rubric is used."
    ]


def _transfer_faults(config: Mapping[str, Any]) -> list[str]:
    """What the transfers ask for and the config lacks: each of their probes must be possible."""
    faults = []
    for name, transfer in config["transfers"].items():
        if name in OF_ADAPTERS:
            faults.append(
                f"transfers.{name}: results/evaluation/{name} holds evaluations of adapters. "
                "Choose another name."
            )
        layers = "_".join(map(str, transfer["layers"]))
        if name == SHIFTS:
            faults.append(f"transfers.{name}: probe shifts lie in the folder of this name. Choose another.")
        for concept in transfer_concepts(transfer):
            try:
                parse_probe_name(f"{concept}_{transfer['method']}_l{layers}", config)
            except ProbelineError as error:
                faults.append(f"transfers.{name}: {error}")
    return faults


def check_groups(config: Mapping[str, Any], experiments: Mapping[str, Collection[str]]) -> None:
    """Refuse groups of a transfer whose patterns fit no experiment that the logs hold.

    Args:
        config: checked.
        experiments: corpus → its experiments.

    Raises:
        ProbelineError: names every such pattern, and the near misses.
    """
    faults = [
        f"transfers.{name}.groups.{group}: {misfit(transfer['concept'], pattern, there)}"
        for name, transfer in config["transfers"].items()
        for group, patterns in transfer.get("groups", {}).items()
        for pattern in patterns
        if not fitting(pattern, there := experiments[config["probes"][transfer["concept"]]["corpus"]])
    ]
    if faults:
        raise ProbelineError("The configuration cannot be used:\n  " + "\n  ".join(faults))


def _sweep_faults(config: Mapping[str, Any]) -> list[str]:
    """What the sweeps ask for and the config lacks."""
    sweeps, extracted, depth = config["sweeps"], config["activations"]["layers"], model_depth(config)
    faults = [
        f"sweeps.methods: unknown method {method!r}. {near_misses(method, config['methods'])}"
        for method in sweeps["methods"]
        if method not in config["methods"]
    ]
    for layer in [] if sweeps["layers"] == "all" else sweeps["layers"]:
        if extracted != "all" and layer not in extracted:
            faults.append(
                f"sweeps.layers names layer {layer}, which is not extracted: "
                f"activations.layers is {extracted}."
            )
        elif depth is not None and layer > depth:
            faults.append(f"sweeps.layers names layer {layer}; {base_model(config)} has layers 0 to {depth}.")
    faults += [
        f"targets.sweeps: unknown concept {concept!r}. {near_misses(concept, config['probes'])}"
        for concept in config["targets"]["sweeps"]
        if concept not in config["probes"]
    ]
    return faults


def method_settings(method: str, layers: Sequence[int], config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a method that a probe on these layers depends on: one layer is no ensemble."""
    settings = config["methods"][method]
    return {key: value for key, value in settings.items() if key != "ensemble" or len(layers) > 1}


def swept_methods(config: Mapping[str, Any]) -> dict[str, Any]:
    """The methods to sweep with those of their settings that a sweep depends on."""
    methods = {method: method_settings(method, [0], config) for method in config["sweeps"]["methods"]}
    # The sweep solves lr by itself but for the penalty l1.
    return {
        method: {
            key: value
            for key, value in settings.items()
            if key != "backend" or settings.get("penalty") == "l1"
        }
        for method, settings in methods.items()
    }


def transfer_concepts(transfer: Mapping[str, Any]) -> list[str]:
    """The concepts that a transfer reads, each once."""
    if "concept" in transfer:
        return [transfer["concept"]]
    return list(dict.fromkeys([*transfer["train"], *transfer["test"]]))


def _unknown_transfer(name: str, config: Mapping[str, Any]) -> str:
    return (
        f"unknown transfer {name!r}. {near_misses(name, config['transfers'])} "
        "They are declared under transfers: in the config, or in a file that --configfile names."
    )


def _unknown_shift(name: str, config: Mapping[str, Any]) -> str:
    return (
        f"unknown probe shift {name!r}. {near_misses(name, config.get('probe_shifts', {}))} "
        "They are declared under probe_shifts: in the config, or in a file that --configfile names."
    )


def extracted_names(config: Mapping[str, Any]) -> list[str]:
    """The names of dialogues and activations: every concept, and the role-masked twins of some."""
    from probeline.datasets.concepts import is_role_masked

    masked = [name + ROLE_MASKED for name, concept in config["probes"].items() if is_role_masked(concept)]
    return [*config["probes"], *masked]


def datasets_with_rubrics(config: Mapping[str, Any]) -> list[str]:
    """The datasets whose rubrics a judge writes."""
    return [name for name, dataset in config["datasets"].items() if "rubrics" in dataset]


def is_simulated(name: str, corpus: Mapping[str, Any]) -> bool:
    """Whether a corpus is made by the rule simulate_logs."""
    return Path(corpus["root"]) == Path("data/simulated") / name


def base_model(config: Mapping[str, Any]) -> str:
    """The name of the configured model, without its adapter."""
    model = config["model"]
    return str(model["base"] if isinstance(model, Mapping) else model)


def adapter_of(config: Mapping[str, Any]) -> str | None:
    """The adapter on the configured model, if there is one: a recipe's name, or a folder."""
    model = config["model"]
    return str(model["adapter"]) if isinstance(model, Mapping) else None


def recipe_named(adapter: str, config: Mapping[str, Any]) -> str | None:
    """The recipe that makes an adapter, None for one in a folder of the user's."""
    from probeline.adapters.recipes import recipe_points

    return adapter if adapter in recipe_points(config.get("recipes", {})) else None


def recipe_of_folder(folder: Path) -> str | None:
    """The recipe in whose folder an adapter lies, as it is or as a checkpoint."""
    inside = Path(os.path.normpath(folder.absolute()))
    made = ADAPTERS.absolute()
    return inside.relative_to(made).parts[0] if made in inside.parents else None


def adapter_path(adapter: str, config: Mapping[str, Any]) -> Path:
    """The folder of an adapter, which for a recipe's its rule makes."""
    return ADAPTERS / adapter if recipe_named(adapter, config) else Path(adapter).expanduser()


def adapted_names(config: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Name of the activations that probe shifts compare to → the concept, and the adapter on the model."""
    found = {}
    for shift in config.get("probe_shifts", {}).values():
        concept = parse_probe_name(shift["probe"], config).concept
        name = f"{concept}{ADAPTED}{adapter_path(shift['adapter'], config).name}"
        found[name] = concept, str(shift["adapter"])
    return found


def users_adapters(config: Mapping[str, Any]) -> list[Path]:
    """The folders of the adapters that no recipe makes, each once."""
    shifts = config.get("probe_shifts", {}).values()
    asked = [adapter_of(config), *(shift["adapter"] for shift in shifts), *compared_folders(config)]
    outside = [name for name in asked if name is not None and recipe_named(name, config) is None]
    return [Path(name).expanduser() for name in dict.fromkeys(outside)]


def model_depth(config: Mapping[str, Any]) -> int | None:
    """Number of decoder blocks of the configured model, or None where the config does not say.

    For models that were fetched before, `data/models/<model>/manifest.json` says it.
    """
    name = base_model(config)
    model = config["models"][name]
    if "random" in model:
        return int(model["random"]["layers"])
    found = _depth_found(name, model)
    return int(model["depth"]) if found is None and "depth" in model else found


def _depth_found(name: str, model: Mapping[str, Any]) -> int | None:
    """What the model itself says, where it lies on this machine."""
    if "path" in model:
        file = Path(model["path"]).expanduser() / "config.json"
        said = read_json(file) if file.exists() else {}
        depth = said.get("num_hidden_layers", said.get("n_layer"))
        return None if depth is None else int(depth)
    manifest = Path("data/models") / name / MANIFEST
    if manifest.exists():
        fetched = read_json(manifest)
        # The name may have stood for another model then.
        if all(model.get(key) == value for key, value in fetched["source"].items()):
            return int(fetched["depth"])
    return None


def check_files(config: Mapping[str, Any], templates: Path) -> None:
    """Refuse a configuration that names a template, or a folder of a model or an adapter, that is not there.

    Raises:
        ProbelineError: names the key and the near misses.
    """
    local_model_files(config["models"][base_model(config)])
    for adapter in users_adapters(config):
        adapter_files(adapter)
    there = [file.stem for file in templates.glob("*.yaml")]
    for name, concept in config["probes"].items():
        if concept.get("template", there[0]) not in there:
            raise ProbelineError(
                f"probes.{name}.template is {concept['template']!r}, which config/templates does not hold. "
                + near_misses(concept["template"], there)
            )


def local_model_files(model: Mapping[str, Any]) -> list[str]:
    """The files of a model that lies in a folder of the user's; none for one that is fetched.

    Raises:
        ProbelineError: the folder does not hold a model.
    """
    if "path" not in model:
        return []
    folder = Path(model["path"]).expanduser()
    if not (folder / "config.json").exists():
        raise ProbelineError(
            f"No model found in {folder}: expected config.json, *.safetensors and a tokenizer. "
            "Set models.<name>.path to a folder that a Hugging Face model was saved to."
        )
    return [str(file) for file in sorted(folder.iterdir()) if file.suffix in MODEL_SUFFIXES]


def parse_probe_name(name: str, config: Mapping[str, Any]) -> ProbeName:
    """The parts of a probe's name `<concept>_<method>_l<layer>[_<layer>…]`.

    Raises:
        ProbelineError: an unknown concept or method, or a layer that the model or the extraction lacks;
            the text names the near misses and what is allowed.
    """
    form = "<concept>_<method>_l<layer>[_<layer>...], for example trust_lr_l22"
    match = re.fullmatch(r"(?P<stem>.+)_l(?P<layers>\d+(?:_\d+)*)", name)
    if match is None:
        raise ProbelineError(f"{name!r} is not the name of a probe: {form}. {_closest(name, config)}")
    concept, _, method = match["stem"].rpartition("_")
    if concept not in config["probes"]:
        wrong = concept or match["stem"]
        raise ProbelineError(
            f"Unknown concept {wrong!r} in {name!r}. {near_misses(wrong, config['probes'])} "
            "Concepts are declared under probes: in the config, or in a file that --configfile names."
        )
    if method not in config["methods"]:
        raise ProbelineError(
            f"Unknown method {method!r} in {name!r}. {near_misses(method, config['methods'])}"
        )
    layers = tuple(int(layer) for layer in match["layers"].split("_"))
    canonical = tuple(sorted(set(layers)))
    if layers != canonical or match["layers"] != "_".join(map(str, layers)):
        better = f"{concept}_{method}_l{'_'.join(map(str, canonical))}"
        raise ProbelineError(f"Layers stand in ascending order, each once: {better}, not {name}.")
    depth = model_depth(config)
    if depth is not None and layers[-1] > depth:
        raise ProbelineError(
            f"{name!r} asks for layer {layers[-1]}, but {base_model(config)} has {depth} blocks: "
            f"layers 0 (embeddings) to {depth}."
        )
    extracted = config["activations"]["layers"]
    missing = [] if extracted == "all" else [layer for layer in layers if layer not in extracted]
    if missing:
        raise ProbelineError(
            f"{name!r} asks for layer {missing[0]}, which is not extracted: "
            f"activations.layers is {extracted}. Add it there, or set activations.layers to all."
        )
    return ProbeName(concept, method, layers)


def _closest(name: str, config: Mapping[str, Any]) -> str:
    return near_misses(name, [f"{c}_{m}_l<layers>" for c in config["probes"] for m in config["methods"]])


def check_gpus(config: Mapping[str, Any]) -> None:
    """Refuse a GPU that Modal does not have, in words.

    Raises:
        ProbelineError: names the key, and what is close.
    """
    from probeline.compute.prices import read_prices

    asked = {"modal.gpu": config["modal"]["gpu"]}
    asked |= {
        f"models.{name}.gpu": model["gpu"] for name, model in config["models"].items() if "gpu" in model
    }
    asked |= {
        f"recipes.{name}.gpu": recipe["gpu"] for name, recipe in config["recipes"].items() if "gpu" in recipe
    }
    prices = read_prices()
    for key, gpu in asked.items():
        try:
            prices.per_second(gpu, 1, 1)
        except ProbelineError as error:
            raise ProbelineError(f"{key}: {error} For a container without one: none.") from error


def check_profile(arguments: Sequence[str], config: Mapping[str, Any]) -> None:
    """Refuse a run whose profile says compute: modal, where `--config` has replaced what the profile says.

    Args:
        arguments: of Snakemake's command line.
        config: of the run.

    Raises:
        ProbelineError: it would run here, without a word.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--profile", default=os.environ.get("SNAKEMAKE_PROFILE", ""))
    profile = Path(parser.parse_known_args(arguments)[0].profile, "config.yaml")
    if config["compute"] == "modal" or not profile.is_file() or "--config" not in arguments:
        return
    said = yaml.safe_load(profile.read_bytes())
    wanted = isinstance(said, dict) and "compute=modal" in (said.get("config") or ())
    if wanted and not any(word.startswith("compute=") for word in arguments):
        raise ProbelineError(
            f"--config on the command line replaces that of the profile {profile.parent}. Add compute=modal "
            "to it."
        )


def check_target(target: str, config: Mapping[str, Any]) -> None:
    """Refuse the path of a probe, of activations, a sweep or an evaluation whose name holds a typo.

    Raises:
        ProbelineError: says what is unknown and what is close.
    """
    parts = Path(target).parts
    if len(parts) >= 3 and parts[0] == "results" and parts[1] in RESULTS:
        meant = str(Path("results", RESULTS[parts[1]], *parts[2:]))
        check_target(meant, config)
        raise ProbelineError(f"Nothing is made in results/{parts[1]}: ask for {meant}.")
    if re.fullmatch(r"(results/)?[a-z][a-z0-9_]*_l\d+(_\d+)*", target):
        name = parse_probe_name(parts[-1], config)
        raise ProbelineError(
            f"Ask for results/probes/{parts[-1]}, the folder of the {name.method} probe for {name.concept}."
        )
    if len(parts) >= 3 and parts[:2] in (("results", "probes"), ("results", "transcripts")):
        parse_probe_name(parts[2].removesuffix(".lineage.json"), config)
    if len(parts) >= 4 and parts[:2] == ("results", "evaluation") and parts[2] in OF_ADAPTERS:
        check_evaluated(parts[2], parts[3].removesuffix(".lineage.json"), config)
    elif parts[:3] == ("results", "evaluation", SHIFTS):
        shifts = config.get("probe_shifts", {})
        if len(parts) >= 4 and parts[3].removesuffix(".lineage.json") not in shifts:
            raise ProbelineError(f"In {target}: {_unknown_shift(parts[3], config)}")
    elif len(parts) >= 3 and parts[:2] == ("results", "evaluation") and parts[2] not in config["transfers"]:
        raise ProbelineError(f"In {target}: {_unknown_transfer(parts[2], config)}")
    if len(parts) >= 3 and parts[:2] == ("results", "adapters"):
        check_trained(parts[2].removesuffix(".lineage.json"), config["recipes"], target)
    if len(parts) >= 4 and parts[:2] == ("data", "processed") and parts[2] in (*DATASET_FORMATS, "rubrics"):
        names = [name for name, dataset in config["datasets"].items() if dataset["kind"] == parts[2]]
        names = datasets_with_rubrics(config) if parts[2] == "rubrics" else names
        if parts[3].removesuffix(".lineage.json") not in names:
            raise ProbelineError(
                f"Unknown dataset {parts[3]!r} in {target}. {near_misses(parts[3], names)} "
                "They are declared under datasets: in the config, or in a file that --configfile names."
            )
    elif len(parts) >= 3 and parts[:2] == ("data", "processed") and parts[2] != "dialogues":
        corpus = parts[2].removesuffix(".lineage.json")
        if corpus not in (*config["corpora"], *DATASET_FORMATS):
            raise ProbelineError(
                f"Unknown corpus {corpus!r} in {target}. {near_misses(corpus, config['corpora'])} "
                "They are declared under corpora: in the config, or in a file that --configfile names."
            )
    concepts = {
        ("results", "sweeps"): 2,
        ("results", "activations"): 2,
        ("data", "processed", "dialogues"): 3,
    }
    for folder, position in concepts.items():
        # A sweep is of a concept itself; dialogues and activations can be of its role-masked twin.
        names = list(config["probes"]) if folder == ("results", "sweeps") else extracted_names(config)
        if folder == ("results", "activations"):
            names += list(adapted_names(config))
        if parts[:position] == folder and len(parts) > position and parts[position] not in names:
            raise ProbelineError(
                f"Unknown concept {parts[position]!r} in {target}. {near_misses(parts[position], names)} "
                "They are declared under probes: in the config, or in a file that --configfile names."
            )
        sharded = folder != ("results", "sweeps")
        if sharded and parts[:position] == folder and len(parts) > position:
            count = config["shards"]
            if folder == ("results", "activations"):
                count = config["activations"].get("shards", count)
            shards = [shard_name(index, count) for index in range(count)]
            if len(parts) == position + 1:
                raise ProbelineError(
                    f"{target} is made in shards: ask for {target}/{shards[0]}, for example."
                )
            if parts[position + 1] not in shards:
                raise ProbelineError(
                    f"There is no {parts[position + 1]} in {target}: the config makes it in {count} "
                    f"shards, {shards[0]} to {shards[-1]}."
                )
