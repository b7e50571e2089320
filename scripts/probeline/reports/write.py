"""results/report.html: everything that the targets name, on one page. Equal inputs give equal bytes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probeline.files import MANIFEST, write_bytes
from probeline.reports import transcripts
from probeline.reports.adapters import evaluation_article, evaluation_key, grid_article, training_article
from probeline.reports.corpora import Corpus, corpora_body, read_corpus
from probeline.reports.estimates import many
from probeline.reports.experiments import shift_article, sweep_article, transfer_article
from probeline.reports.page import Section, anchor, page
from probeline.reports.probes import Probe, label_line, probe_article, read_probe, summary_table
from probeline.reports.work import MEASURED, content_root, lineage_body, work_body
from probeline.visible import safe

NOTHING = (
    "<p>The targets name nothing: there is nothing to report on. Name probes, sweeps, transfers, adapters or "
    "evaluations under <code>targets</code> in the config, and run <code>snakemake --cores 4 report</code>."
    "</p>\n"
)
SHOWN = {
    "probes": ("metrics.json", "scores.parquet", "suspects.parquet"),
    "corpora": ("quality.json", "quarantine.jsonl"),
    "sweeps": ("sweep.json",),
    "transfers": ("transfer.parquet",),
    "shifts": ("metrics.json",),
    "adapters": ("training_summary.json", "training_log.jsonl"),
    "trained": ("training_summary.json",),
    "evaluations": ("metrics.json",),
    "comparisons": ("metrics.json",),
    "grids": ("grid.json",),
    "transcripts": ("tokens.parquet", "transcripts.parquet"),
}
"""Input → the files that the page is made of, besides the manifest."""
FILTER = (
    '<div class="filter"><label>Show those with <input type="search" data-filters="{what}" '
    'placeholder="{example}" autocomplete="off" spellcheck="false"></label>'
    '<span class="faint" data-filtered></span></div>\n'
)
FEW = 3
"""From so many on, probes can be filtered."""


def write_report(spec: Mapping[str, Any], inputs: Mapping[str, Sequence[Path]], output: Path) -> None:
    """Write the page.

    Args:
        spec: `model`, `simulated` (names of the corpora that are), `labels` (concept → what label 1 is)
            and `errors` (how many of each probe are shown).
        inputs: name → manifests of the artifacts to show: those of `SHOWN`, of which `trained` are all
            adapters behind the others, and `activations`.
        output: the page.

    Raises:
        ProbelineError: an artifact cannot be read.
    """
    folders = {
        name: [manifest.parent for manifest in inputs.get(name, ())] for name in (*SHOWN, "activations")
    }
    write_bytes(output, report(spec, folders).encode())


def report(spec: Mapping[str, Any], folders: Mapping[str, Sequence[Path]]) -> str:
    """The page as text.

    Args:
        spec: of `write_report`.
        folders: name of an input → folders of the artifacts.
    """
    corpora = [read_corpus(folder, folder.name in spec["simulated"]) for folder in folders["corpora"]]
    probes = [read_probe(folder) for folder in folders["probes"]]
    root, lines = content_root(_files(folders))
    sections = [
        *_of_corpora(corpora),
        *_of_probes(probes, spec, folders["transcripts"]),
        *_of("sweeps", "Layers and methods", "sweep", folders["sweeps"], sweep_article),
        *_of("transfers", "Transfer", "transfer", folders["transfers"], transfer_article),
        *_of("shifts", "What training leaves inside", "shift", folders["shifts"], shift_article),
        *_of("adapters", "Adapters", "adapter", folders["adapters"], training_article),
        *_of("grids", "Grids", "grid", folders["grids"], grid_article),
        *_evaluations(folders),
        Section("work", "What was computed", work_body(folders["activations"], folders["trained"])),
        Section("measured", "Time, cost and records", MEASURED),
        Section("lineage", "Where it comes from", lineage_body(root, lines, _artifacts(folders))),
    ]
    lead = _lead(spec, corpora, probes, folders)
    return page("Report", sections, lead=lead, style=transcripts.style(), script=transcripts.script())


def _lead(
    spec: Mapping[str, Any],
    corpora: Sequence[Corpus],
    probes: Sequence[Probe],
    folders: Mapping[str, Sequence[Path]],
) -> str:
    """What was run on what, and the headline of each probe."""
    if not _artifacts(folders):
        return NOTHING
    counts = {
        "probe": len(probes),
        "sweep": len(folders["sweeps"]),
        "transfer": len(folders["transfers"]),
        "probe shift": len(folders["shifts"]),
        "adapter": len(folders["adapters"]),
        "evaluation": len(folders["evaluations"]) + len(folders["comparisons"]) + len(folders["grids"]),
    }
    what = [many(count, noun) for noun, count in counts.items() if count]
    logs = [
        f"{corpus.name} ({corpus.kept[0]:,} {'simulated ' * corpus.simulated}{corpus.kept[1]})"
        for corpus in corpora
    ]
    simulated = any(corpus.simulated for corpus in corpora)
    probed = any(folders[name] for name in ("probes", "sweeps", "transfers", "shifts"))
    read = f" Probes read activations of the model {spec['model']}." * probed
    return (
        f"<p>{safe(_listed(what))}, on {safe(_listed(logs) or 'no corpus')}.{safe(read)} Every figure below "
        "is of what was held out, unless it says otherwise; intervals are 95 % of a bootstrap over whole "
        "games, events or dialogues.</p>\n"
        + "<p class=faint>Simulated logs show that the workflow works: their figures are no finding.</p>\n"
        * simulated
        + (summary_table(probes) if probes else "")
    )


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def _of_corpora(corpora: Sequence[Corpus]) -> list[Section]:
    if not corpora:
        return []
    parts = {f"corpus-{anchor(corpus.name)}": corpus.name for corpus in corpora}
    return [Section("corpora", "What was read", corpora_body(corpora), parts)]


def _of_probes(probes: Sequence[Probe], spec: Mapping[str, Any], folders: Sequence[Path]) -> list[Section]:
    """The probes, their games over time, and their worst errors word by word."""
    if not probes:
        return []
    filters = FILTER.format(what="article.probe", example="trust, lr, 22 …") if len(probes) >= FEW else ""
    articles = filters + "".join(probe_article(probe, spec["labels"]) for probe in probes)
    sections = [Section("probes", "Probes", articles, {probe.key: probe.name for probe in probes})]
    parts = {f"games-{anchor(probe.name)}": probe.name for probe in probes}
    drawn = [
        label_line(probe, spec["labels"]) + transcripts.timelines_section(probe.folder) for probe in probes
    ]
    sections.append(Section("games", "Suspicion over a game", _titled(parts, drawn), parts))
    if folders:
        parts = {f"errors-{anchor(folder.name)}": folder.name for folder in folders}
        meant = {probe.name: label_line(probe, spec["labels"]) for probe in probes}
        shown = [
            meant.get(folder.name, "") + transcripts.errors_section(folder, spec["errors"])
            for folder in folders
        ]
        sections.append(Section("errors", "The worst errors, word by word", _titled(parts, shown), parts))
    return sections


def _titled(parts: Mapping[str, str], bodies: Sequence[str]) -> str:
    """Articles with their addresses and titles."""
    return "".join(
        f'<article id="{key}"><h3>{safe(title)}</h3>\n{body}</article>\n'
        for (key, title), body in zip(parts.items(), bodies, strict=True)
    )


def _of(key: str, title: str, noun: str, folders: Sequence[Path], article: Any) -> list[Section]:
    """A section with an article for each artifact; none where there is none."""
    if not folders:
        return []
    parts = {f"{noun}-{anchor(folder.name)}": folder.name for folder in folders}
    return [Section(key, title, "".join(map(article, folders)), parts)]


def _evaluations(folders: Mapping[str, Sequence[Path]]) -> list[Section]:
    both = [*folders["evaluations"], *folders["comparisons"]]
    if not both:
        return []
    parts = {evaluation_key(folder): folder.name for folder in both}
    return [
        Section("evaluations", "Adapters on held-out data", "".join(map(evaluation_article, both)), parts)
    ]


def _artifacts(folders: Mapping[str, Sequence[Path]]) -> list[Path]:
    """What the targets name: not what it was made from."""
    behind = ("corpora", "transcripts", "trained")
    return [folder for name in SHOWN if name not in behind for folder in folders[name]]


def _files(folders: Mapping[str, Sequence[Path]]) -> list[Path]:
    """Every file that the page is made of."""
    shown = [folder / name for kind, names in SHOWN.items() for folder in folders[kind] for name in names]
    return shown + [folder / MANIFEST for found in folders.values() for folder in found]
