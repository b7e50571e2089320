"""`probeline audit retract`: a game out of the inputs, what that makes anew, and proof that it is gone."""

import argparse
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probeline.errors import ProbelineError, near_misses
from probeline.lineage.commands import add_configfile, add_json, make_console

if TYPE_CHECKING:
    from probeline.lineage.graph import Lineage
    from probeline.lineage.records import Record
    from probeline.logs.retracted import Retraction

EXAMPLES = """\
examples:
  probeline audit retract game:baseline/game7 --reason "consent withdrawn"
  git commit -m "Retract baseline/game7" config/retracted.yaml
  snakemake --cores 4                                   makes anew what was made from it
  probeline audit retract --check                       proves that nothing contains it any more
  probeline audit retract game:baseline/game7 --undo

exit status: 0; 1 on an error, and where --check finds a retracted game.
"""
READERS = ("simulate_logs", "ingest_werewolf", "ingest_mafia", "ingest_forecasts", "ingest_support")
"""The rules whose outputs a retraction makes anew first."""
SHOWN = 5
"""Most names in an error."""


def add_command(queries: Any) -> None:
    """Declare the command.

    Args:
        queries: the subparsers of `probeline audit`.
    """
    parser = queries.add_parser(
        "retract",
        help="take a game out of the inputs, and prove that nothing contains it",
        description="Put a game, with every copy of it, on the list config/retracted.yaml, and show what the "
        "next run makes anew. Its raw log is not touched.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "game",
        nargs="?",
        metavar="game:ID",
        help="its folder in its corpus, the end of that, or its content's digest",
    )
    parser.add_argument("--reason", metavar="TEXT", help="why; it is kept in the list")
    parser.add_argument("--corpus", metavar="NAME", help="its corpus, where several have a game of that name")
    parser.add_argument("--undo", action="store_true", help="put the game and its copies back")
    parser.add_argument(
        "--check", action="store_true", help="look for every retracted game in the records, tables and texts"
    )
    add_configfile(parser)
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if options.check:
        if options.game or options.reason or options.undo or options.corpus:
            raise ProbelineError(
                "--check looks for all retracted games: give nothing beside it but --configfile and --json."
            )
        from probeline.lineage.retraction_check import check_retractions

        return check_retractions(options.configfile, options.json)
    if not options.game:
        raise ProbelineError("say which game: probeline audit retract game:ID --reason TEXT; or --check.")
    game = options.game.removeprefix("game:").strip("/")
    if options.undo:
        if options.reason:
            raise ProbelineError("--undo keeps no reason: leave --reason out.")
        return _undo(game, options.corpus, options.json)
    if not (options.reason or "").strip():
        raise ProbelineError(
            "give the reason: --reason TEXT. It is kept in the list, for those who come later."
        )
    return _retract(game, options)


def _retract(game: str, options: argparse.Namespace) -> int:
    from probeline.config import load_config
    from probeline.logs.retracted import Retraction, read_retractions, write_retractions

    config = load_config(options.configfile)
    listed = read_retractions()
    contents = corpus_contents(config["corpora"], config["seed"])
    corpus, game = _corpus_and_game(game, options.corpus, contents)
    content = contents[corpus][game]
    if content is None:
        raise ProbelineError(
            f"{game} of {corpus} holds no game_stats.json that can be read: nothing uses it."
        )
    before = {(entry.corpus, entry.game): entry for entry in listed}
    if (corpus, game) in before:
        reason = before[corpus, game].reason
        raise ProbelineError(
            f"{game} of {corpus} is retracted already ({reason}). To change that, --undo it."
        )
    added = [
        Retraction(name, key, content, options.reason.strip())
        for name, games in contents.items()
        for key, found in games.items()
        if found == content and (name, key) not in before
    ]
    write_retractions([*listed, *added])
    _show(added, "is taken out of the inputs:", options.json)
    return 0


def _undo(game: str, corpus: str | None, as_json: bool) -> int:
    from probeline.lineage.games import contents_like, names_like
    from probeline.logs.retracted import read_retractions, write_retractions

    listed = read_retractions()
    among = [entry for entry in listed if corpus in (None, entry.corpus)]
    matching = names_like(game, [entry.game for entry in among])
    begun = contents_like(game, [entry.content for entry in among])
    contents = begun | {entry.content for entry in among if entry.game in matching}
    if not contents:
        names = [f"{entry.game} of {entry.corpus}" for entry in among]
        raise ProbelineError(f"{game} is not retracted. {near_misses(game, names)}")
    if len(matching) > 1 and len(contents) > 1:
        raise ProbelineError(f"{game} names several games: {', '.join(sorted(matching))}.")
    if len(contents) > 1:
        raise ProbelineError(f"{game} is retracted from several corpora: say which with --corpus NAME.")
    write_retractions(entry for entry in listed if entry.content not in contents)
    _show(
        [entry for entry in listed if entry.content in contents],
        "is back among the inputs. It was out for:",
        as_json,
    )
    return 0


