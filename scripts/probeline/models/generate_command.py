"""`probeline generate`: what a model says with one adapter and another, on the same prompts and seeds."""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probeline.config import load_config, recipe_of_folder
from probeline.errors import ProbelineError, near_misses
from probeline.files import write_json_lines
from probeline.lineage.commands import add_configfile
from probeline.models.systems import System, in_memory
from probeline.text import plain_text

if TYPE_CHECKING:
    from probeline.forecasting.trees import Tree

EXAMPLES = """\
examples:
  probeline generate --prompt "Who do you trust?"
  probeline generate --adapter none mafia_sft mafia_dpo --scenarios mafia
  probeline generate --adapter support_grpo@8 support_grpo@16 --prompts held_out.jsonl --output answers.jsonl
  probeline generate --adapter forecast_grpo --tree "The central bank raises interest rates" --depth 3
  probeline generate --model ~/models/other --adapter ~/adapters/mine --prompt "Hello" --temperature 0.8

Lines of held_out.jsonl: {"prompt": "Hello"} or {"messages": [{"role": "user", "content": "Hello"}]}. An
adapter is none, a recipe of the config, a recipe and one of its checkpoints (recipe@step), or a folder. An
answer depends on its prompt, the seed and the adapter, not on what else is asked.
"""
ADAPTERS = Path("results/adapters")
MODELS = Path("data/models")
NONE = "none"
ROLES = ("system", "user", "assistant")
MOST_TOKENS = 128

Row = dict[str, Any]


