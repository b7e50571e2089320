"""The lineage as one page for a browser: its picture, every record, search; nothing from the network."""

from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson

from probeline.html_head import html_head, json_in_html
from probeline.lineage.folding import Node
from probeline.lineage.games import name_of
from probeline.lineage.graph import Lineage
from probeline.lineage.picture import COLOURS, DRAWING, KINDS, drawing
from probeline.lineage.records import Record, artifact_of
from probeline.lineage.root import root_digest
from probeline.lineage.terminal import kind_of
from probeline.visible import visible

PAGE = """\
{head}<body>
<header>
<h1><a href="#" data-home>Lineage</a></h1>
<div id="search"><input type="search" role="combobox" aria-expanded="false" aria-controls="results" \
aria-autocomplete="list" aria-label="Search artifacts and games" autocomplete="off" spellcheck="false" \
placeholder="Artifact, digest or game  ( / )">
<ul id="results" role="listbox" aria-label="Found" hidden></ul></div>
<div id="filter" hidden><span>with game <b></b></span><button type="button">all games</button></div>
</header>
<div id="picture">{drawing}</div>
<main id="panel">
<noscript><p>Search and records need JavaScript, which this page carries itself.</p></noscript>
</main>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""
SMALLEST = 0.8


def page(lineage: Lineage, records: Sequence[Record], nodes: Sequence[Node], target: str = "") -> str:
    """A whole page. The same records make the same bytes.

    Args:
        lineage: all records.
        records: those to show.
        nodes: what `folding.fold` makes of them.
        target: the artifact that the page opens with; else it opens with an overview.
    """
    own = files("probeline.lineage")
    picture = drawing(nodes, links=True)
    style = COLOURS + DRAWING + own.joinpath("page.css").read_text() + _legend() + _sizes(picture)
    script = own.joinpath("page.js").read_text()
    return PAGE.format(
        head=html_head("Lineage", style, script),
        script=script,
        drawing=picture,
        data=json_in_html(_shown(_facts(lineage, records, nodes) | {"target": target})),
    )


def _facts(lineage: Lineage, records: Sequence[Record], nodes: Sequence[Node]) -> dict[str, Any]:
    """What the script reads; what many records share stands once."""
    number = {record.name: index for index, record in enumerate(records)}
    node_number = {node.name: index for index, node in enumerate(nodes)}
    codes, environments, games = _Table(), _Table(), _Table()
    artifacts = [
        {
            "name": record.name,
            "kind": kind_of(record.name),
            "rule": record.rule,
            "params": {key: value for key, value in record.params.items() if key != "code"},
            "subjects": [[s.name, s.sha256, s.bytes, s.files] for s in record.subjects],
            "inputs": list(_inputs(lineage, record, number)),
            "games": {
                split: [games.index([name_of(name, content), content]) for name, content in members.items()]
                for split, members in record.games.items()
            },
            "code": codes.index(record.code),
            "environment": environments.index(_environment(record)),
            "cost": record.cost,
            "started": record.metadata["startedOn"],
            "finished": record.metadata["finishedOn"],
            "record": [record.path.as_posix(), record.sha256, record.metadata["invocationId"]],
        }
        for record in records
    ]
    return {
        "root": root_digest(lineage),
        "faults": lineage.faults,
        "missing": lineage.missing(records),
        "kinds": KINDS,
        "artifacts": artifacts,
        "nodes": [
            {
                "name": node.name,
                "kind": node.kind,
                "members": node.members,
                "parents": [node_number[parent] for parent in node.parents],
            }
            for node in nodes
        ],
        "codes": codes.rows,
        "environments": environments.rows,
        "games": games.rows,
    }


def _inputs(lineage: Lineage, record: Record, number: dict[str, int]) -> Iterable[list[Any]]:
    """Name, digest, role, number of its artifact (-1: none), and whether that has another record now.

    The last is 0 where it has the same, 1 where it has another, 2 where it has none.
    """
    for dependency in record.dependencies:
        parent = artifact_of(Path(dependency.record)).as_posix() if dependency.record else ""
        present = lineage.records.get(parent)
        state = 0
        if dependency.record is not None:
            state = 2 if present is None else int(present.sha256 != dependency.record_sha256)
        yield [dependency.name, dependency.sha256, dependency.role, number.get(parent, -1), state]


def _environment(record: Record) -> dict[str, Any]:
    surroundings = {}
    for role in ("lock", "source", "lineage"):
        found = record.other_dependency(role)
        if found is not None:
            surroundings[found["name"]] = next(iter(found["digest"].values()))
            if found["annotations"].get("dirty"):
                surroundings["changed since that commit"] = found["annotations"]["dirty"]
    return surroundings | record.environment


class _Table:
    """Values by number, each once."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self._known: dict[bytes, int] = {}

    def index(self, value: Any) -> int:
        key = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        if key not in self._known:
            self._known[key] = len(self.rows)
            self.rows.append(value)
        return self._known[key]


def _shown(value: Any) -> Any:
    """A value whose texts hold nothing that hides or turns the letters around it."""
    if isinstance(value, str):
        return value if value.isascii() and value.isprintable() else visible(value)
    if isinstance(value, dict):
        return {_shown(key): _shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    return value


def _legend() -> str:
    return "".join(f".kind.{kind}::before {{ background: var(--{kind}) }}\n" for kind in KINDS)


def _sizes(picture: str) -> str:
    """The picture shrinks with the window as long as its letters can be read."""
    width = int(picture.split('width="', 1)[1].split('"', 1)[0])
    return f"#picture svg {{ max-width: {width}px; min-width: {width * SMALLEST:.0f}px }}\n"
