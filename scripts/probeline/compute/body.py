"""What the body of a rule gets to work with, here or elsewhere: plain files, and nothing of Snakemake.

A body is a function of the rule's parameters (`spec`, JSON values) and of one `BodyFiles`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class BodyFiles:
    """A body's files.

    Attributes:
        name: path of the artifact in the project, such as results/activations/trust/shard-0-of-4.
        inputs: the rule's named inputs: of an artifact its manifest, beside which its other files lie.
        output: the folder to make.
        work: where what is worth keeping between runs lies; safe to delete.
        work_name: added to a job's name in `work` where many projects share that, and nothing of others is
            removed there; empty where it is this project's own.
        figures: a file for speeds and counts, which belong to the record and not to the artifact.
        workers: processes that may work side by side; no bit may depend on them.
        seconds: that a run may take, None for as long as it needs; what can save itself stops before.
        commit: keeps what was written so far, should this machine be lost; costs nothing where none can be.
        judge: all that the config says of the judge that `spec` names: also how long and how often to ask it,
            and which variable holds its key, none of which is part of a result; None where there is none.
        held: the model of the inputs, where it is in memory already: a `HeldDecoder`. Not typed as one, as
            every rule imports this, and an edit of the engine must not run all of them again.
    """

    name: str
    inputs: Mapping[str, Sequence[Path]]
    output: Path
    work: Path
    figures: Path
    work_name: str = ""
    workers: int = 1
    seconds: float | None = None
    commit: Callable[[], None] = lambda: None
    judge: Mapping[str, Any] | None = None
    held: Any = None

    def folder(self, role: str) -> Path:
        """The folder of an artifact that is one input."""
        return self.folders(role)[0]

    def folders(self, role: str) -> list[Path]:
        """The folders of the artifacts of a named input."""
        return [manifest.parent for manifest in self.inputs[role]]


Body = Callable[[Mapping[str, Any], BodyFiles], None]
