"""Headline figures of probes, sweeps, transfers and adapters, in `metrics/` for git; and `dvc.yaml`.

The artifacts' own metrics.json holds some 250 figures, which make a table of 100,000 characters for two
probes. What lies in git is also there in a clone that has pulled nothing.
"""

from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from probeline.errors import ProbelineError
from probeline.files import MANIFEST, json_bytes, read_json, write_bytes
from probeline.lineage.records import Record

FOLDER = Path("metrics")
PIPELINE = Path("dvc.yaml")
HEADER = "# metrics, plots and artifacts under metrics/ and results/ are kept current by `probeline track`.\n"
ESTIMATES = ("auroc", "text_masked", "text_input", "length", "shuffled", "role_masked", "difference_to_text")
TRAINED_FOR = {"train_sft": "loss", "train_dpo": "preference_accuracy", "train_grpo": "reward"}
"""Rule → the held-out figure that it is after."""
LAYERS = ".layers.json"
FIGURES = {
    "sweep_probes": "figure.svg",
    "evaluate_transfer": "transfer.svg",
    "evaluate_probe_shift": "shift.svg",
    "evaluate_adapter": "comparison.svg",
    "compare_adapters": "comparison.svg",
    **dict.fromkeys(TRAINED_FOR, "curves.svg"),
}


def headline_path(artifact: str) -> Path:
    """Where the headline figures of an artifact lie: `results/probes/a` has `metrics/probes/a.json`."""
    return FOLDER.joinpath(*Path(artifact).parts[1:]).with_name(f"{Path(artifact).name}.json")


def keep_headlines(records: Iterable[Record], sound: Collection[str]) -> dict[str, str]:
    """Bring `metrics/` and `dvc.yaml` up to date; files whose content stays are not touched.

    Args:
        records: all records.
        sound: paths of the artifacts that are here and are what their records say; figures of others stay.

    Returns:
        Path → why its figures could not be read.
    """
    refused = {}
    told = [record for record in records if record.rule in HEADLINES]
    for record in told:
        if record.name in sound:
            try:
                figures = _figures_of(record)
            except (ProbelineError, AttributeError) as error:
                refused[record.name] = f"its figures cannot be read: {error}"
                continue
            for path, value in figures.items():
                _keep(path, json_bytes(value))
    _keep_pipeline({path: record for record in told if (path := headline_path(record.name)).exists()})
    return refused


def _figures_of(record: Record) -> dict[Path, Any]:
    """File → figures; none for an artifact of another version of Probeline, which says them elsewhere."""
    try:
        return HEADLINES[record.rule](Path(record.name))
    except (KeyError, TypeError):
        return {}


def _keep(path: Path, data: bytes) -> None:
    if not path.exists() or path.read_bytes() != data:
        write_bytes(path, data)


def _probe(artifact: Path) -> dict[Path, Any]:
    facts = read_json(artifact / MANIFEST)
    figures: dict[str, Any] = {}
    for name in ESTIMATES:
        estimate = facts["headline"].get(name)
        if estimate is not None:
            figures |= _estimate(name, estimate)
    counts = facts["splits"]["test"]
    figures |= {"test_games": counts["num_games"], "test_samples": counts["num_interactions"]}
    return {headline_path(artifact.as_posix()): figures}


def _estimate(name: str, estimate: dict[str, Any]) -> dict[str, float]:
    """Value, and the bounds where there is an interval; of the probe itself only, else the table is wide."""
    figures = {name: estimate["value"]}
    if name == "auroc" and estimate["low"] is not None:
        figures |= {"auroc_low": estimate["low"], "auroc_high": estimate["high"]}
    return figures


def _sweep(artifact: Path) -> dict[Path, Any]:
    sweep = read_json(artifact / "sweep.json")
    best = {
        method: {"auroc": choice["auroc"]["value"], "layer": choice["layer"]}
        for method, choice in sweep["choice"].items()
    }
    text = {name: baseline["auroc"]["value"] for name, baseline in sweep["baselines"].items()}
    layers: dict[int, dict[str, Any]] = {}
    for row in sweep["rows"]:
        layers.setdefault(row["layer"], {"layer": row["layer"], **text})[row["method"]] = row["auroc"][
            "value"
        ]
    path = headline_path(artifact.as_posix())
    return {path: best | text, path.with_name(artifact.name + LAYERS): [layers[n] for n in sorted(layers)]}


def _transfer(artifact: Path) -> dict[Path, Any]:
    figures: dict[str, dict[str, float]] = {}
    for cell in read_json(artifact / MANIFEST)["headline"]["cells"]:
        if cell["auroc"] is not None:
            figures.setdefault(cell["train"], {})[cell["test"]] = cell["auroc"]
    return {headline_path(artifact.as_posix()): figures}


