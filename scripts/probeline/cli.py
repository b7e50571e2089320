"""The command line: what people do beside running the workflow itself."""

import argparse
import gc
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from probeline.compute.remote.commands import add_remote_commands
from probeline.errors import ProbelineError, near_misses
from probeline.lineage.commands import (
    LINEAGE,
    add_configfile,
    add_lineage_commands,
    require_project,
)
from probeline.models.generate_command import add_command as add_generate
from probeline.reports.view_command import add_command as add_view
from probeline.text import plain_text

# More than any processor has, and than torch could start.
MOST_THREADS = 1024
EPILOG = """\
The work itself is done by Snakemake, in the folder of the Snakefile:

  snakemake --cores 4 results/probes/trust_lr_l22     raw logs to a tested probe
  snakemake --cores 4                                 everything that the config names
  snakemake --cores 4 --configfile mine.yaml          with your own settings on top
"""
SCORE_EXAMPLES = """\
examples:
  probeline score --probe trust_lr_l22 "I trust Player3."
  probeline score --probe trust_lr_l22 --system "You are a werewolf." --tokens "I trust Player3."
  probeline score --probe trust_lr_l22 --file statements.txt --html scores.html
  probeline score --probe trust_lr_l22 --json - < statements.jsonl > scores.json

Lines of statements.jsonl: {"text": "I trust Player3."}. Put -- before a text that begins with a dash.
"""
GET_EXAMPLES = """\
examples:
  probeline get trust_lr_l22 --output /data/probes/trust
  probeline get trust_lr_l22 --rev v1.0 --output /data/probes/trust-v1.0
  probeline get mafia_sft --output /data/adapters/mafia_sft
"""
WATCH_EXAMPLES = """\
examples:
  probeline watch --probe trust_lr_l22 "What do you say?"
  probeline watch --probe trust_lr_l22 --system "You are a werewolf." --seed 1 "Who is it?"
  probeline watch --probe trust_lr_l22 --json "What do you say?" > answer.json
"""
REWARDS_EXAMPLES = """\
examples:
  probeline rewards
  probeline rewards --judge local --json > rewards.json
  probeline rewards 3f2a9c41
"""
SIMULATED = {"werewolf": "games", "mafia": "games", "forecast": "cases", "support": "dialogues"}
"""Formats that can be simulated, and what they hold."""
NAME_OF_A_PROBE = re.compile(r".+_l\d+(_\d+)*")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0, or 1 with the fault in words."""
    options = _parser().parse_args(arguments)
    try:
        if options.command in LINEAGE:
            require_project()
        return options.run(options) or 0
    except ProbelineError as error:
        # It may name what a hostile file holds.
        print("\n".join(map(plain_text, f"probeline: {error}".split("\n"))), file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Who read the output has seen enough; nothing more is to be written, not even at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"probeline: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # as a shell counts it


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="probeline",
        description="From raw logs of multi-agent games to honestly tested probes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=importlib.metadata.version("probeline"))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    check = commands.add_parser(
        "check",
        help="what the logs hold and what each concept would get; needs no model",
        description="Read the logs that the config names (only what changed is read again) and say what they "
        "hold: interactions by type and role, and what each concept would get in each split.",
        epilog="example: probeline check --configfile mine.yaml",
    )
    add_configfile(check)
    check.add_argument("--cores", type=int, default=2, help="cores for reading the logs (default 2)")
    check.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    check.set_defaults(run=_check)

    simulate = commands.add_parser(
        "simulate",
        help="write simulated games, cases or dialogues to a folder",
        description="Write seeded logs in the real format; game, case or dialogue i depends on the seed and "
        "i alone.",
        epilog="example: probeline simulate --games 1000 --output data/raw/simulated-1000",
    )
    simulate.add_argument(
        "--games", type=int, required=True, metavar="N", help="how many games, cases or dialogues"
    )
    simulate.add_argument("--format", choices=list(SIMULATED), default="werewolf")
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="a folder that does not exist yet"
    )
    simulate.set_defaults(run=_simulate)

    get = commands.add_parser(
        "get",
        help="copy a probe or adapter to an exact path",
        description="Copy a probe or adapter, whole, to a path of your choice, and check the copy against "
        "its manifest; with --rev, as it was at a git revision, from DVC's cache or remote, checked against "
        "its record.",
        epilog=GET_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    get.add_argument(
        "name", metavar="NAME", help="of a probe in results/probes or an adapter in results/adapters"
    )
    get.add_argument(
        "--output", type=Path, required=True, metavar="PATH", help="a folder that does not exist yet"
    )
    get.add_argument("--rev", metavar="REV", help="as of this commit, branch or tag")
    get.set_defaults(run=_get)

    adopt = commands.add_parser(
        "import-detector",
        help="make a probe of a detector that another program saved",
        description="Read a detector saved by pickle.dump or torch.save and write it as a probe. Nothing in "
        "the file is run: what is no tensor, array, number, string, list or dict is refused by name.",
        epilog="example: probeline import-detector a.pkl --model smollm2-135m --output results/probes/a",
    )
    adopt.add_argument("file", type=Path, metavar="FILE", help="a .pkl or .pt file that holds a dict")
    adopt.add_argument("--model", required=True, metavar="NAME", help="the model whose activations it reads")
    adopt.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="a folder that does not exist yet"
    )
    adopt.set_defaults(run=_import_detector)

    _add_score(commands)
    _add_watch(commands)
    add_view(commands, _probe)
    _add_status(commands)
    _add_rewards(commands)
    add_generate(commands)
    add_lineage_commands(commands)
    add_remote_commands(commands)
    return parser


def _add_score(commands: Any) -> None:
    score = commands.add_parser(
        "score",
        help="score texts with a probe",
        description='Score texts as an assistant\'s answers to "What do you say?". A score counts deviations '
        "from the training mean; a larger one means label 1. At a terminal, the text is coloured by token.",
        epilog=SCORE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_probe(score)
    score.add_argument("text", nargs="*", metavar="TEXT", help="what is scored; - reads standard input")
    score.add_argument("--file", metavar="FILE", help="a text per line, or JSON lines with the key text")
    score.add_argument("--tokens", action="store_true", help="list every token with its score")
    score.add_argument("--html", type=Path, metavar="FILE", help="write a page with the texts in colour")
    score.add_argument("--json", action="store_true", help="print one JSON array, with all tokens")
    score.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="most texts in one pass (default: as many as fill it); scores do not depend on it",
    )
    score.set_defaults(run=_score)


def _add_watch(commands: Any) -> None:
    watch = commands.add_parser(
        "watch",
        help="let the model answer, and score its words as they come",
        description="Generate an answer with the probe's model and score each token in the same forward "
        "pass; at the end, the score of the whole answer.",
        epilog=WATCH_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_probe(watch)
    watch.add_argument("prompt", metavar="PROMPT", help="the user's message")
    watch.add_argument(
        "--max-new-tokens", type=int, default=100, metavar="N", help="most tokens to generate (default 100)"
    )
    watch.add_argument(
        "--seed", type=int, metavar="N", help="draw the tokens with this seed (default: the likeliest ones)"
    )
    watch.add_argument("--json", action="store_true", help="print one JSON array at the end instead")
    watch.set_defaults(run=_watch)


def _add_status(commands: Any) -> None:
    status = commands.add_parser(
        "status",
        help="how far the trainings are: last step, loss and reward",
        description="For each recipe of the config, whether its training is done, at work, stopped or not "
        "begun, and the last step, loss and reward that are known of it.",
        epilog="example: watch -n 10 probeline status",
    )
    status.add_argument("recipe", nargs="*", metavar="RECIPE", help="these alone (default: all)")
    status.add_argument("--json", action="store_true", help="print one JSON array instead")
    add_configfile(status)
    status.set_defaults(run=_status)


def _add_rewards(commands: Any) -> None:
    rewards = commands.add_parser(
        "rewards",
        help="what judges have answered so far",
        description="Count the remembered answers of judges by judge, model and template, with mean and "
        "standard deviation of the scores; list those of one judge; show one with all that was asked.",
        epilog=REWARDS_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rewards.add_argument("key", nargs="?", metavar="KEY", help="the key of one answer, or its beginning")
    rewards.add_argument("--judge", metavar="NAME", help="a judge of the config: list its answers")
    rewards.add_argument("--json", action="store_true", help="print JSON instead")
    add_configfile(rewards)
    rewards.set_defaults(run=_rewards)


def _add_probe(parser: argparse.ArgumentParser) -> None:
    """What `score` and `watch` have in common."""
    parser.add_argument(
        "--probe", required=True, metavar="NAME", help="the name of a probe in results/probes, or its folder"
    )
    parser.add_argument("--system", default="", metavar="TEXT", help="the system message")
    parser.add_argument(
        "--model", type=Path, metavar="FOLDER", help="the folder of its model (default: data/models/<name>)"
    )
    parser.add_argument(
        "--adapter",
        type=Path,
        metavar="FOLDER",
        help="the adapter on the model, if the probe was trained with one",
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="processor threads (default 1)")


def _check(options: argparse.Namespace) -> None:
    from probeline.config import is_simulated, load_config
    from probeline.datasets.check import data_check, format_check
    from probeline.logs.formats import GAME_FORMATS

    _require_range("--cores", options.cores, 1)
    config = load_config(options.configfile)
    corpora = [name for name, corpus in config["corpora"].items() if corpus["format"] in GAME_FORMATS]
    targets = [f"data/processed/{corpus}/quality.json" for corpus in corpora]
    command = [sys.executable, "-m", "snakemake", "--quiet", "progress", "rules", "host"]
    command += ["--cores", str(options.cores)]
    if options.configfile:
        command += ["--configfile", *map(str, options.configfile)]
    run = subprocess.run([*command, "--", *targets], stdout=sys.stderr)
    if run.returncode:
        raise ProbelineError("the logs could not be read; what is wrong stands above.")
    reports = {}
    for corpus in corpora:
        concepts = {name: c for name, c in config["probes"].items() if c["corpus"] == corpus}
        reports[corpus] = data_check(
            Path("data/processed") / corpus,
            concepts,
            config["splits"],
            config["seed"],
            config["evaluation"]["min_samples"],
        )
    if options.json:
        print(json.dumps(reports, indent=2, sort_keys=True))
        return
    for corpus, report in reports.items():
        print(format_check(report, is_simulated(corpus, config["corpora"][corpus])))


def _require_range(option: str, value: int | None, least: int, most: int | None = None) -> None:
    """Refuse a number that an option does not take; None is an option left out."""
    if value is None or (value >= least and (most is None or value <= most)):
        return
    raise ProbelineError(
        f"{option} is {value}; give "
        + (f"at least {least}." if most is None else f"a whole number from {least} to {most}.")
    )


def _status(options: argparse.Namespace) -> None:
    from probeline.adapters.recipes import recipe_points
    from probeline.adapters.status import ADAPTERS, status_lines, status_rows, training_status
    from probeline.config import load_config
    from probeline.lineage.begun import begun
    from probeline.lineage.lock import run_is_going_on

    known = recipe_points(load_config(options.configfile)["recipes"])
    unknown = [name for name in options.recipe if name not in known]
    if unknown:
        raise ProbelineError(f"There is no recipe {unknown[0]}. {near_misses(unknown[0], known)}")
    # A job that has begun and not ended is at work only as long as the run is.
    records = set(begun()) if run_is_going_on() else set()
    at_work = [name for name in known if f"{ADAPTERS / name}.lineage.json" in records]
    found = training_status(options.recipe or known, at_work)
    print(json.dumps(status_rows(found)) if options.json else "\n".join(status_lines(found)))


def _rewards(options: argparse.Namespace) -> None:
    from probeline.judges.cache import CACHE
    from probeline.judges.listing import (
        entries,
        entry,
        format_entries,
        format_entry,
        format_summary,
        judge_settings,
        summary,
    )

    if options.key and options.judge:
        raise ProbelineError("give a KEY or --judge NAME, one of them.")
    if options.key:
        found = entry(CACHE, options.key)
        print(json.dumps(found, indent=2) if options.json else format_entry(found))
        return
    judge = None
    if options.judge:
        from probeline.config import load_config

        judge = judge_settings(options.judge, load_config(options.configfile)["judges"])
    counted, listed = summary(CACHE, judge), entries(CACHE, judge) if judge else []
    if options.json:
        print(json.dumps({"judges": counted, "answers": listed} if judge else {"judges": counted}, indent=2))
        return
    print("\n".join(filter(None, [format_summary(counted), format_entries(listed)])))


@contextmanager
def _no_collection() -> Iterator[None]:
    """No search for cyclic garbage while a model and all that it needs is loaded, nor in it later.

    There are millions of objects and next to no garbage: searching took a third of a first score's time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _simulate(options: argparse.Namespace) -> None:
    from probeline.logs.simulate import simulate_logs

    _require_range("--games", options.games, 1)
    _require_range("--seed", options.seed, -(2**63), 2**63 - 1)
    if options.output.exists():
        raise ProbelineError(f"{options.output} exists; name a folder that does not.")
    simulate_logs(options.format, options.seed, range(options.games), options.output)
    print(f"{options.games} simulated {SIMULATED[options.format]} in {options.output}")