def corpus_contents(corpora: Mapping[str, Any], seed: int) -> dict[str, dict[str, str | None]]:
    """Corpus → game → digest of its content, for every corpus of the config; None where it cannot be read."""
    import orjson

    from probeline.config import is_simulated
    from probeline.lineage.hashing import STAT_CACHE
    from probeline.logs.formats import FILE_FORMATS
    from probeline.logs.listing import contents_of, game_content, list_games
    from probeline.logs.simulate_werewolf import simulate_game
    from probeline.stat_cache import StatCache

    found: dict[str, dict[str, str | None]] = {}
    for name, corpus in corpora.items():
        if corpus["format"] in FILE_FORMATS:
            found[name] = _unit_contents(name, corpus, seed)
            continue
        if is_simulated(name, corpus):
            games = (simulate_game(seed, index) for index in range(corpus["simulated_games"]))
            found[name] = {game.key: game_content(orjson.dumps(game.stats)) for game in games}
            continue
        root = Path(corpus["root"]).expanduser()
        keys = list_games(root, name)
        cache = StatCache(STAT_CACHE)
        found[name] = dict.fromkeys(keys) | contents_of(root, keys, cache)
        cache.close()
    return found


def _unit_contents(name: str, corpus: Mapping[str, Any], seed: int) -> dict[str, str | None]:
    """Key → digest of the content, for a corpus of files.

    A Mafia file is one game. Other files hold several cases or dialogues: the table says which were read.
    """
    from probeline.config import is_simulated
    from probeline.files import open_parquet
    from probeline.lineage.hashing import STAT_CACHE
    from probeline.logs.formats import UNIT_TABLES, unit_key
    from probeline.logs.listing import file_contents, list_files
    from probeline.logs.retracted import read_retractions
    from probeline.logs.simulated_contents import simulated_mafia_contents
    from probeline.stat_cache import StatCache

    if corpus["format"] == "mafia":
        if is_simulated(name, corpus):
            contents = simulated_mafia_contents(seed, corpus["simulated_games"])
        else:
            root, cache = Path(corpus["root"]).expanduser(), StatCache(STAT_CACHE)
            contents = list(file_contents(root, list_files(root, name, "mafia"), cache).values())
            cache.close()
        return {unit_key(content): content for content in contents}
    table = Path("data/processed", name, UNIT_TABLES[corpus["format"]])
    found: dict[str, str | None] = {
        entry.game: entry.content for entry in read_retractions() if entry.corpus == name
    }
    if table.exists():
        rows = open_parquet(table).read(columns=["game", "content"]).to_pylist()
        found |= {row["game"]: row["content"] for row in rows}
    return found


def _corpus_and_game(
    game: str, corpus: str | None, contents: Mapping[str, Mapping[str, str | None]]
) -> tuple[str, str]:
    """The game that is meant: by its name, the end of it where one game has it, or its content's digest.

    Raises:
        ProbelineError: there is no such corpus, none has the game, or several have it.
    """
    from probeline.lineage.games import contents_like, names_like

    if corpus is not None and corpus not in contents:
        raise ProbelineError(f"there is no corpus {corpus!r}. {near_misses(corpus, contents)}")
    among = [corpus] if corpus is not None else list(contents)
    digests = {content for name in among for content in contents[name].values() if content}
    begun = contents_like(game, digests)
    having = {name: key for name in among for key, content in contents[name].items() if content in begun}
    if len(begun) == 1:
        # All copies go: which of them is named makes no difference.
        return next(iter(having.items()))
    names = names_like(game, [key for name in among for key in contents[name]])
    if len(names) > 1:
        close = sorted(names)
        more = f" and {len(close) - SHOWN:,} more" if len(close) > SHOWN else ""
        raise ProbelineError(f"{game} names several games: {', '.join(close[:SHOWN])}{more}.")
    game = next(iter(names), game)
    having = {name: game for name in among if game in contents[name]}
    if len(having) > 1:
        raise ProbelineError(f"{game} is in {' and in '.join(having)}: say which with --corpus NAME.")
    if not having:
        games = [key for name in among for key in contents[name]]
        raise ProbelineError(f"no game {game!r} in {' or '.join(among)}. {_near(game, games)}")
    return next(iter(having.items()))


