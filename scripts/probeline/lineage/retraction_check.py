"""The proof that no artifact contains a retracted game: by the records, and by reading the artifacts."""

import html
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import unquote

from probeline.config import load_config
from probeline.errors import ProbelineError
from probeline.files import open_parquet
from probeline.lineage.commands import make_console
from probeline.lineage.games import DIGITS
from probeline.lineage.graph import Lineage, read_lineage
from probeline.lineage.hashing import TIMESTAMP
from probeline.lineage.records import SUFFIX, Record, record_of
from probeline.lineage.walking import walk
from probeline.logs.retracted import RETRACTED, Retraction, read_retractions
from probeline.reports.estimates import many
from probeline.text import plain_text

if TYPE_CHECKING:
    import pyarrow as pa

PLACES = ("data/simulated", "data/processed", "results")
TEXTS = (
    *(".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".xml", ".html", ".svg", ".md", ".txt", ".log"),
    ".dvc",
)
"""Files in which a game would be named; activations and weights name none."""


@dataclass(frozen=True)
class Found:
    """A retracted game where it should not be.

    Attributes:
        game: its folder.
        corpus: its corpus.
        artifact: what contains it: an artifact's path, or that of a file without a record.
        where: split in the record, or file and column.
    """

    game: str
    corpus: str
    artifact: str
    where: str


def check_retractions(configfiles: Sequence[Path], as_json: bool) -> int:
    """Print where retracted games still are; the exit status is 1 if they are anywhere.

    Args:
        configfiles: laid over the present config, which says where the logs lie.
        as_json: print one JSON value.
    """
    from rich.text import Text

    retractions = read_retractions()
    lineage = read_lineage()
    roots = [str(corpus["root"]) for corpus in load_config(configfiles)["corpora"].values()]
    found = list(dict.fromkeys([*in_records(lineage, retractions), *in_files(lineage, retractions, roots)]))
    if as_json:
        facts = {
            "retracted": [asdict(entry) for entry in retractions],
            "records": len(lineage.records),
            "found": [asdict(place) for place in found],
            "faults": lineage.faults,
        }
        print(json.dumps(facts, indent=2))
        return 1 if found or lineage.faults else 0
    console = make_console()
    for fault in lineage.faults.values():
        console.print(Text(plain_text(fault)), style="red", soft_wrap=True)
    if not retractions:
        console.print(f"No game is retracted: there is no {RETRACTED}.")
    elif not found and not lineage.faults:
        console.print(
            f"{many(len(retractions), 'retracted game')}: in none of "
            f"{many(len(lineage.records), 'record')}, nor in a file under {', '.join(PLACES)}.",
            soft_wrap=True,
        )
    if found:
        for game, artifacts in together(found).items():
            console.print(Text(plain_text(f"{game} is retracted, and still in")), soft_wrap=True)
            for artifact, places in artifacts.items():
                console.print(Text(plain_text(f"  {artifact}: {', '.join(places)}")), soft_wrap=True)
        console.print("Run snakemake for these again, or delete what is not needed any more.")
    return 1 if found or lineage.faults else 0


def together(found: list[Found]) -> dict[str, dict[str, list[str]]]:
    """Game → artifact → all places where it is found there."""
    places: dict[str, dict[str, list[str]]] = {}
    for place in found:
        artifacts = places.setdefault(f"{place.game} of {place.corpus}", {})
        artifacts.setdefault(place.artifact, []).append(place.where)
    return places


def in_records(lineage: Lineage, retractions: list[Retraction]) -> Iterator[Found]:
    """Where the records say that a retracted game is, by content or by name."""
    for record in lineage.records.values():
        named = _names(lineage, record, retractions)
        for split, games in record.games.items():
            for game, content in games.items():
                for entry in retractions:
                    if content == entry.content[:DIGITS] or (entry in named and entry.game == game):
                        yield Found(entry.game, entry.corpus, record.name, f"its record: {split}")
        root = record.params.get("root")
        for dependency in record.dependencies if root else ():
            for entry in retractions:
                if entry in named and dependency.name.startswith(f"{root}/{entry.game}/"):
                    yield Found(entry.game, entry.corpus, record.name, f"its input {dependency.name}")


def _names(lineage: Lineage, record: Record, retractions: list[Retraction]) -> list[Retraction]:
    """The entries whose game can be meant by its name in an artifact.

    Corpora may call different games alike: where an artifact is made from several, its record tells the games
    apart by content.
    """
    corpora = {above.wildcards.get("corpus") for above in lineage.ancestors([record])} - {None}
    others = {
        game
        for games in record.games.values()
        for game, content in games.items()
        if content is not None and len(corpora) > 1
    }
    return [entry for entry in retractions if entry.corpus in corpora and entry.game not in others]


def in_files(lineage: Lineage, retractions: list[Retraction], roots: Sequence[str] = ()) -> Iterator[Found]:
    """Where a file of an artifact, recorded or not, holds a retracted game.

    Args:
        lineage: all records.
        retractions: the games.
        roots: folders of raw logs, as the config writes them; the records name more.
    """
    if not retractions:
        return
    written = _written_games(lineage, retractions, roots)
    named: dict[str, list[Retraction]] = {}
    for path in _files():
        covering = record_of(path)
        artifact = covering.as_posix().removesuffix(SUFFIX) if covering else path.as_posix()
        if artifact not in named:
            record = lineage.records.get(artifact)
            named[artifact] = retractions if record is None else _names(lineage, record, retractions)
        for entry, where in _in_file(path, artifact, retractions, named[artifact], written):
            yield Found(entry.game, entry.corpus, artifact, where)


def _files() -> Iterator[Path]:
    for place in filter(os.path.isdir, PLACES):
        for folder, _, names in walk(place, _refuse):
            for name in sorted(names):
                path = Path(folder, name)
                if name != TIMESTAMP and not name.endswith(SUFFIX) and path.is_file():
                    yield path


def _refuse(error: OSError) -> NoReturn:
    raise ProbelineError(f"{error.filename} cannot be looked into ({error.strerror}): nothing is proven.")


def _in_file(
    path: Path,
    artifact: str,
    retractions: list[Retraction],
    named: list[Retraction],
    written: dict[str, re.Pattern[str]],
) -> Iterator[tuple[Retraction, str]]:
    inside = path.relative_to(artifact).as_posix() if path.is_relative_to(artifact) else path.name
    for entry in named:
        if f"/{entry.game}/" in f"/{inside}":
            yield entry, inside
    if path.suffix == ".parquet":
        yield from _in_table(path, retractions, named)
    elif path.suffix in TEXTS:
        forms = _forms(path.read_text(encoding="utf-8", errors="replace"))
        for entry in retractions:
            if any(entry.content in text for text in forms) or (
                entry in named and any(written[entry.game].search(text) for text in forms)
            ):
                yield entry, path.name


def _written_games(
    lineage: Lineage, retractions: list[Retraction], roots: Sequence[str]
) -> dict[str, re.Pattern[str]]:
    """Game → what finds its name alone, or below a root; not as the end of another game's name."""
    recorded = [record.params.get("root") for record in lineage.records.values()]
    folders = {str(Path(root).expanduser()) for root in (*roots, *recorded) if isinstance(root, str)}
    folders |= {*roots, *(root for root in recorded if isinstance(root, str)), "."}
    below = "|".join(f"(?<={re.escape(folder)}/)" for folder in sorted(folders) if folder)
    return {
        entry.game: re.compile(rf"(?:(?<![\w./-])|{below}){re.escape(entry.game)}(?![\w-])")
        for entry in retractions
    }


def _forms(text: str) -> list[str]:
    """A text as it is written, and with the escapes of JSON, of HTML and of URLs undone one after another."""
    forms = [text]
    for undo in (_without_escapes, html.unescape, unquote):
        if (undone := undo(forms[-1])) != forms[-1]:
            forms.append(undone)
    return forms


def _without_escapes(text: str) -> str:
    r"""`\u00e9` and `\xe9` as the letter, `\/` as `/`; what JSON and YAML may write."""
    plain = re.sub(
        r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2}))", lambda found: chr(int(found[1] or found[2], 16)), text
    )
    # Letters beyond 16 bits are written as two.
    return plain.replace("\\/", "/").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _in_table(
    path: Path, retractions: list[Retraction], named: list[Retraction]
) -> Iterator[tuple[Retraction, str]]:
    """Every row is read: the game's name in `game`, and its content in `content`."""
    with open_parquet(path) as file:
        there = file.schema_arrow.names
        columns = {name: file.read([name])[name] for name in ("game", "content") if name in there}
    games, contents = _values(columns.get("game")), _values(columns.get("content"))
    for entry in retractions:
        if entry.content in contents:
            yield entry, f"{path.name}, column content"
        if entry in named and entry.game in games:
            yield entry, f"{path.name}, column game"


def _values(column: "pa.ChunkedArray | None") -> set[str]:
    return set() if column is None else set(column.unique().to_pylist())