def _score(options: argparse.Namespace) -> None:
    from probeline.probes.score import Probe
    from probeline.probes.show import as_json, in_colour, make_console, probe_facts, show, write_page

    _require_range("--batch-size", options.batch_size, 1)
    texts, directory = _texts(options), _probe_folder(options)
    console = make_console()
    with _no_collection():
        probe = Probe.load(directory, options.model, options.threads, options.adapter)
    tokens = bool(options.tokens or options.html or options.json or in_colour(console))
    scores = probe.score_batch(texts, options.system, tokens, options.batch_size)
    threshold, facts = probe.detector.threshold, probe_facts(directory.name, probe.facts)
    if options.html:
        from probeline.probes.page import page

        verdict = probe.facts.get("headline", {}).get("verdict", "")
        write_page(options.html, page(texts, scores, threshold, facts, options.system, verdict))
    if options.json:
        print(as_json(texts, scores, threshold, facts))
    else:
        show(console, texts, scores, threshold, options.tokens)
        # Not among the scores, which may go to a program.
        print(f"Label 1 begins at a score of {threshold:+.3f}, the probe's threshold.", file=sys.stderr)


def _texts(options: argparse.Namespace) -> list[str]:
    """The texts of the command line, or of the file that it names."""
    from probeline.probes.texts import STANDARD_INPUT, read_texts

    if bool(options.text) == bool(options.file):
        raise ProbelineError("give the texts, or --file FILE, or - for standard input: one of them.")
    file = STANDARD_INPUT if options.text == [STANDARD_INPUT] else options.file
    if file:
        return read_texts(file)
    for number, text in enumerate(options.text, 1):
        if not text.strip():
            raise ProbelineError(
                f"text {number} of {len(options.text)} is empty: give words to score, in quotes."
            )
    return list(options.text)


