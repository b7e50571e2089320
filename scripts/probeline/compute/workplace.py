"""Where a body keeps what a run after a stop goes on from, and what all runs share."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probeline.compute.body import BodyFiles
from probeline.digests import canonical_digest, sha256_file


def workplace(stage: str, spec: Mapping[str, Any], files: BodyFiles) -> Path:
    """The folder of what is done so far, named by all that decides about it; older ones of the artifact go.

    Args:
        stage: the folder of all such folders; no other rule may make artifacts whose paths end alike in it.
        spec: the rule's parameters.
        files: of the body.
    """
    inputs = {role: [sha256_file(path) for path in paths] for role, paths in files.inputs.items()}
    # An evaluation and a comparison may have one name, and run side by side.
    name = "-".join(filter(None, ("--".join(files.name.split("/")[-2:]), files.work_name)))
    folder = files.work / stage / f"{name}--{canonical_digest([dict(spec), inputs])[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not files.work_name:
        for other in folder.parent.iterdir():
            if other != folder and other.name.rpartition("--")[0] == name:
                shutil.rmtree(other)
    folder.mkdir(exist_ok=True)
    return folder


def shared_folder(files: BodyFiles) -> Path:
    """Where the judge's answers are remembered: all runs share them.

    Work that many projects share may lie on a network, where a database must not, and on a volume nothing may
    be open while what was done is kept: they last for one job there.
    """
    return files.output.parent if files.work_name else files.work
