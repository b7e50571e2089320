"""The parts of the reference that are read from the code.

Tables of keys and columns stand in the pages, for readers without the site: `make reference` writes them, and
a test fails when they are stale. Help and signatures are read when the site is built.
"""

import argparse
import inspect
import os
import re
import textwrap
from collections.abc import Iterator, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from probeline import schema
from probeline.adapters.recipes import DEFAULTS, OWN_DEFAULTS
from probeline.cli import _parser

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config/config.yaml"
SCHEMA = ROOT / "config/schemas/config.schema.yaml"
WIDTH = 88
KIND_IN_WORDS = re.compile(
    r"^(?:a whole number from \d+ to \d+|true or false|a number between 0 and 1)[,.] ", re.I
)
Node = Mapping[str, Any]
"""A part of the config's schema."""


def config_keys() -> str:
    """Every key of the config as Markdown: a table for each key of the top level."""
    top = yaml.safe_load(SCHEMA.read_text())
    defaults = yaml.safe_load(CONFIG.read_text())
    # What a recipe does not set.
    defaults["recipes"] = {"<name>": {**OWN_DEFAULTS["grpo"], **DEFAULTS}}
    parts = []
    for key, node in top["properties"].items():
        rows = [
            f"| `{name}` | {_kind(found)} | {_default(defaults, name)} | {_meaning(found)} |"
            for name, found in config_rows(top, key, node)
        ]
        parts += [f"## {key}", "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows])]
    return "\n\n".join(parts)


def config_rows(top: Node, name: str, node: Node) -> Iterator[tuple[str, Node]]:
    """A key and all below it, in the order of the schema: its dotted name and its part of the schema.

    What a `$ref` leads to is put in its place; of a mapping of several forms each key is named once.
    """
    node = _resolved(top, node)
    yield name, node
    if name.endswith(".grid"):
        return  # its keys are those of the recipe
    keys: dict[str, dict[str, Any]] = {}
    for form in [node, *node.get("oneOf", [])]:
        for key, below in form.get("properties", {}).items():
            found = keys.setdefault(key, {**_resolved(top, below), "forms": []})
            found["forms"] += [below["const"]] if "const" in below else []
    for key, below in keys.items():
        yield from config_rows(top, f"{name}.{key}", below)
    if isinstance(node.get("additionalProperties"), Mapping):
        yield from config_rows(top, f"{name}.<name>", node["additionalProperties"])


def _resolved(top: Node, node: Node) -> Node:
    while "$ref" in node:
        found: Any = top
        for step in node["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        node = {**found, **{key: value for key, value in node.items() if key != "$ref"}}
    return node


def _kind(node: Node) -> str:
    """What a value may be, in a word or two."""
    if chosen := node.get("forms") or node.get("enum") or [node[key] for key in ["const"] if key in node]:
        return ", ".join(f"`{_shown(one)}`" for one in chosen)
    if "oneOf" in node and "type" not in node:
        return " or ".join(dict.fromkeys(_kind(form) for form in node["oneOf"]))
    words = {"object": "mapping", "array": "list", "integer": "whole number", "boolean": "true or false"}
    kinds = node.get("type", "any")
    kinds = " or ".join(words.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds))
    signs = {"minimum": "≥", "exclusiveMinimum": "&gt;", "maximum": "≤", "exclusiveMaximum": "&lt;"}
    bounds = ", ".join(f"{sign} {node[key]}" for key, sign in signs.items() if key in node)
    return f"{kinds} {bounds}".strip()


def _shown(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _default(defaults: Any, name: str) -> str:
    """What the config sets, if it is a plain value; a mapping is shown key by key."""
    for step in name.split("."):
        if not isinstance(defaults, Mapping) or step not in defaults:
            return ""
        defaults = defaults[step]
    return "" if isinstance(defaults, Mapping) and defaults else f"`{_shown(defaults)}`"


def _meaning(node: Node) -> str:
    """The description as a sentence, and of a mapping of several forms which keys each of them takes."""
    parts = [_cell(node.get("description", ""))]
    for form in node.get("oneOf", []):
        if "title" in form:
            keys = (key if key in form.get("required", []) else f"[{key}]" for key in form["properties"])
            parts.append(f"{_cell(form['title'])}: {', '.join(f'`{key}`' for key in keys)}.")
    return "<br>".join(parts)


def _cell(text: str) -> str:
    """A description as a cell of a table: a sentence, without the kind, which stands beside it."""
    text = KIND_IN_WORDS.sub("", text).replace("|", "\\|").replace("<", "&lt;")
    return text[:1].upper() + text[1:]


def columns(name: str) -> str:
    """A table of `probeline.schema` as Markdown."""
    rows = [f"| `{column}` | {kind} | {_cell(meaning)} |" for column, kind, meaning in getattr(schema, name)]
    return "\n".join(["| column | type | meaning |", "|---|---|---|", *rows])


def event_types() -> str:
    """The types of events as Markdown."""
    rows = [f"| `{name}` | {_cell(meaning)} |" for name, meaning in schema.EVENT_TYPES.items()]
    return "\n".join(["| type | what happens |", "|---|---|", *rows])


def command_line() -> str:
    """The help of every command as Markdown."""
    os.environ["COLUMNS"] = str(WIDTH)
    parts = []
    for name, parser in commands(_parser()):
        heading = "##" if len(name.split()) < 3 else "###"
        lines = parser.format_help().rstrip().split("\n")
        shown = "\n".join(line if len(line) <= WIDTH else textwrap.fill(line, WIDTH) for line in lines)
        parts += [f"{heading} {name}", f"```text\n{shown}\n```"]
    return "\n\n".join(parts)


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """A parser and all of its commands, by the words that are typed."""
    yield parser.prog, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from commands(below)


def python() -> str:
    """The public names of the library as Markdown: signature, what it is, and its methods."""
    parts = []
    for module_name, names in PUBLIC.items():
        module = import_module(module_name)
        parts.append(f"## {module_name}")
        for name in names:
            found = getattr(module, name)
            parts += [f"### {name}", _signature(name, found), _first_lines(found)]
            # Those that a class has from another are listed there.
            methods = sorted(vars(found)) if inspect.isclass(found) else []
            own = [(key, getattr(found, key)) for key in methods if key[0] != "_"]
            own = [(key, one) for key, one in own if callable(one) and one.__doc__]
            parts.append("\n".join(f"- {_signature(key, one)}: {_first_lines(one)}" for key, one in own))
    return "\n\n".join(filter(None, parts))


def _signature(name: str, found: Any) -> str:
    given = inspect.signature(found)
    bare = [
        one.replace(annotation=inspect.Parameter.empty)
        for one in given.parameters.values()
        if one.name not in ("self", "cls")
    ]
    return f"`{name}{inspect.Signature(bare)}`"


def _first_lines(found: Any) -> str:
    return " ".join((inspect.getdoc(found) or "").partition("\n\n")[0].split())


PUBLIC = {
    "probeline.probes": [
        "ProbeTrainingConfig",
        "create_probe_trainer",
        "recommend_backend",
        "get_backend_type",
        "ProbeTrainer",
        "SklearnProbeTrainer",
        "TorchProbeTrainer",
        "LinearProbe",
        "ActivationDataset",
    ],
    "probeline.probes.score": ["Probe", "Score"],
    "probeline.probes.watch": ["LiveProbe", "Monitor", "Suspicion"],
    "probeline.activations.store": ["read_activations", "read_tokens", "read_reveals"],
    "probeline.models.generate": ["Generator"],
    "probeline.forecasting.trees": ["parse_outcomes", "generate_tree"],
    "probeline.forecasting.matching": ["match"],
    "probeline.forecasting.metrics": ["forecast_metrics", "metrics_lines"],
}
"""What is meant to be used from outside."""
TABLES = sorted(name for name, value in vars(schema).items() if name.isupper() and isinstance(value, list))
PARTS = {
    "config keys": config_keys,
    "event types": event_types,
    "command line": command_line,
    "python": python,
    **{f"columns {name}": partial(columns, name) for name in TABLES},
}
"""What a page asks for → what makes it."""
WRITTEN = re.compile(
    r"(?<=^<!-- written by make reference: )([^\n]+)( -->\n).*?(?=^<!-- until here -->$)", re.M | re.S
)


def written(text: str) -> str:
    """A page with its tables as the code is now."""
    return WRITTEN.sub(lambda asked: f"{asked[1]}{asked[2]}\n{PARTS[asked[1]]()}\n\n", text)


if __name__ == "__main__":
    for page in (ROOT / "docs").glob("*.md"):
        page.write_text(written(page.read_text()))
