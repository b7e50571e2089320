"""The body of the rule extract_activations."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from probeline.compute.body import BodyFiles

if TYPE_CHECKING:
    from probeline.activations.extract import Workplace


def extract_activations(spec: Mapping[str, Any], files: BodyFiles) -> None:
    """Read the residual stream of one or more shards of dialogues.

    Args:
        spec: the settings, as `activations_spec` of the rules gives them.
        files: inputs `dialogues`, `model` and, where there is an adapter, `adapter`.
    """
    # Imported here: the job has set the number of threads by now.
    from probeline.activations.extract import Settings, extract_activations
    from probeline.activations.memory import keep_freed_memory

    keep_freed_memory()
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
        workplace=_workplace(spec, files),
        figures=files.figures,
        held=files.held,
        checkpoint=files.commit,
    )


def _workplace(spec: Mapping[str, Any], files: BodyFiles) -> "Workplace":
    from probeline.activations.extract import Workplace

    folder, name = files.work / "activations", "--".join(files.name.split("/")[-2:])
    if files.work_name:
        return Workplace(folder, f"{name}--{files.work_name}", spec["engine"], shared=True)
    return Workplace(folder, name, spec["engine"])
