"""Which artifacts contain a game, under whatever name: games are told apart by content."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from probeline.errors import ProbelineError
from probeline.lineage.games import DIGITS, contents_like, name_of, names_like
from probeline.lineage.graph import MOST_NAMES, Lineage, closest
from probeline.lineage.records import Record
from probeline.lineage.terminal import order_of

LOG_FILES = ("game_stats.json", "llm_log.txt")


@dataclass(frozen=True)
class Copy:
    """A game that was left out when the logs were read, as the copy of another.

    Attributes:
        record: name of what the job made that left it out.
        name: its key.
        kept: the key of the one that was kept, in the same corpus.
        content: of both; None where no table has read it.
    """

    record: str
    name: str
    kept: str
    content: str | None


@dataclass(frozen=True)
class Game:
    """A game as the records know it.

    Attributes:
        names: its keys, the folders below the root of a corpus; copies have several.
        contents: the first digits of its content digest; empty for one that no table has read.
        copies: those of it that were left out.
    """

    names: set[str]
    contents: set[str]
    copies: list[Copy] = field(default_factory=list)


@dataclass(frozen=True)
class Holding:
    """A game in an artifact.

    Attributes:
        record: the artifact's.
        split: train, validation, test, or `all` where there are no splits yet.
        name: the game's key there.
    """

    record: Record
    split: str
    name: str


def find_game(lineage: Lineage, wanted: str) -> Game:
    """The game that a name or a content digest names, with all its copies.

    Args:
        lineage: all records.
        wanted: a key (`baseline/game7`), its end where only one has it, or 8 and more digits of a digest.

    Raises:
        ProbelineError: no record has it, or it names several games; with the near ones.
    """
    known = _known_games(lineage)
    copies = _copies(lineage)
    found = contents_like(wanted, {content for contents in known.values() for content in contents})
    if len(found) > 1:
        raise ProbelineError(f"{wanted} begins several contents: {', '.join(sorted(found))}.")
    if found:
        return _with_copies(Game(set(), found), known, copies)
    every = known.keys() | {copy.name for copy in copies}
    names = names_like(wanted, every)
    if len(names) > 1:
        raise ProbelineError(f"{wanted} names several games: {closest(wanted, names)}")
    if not names:
        raise ProbelineError(f"No record knows a game {wanted}. {closest(wanted, every)}")
    name = names.pop()
    contents = known.get(name, set()) | {
        copy.content for copy in copies if copy.name == name and copy.content
    }
    if len(contents) > 1:
        raise ProbelineError(
            f"{name} names {len(contents)} games of different content. Name one by its content: "
            + " or ".join(f"game:{content}" for content in sorted(contents))
        )
    return _with_copies(Game({name}, contents), known, copies)


def games_called(lineage: Lineage, wanted: str) -> list[str]:
    """The names, a few at most, of the games that a name or its end calls."""
    return sorted(names_like(wanted, _known_games(lineage)))[:MOST_NAMES]


def _known_games(lineage: Lineage) -> dict[str, set[str]]:
    """Every game's key → its contents, none where no table has read it."""
    known: dict[str, set[str]] = {}
    for record in lineage.records.values():
        for subject in record.subjects:
            for games in subject.games.values():
                for name, content in games.items():
                    contents = known.setdefault(name_of(name, content), set())
                    if content:
                        contents.add(content)
    return known


def _copies(lineage: Lineage) -> list[Copy]:
    """Every game that was left out as the copy of another."""
    readers = [record for record in lineage.records.values() if _dropped(record)]
    roots = {_root(record) for record in readers}
    # The copy that is kept may lie in another shard of the same corpus.
    kept = {
        (_root(record), name): content
        for record in lineage.records.values()
        if _root(record) in roots
        for games in record.games.values()
        for name, content in games.items()
    }
    return [
        Copy(record.name, copy, original, kept.get((_root(record), original)))
        for record in readers
        for copy, original in _dropped(record).items()
    ]


def _root(record: Record) -> str:
    """The folder of the corpus that a job read."""
    return str(record.params.get("root"))


def _dropped(record: Record) -> dict[str, str]:
    """Key of each game that a job left out → the one that was kept."""
    duplicates = record.params.get("duplicates")
    return duplicates if isinstance(duplicates, dict) else {}


