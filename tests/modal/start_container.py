"""What a container process is before it becomes Modal's runtime: it gives itself a file system and limits.

Run as `python -I -S start_container.py SPEC`, where SPEC is a JSON file with
    server (process id that must live), argv, environment, folder (the container's own),
    mounts ([source, target, read_only] …, targets absolute), memory (bytes or 0).
It uses the standard library only, and ends in `execve`, so that the process id stays the container's.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: Path, kind: str, flags: int) -> None:
    arguments = (source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), None)
    check(libc.mount(*arguments), f"mount {source} on {target}")


def bind(source: Path, target: Path) -> None:
    """Bind a folder or a file; the target is made."""
    if source.is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    mount(str(source), target, "", MS_BIND | MS_REC)


def lay_out(host: Path, target: Path, wanted: dict) -> None:
    """Make `target` look like the folder `host` with other things at the names in `wanted`.

    Nothing of `host` itself is touched: mount points exist in the new root only. A value of `wanted` is a
    (source, read_only) pair or, deeper, such a mapping again.
    """
    target.mkdir(exist_ok=True)
    for entry in host.iterdir() if host.is_dir() else ():
        if entry.name in wanted:
            continue
        if entry.is_symlink():
            (target / entry.name).symlink_to(entry.readlink())
        elif entry.is_dir() or entry.is_file():
            bind(entry, target / entry.name)
    for name, what in wanted.items():
        if isinstance(what, dict):
            lay_out(host / name, target / name, what)
            continue
        source, read_only = what
        bind(Path(source), target / name)
        if read_only:
            mount("", target / name, "", MS_REMOUNT | MS_BIND | MS_RDONLY)


def own_namespace() -> None:
    """A mount namespace of this process's own, as root or in a user namespace."""
    if libc.unshare(CLONE_NEWNS) == 0:
        return
    user, group = os.getuid(), os.getgid()
    check(libc.unshare(CLONE_NEWNS | CLONE_NEWUSER), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def enter_root(folder: Path, mounts: list) -> None:
    """A root folder of the container's own: the machine's, with the mounts at their absolute paths."""
    wanted: dict = {}
    nested = []
    for source, target, read_only in sorted(mounts, key=lambda mount: mount[1]):
        *parents, name = Path(target).parts[1:]
        level = wanted
        for parent in parents:
            level = level.setdefault(parent, {}) if isinstance(level, dict) else level
        if isinstance(level, dict):
            level[name] = (source, read_only)
        else:
            nested.append((source, target, read_only))
    own_namespace()
    mount("none", Path("/"), "", MS_REC | MS_PRIVATE)
    root = folder / "rootfs"
    root.mkdir()
    mount("tmpfs", root, "tmpfs", 0)
    lay_out(Path("/"), root, wanted)
    for source, target, read_only in nested:  # inside another mount, whose folder is the container's own
        place = root / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        bind(Path(source), place)
        if read_only:
            mount("", place, "", MS_REMOUNT | MS_BIND | MS_RDONLY)
    os.chroot(root)


def link_instead(mounts: list, reason: OSError) -> None:
    """Without namespaces: symbolic links at the mount paths, shared by all containers of the machine."""
    print(f"no mount namespace ({reason}): the mount paths are symbolic links", file=sys.stderr)
    for source, target, _ in mounts:
        path = Path(target)
        if path.is_symlink():
            path.unlink()
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(source)


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != spec["server"]:
        sys.exit("the server is gone")
    if spec["memory"]:
        resource.setrlimit(resource.RLIMIT_DATA, (spec["memory"], spec["memory"]))
    try:
        enter_root(Path(spec["folder"]), spec["mounts"])
    except OSError as error:
        link_instead(spec["mounts"], error)
    os.chdir(spec["environment"]["HOME"])
    os.execve(spec["argv"][0], spec["argv"], spec["environment"])


if __name__ == "__main__":
    main()
