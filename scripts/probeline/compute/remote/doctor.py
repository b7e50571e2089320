"""`probeline doctor`: is all here that a run needs, and what to do about what is not."""

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from probeline.compute.remote.connection import within
from probeline.compute.remote.secrets import HUB, Secret, made_by, secret_of_judge
from probeline.errors import ProbelineError
from probeline.logs.formats import FILE_FORMATS
from probeline.text import plain_text

OK, MISSING, WRONG, NOT_NEEDED, UNKNOWN = "ok", "missing", "wrong", "not needed", "unknown"
FAULTS = (MISSING, WRONG)
"""States with which a run would fail."""
PYTHON = (3, 11)
LEAST_DISK = 5e9
SECONDS_TO_ASK = 5
"""For all questions to Modal, or to DVC's remote, together."""
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
SECRETS = (HUB, Secret("gemini-secret", "GEMINI_API_KEY"), Secret("wandb-secret", "WANDB_API_KEY"))
PRIVATE = ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET", *(secret.variable for secret in SECRETS))
"""Variables whose values are never printed."""
NETWORK = "Look at the network, and at MODAL_SERVER_URL if it is set."
DEPLOY = "`probeline remote deploy` makes it, and so does the first run there."
EXAMPLES = """\
examples:
  probeline doctor                              for the config as it is
  probeline doctor --configfile mine.yaml       with your own settings on top
  probeline remote doctor                       as for compute: modal, whatever the config says

Exit status 1: something is missing or wrong that a run needs.
"""


@dataclass(frozen=True)
class Finding:
    """What was looked at.

    Attributes:
        name: of it.
        state: `ok`, `missing`, `wrong`, `not needed` or `unknown`.
        says: what there is.
        remedy: what to do about it; empty where there is nothing to do.
    """

    name: str
    state: str
    says: str
    remedy: str = ""