def add_command(commands: Any) -> None:
    """Declare the command.

    Args:
        commands: the subparsers of `probeline`.
    """
    parser = commands.add_parser(
        "generate",
        help="let a model answer, with one adapter and another side by side",
        description="Generate answers with a model and adapters on it: the base is loaded once, and its "
        "adapters are swapped.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", metavar="NAME", help="a model of the config, or a folder (default: model)")
    parser.add_argument(
        "--adapter",
        nargs="+",
        action="extend",
        default=[],
        metavar="ADAPTER",
        help="none, a recipe, a checkpoint recipe@step, or a folder; several are compared (default: none)",
    )
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--prompt", nargs="+", metavar="TEXT", help="what the user says, each text by itself")
    asked.add_argument("--prompts", type=Path, metavar="FILE", help="JSON lines with prompt or messages")
    asked.add_argument("--scenarios", choices=["mafia"], help="three moments of a game")
    asked.add_argument("--tree", metavar="EVENT", help="what may follow this event, and what may follow that")
    parser.add_argument("--depth", type=int, default=3, metavar="N", help="levels of --tree (default 3)")
    parser.add_argument("--system", default="", metavar="TEXT", help="the system message before --prompt")
    parser.add_argument("--max-tokens", type=int, default=MOST_TOKENS, metavar="N", help="most new tokens")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (the default) takes the likeliest")
    parser.add_argument("--seed", type=int, default=0, help="of the draws at a temperature above 0")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="processor threads (default 1)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write JSON lines, one for each answer")
    parser.add_argument("--json", action="store_true", help="print one JSON array instead")
    add_configfile(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    numbers = {"--max-tokens": options.max_tokens, "--threads": options.threads, "--depth": options.depth}
    for option, value in numbers.items():
        if value < 1:
            raise ProbelineError(f"{option} is {value}; give at least 1.")
    if options.system and options.prompt is None:
        raise ProbelineError("--system goes with --prompt; the others have their own messages.")
    config = load_config(options.configfile)
    choices = [choice_of(name, options.model, config) for name in options.adapter or [NONE]]
    if options.tree is not None:
        _show_trees(trees(list(dict.fromkeys(choices)), options), options)
        return
    rows = answers(_prompts(options), list(dict.fromkeys(choices)), options)
    if options.output:
        write_json_lines(options.output, rows)
    if options.json:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
    else:
        _print(rows)


def choice_of(name: str, model: str | None, config: dict[str, Any]) -> System:
    """What an entry of `--adapter` means.

    Args:
        name: none, a recipe, a recipe and a step, or a folder.
        model: of `--model`, if it was given.
        config: checked.

    Raises:
        ProbelineError: there is no such thing, or it has not been made; says how to make it.
    """
    from probeline.adapters.recipes import made_from, model_of, recipe_points
    from probeline.config import base_model

    if name == NONE:
        return System(name, _model(model or base_model(config), config))
    recipes = recipe_points(config.get("recipes", {}))
    folder, recipe = _adapter(name, recipes)
    if recipe is None:
        return System(name, _model(model or base_model(config), config), folder)
    if (folder / "config.json").is_file():
        return System(name, folder)  # a recipe that tunes the whole model
    merged, _ = made_from(recipe, recipes)
    base = _model(model or model_of(recipe, recipes), config)
    return System(name, base, folder, tuple(_made(ADAPTERS / one) for one in merged))


def _adapter(name: str, recipes: dict[str, Any]) -> tuple[Path, str | None]:
    """Folder of an adapter, and the recipe that made it, None for one from elsewhere."""
    stem, _, step = name.rpartition("@")
    if name in recipes:
        return _made(ADAPTERS / name), name
    if stem in recipes and step.isascii() and step.isdigit():
        return _checkpoint(stem, int(step)), stem
    folder = Path(name).expanduser()
    if folder.is_dir():
        recipe = recipe_of_folder(folder)
        return folder, recipe if recipe in recipes else None
    raise ProbelineError(
        f"--adapter {name} is neither a recipe of the config nor a folder. "
        + near_misses(name, [NONE, *recipes])
    )


def _made(folder: Path) -> Path:
    if not folder.is_dir():
        raise ProbelineError(f"{folder} has not been made. Make it with: snakemake --cores 4 {folder}")
    return folder


def _checkpoint(recipe: str, step: int) -> Path:
    folder = _made(ADAPTERS / recipe) / "checkpoints"
    kept = {found.name.removeprefix("step-"): found for found in folder.glob("step-*")}
    if str(step) not in kept:
        raise ProbelineError(
            f"{recipe} has kept no checkpoint of step {step}. {near_misses(str(step), kept)} "
            f"recipes.{recipe}.checkpoints says which are kept."
        )
    return kept[str(step)]


def _model(name: str, config: dict[str, Any]) -> Path:
    """The folder of a model, from its name or its path."""
    folder = MODELS / name if name in config["models"] else Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if name in config["models"]:
        raise ProbelineError(f"{folder} has not been made. Make it with: snakemake --cores 4 {folder}")
    raise ProbelineError(
        f"--model {name} is neither a model of the config nor a folder that holds one. "
        + near_misses(name, config["models"])
    )


def _prompts(options: argparse.Namespace) -> list[Row]:
    """What is asked: `prompt`, the words that name it, and `messages`."""
    if options.scenarios:
        from probeline.datasets.mafia_scenarios import mafia_scenarios

        return [
            {"prompt": one.name, "messages": one.prompt, "targets": list(one.targets)}
            for one in mafia_scenarios()
        ]
    if options.prompts:
        return _read_prompts(options.prompts)
    system = [{"role": "system", "content": options.system}] if options.system else []
    if not all(text.strip() for text in options.prompt):
        raise ProbelineError("--prompt is empty: give what the user says to the model.")
    return [
        {"prompt": text, "messages": [*system, {"role": "user", "content": text}]} for text in options.prompt
    ]


def _read_prompts(file: Path) -> list[Row]:
    if not file.is_file():
        raise ProbelineError(f"--prompts: {file} is no file.")
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ProbelineError(f"{file} is not UTF-8 text: byte {error.start} is none of it.") from error
    found = [_prompt(line, f"{file}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise ProbelineError(f"{file} holds no prompt.")
    return found


def _prompt(line: str, place: str) -> Row:
    messages: Any = [{"role": "user", "content": "Hello"}]
    forms = json.dumps({"prompt": "Hello"}), json.dumps({"messages": messages})
    fault = f"{place}: expected {' or '.join(forms)}."
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ProbelineError(fault) from error
    if not isinstance(row, dict):
        raise ProbelineError(fault)
    messages = row.get("messages", row.get("prompt"))
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, list) or not messages:
        raise ProbelineError(fault)
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, str) or message.get("role") not in ROLES:
            raise ProbelineError(fault)
    last = messages[-1]["content"]
    return {"prompt": last, "messages": [{key: one[key] for key in ("role", "content")} for one in messages]}


def answers(prompts: Sequence[Row], choices: Sequence[System], options: argparse.Namespace) -> list[Row]:
    """A row for each prompt and each choice, prompt after prompt; each base is loaded once."""
    chats = [row["messages"] for row in prompts]
    said = {choice.name: say(chats) for choice, say in _speakers(choices, options)}
    settings = {name: getattr(options, name) for name in ("seed", "temperature", "max_tokens")}
    return [
        {**row, "adapter": choice.name, "model": choice.model.name, **settings}
        | {"completion": said[choice.name][number]}
        for number, row in enumerate(prompts)
        for choice in choices
    ]


def trees(choices: Sequence[System], options: argparse.Namespace) -> dict[str, "Tree"]:
    """The tree of what may follow the event of `--tree`, of each choice by its name."""
    from probeline.forecasting.trees import generate_tree

    if not options.tree.strip():
        raise ProbelineError("--tree is empty: give the event that the tree begins with.")
    found = {}
    for choice, say in _speakers(choices, options):
        found[choice.name] = generate_tree(options.tree, None, options.depth, _one_by_one(say))
    return found


def _one_by_one(say: Callable[[list[Any]], list[str]]) -> Callable[[list[dict[str, str]]], str]:
    return lambda chat: say([chat])[0]


def _speakers(
    choices: Sequence[System], options: argparse.Namespace
) -> Iterator[tuple[System, Callable[[list[Any]], list[str]]]]:
    """Each choice with what has it answer chats, until the next is asked for; each base is loaded once."""
    from probeline.compute.jobs import prepare_process

    prepare_process(options.threads)
    for choice, generator in in_memory(choices, options.dtype, options.threads):
        yield (
            choice,
            partial(
                generator.generate,
                seed=options.seed,
                max_new_tokens=options.max_tokens,
                temperature=options.temperature,
            ),
        )


def _show_trees(found: Mapping[str, "Tree"], options: argparse.Namespace) -> None:
    rows = [{"adapter": name, "event": options.tree} | asdict(tree) for name, tree in found.items()]
    if options.output:
        write_json_lines(options.output, rows)
    if options.json:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    for name, tree in found.items():
        print("\n".join(map(plain_text, [name, *tree.lines(), ""])))


def _print(rows: Sequence[Row]) -> None:
    from rich.rule import Rule
    from rich.text import Text

    from probeline.probes.show import make_console

    console = make_console(highlight=False)
    shown = None
    for row in rows:
        if row["messages"] is not shown:
            shown = row["messages"]
            console.print(Rule(Text(plain_text(row["prompt"].split("\n")[-1])[:100])))
        console.print(Text(plain_text(row["adapter"]), style="bold"))
        # A model may say anything, and a terminal may obey it.
        console.print(Text("\n".join(map(plain_text, row["completion"].split("\n"))) + "\n"))
