"""`probeline remote …`: what lies on Modal, what runs there, and the way there and back."""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probeline.compute.remote import doctor
from probeline.text import plain_text

if TYPE_CHECKING:
    from probeline.compute.remote.copies import Copy
    from probeline.compute.remote.store import Store

EXAMPLES = """\
examples:
  probeline remote doctor                             is everything there that a run on Modal needs?
  snakemake --cores 4 --profile profiles/modal        the run itself
  probeline remote list                               probes and adapters on Modal, with their figures
  probeline remote download trust_lr_l22              bring one here

docs/remote.md says more.
"""
DEPLOY_EXAMPLES = """\
example: probeline remote deploy

A run does the same before its first job. An app that is deployed already is complete: its name is a digest of
the code and of constraints.txt.
"""
STATUS_EXAMPLES = """\
examples:
  probeline remote status
  probeline remote status --json
"""
LIST_EXAMPLES = """\
examples:
  probeline remote list                 probes and adapters
  probeline remote list --all           activations, sweeps, models … as well
  probeline remote list --json          with the digest of every file
"""
DOWNLOAD_EXAMPLES = """\
examples:
  probeline remote download trust_lr_l22                            to results/probes/trust_lr_l22, as it was
  probeline remote download results/sweeps/trust                    by its path, where a name is not enough
  probeline remote download trust_lr_l22 --output /data/trust       to a folder that does not exist yet
"""
UPLOAD_EXAMPLES = """\
examples:
  probeline remote upload results/probes/trust_lr_l22
  probeline remote upload results/activations/trust/*               so that runs on Modal need not send them
"""
STOP_EXAMPLES = """\
examples:
  probeline remote stop                 cancel what runs, keep nothing warm
  probeline remote stop --app           and take down the deployed apps; the next run deploys again
"""
TEXTS = ("text_masked", "text_input")


def add_remote_commands(commands: Any) -> None:
    """Declare `probeline remote` and `probeline doctor`.

    Args:
        commands: the subparsers of the command line.
    """
    doctor.add_command(commands, for_modal=False)
    remote = commands.add_parser(
        "remote",
        help="what lies and runs on Modal: deploy, status, list, download, upload, stop",
        description="Runs with compute: modal keep what they make on a volume of Modal, and bring it here.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = remote.add_subparsers(dest="remote", required=True, metavar="COMMAND")
    _add(parts, "deploy", _deploy, "make the volumes and deploy the app", DEPLOY_EXAMPLES)
    _add(
        parts,
        "status",
        _status,
        "what is deployed, what runs, what is kept and how large it is",
        STATUS_EXAMPLES,
    )
    listing = _add(
        parts, "list", _list, "the probes and adapters on Modal, with date, figures and size", LIST_EXAMPLES
    )
    listing.add_argument("--all", action="store_true", help="artifacts of all kinds")
    download = _add(parts, "download", _download, "bring an artifact here, verified", DOWNLOAD_EXAMPLES)
    download.add_argument("name", metavar="NAME", help="its name or its path, as `remote list` has them")
    download.add_argument(
        "--output", type=Path, metavar="PATH", help="the folder to make (default: its path in the project)"
    )
    upload = _add(parts, "upload", _upload, "send artifacts that were made here", UPLOAD_EXAMPLES)
    upload.add_argument("path", nargs="+", type=Path, metavar="PATH", help="a folder with a manifest.json")
    stop = _add(parts, "stop", _stop, "end what runs there, and what is kept warm", STOP_EXAMPLES)
    stop.add_argument("--app", action="store_true", help="stop the deployed apps of Probeline, too")
    doctor.add_command(parts, for_modal=True)


def _add(
    parts: Any, name: str, run: Callable[[argparse.Namespace], int | None], what: str, examples: str
) -> argparse.ArgumentParser:
    parser = parts.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON value instead")
    parser.set_defaults(run=run)
    return parser


@contextmanager
def _connected() -> Iterator[None]:
    """Where there is a token and an answer; faults of the service come as words."""
    from probeline.compute.remote.connection import in_words, require_connection
    from probeline.lineage.commands import require_project

    require_project()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("modal", "hpack", "httpx", "synchronicity"):
        logging.getLogger(name).setLevel(logging.WARNING)
    require_connection(answer=True)
    with in_words():
        yield


@contextmanager
def _volumes() -> "Iterator[Store]":
    """Both volumes, as `_connected`."""
    from probeline.compute.remote.store import Store

    with _connected():
        yield Store()


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, sort_keys=True))


