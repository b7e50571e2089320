"""The body of the rule extract_activations."""

from collections.abc import Mapping
from typing import Any

from probeline.compute.body import BodyFiles


def extract_activations(spec: Mapping[str, Any], files: BodyFiles) -> None:
    """Read the residual stream of one or more shards of dialogues.

    Args:
        spec: the settings, as `activations_spec` of the rules gives them.
        files: inputs `dialogues`, `model` and, where there is an adapter, `adapter`.
    """
    # Imported here: the job has set the number of threads by now.
    from probeline.activations.extract import Settings, Workplace, extract_activations
    from probeline.activations.memory import keep_freed_memory

    keep_freed_memory()
    concept, shard = files.name.split("/")[-2:]
    extract_activations(
        dialogues=files.folders("dialogues"),
        model=files.folder("model"),
        output=files.output,
        settings=Settings(
            layers=spec["layers"],
            dtype=spec["dtype"],
            store_dtype=spec["store"],
            threads=spec["threads"],
            token_layers=spec["token_layers"],
            token_budget=spec["token_budget"],
        ),
        adapter=files.folder("adapter") if files.inputs.get("adapter") else None,
        workplace=Workplace(files.work / "activations", f"{concept}--{shard}", spec["engine"]),
        figures=files.figures,
        held=files.held,
        checkpoint=files.commit,
    )