def _watch(options: argparse.Namespace) -> None:
    from probeline.probes.show import Stream, as_json, make_console, probe_facts
    from probeline.probes.watch import SEEDS, LiveProbe

    if not options.prompt.strip():
        raise ProbelineError(
            'PROMPT is empty: give what the user says to the model, for example "What do you say?".'
        )
    _require_range("--seed", options.seed, 0, SEEDS - 1)
    _require_range("--max-new-tokens", options.max_new_tokens, 1)
    directory = _probe_folder(options)
    with _no_collection():
        live = LiveProbe.load(directory, options.model, options.threads, options.adapter)
    stream = None if options.json else Stream(make_console(), live.detector.threshold)
    score = live.watch(
        options.prompt,
        options.system,
        options.max_new_tokens,
        options.seed,
        None if stream is None else lambda token: stream.add(token.text, token.score),
    )
    if stream is None:
        text, facts = "".join(score.tokens or ()), probe_facts(directory.name, live.facts)
        print(as_json([text], [score], live.detector.threshold, facts))
    else:
        stream.end(score)


def _probe_folder(options: argparse.Namespace) -> Path:
    """The folder of the probe that an option names; other options are looked at first, as that is quick."""
    _require_range("--threads", options.threads, 1, MOST_THREADS)
    folder = Path(options.probe)
    return folder if (folder / "manifest.json").exists() else _probe(options.probe)


