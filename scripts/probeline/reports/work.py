"""What the work came to, and what the page rests on: figures that are the same wherever it is done."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from probeline.digests import sha256_bytes, sha256_file
from probeline.files import MANIFEST, read_json
from probeline.reports.estimates import many
from probeline.reports.page import facts, folded, table
from probeline.visible import safe

BILLION = 1e9
MEASURED = (
    "<p class=faint>Seconds and money differ from machine to machine, so they are no part of this page, "
    "which is the same bytes wherever it is made. <code>probeline report</code> writes a copy that holds "
    "them.</p>\n"
)
"""The body of the section that `probeline report` puts in what was measured."""


def extraction_rows(shards: Iterable[Path]) -> list[list[str]]:
    """What went through a model for each concept: one row for all its shards.

    Args:
        shards: folders of activations, `results/activations/<concept>/<shard>`.
    """
    by_concept: dict[str, list[Mapping[str, Any]]] = {}
    for shard in shards:
        by_concept.setdefault(shard.parent.name, []).append(read_json(shard / MANIFEST))
    return [
        [
            safe(concept),
            safe(found[0]["model"]),
            *(f"{sum(one[key] for one in found):,}" for key in ("games", "samples", "tokens")),
            f"{len(found[0]['layers'])}",
            _operations(found),
        ]
        for concept, found in by_concept.items()
    ]


def _operations(manifests: Sequence[Mapping[str, Any]]) -> str:
    """Two operations per parameter and token; blocks above the deepest layer asked for do not run."""
    tokens = sum(one["tokens"] for one in manifests)
    return f"{2 * tokens * manifests[0]['parameters'] / BILLION:,.0f}"


def training_rows(adapters: Iterable[Path]) -> list[list[str]]:
    """What was trained: one row for each adapter."""
    rows = []
    for folder in adapters:
        summary, settings = (
            read_json(folder / "training_summary.json"),
            read_json(folder / MANIFEST)["settings"],
        )
        seen = summary["steps"] * settings["batch"] * settings["accumulation"]
        counts = (summary["steps"], seen, summary["trained_parameters"])
        rows.append([safe(folder.name), safe(summary["method"]), *(f"{count:,}" for count in counts)])
    return rows


def work_body(shards: Sequence[Path], adapters: Sequence[Path]) -> str:
    """Tables of the work done."""
    parts = []
    if shards:
        head = [
            "concept",
            "model",
            "games",
            "samples",
            "tokens forwarded",
            "layers kept",
            "10⁹ operations, at most",
        ]
        rows = table(head, extraction_rows(shards), numbers=range(2, 7), stacked=True)
        parts.append(f"<h4>Activations</h4>\n{rows}")
    if adapters:
        head = ["adapter", "method", "steps", "examples or completions seen, at most", "trained parameters"]
        rows = table(head, training_rows(adapters), numbers=range(2, 5), stacked=True)
        parts.append(f"<h4>Training</h4>\n{rows}")
    return "".join(parts) or "<p>No model was read or trained for what the targets name.</p>\n"


def content_root(files: Iterable[Path]) -> tuple[str, str]:
    """One digest over all files that the page shows, and the lines that it is of.

    The lines are those of `sha256sum`, sorted by path: `<digest>  <path>`.
    """
    rows = [f"{sha256_file(path)}  {path.as_posix()}\n" for path in sorted(set(files))]
    lines = "".join(rows)
    return sha256_bytes(lines.encode()), lines


def lineage_body(root: str, lines: str, artifacts: Sequence[Path]) -> str:
    """The digest, and the commands that prove it and show where everything comes from."""
    first = artifacts[0].as_posix() if artifacts else "NAME"
    commands = {
        f"probeline audit trace {first}": "where it comes from: games, code, parameters, environment",
        "probeline audit verify": "whether every byte is what its record says",
        "probeline audit leakage": "whether a game is in training and in test",
        "sha256sum -c report.sha256": "the files of this page, with the list below in report.sha256",
        "sha256sum report.sha256": "gives the digest above",
    }
    count = many(lines.count("\n"), "file")
    return (
        f"<p>SHA-256 over the {count} that this page shows: <code>{root}</code>. Whoever has these files has "
        "this digest. With them, the same config, which says what label 1 is and how many errors are shown, "
        "and the same code, the page can be made again.</p>\n"
        f"{facts({command: safe(what) for command, what in commands.items()}, code=True)}"
        f"{folded(f'The {count} and their digests', f'<pre><code>{safe_lines(lines)}</code></pre>')}"
    )


def safe_lines(text: str) -> str:
    """Text of several lines, made safe, its line breaks kept."""
    return safe(text, "\n")