def _near(game: str, games: list[str]) -> str:
    """The nearest few of thousands of games."""
    named = [key for key in games if key.rpartition("/")[2] == game]
    close = named or difflib.get_close_matches(game, games, n=SHOWN, cutoff=0.5) or sorted(games)
    more = f" (of {len(games):,})" if len(games) > SHOWN else ""
    return f"Games are named like {', '.join(close[:SHOWN])}{more}."


def affected(lineage: "Lineage", retractions: Iterable["Retraction"]) -> "list[Record]":
    """The records of what a change of these entries makes anew: their shards and all below, nearest first."""
    shards = []
    for record in lineage.records.values():
        if record.rule not in READERS:
            continue
        index, _, count = record.wildcards["shard"].removeprefix("shard-").partition("-of-")
        if any(
            entry.corpus == record.wildcards["corpus"] and _is_in(record, entry, int(index), int(count))
            for entry in retractions
        ):
            shards.append(record)
    return lineage.descendants(shards)


def _is_in(record: "Record", entry: "Retraction", index: int, count: int) -> bool:
    """Whether a game is, or was before it was taken out, in the shard that a record is of."""
    from probeline.digests import shard_of
    from probeline.lineage.games import DIGITS
    from probeline.logs.formats import FILE_FORMATS

    if record.rule == "simulate_logs" and record.params.get("format") in FILE_FORMATS:
        return False  # Like a real log, a simulated one stays where it is.
    if record.rule in ("simulate_logs", "ingest_werewolf"):
        return shard_of(entry.game, count) == index
    held = {content for games in record.games.values() for content in games.values()}
    return entry.content[:DIGITS] in held or entry.game in record.params.get("retracted", {})


def splits_with(record: "Record", retractions: Iterable["Retraction"]) -> list[str]:
    """The splits in which an artifact holds one of these games: by content, or else by name."""
    from probeline.lineage.games import DIGITS

    contents = {entry.content[:DIGITS] for entry in retractions}
    names = {entry.game for entry in retractions if entry.corpus == record.wildcards.get("corpus")}
    return [
        split
        for split, games in record.games.items()
        if any(content in contents or (content is None and game in names) for game, content in games.items())
    ]


def _show(entries: "list[Retraction]", what: str, as_json: bool) -> None:
    """What was put on the list or taken from it, and what the next run makes anew."""
    import json
    from dataclasses import asdict

    from rich.text import Text

    from probeline.lineage.graph import read_lineage
    from probeline.logs.retracted import RETRACTED
    from probeline.reports.estimates import many
    from probeline.text import plain_text

    lineage = read_lineage()
    records = affected(lineage, entries)
    held = {record.name: splits_with(record, entries) for record in records}
    seconds = sum(record.cost["seconds"] for record in records)
    if as_json:
        rows = [{"artifact": name, "splits": splits} for name, splits in held.items()]
        facts = {"games": [asdict(entry) for entry in entries], "affected": rows, "seconds": seconds}
        print(json.dumps(facts, indent=2))
        return
    console = make_console()
    for entry in entries:
        said = plain_text(f"{entry.game} of {entry.corpus} {what} {entry.reason}")
        console.print(Text(said), soft_wrap=True)
    if not records:
        console.print("No record knows of it: the next run makes nothing anew because of it.")
        return
    console.print(
        f"{many(len(records), 'artifact')} to be made anew, where the config of the run asks for "
        f"{'it' if len(records) == 1 else 'them'}; the last time that took {seconds:.0f} s:",
        soft_wrap=True,
    )
    for name, splits in held.items():
        named = [split for split in splits if split != "all"]
        holds = f" (holds it in {' and '.join(named)})" if named else " (holds it)" if splits else ""
        console.print(Text(plain_text(f"  {name}{holds}")), soft_wrap=True)
    if RETRACTED.exists():
        advice = f"Commit {RETRACTED}, run snakemake as before, then: probeline audit retract --check"
    else:
        advice = f"No game is out any more: {RETRACTED} is deleted. Commit that, and run snakemake as before."
    console.print(advice, soft_wrap=True)