def _probe(name: str) -> Path:
    """The folder of a probe, from its name or its path."""
    from probeline.config import load_config, parse_probe_name
    from probeline.files import MANIFEST

    source = Path("results/probes") / Path(name).name
    if (source / MANIFEST).exists():
        return source
    parse_probe_name(source.name, load_config())
    raise _not_here(source)


def _not_here(source: Path) -> ProbelineError:
    """What to say where a probe or adapter could be and is not."""
    from probeline.files import MANIFEST

    there = sorted(manifest.parent.name for manifest in source.parent.glob(f"*/{MANIFEST}"))
    if Path(f"{source}.dvc").exists():
        return ProbelineError(
            f"{source} is versioned, but not here. Take it from the remote: dvc pull {source}"
        )
    return ProbelineError(
        f"{source} has not been made. Make it with: snakemake --cores 4 {source} "
        f"(there are: {', '.join(there) or 'none yet'})"
    )


def _probe_or_adapter(name: str) -> Path:
    """The folder of a probe or adapter, from its name or its path."""
    from probeline.adapters.recipes import recipe_points
    from probeline.config import load_config
    from probeline.files import MANIFEST
    from probeline.lineage.catalogue import FOLDERS

    given, adapters = Path(name), FOLDERS["adapter"]
    folders = [folder for folder in FOLDERS.values() if folder == given.parent] or [*FOLDERS.values()]
    there = [folder / given.name for folder in folders if (folder / given.name / MANIFEST).exists()]
    if len(there) > 1:
        raise ProbelineError(f"{name} is the name of {' and '.join(map(str, there))}. Give the path of one.")
    if there:
        return there[0]
    recipes = recipe_points(load_config()["recipes"])
    if adapters in folders and (given.name in recipes or Path(f"{adapters / given.name}.dvc").exists()):
        raise _not_here(adapters / given.name)
    if adapters != given.parent and NAME_OF_A_PROBE.fullmatch(given.name):
        return _probe(name)
    made = {manifest.parent.name for folder in folders for manifest in folder.glob(f"*/{MANIFEST}")}
    known = made | set(recipes if adapters in folders else ())
    raise ProbelineError(
        f"There is no probe or adapter {name}. {near_misses(given.name, known)} "
        "Probes are called <concept>_<method>_l<layer>, adapters as their recipes."
    )


