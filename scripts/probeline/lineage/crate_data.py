"""What jobs read and made, as entities of a crate: by digest, or as files that are checked and copied."""

from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from rocrate.model.contextentity import ContextEntity
from rocrate.model.entity import Entity
from rocrate.rocrate import ROCrate

from probeline.digests import sha256_file
from probeline.errors import ProbelineError
from probeline.lineage.records import Subject


class CrateData:
    """The data of a crate.

    Args:
        crate: to fill.
        with_data: whether what jobs made is copied.
    """

    def __init__(self, crate: ROCrate, with_data: bool) -> None:
        self.crate = crate
        self.with_data = with_data
        self.entities: dict[str, Entity] = {}

    def read(self, name: str, sha256: str) -> Entity:
        """What a job read: what another made, a file in that, or one that no rule made."""
        for path in (name, *map(str, PurePosixPath(name).parents)):
            if path in self.entities:
                return self.entities[path]
        self.entities[name] = context(
            self.crate, f"#data/{quoted(name)}", "CreativeWork", name=name, sha256=sha256
        )
        return self.entities[name]

    def made(self, subject: Subject) -> Entity:
        """What a job made."""
        facts = {"name": subject.name, "contentSize": str(subject.bytes)}
        # The digest of a folder is in-toto's dirHash: docs/lineage.md says over what.
        facts |= {"identifier": f"dirHash:{subject.sha256}"} if subject.files else {"sha256": subject.sha256}
        if not self.with_data:
            entity = context(self.crate, f"#data/{quoted(subject.name)}", "CreativeWork", **facts)
        elif subject.files:
            entity = self.crate.add_dataset(dest_path=_safe(subject.name), properties=facts)
            for name, sha256 in subject.files.items():
                entity.append_to("hasPart", self._copy(f"{subject.name}/{name}", sha256, {"sha256": sha256}))
        else:
            entity = self._copy(subject.name, subject.sha256, facts)
        self.entities[subject.name] = entity
        return entity

    def _copy(self, name: str, sha256: str, facts: dict[str, str]) -> Entity:
        path = Path(_safe(name))
        if not path.is_file():
            raise ProbelineError(
                f"{name} is not here. Get it with `dvc pull`, or export without --with-data."
            )
        if sha256_file(path) != sha256:
            raise ProbelineError(f"{name} is not what its record says. See `probeline audit verify`.")
        known = {".json": "application/json", ".svg": "image/svg+xml", ".png": "image/png"}
        encoding = known.get(path.suffix, "application/octet-stream")
        described = {"name": name, "contentSize": str(path.stat().st_size), "encodingFormat": encoding}
        return self.crate.add_file(path, name, properties=described | facts)


def context(crate: ROCrate, identifier: str, kind: str, /, **properties: Any) -> Entity:
    """Add an entity that is no file of the crate."""
    entity = crate.add(ContextEntity(crate, identifier, properties={"@type": kind}))
    for name, value in properties.items():
        entity[name] = value
    return entity


def quoted(name: str) -> str:
    """A name as a part of an identifier."""
    return quote(name, safe="/")


def _safe(name: str) -> str:
    """The name of something under this folder; a forged record may name others."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ProbelineError(f"A record names {name}, which lies outside this folder. Nothing was exported.")
    return name
