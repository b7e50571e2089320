"""The command line: what people do beside running the workflow itself."""

import argparse
import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from probeline.errors import ProbelineError

DEFAULT_CONFIG = Path("config/config.yaml")
EPILOG = """\
The work itself is done by Snakemake, in the folder of the Snakefile:

  snakemake --cores 4 results/probes/trust_lr_l22     raw logs to a tested probe
  snakemake --cores 4                                 everything that the config names
  snakemake --cores 4 --configfile mine.yaml          with your own settings on top
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0, or 1 with the fault in words on stderr."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except ProbelineError as error:
        print(f"probeline: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"probeline: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


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
    check.add_argument(
        "--configfile", nargs="+", type=Path, default=[], metavar="FILE", help="laid over config/config.yaml"
    )
    check.add_argument("--cores", type=int, default=2, help="cores for reading the logs (default 2)")
    check.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    check.set_defaults(run=_check)

    simulate = commands.add_parser(
        "simulate",
        help="write simulated Werewolf games to a folder",
        description="Write seeded games in the real format; game i depends on the seed and i alone.",
        epilog="example: probeline simulate --games 1000 --output data/raw/simulated-1000",
    )
    simulate.add_argument("--games", type=int, required=True, metavar="N")
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="a folder that does not exist yet"
    )
    simulate.set_defaults(run=_simulate)

    get = commands.add_parser(
        "get",
        help="copy an artifact to an exact path",
        description="Copy a probe, whole, to a path of your choice, and check the copy against its manifest.",
        epilog="example: probeline get trust_lr_l22 --output /data/probes/trust",
    )
    get.add_argument("name", metavar="NAME", help="the name of a probe in results/probes")
    get.add_argument(
        "--output", type=Path, required=True, metavar="PATH", help="a folder that does not exist yet"
    )
    get.set_defaults(run=_get)

    score = commands.add_parser(
        "score",
        help="score texts with a probe",
        description="Score texts as an assistant's answers to a neutral question: larger means label 1.",
        epilog='example: probeline score --probe trust_lr_l22 "I trust Player3."',
    )
    score.add_argument("--probe", required=True, metavar="NAME", help="the name of a probe in results/probes")
    score.add_argument("--system", default="", metavar="TEXT", help="the system message before each text")
    score.add_argument(
        "--adapter",
        type=Path,
        metavar="FOLDER",
        help="the adapter on the model, if the probe was trained with one",
    )
    score.add_argument("text", nargs="+", metavar="TEXT")
    score.set_defaults(run=_score)

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
    return parser


def _check(options: argparse.Namespace) -> None:

    from probeline.datasets.check import data_check, format_check

    config = _config([DEFAULT_CONFIG, *options.configfile])
    targets = [f"data/processed/{corpus}/quality.json" for corpus in config["corpora"]]
    command = [sys.executable, "-m", "snakemake", "--quiet", "progress", "rules", "host"]
    command += ["--cores", str(options.cores)]
    if options.configfile:
        command += ["--configfile", *map(str, options.configfile)]
    run = subprocess.run([*command, "--", *targets], stdout=sys.stderr)
    if run.returncode:
        raise ProbelineError("the logs could not be read; what is wrong stands above.")
    reports = {}
    for corpus in config["corpora"]:
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
    for report in reports.values():
        print(format_check(report))


def _config(files: Sequence[Path]) -> dict[str, Any]:
    """The settings in `files`, later ones laid over earlier ones, checked."""
    import yaml

    from probeline.config import SCHEMA, check_config

    config: dict[str, Any] = {}
    for file in files:
        if not file.exists():
            raise ProbelineError(f"{file} does not exist; run this in the folder of the Snakefile.")
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


def _simulate(options: argparse.Namespace) -> None:
    from probeline.logs.simulate_werewolf import simulate_games

    if options.games < 1:
        raise ProbelineError(f"--games is {options.games}; simulate at least one.")
    if options.output.exists():
        raise ProbelineError(f"{options.output} exists; name a folder that does not.")
    simulate_games(options.seed, range(options.games), options.output)
    print(f"{options.games} simulated games in {options.output}")


def _score(options: argparse.Namespace) -> None:
    from probeline.files import MANIFEST, read_json
    from probeline.probes.score import Probe

    directory = _probe(options.probe)
    model = Path("data/models") / read_json(directory / MANIFEST)["model"]
    probe = Probe.load(directory, model, adapter=options.adapter)
    for text, score in zip(options.text, probe.score_batch(options.text, options.system), strict=True):
        print(f"{score.score:+.3f}  probability {score.probability:.2f}  label {score.label}  {text}")


def _probe(name: str) -> Path:
    """The folder of a probe, from its name or its path."""
    from probeline.config import parse_probe_name
    from probeline.files import MANIFEST

    source = Path("results/probes") / Path(name).name
    if (source / MANIFEST).exists():
        return source
    parse_probe_name(source.name, _config([DEFAULT_CONFIG]))
    there = sorted(manifest.parent.name for manifest in source.parent.glob(f"*/{MANIFEST}"))
    raise ProbelineError(
        f"{source} has not been made. Make it with: snakemake --cores 4 {source} "
        f"(there are: {', '.join(there) or 'none yet'})"
    )


def _get(options: argparse.Namespace) -> None:
    from probeline.digests import sha256_file
    from probeline.files import MANIFEST, atomic_directory, read_json

    source = _probe(options.name)
    if options.output.exists():
        raise ProbelineError(f"{options.output} exists; name a folder that does not.")
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
