"""The body of the rule evaluate_transfer."""

from collections.abc import Mapping
from typing import Any

from probeline.compute.body import BodyFiles


def evaluate_transfer(spec: Mapping[str, Any], files: BodyFiles) -> None:
    """Train probes on some games and test them on games of another kind.

    Args:
        spec: as `transfer_spec` of the rules gives it.
        files: inputs `activations` and `dialogues` of one or more concepts.
    """
    # Imported here: the job has set the number of threads by now.
    from probeline.probes.transfer import by_concept, evaluate_transfer

    evaluate_transfer(
        activations=by_concept(map(str, files.inputs["activations"])),
        dialogues=by_concept(map(str, files.inputs["dialogues"])),
        output=files.output,
        spec=dict(spec),
    )