def _deploy(options: argparse.Namespace) -> None:
    from probeline.compute.remote.deploy import app_name, deploy, find_or_deploy, is_deployed
    from probeline.compute.remote.layout import DATA_VOLUME, WEIGHTS_VOLUME
    from probeline.compute.remote.standing import volumes_there

    with _connected():
        name = app_name()
        before = is_deployed(name)
        if before and not volumes_there():
            # Its containers see the volumes that were deleted: they are told of new ones.
            before = False
            deploy(name)
        find_or_deploy()
    if options.json:
        _print_json({"app": name, "deployed_now": not before, "volumes": [DATA_VOLUME, WEIGHTS_VOLUME]})
        return
    print(f"{name} " + ("was deployed already" if before else "is deployed") + ". It holds:")
    print("  Model     containers that hold a model, for activations")
    print("  Task      containers without one, for probes and sweeps")
    print("  Weights   fetches models from the hub")
    print(f"Volumes: {DATA_VOLUME}, {WEIGHTS_VOLUME}.")
    print("Nothing runs, and nothing is paid for, until a run calls it.")


def _status(options: argparse.Namespace) -> None:
    from probeline.compute.remote.standing import survey

    with _connected():
        found = survey()
    if options.json:
        _print_json(found)
        return
    rows = [
        ("server", found["server"]),
        (
            "workspace",
            f"{found['workspace'] or 'not told'}, environment {found['environment'] or 'not told'}",
        ),
        ("app", _of_app(found)),
        *(("containers", _of_pool(pool)) for pool in found["pools"] or [None]),
        *(("call", _of_call(call)) for call in found["calls"] or [None]),
        *(("volume", _of_volume(name, facts)) for name, facts in found["volumes"].items()),
        ("kept", f"{found['kept']['runs']:,} runs, {found['kept']['artifacts']:,} artifacts"),
    ]
    for title, text in rows:
        print(plain_text(f"{title:<11} {text}"))


def _of_app(found: Mapping[str, Any]) -> str:
    app, older = found["app"], found["older_apps"]
    text = f"{app['name']}, " + ("deployed" if app["deployed"] else "not deployed: `probeline remote deploy`")
    return f"{text}; {len(older)} of other versions: `probeline remote stop --app`" if older else text


def _of_pool(pool: Mapping[str, Any] | None) -> str:
    if pool is None:
        return "none is kept warm by this project"
    what = f"{pool['cls']}, {pool['gpu'] or 'no GPU'}: "
    if pool["containers"] is None:
        return f"{what}not told"
    return f"{what}{pool['containers']} warm, {pool['running']} jobs running, {pool['waiting']} waiting"


def _of_call(call: Mapping[str, Any] | None) -> str:
    return "none" if call is None else f"{call['artifact']}: {call['state']} ({call['call']})"


def _of_volume(name: str, facts: Mapping[str, Any] | None) -> str:
    if facts is None:
        return f"{name} is missing: `probeline remote deploy` makes it"
    return f"{name}: {facts['files']:,} files, {size_text(facts['bytes'])}"


def size_text(size: int) -> str:
    """A number of bytes for a person."""
    if size < 1000:
        return f"{size} B"
    return next(f"{size / unit:.1f} {name}" for unit, name in UNITS if size >= unit)


UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def _list(options: argparse.Namespace) -> int:
    from rich.table import Table
    from rich.text import Text

    from probeline.compute.remote.copies import LISTED, copy_names, list_copies
    from probeline.probes.show import make_console

    with _volumes() as store:
        names = copy_names(store)
        listed = names if options.all else [name for name in names if name.startswith(LISTED)]
        copies, faults = list_copies(store, listed)
    for fault in faults:
        print(plain_text(fault), file=sys.stderr)
    if options.json:
        _print_json([_as_json(copy) for copy in copies])
        return int(bool(faults))
    if copies:
        shown = [copy.name if options.all else Path(copy.name).name for copy in copies]
        table = Table(box=None, pad_edge=False)
        for column in ("name", "made (UTC)", "AUROC, test games", "better text", "size"):
            # A name is never cut: it is what `download` takes.
            width = max(map(len, shown)) if column == "name" else None
            table.add_column(
                column, no_wrap=True, justify="right" if column == "size" else "left", min_width=width
            )
        for name, copy in zip(shown, copies, strict=True):
            cells = [name, _date(copy.made), *_figures(copy.headline), size_text(copy.size)]
            table.add_row(*(Text(plain_text(cell)) for cell in cells))
        make_console(highlight=False).print(table)
    elif not faults:
        print("No " + ("artifact" if options.all else "probe or adapter") + " is on Modal yet.")
    if others := len(names) - len(listed):
        print(f"{others:,} of other kinds: --all")
    return int(bool(faults))


def _as_json(copy: "Copy") -> dict[str, Any]:
    return {
        "name": copy.name,
        "kind": copy.kind,
        "made": datetime.fromtimestamp(copy.made, UTC).isoformat(),
        "headline": copy.headline,
        "bytes": copy.size,
        "files": {name: file["sha256"] for name, file in copy.files.items()},
        "record": copy.record.get("sha256"),
    }


def _date(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def _figures(headline: Mapping[str, Any]) -> tuple[str, str]:
    """AUROC with its interval, and the better AUROC of a text, where an artifact has them."""
    try:
        auroc = headline["auroc"]
        text = f"{auroc['value']:.3f}"
        if auroc["low"] is not None:
            text += f" ({auroc['low']:.3f} to {auroc['high']:.3f})"
        texts = [headline[name]["value"] for name in TEXTS if headline.get(name)]
        return text, f"{max(texts):.3f}" if texts else ""
    except (KeyError, TypeError, ValueError):
        return "", ""


def _download(options: argparse.Namespace) -> None:
    from probeline.compute.remote.copies import download, find_copy

    with _volumes() as store:
        copy = find_copy(store, options.name)
        output = options.output or Path(copy.name)
        fetched, said = download(store, copy, output)
    if options.json:
        _print_json(_as_json(copy) | {"output": output.as_posix(), "fetched": fetched})
        return
    files = f"{len(copy.files)} files, {size_text(copy.size)}, digests equal"
    print(
        plain_text(
            f"{copy.name}: {files}, " + (f"fetched to {output}" if fetched else f"was in {output} already")
        )
    )
    if said:
        print(plain_text(said))


def _upload(options: argparse.Namespace) -> None:
    from probeline.compute.remote.copies import own_name, upload
    from probeline.lineage.records import SUFFIX

    sent = {}
    with _volumes() as store:
        # A pattern such as results/activations/trust/* names the records beside the artifacts, too.
        wanted = [path for path in options.path if not path.name.endswith(SUFFIX)]
        for path in [own_name(path) for path in wanted]:  # all are looked at before one is sent
            before = store.sent
            copy = upload(store, Path(path))
            sent[copy.name] = {"bytes": copy.size, "sent": store.sent - before}
            if not options.json:
                print(plain_text(f"{copy.name}: {size_text(copy.size)}, {store.sent - before:,} bytes sent"))
    if options.json:
        _print_json(sent)


def _stop(options: argparse.Namespace) -> None:
    from probeline.compute.remote.standing import stop

    with _connected():
        done = stop(options.app)
    if options.json:
        _print_json(done)
        return
    for artifact, what in done["calls"].items():
        print(plain_text(f"call for {artifact}: {what}"))
    if done["pools"]:
        print(f"{done['pools']} pools of containers are kept warm no longer")
    for app in done["apps"]:
        print(f"{app} is stopped")
    if not any(done.values()):
        print("Nothing of this project ran on Modal, and nothing was kept warm.")
    print("What was made is kept on the volumes.")