def _shift(artifact: Path) -> dict[Path, Any]:
    headline = read_json(artifact / MANIFEST)["headline"]
    figures = {name: estimate["value"] for name, estimate in headline["auroc"].items()}
    figures |= {"difference": headline["difference"]["value"], "cosine": headline["direction"]["cosine"]}
    told = {name: value for name, value in figures.items() if value is not None}
    return {headline_path(artifact.as_posix()): told}


def _adapters(artifact: Path) -> dict[Path, Any]:
    figures: dict[str, Any] = {}
    for name, values in read_json(artifact / MANIFEST)["headline"].items():
        known = {system: value for system, value in values.items() if value is not None}
        if known:
            figures[name] = known
    return {headline_path(artifact.as_posix()): figures}


def _grid(artifact: Path) -> dict[Path, Any]:
    points = read_json(artifact / MANIFEST)["points"]
    known = {row["point"]: row["after"]["value"] for row in points if row["after"]["value"] is not None}
    return {headline_path(artifact.as_posix()): known}


def _training(name: str, artifact: Path) -> dict[Path, Any]:
    """Of what the method is after: before and after on validation data, and the interval of the change."""
    figure = read_json(artifact / "training_summary.json")["held_out"][name]
    values = {f"{name}_{when}": figure[when]["value"] for when in ("before", "after")}
    change = {f"{name}_change_{bound}": figure["difference"][bound] for bound in ("low", "high")}
    known = {name: value for name, value in (values | change).items() if value is not None}
    return {headline_path(artifact.as_posix()): known}


HEADLINES: dict[str, Callable[[Path], dict[Path, Any]]] = {
    "train_probe": _probe,
    "sweep_probes": _sweep,
    "evaluate_transfer": _transfer,
    "evaluate_probe_shift": _shift,
    "evaluate_adapter": _adapters,
    "compare_adapters": _adapters,
    "compare_grid": _grid,
    **{rule: partial(_training, name) for rule, name in TRAINED_FOR.items()},
}


def _keep_pipeline(wanted: dict[Path, Record]) -> None:
    """Write our entries of `dvc.yaml`; those of others in it stay."""
    text = PIPELINE.read_text() if PIPELINE.exists() else ""
    try:
        pipeline = yaml.safe_load(text) or {}
        kept = {
            key: [entry for entry in pipeline.get(key, []) if not _is_ours(entry)]
            for key in ("metrics", "params", "plots")
        }
        dropped = {Path(entry) for entry in pipeline.get("metrics", []) if _is_ours(entry)} - wanted.keys()
        artifacts = {
            name: value
            for name, value in pipeline.get("artifacts", {}).items()
            if not str(value["path"]).startswith("results/")
        }
    except (yaml.YAMLError, AttributeError, TypeError, KeyError) as error:
        raise ProbelineError(
            f"{PIPELINE} cannot be read ({error}). Mend it, or delete it to have it written anew."
        ) from error
    for path in dropped:
        path.unlink(missing_ok=True)
        path.with_name(path.stem + LAYERS).unlink(missing_ok=True)
    kept["metrics"] += [path.as_posix() for path in sorted(wanted)]
    kept["params"] = ["config/config.yaml", *kept["params"]]
    for path, record in sorted(wanted.items()):
        kept["plots"] += _plots(path, record)
    probes = {
        Path(record.name).name: {"path": record.name, "type": "model", "desc": f"see {record.path}"}
        for _, record in sorted(wanted.items())
        if record.rule == "train_probe"
    }
    entries = pipeline | kept | {"artifacts": artifacts | probes}
    entries = {key: value for key, value in entries.items() if value}
    if wanted or text:
        _keep(PIPELINE, (HEADER + yaml.safe_dump(entries, sort_keys=False, width=1000)).encode())


def _is_ours(entry: Any) -> bool:
    names = entry if isinstance(entry, dict) else [entry]
    return any(str(name).startswith((f"{FOLDER}/", "results/", "config/config.yaml")) for name in names)


def _plots(path: Path, record: Record) -> list[Any]:
    """The figure that the artifact holds, and for a sweep the AUROC by layer as a plot to compare."""
    if record.rule not in FIGURES:
        return []
    figure = f"{record.name}/{FIGURES[record.rule]}"
    table = path.with_name(path.stem + LAYERS)
    if not table.exists():
        return [figure]
    series = [name for name in read_json(table)[0] if name != "layer"]
    plot = {
        "x": "layer",
        "y": {table.as_posix(): series},
        "y_label": "AUROC",
        "title": f"{path.stem} by layer",
    }
    return [figure, {f"{table.with_suffix('').as_posix()}": plot}]
