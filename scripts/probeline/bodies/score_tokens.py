"""The body of the rule score_tokens."""

from collections.abc import Mapping
from typing import Any

from probeline.compute.body import BodyFiles


def score_tokens(spec: Mapping[str, Any], files: BodyFiles) -> None:
    """Score every token of the test games that hold a probe's worst errors.

    Args:
        spec: as `tokens_spec` of the rules gives it.
        files: inputs `probe`, `dialogues`, `model` and, where there is an adapter, `adapter`.
    """
    # Imported here: the job has set the number of threads by now.
    from probeline.activations.memory import keep_freed_memory
    from probeline.probes.token_scores import score_tokens

    keep_freed_memory()
    score_tokens(
        probe=files.folder("probe"),
        dialogues=files.folders("dialogues"),
        model=files.folder("model"),
        output=files.output,
        spec=spec,
        adapter=files.folder("adapter") if files.inputs.get("adapter") else None,
        held=files.held,
    )
