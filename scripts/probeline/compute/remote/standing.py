"""How things stand on Modal: what is deployed, warm, running and kept there; and how to end it."""

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import orjson

from probeline.compute.remote import calls, pools
from probeline.compute.remote.deploy import app_name, is_deployed
from probeline.compute.remote.layout import ARTIFACTS, DATA_VOLUME, DONE, RUNS, WEIGHTS_VOLUME
from probeline.compute.remote.store import volume

if TYPE_CHECKING:
    import modal

OUR_APPS = re.compile(r"probeline-[0-9a-f]{16}")
"""Names of apps as `app_name` makes them: no other app of the workspace is ever stopped."""


def survey() -> dict[str, Any]:
    """All that the service tells; None for what it does not.

    Returns:
        `server`, `workspace` and `environment`; `app`, with `name` and `deployed`; `older_apps`, names;
        `pools`, each with `cls`, `gpu`, `containers`, `running` and `waiting`; `calls`, each with `artifact`,
        `call` and `state`; `volumes`, each with `files` and `bytes`; `kept`, numbers of `runs` and
        `artifacts`.
    """
    from modal.config import config

    import modal

    volumes = {name: _listing(name) for name in (DATA_VOLUME, WEIGHTS_VOLUME)}
    name = app_name()
    deployed = _told(lambda: [app.name for app in our_apps()])
    return {
        "server": config["server_url"],
        "workspace": _told(lambda: modal.Workspace.from_context().hydrate().name),
        "environment": _told(lambda: modal.Environment.from_context().hydrate().name),
        "app": {"name": name, "deployed": is_deployed(name)},
        "older_apps": None if deployed is None else sorted({*deployed} - {name}),
        "pools": [_told_of_pool(given) for given in pools_known()],
        "calls": [
            {"artifact": artifact, "call": call, "state": state_of(call)}
            for artifact, call in journalled().items()
        ],
        "volumes": {
            name: None if listing is None else {"files": len(listing), "bytes": sum(listing.values())}
            for name, listing in volumes.items()
        },
        "kept": _kept(volumes[DATA_VOLUME] or {}),
    }


def _told(ask: Callable[[], Any]) -> Any:
    """An answer of the service; None where it does not give it."""
    import modal

    try:
        return ask()
    except (modal.exception.AuthError, modal.exception.ConnectionError):
        raise
    except modal.exception.Error:
        return None


def _listing(name: str) -> dict[str, int] | None:
    """Path → bytes of all files on a volume; None where there is no such volume."""
    from modal.types import FileEntryType

    import modal

    try:
        entries = volume(name).listdir("/", recursive=True)
    except modal.exception.NotFoundError:
        return None
    return {entry.path.lstrip("/"): entry.size for entry in entries if entry.type == FileEntryType.FILE}


def volumes_there() -> bool:
    """Whether both volumes are there."""
    import modal

    try:
        return all(volume(name).object_id for name in (DATA_VOLUME, WEIGHTS_VOLUME))
    except modal.exception.NotFoundError:
        return False


def _kept(listing: dict[str, int]) -> dict[str, int]:
    paths = [PurePosixPath(path) for path in listing]
    return {
        "runs": sum(path.parts[0] == RUNS and path.parts[2:] == (DONE,) for path in paths),
        "artifacts": sum(path.parts[0] == ARTIFACTS for path in paths),
    }


def pools_known() -> list[dict[str, Any]]:
    """The pools that a run here has opened and not let go of."""
    return [orjson.loads(note.read_bytes()) for note in sorted(pools.POOLS.glob("*.json"))]


def _told_of_pool(given: dict[str, Any]) -> dict[str, Any]:
    stats = _told(lambda: pools.instance_of(given).run.get_current_stats())
    return {
        "cls": given["cls"],
        "gpu": given["options"].get("gpu"),
        "containers": stats and stats.num_total_runners,
        "running": stats and stats.num_running_inputs,
        "waiting": stats and stats.backlog,
    }


def journalled() -> dict[str, str]:
    """Artifact → id of each call that is not known to have ended."""
    return {stem.replace("--", "/"): call for stem, call in calls.journalled().items()}


def state_of(call_id: str) -> str:
    """`running` (or waiting for a container), `done`, `cancelled`, `failed`, or `unknown` to the service."""
    import modal

    try:
        modal.FunctionCall.from_id(call_id).get(timeout=0)
    except (modal.exception.FunctionTimeoutError, modal.exception.OutputExpiredError):
        return "failed"
    except TimeoutError:
        return "running"
    except modal.exception.InputCancellation:
        return "cancelled"
    except modal.exception.NotFoundError:
        return "unknown"
    except (modal.exception.AuthError, modal.exception.ConnectionError, modal.exception.ServiceError):
        raise
    except Exception:
        return "failed"  # whatever the container has raised
    return "done"


def our_apps() -> "list[modal.App]":
    """The deployed apps of this project, of whatever version."""
    import modal

    apps = modal.Environment.from_context().apps.list()
    return [app for app in apps if OUR_APPS.fullmatch(app.name or "")]


def stop(with_apps: bool) -> dict[str, Any]:
    """End what runs for this project and what is kept warm for it; what is on the volumes stays.

    Args:
        with_apps: stop the deployed apps, too; the next run deploys them again.

    Returns:
        `calls`, artifact → what became of its call; `pools`, how many were let go; `apps`, those stopped.
    """
    ended = {}
    for artifact, call in journalled().items():
        state = state_of(call)
        if state == "running":
            calls.cancel(call)
        calls.Journal(artifact).clear()
        ended[artifact] = "cancelled" if state == "running" else f"had ended ({state})"
    known = len(pools_known())
    pools.close_pools()
    return {"calls": ended, "pools": known, "apps": _stop_apps() if with_apps else []}


def _stop_apps() -> list[str]:
    import modal

    apps = _told(our_apps)
    if apps is None:  # no list: then the one that is known
        name = app_name()
        apps = [modal.App.lookup(name)] if is_deployed(name) else []
    for app in apps:
        app.stop()
    return sorted(str(app.name) for app in apps)