def _with_copies(game: Game, known: dict[str, set[str]], copies: list[Copy]) -> Game:
    """The game with every name that its content has."""
    names = game.names | {name for name, contents in known.items() if contents & game.contents}
    dropped = [copy for copy in copies if copy.content in game.contents]
    return Game(names | {copy.name for copy in dropped}, game.contents, dropped)


def holdings(lineage: Lineage, game: Game) -> list[Holding]:
    """Every artifact and split that a game is in, in the order of the data's way."""
    found = [holding for record in lineage.records.values() for holding in _inside(record, game)]
    if not game.contents:
        found += [holding for record in lineage.records.values() for holding in _by_name(record, game.names)]
    held = {holding.record.name for holding in found}
    # Raw logs have names alone: they hold the game where what was read from them does.
    for holding in list(found):
        for parent in lineage.parents(holding.record):
            if parent.name not in held:
                found += _by_name(parent, {holding.name})
    once = {(holding.record.name, holding.split, holding.name): holding for holding in found}
    return sorted(once.values(), key=lambda one: (*order_of(one.record), one.split, one.name))


def _inside(record: Record, game: Game) -> Iterator[Holding]:
    """By content."""
    for subject in record.subjects:
        for split, games in subject.games.items():
            for name, content in games.items():
                if content in game.contents:
                    yield Holding(record, split, name_of(name, content))


def _by_name(record: Record, names: set[str]) -> Iterator[Holding]:
    """By name, where the record has no content for it."""
    for split, games in record.games.items():
        for name in sorted(games.keys() & names):
            if games[name] is None:
                yield Holding(record, split, name)


def log_files(lineage: Lineage, game: Game, found: Iterable[Holding]) -> list[str]:
    """The files of a game's raw logs and of its copies', as the records name them."""
    files: set[str] = set()
    held: dict[str, set[str]] = {}
    for holding in found:
        held.setdefault(holding.record.name, set()).add(holding.name)
    for record in lineage.records.values():
        names = held.get(record.name, set()) | {c.name for c in game.copies if c.record == record.name}
        if not names:
            continue
        given = {dependency.name for dependency in record.dependencies}
        for root, inside in _roots(record, given):
            wanted = {f"{root}/{name}/{file}" for name in names for file in LOG_FILES}
            files |= wanted & inside
    return sorted(files)


def _roots(record: Record, inputs: set[str]) -> Iterator[tuple[str, set[str]]]:
    """Folders below which a record's games lie as raw logs, and the files in them."""
    if isinstance(record.params.get("root"), str):
        yield record.params["root"], inputs
    for subject in record.subjects:
        if any(name.endswith(LOG_FILES) for name in subject.files):
            yield subject.name, {f"{subject.name}/{file}" for file in subject.files}


def game_of_file(lineage: Lineage, path: str) -> Game | None:
    """The game whose raw log a file is; None where no record has it as one.

    Args:
        lineage: all records.
        path: as records name it; or the folder of the game.
    """
    file = PurePosixPath(path)
    if file.name not in LOG_FILES:
        # Of a folder that has a log, the game is that of the log.
        games = (game_of_file(lineage, f"{path}/{log}") for log in LOG_FILES)
        return next((game for game in games if game is not None), None)
    for record in lineage.records.values():
        for root, inside in _roots(record, {dependency.name for dependency in record.dependencies}):
            if path in inside and file.is_relative_to(root):
                return _game_in(lineage, record, file.parent.relative_to(root).as_posix())
    return None


def game_with_content_of(lineage: Lineage, file: Path) -> Game | None:
    """The game that a file holds as a whole, whatever the file is called; None where no record knows it.

    Args:
        lineage: all records.
        file: on this machine.
    """
    from probeline.logs.listing import MAX_SMALL_FILE_BYTES, file_content

    if not file.is_file():
        return None
    content = file_content(file, MAX_SMALL_FILE_BYTES)[:DIGITS]
    known = _known_games(lineage)
    names = {name for name, contents in known.items() if content in contents}
    return _with_copies(Game(names, {content}), known, _copies(lineage)) if names else None


def _game_in(lineage: Lineage, record: Record, name: str) -> Game:
    """The game that a record, or what was read from it, calls by a name."""
    copies = _copies(lineage)
    contents = {copy.content for copy in copies if (copy.record, copy.name) == (record.name, name)} | {
        games.get(name)
        for one in [record, *lineage.children.get(record.name, [])]
        for games in one.games.values()
    }
    found = {content for content in contents if content}
    return _with_copies(Game({name}, found), _known_games(lineage), copies)