def _get(options: argparse.Namespace) -> None:
    from probeline.digests import sha256_file
    from probeline.files import MANIFEST, atomic_directory, read_json

    if options.output.exists():
        raise ProbelineError(f"{options.output} exists; name a folder that does not.")
    if options.rev is not None:
        from probeline.lineage.catalogue import get_version

        made = get_version(options.name, options.rev, options.output)
        print(f"{made.name} of {options.rev} ({made.date}) copied to {options.output}")
        return
    from probeline.lineage.matching import require_as_recorded

    source = _probe_or_adapter(options.name)
    require_as_recorded(source)
    with atomic_directory(options.output) as draft:
        shutil.copyfile(source / MANIFEST, draft / MANIFEST)
        for name, facts in read_json(draft / MANIFEST)["files"].items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, draft / name)
            if sha256_file(draft / name) != facts["sha256"]:
                raise ProbelineError(
                    f"{source / name} is not what its manifest says: it was changed after it was made. "
                    f"Delete {source} and run snakemake --cores 4 {source}"
                )
    print(f"{source} copied to {options.output}")


def _import_detector(options: argparse.Namespace) -> None:
    from probeline.files import MANIFEST, read_json
    from probeline.probes.importing import import_detector

    detector = import_detector(options.file, options.model, options.output)
    layers = ", ".join(map(str, detector.layers))
    print(
        f"{options.output}: {detector.method} on layers {layers} of {options.model}, width "
        f"{detector.hidden_size}"
    )
    if read_json(options.output / MANIFEST)["weights_sha256"] is None:
        print(
            f"data/models/{options.model} is not there, so the width was not compared with the model's, and "
            "the probe goes with any model of that width."
        )


if __name__ == "__main__":
    sys.exit(main())