def add_command(commands: Any, for_modal: bool) -> None:
    """Declare the command.

    Args:
        commands: the subparsers of the command line, or of `probeline remote`.
        for_modal: whether it looks at what runs on Modal need, whatever the config says.
    """
    parser = commands.add_parser(
        "doctor",
        help="is everything here that a run needs, and what to do if not",
        description="Look at Python, packages, disk, processor, GPU, git and DVC, and at the token, server, "
        "secrets, volumes and app of Modal. No value of a secret is asked for or shown.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--configfile",
        nargs="+",
        action="extend",
        type=Path,
        default=[],
        metavar="FILE",
        help="laid over config/config.yaml",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON array instead")
    parser.set_defaults(run=_doctor, for_modal=for_modal)


def _doctor(options: argparse.Namespace) -> int:
    findings = [
        replace(finding, says=discreet(finding.says), remedy=discreet(finding.remedy))
        for finding in examine(options.configfile, options.for_modal)
    ]
    faults = [finding.name for finding in findings if finding.state in FAULTS]
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
        return int(bool(faults))
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        says = " ".join(finding.says.split())
        print(plain_text(f"{finding.state:<11} {finding.name:<{width}}  {says}"))
        if finding.remedy:
            print(plain_text(f"{'':<11} {'':<{width}}  -> {finding.remedy}"))
    print(f"To be mended: {', '.join(faults)}." if faults else "Everything that a run needs is here.")
    return int(bool(faults))


def examine(configfiles: Sequence[Path] = (), for_modal: bool = False) -> list[Finding]:
    """Look at all that a run needs.

    Args:
        configfiles: laid over config/config.yaml.
        for_modal: as for compute: modal, whatever the config says.
    """
    from probeline.config import load_config

    config: Mapping[str, Any] = {}
    try:
        config = load_config(configfiles)
        needed = for_modal or config["compute"] == "modal"
        of_config = Finding("config", OK, f"compute: {'modal' if needed else 'local'}")
    except ProbelineError as error:
        needed = for_modal
        of_config = Finding("config", WRONG, str(error))
    return [
        _python(),
        _packages(),
        of_config,
        *_corpora(config),
        _disk(),
        _processor(),
        _gpu(needed),
        _git(),
        _dvc(),
        _chromium(),
        *_modal(config, needed),
    ]


def discreet(text: str) -> str:
    """A text without the path of the home folder, and without tokens and secrets, wherever it came from."""
    private = [os.environ.get(name, "") for name in PRIVATE]
    modal_config = sys.modules.get("modal.config")
    if modal_config is not None:
        private += [modal_config.config[key] or "" for key in ("token_id", "token_secret")]
    for value in private:
        if value:
            text = text.replace(value, "…")
    home = str(Path.home())
    return re.sub(rf"{re.escape(home)}(?=/|\W|$)", "~", text) if len(home) > 1 else text


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= PYTHON:
        return Finding(
            "Python",
            OK,
            f"{version}; containers on Modal take {'.'.join(map(str, sys.version_info[:2]))}, too",
        )
    return Finding("Python", WRONG, version, f"Install Python {'.'.join(map(str, PYTHON))} or later.")


def _packages() -> Finding:
    """Are the packages here those of constraints.txt?"""
    from packaging.version import Version

    from probeline.compute.remote.deploy import LOCK_FILE

    remedy = "In the folder of the Snakefile: pip install -e . -c constraints.txt"
    if not LOCK_FILE.is_file():
        return Finding("packages", UNKNOWN, f"{LOCK_FILE.name} is not beside scripts/", "Work in a checkout.")
    here, lacking = _installed()
    if lacking:
        return Finding("packages", MISSING, ", ".join(lacking), remedy)
    locked = {name: version for name, version in _locked(LOCK_FILE).items() if name in here}
    # 2.13.0+cpu is 2.13.0 for a machine without a GPU.
    differing = [name for name in sorted(locked) if Version(here[name]).public != locked[name]]
    if differing:
        shown = ", ".join(f"{name} {here[name]} (locked: {locked[name]})" for name in differing[:3])
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        return Finding("packages", WRONG, f"of other versions: {shown}{more}", remedy)
    return Finding("packages", OK, f"all {len(here)} that Probeline needs, as in {LOCK_FILE.name}")


def _locked(lock: Path) -> dict[str, str]:
    """Name → version of what a lock file names."""
    from packaging.utils import canonicalize_name

    lines = [re.split("[#;]", line)[0].strip() for line in lock.read_text().splitlines()]
    pairs = (line.partition("==") for line in lines)
    return {str(canonicalize_name(name)): version for name, _, version in pairs if version}


def _installed() -> tuple[dict[str, str], list[str]]:
    """Name → version of what Probeline needs, directly or not; and what of it is not here."""
    import importlib.metadata
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    from probeline.compute.remote.deploy import SCRIPTS

    project = tomllib.loads((SCRIPTS.parent / "pyproject.toml").read_text())["project"]
    waiting = [Requirement(text) for text in project["dependencies"]]
    here: dict[str, str] = {}
    lacking: set[str] = set()
    while waiting:
        wanted = waiting.pop()
        name = str(canonicalize_name(wanted.name))
        if name in here or name in lacking or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            lacking.add(name)
            continue
        here[name] = found.version
        waiting += map(Requirement, found.requires or [])
    return here, sorted(lacking)


def _corpora(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Are the logs there? What is simulated needs none."""
    from probeline.config import is_simulated
    from probeline.logs.listing import list_files, list_games

    for name, corpus in config.get("corpora", {}).items():
        if is_simulated(name, corpus):
            continue
        root = Path(corpus["root"]).expanduser()
        try:
            if corpus["format"] in FILE_FORMATS:
                says = f"{len(list_files(root, name, corpus['format']))} files"
            else:
                says = f"{len(list_games(root, name))} games"
        except ProbelineError as error:
            yield Finding(f"corpus {name}", MISSING, str(error))
        else:
            yield Finding(f"corpus {name}", OK, f"{says} in {root}")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    says = f"{free / 1e9:.1f} GB free here"
    if free >= LEAST_DISK:
        return Finding("disk", OK, says)
    return Finding("disk", MISSING, says, "Free some space: a model and its activations take gigabytes.")


def _processor() -> Finding:
    import psutil

    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = psutil.cpu_count(logical=False)
    memory = psutil.virtual_memory().total / 2**30
    text = f"{threads} threads for this process, {cores or 'unknown'} cores, {memory:.0f} GiB of memory"
    return Finding("processor", OK, f"{text}: snakemake --cores {threads}")


def _gpu(on_modal: bool) -> Finding:
    from probeline.activations.machine import device_name, may_have_cuda

    if not may_have_cuda():
        where = "GPU work goes to Modal" if on_modal else "everything runs on the processor"
        return Finding("GPU", NOT_NEEDED, f"none; {where}")
    name = device_name()
    if name == "cpu":
        return Finding(
            "GPU", NOT_NEEDED, "there is a driver, but torch finds no device", "nvidia-smi says more."
        )
    return Finding("GPU", OK, name)


def _git() -> Finding:
    from probeline.lineage.git import git

    remedy = "Only versions need it (docs/versions.md)."
    if shutil.which("git") is None:
        return Finding("git", NOT_NEEDED, "not installed", remedy)
    version = (git("--version") or "").split()[-1:]
    if git("rev-parse", "--git-dir") is None:
        return Finding("git", NOT_NEEDED, f"{' '.join(version)}; this folder is no repository", remedy)
    return Finding("git", OK, " ".join(version))


def _dvc() -> Finding:
    from probeline.lineage import dvc_repository

    if dvc_repository.repository_root() is None:
        return Finding("DVC remote", NOT_NEEDED, "no DVC repository", "`probeline track` makes one.")
    remedy = "Look at `dvc remote list`, and at the network; `probeline track --push` needs it."
    answer = within(SECONDS_TO_ASK, dvc_repository.default_remote)
    if answer is None:
        return Finding("DVC remote", MISSING, f"no answer within {SECONDS_TO_ASK} s", remedy)
    if isinstance(answer, Exception):
        # Its text may hold an address with a password.
        return Finding("DVC remote", MISSING, f"cannot be reached ({type(answer).__name__})", remedy)
    return Finding("DVC remote", OK, str(answer))


def _chromium() -> Finding:
    found = next((name for name in CHROMIUM if shutil.which(name)), None)
    if found is None:
        return Finding("chromium", NOT_NEEDED, "not installed; only the tests of pages use it")
    return Finding("chromium", OK, found)


def _modal(config: Mapping[str, Any], needed: bool) -> Iterator[Finding]:
    """What runs on Modal need; with `compute: local`, nothing of it."""
    for finding in _of_modal(_secrets_needed(config) if needed else set()):
        if needed or finding.state == OK:
            yield finding
        else:
            yield Finding(finding.name, NOT_NEEDED, f"{finding.says} (compute: local)", finding.remedy)


def _secrets_needed(config: Mapping[str, Any]) -> set[Secret]:
    """Secrets that work of this config on Modal asks for."""
    from probeline.adapters.recipes import model_of, recipe_points
    from probeline.compute.remote.settings import EVALUATING
    from probeline.compute.remote.weights import is_fetched_there
    from probeline.config import base_model

    if not config:
        return set()
    rules, asking = set(config["modal"]["rules"]), config["evaluation"]["adapters"]
    points = recipe_points(config["recipes"])
    there = [name for name in points if rules & {*EVALUATING, f"train_{points[name]['method']}"}]
    judges = [points[name].get("judge") for name in there]
    if rules & set(EVALUATING):
        judges += [asking["judge"], asking["match_judge"]]
    needed = {secret_of_judge(config["judges"].get(judge)) for judge in judges}
    models = {base_model(config), *(model_of(name, points) for name in there)}
    if any(is_fetched_there(config["models"].get(model, {})) for model in models):
        needed.add(HUB)
    return {secret for secret in needed if secret is not None}


def _of_modal(secrets: set[Secret]) -> Iterator[Finding]:
    from modal.config import config

    from probeline.compute.remote.connection import BAD_TOKEN, NO_TOKEN, require_connection

    if not config["token_id"] or not config["token_secret"]:
        yield Finding("Modal token", MISSING, "none", NO_TOKEN)
        return
    url = config["server_url"]
    try:
        require_connection()
        answer = within(SECONDS_TO_ASK, lambda: _ask(secrets))
        unreached = "" if answer is not None else f"{NETWORK} It was waited for {SECONDS_TO_ASK} s."
    except ProbelineError as error:
        answer, unreached = None, str(error)
    if unreached:
        yield Finding("Modal token", UNKNOWN, "there is one; nobody could be asked whether it is good")
        yield Finding("Modal server", MISSING, f"no answer at {url}", unreached)
    elif isinstance(answer, TokenRefusedError):
        yield Finding("Modal token", WRONG, "refused", BAD_TOKEN)
        yield Finding("Modal server", OK, url)
    elif isinstance(answer, Exception):
        yield Finding("Modal token", UNKNOWN, "there is one")
        yield Finding("Modal server", WRONG, f"{url}: {type(answer).__name__}: {answer}", NETWORK)
    else:
        yield Finding("Modal token", OK, "accepted")
        yield Finding("Modal server", OK, url)
        yield from answer or ()


class TokenRefusedError(Exception):
    """Modal refuses the token."""


def _ask(secrets_needed: set[Secret]) -> list[Finding]:
    """Whether secrets, volumes and the app are there. No value of a secret can be asked for."""
    import modal
    from probeline.compute.remote.deploy import app_name, is_deployed
    from probeline.compute.remote.layout import DATA_VOLUME, WEIGHTS_VOLUME
    from probeline.compute.remote.store import volume

    findings = []
    try:
        for secret in [*SECRETS, *sorted(secrets_needed.difference(SECRETS))]:
            lack = _lack_of_secret(secret)
            state = (MISSING if secret in secrets_needed else NOT_NEEDED) if lack else OK
            says = lack or f"with {secret.variable}"
            findings.append(Finding(f"secret {secret.name}", state, says, made_by(secret) if lack else ""))
        for name in (DATA_VOLUME, WEIGHTS_VOLUME):
            there = _is_there(partial(volume, name))
            findings.append(_made_by_deploy(f"volume {name}", there, "there", "not there"))
        app = app_name()
        findings.append(
            _made_by_deploy("app", is_deployed(app), f"{app} is deployed", f"{app} is not deployed")
        )
    except modal.exception.AuthError as error:
        raise TokenRefusedError from error
    return findings


def _made_by_deploy(name: str, there: bool, yes: str, no: str) -> Finding:
    # No fault of a new account: the first run makes it.
    return Finding(name, OK, yes) if there else Finding(name, NOT_NEEDED, no, DEPLOY)


def _lack_of_secret(secret: Secret) -> str:
    """What a secret lacks; nothing if it is there with its variable."""
    import modal

    if not _is_there(modal.Secret.from_name(secret.name).hydrate):
        return "not there"
    try:
        modal.Secret.from_name(secret.name, required_keys=[secret.variable]).hydrate()
    except (modal.exception.NotFoundError, modal.exception.InvalidError):
        return f"there, but without {secret.variable}"
    return ""


def _is_there(ask: Callable[[], Any]) -> bool:
    import modal

    try:
        ask()
    except modal.exception.NotFoundError:
        return False
    return True
