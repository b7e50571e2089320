"""Prints docs/rules.md, in the folder of the Snakefile: every rule in one sentence, and what it reads."""

import re
import subprocess
import sys
from pathlib import Path

CONFIG = ("tests/config/tiny.yaml", "tests/config/every_rule.yaml")
RULE = re.compile(r"^rule (\w+):\n(.*?)(?=^rule |\Z)", re.MULTILINE | re.DOTALL)
TITLE = """\
# The rules

What each rule does, in the order of the data's way. What it reads is that of a config with every kind of
target: yours may name fewer. `make reference` writes this page.
"""


def main() -> None:
    """Print the page."""
    stages = re.findall(r'^include: "rules/(\w+)\.smk"$', Path("Snakefile").read_text(), re.MULTILINE)
    blocks = {stage: RULE.findall(Path(f"rules/{stage}.smk").read_text()) for stage in stages}
    jobs = {name for rules in blocks.values() for name, block in rules if "script:" in block}
    targets = [name for rules in blocks.values() for name, _ in rules if name not in jobs]
    above = read_from(["all", *targets])
    lines = [TITLE]
    for stage, rules in blocks.items():
        made = [(name, block) for name, block in rules if name in jobs]
        if made:
            lines += [
                f"## {stage.capitalize()}",
                "",
                "| rule | what it does | reads what comes from |",
                "|---|---|---|",
            ]
            lines += [f"| `{name}` | {sentence(block)} | {', '.join(above[name])} |" for name, block in made]
            lines.append("")
    lines += ["## Targets", "", "| `snakemake …` | what is there then |", "|---|---|"]
    named = {name: block for rules in blocks.values() for name, block in rules if name in targets}
    named["all"] = RULE.findall(Path("Snakefile").read_text())[0][1]
    lines += [f"| `{name}` | {sentence(block)} |" for name, block in named.items()]
    print("\n".join(lines))


def sentence(block: str) -> str:
    """The message of a rule, its wildcards as `{name}`."""
    message = re.search(r'message:\s+"([^"]+)"', block)
    if message is None:
        sys.exit(f"A rule has no message:\n{block}")
    return message[1].replace("{wildcards.", "{")


def read_from(targets: list[str]) -> dict[str, list[str]]:
    """Rule → the rules whose outputs it reads, as Snakemake draws them."""
    command = (sys.executable, "-m", "snakemake", "--rulegraph", "mermaid-js", "--forceall", *targets)
    graph = subprocess.run(
        [*command, "--configfile", *CONFIG], text=True, stdout=subprocess.PIPE, check=True
    ).stdout
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", graph))
    above: dict[str, set[str]] = {name: set() for name in names.values()}
    for one, other in re.findall(r"(id\d+) --> (id\d+)", graph):
        above[names[other]].add(names[one])
    return {name: [f"`{parent}`" for parent in sorted(parents)] for name, parents in above.items()}


if __name__ == "__main__":
    main()
