"""`probeline audit impact`: the way down from a file or a game, to everything that contains it."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probeline.lineage.commands import add_configfile, add_json

if TYPE_CHECKING:
    from probeline.lineage.graph import Lineage
    from probeline.lineage.membership import Game

GAME = "game:"
EXAMPLES = """\
examples:
  probeline audit impact game:simulated_baseline/game0     a game, by its folder in the corpus
  probeline audit impact game:d6e3e5afe5c3                 by the digest of its content: whatever its name
  probeline audit impact ~/logs/baseline/game7/llm_log.txt a raw log: its game
  probeline audit impact config/templates/werewolf.yaml    a file that was read
  probeline audit impact scripts/probeline/probes/methods.py
                                                           a source: what its code has made
  probeline audit impact results/activations/trust/shard-0-of-4

exit status: 0; 1 where no record knows the file or game, or a record is missing.
"""


def add_command(queries: Any) -> None:
    """Declare the command.

    Args:
        queries: the subparsers of `probeline audit`.
    """
    parser = queries.add_parser(
        "impact",
        help="the way down: what contains this file or game, and in which split",
        description="Everything that contains a game, under whatever name, or that was made from a file or "
        "by a source.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", metavar="PATH|game:ID", help="a file, an artifact, or a game")
    parser.add_argument("--full", action="store_true", help="name every artifact, however many there are")
    add_configfile(parser)
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from probeline.lineage.graph import read_lineage
    from probeline.lineage.membership import find_game
    from probeline.lineage.terminal import print_json, warn_of_gaps

    lineage = read_lineage()
    lineage.require_records()
    if options.what.startswith(GAME):
        facts = game_impact(lineage, find_game(lineage, options.what.removeprefix(GAME)))
    else:
        facts = path_impact(lineage, options.what, options.configfile)
    if options.json:
        print_json(facts)
    else:
        from probeline.lineage.impact_table import print_impact

        print_impact(facts, options.full)
    return warn_of_gaps(lineage, lineage.records.values(), origins=False)


def game_impact(lineage: "Lineage", game: "Game") -> dict[str, Any]:
    """What contains a game, in which split and under which name, and what rests on the same files only."""
    from probeline.lineage.membership import holdings, log_files
    from probeline.lineage.terminal import order_of

    found = holdings(lineage, game)
    holders = list({holding.record.name: holding.record for holding in found}.values())
    # The jobs that left copies of it out read them all the same.
    left_out = [lineage.records[copy.record] for copy in game.copies]
    below = lineage.descendants([*holders, *left_out])
    names = {record.name for record in holders}
    return {
        "game": sorted({holding.name for holding in found} or game.names),
        "content": sorted(game.contents),
        "copies_left_out": {copy.name: copy.kept for copy in game.copies},
        "raw_logs": log_files(lineage, game, found),
        "contained_in": [
            {"artifact": holding.record.name, "split": holding.split, "as": holding.name} for holding in found
        ],
        "rests_on_the_same_files": [
            record.name for record in sorted(below, key=order_of) if record.name not in names
        ],
    }


def path_impact(lineage: "Lineage", path: str, configfiles: Sequence[Path]) -> dict[str, Any]:
    """What was made from a file, or by a source; of a raw log, what contains its game, if anything does.

    Raises:
        ProbelineError: no record knows the file.
    """
    from probeline.lineage.membership import game_of_file, game_with_content_of
    from probeline.lineage.readers import names_of_file, quarantined, readers
    from probeline.lineage.terminal import order_of

    for name in names_of_file(lineage, path, configfiles):
        quarantine = quarantined(lineage, name)
        named = {"file": name} | ({"quarantined": quarantine} if quarantine else {})
        game = game_of_file(lineage, name) or game_with_content_of(lineage, Path(path))
        facts = {} if game is None else game_impact(lineage, game)
        if facts.get("contained_in") or facts.get("copies_left_out"):
            return named | facts
        # Of a log in quarantine nothing was made but the account of it.
        found = readers(lineage, name)
        if found is None:
            continue
        direct = {record.name: how for record, how in found}
        below = lineage.descendants([record for record, _ in found])
        return named | {
            "made_from_it": [
                {"artifact": record.name, "how": direct.get(record.name, "through the above")}
                for record in sorted(below, key=order_of)
            ],
        }
    raise unknown_file(lineage, path)


def unknown_file(lineage: "Lineage", path: str) -> Exception:
    """The fault that no record names a file, with the near ones, or with what to ask instead."""
    from probeline.errors import ProbelineError
    from probeline.lineage.graph import closest
    from probeline.lineage.membership import games_called

    games = games_called(lineage, path.strip("/"))
    if games:
        return ProbelineError(
            f"No record names the file {path}. Did you mean {' or '.join(f'game:{name}' for name in games)}?"
        )
    parts = Path(path).parts
    if parts[-1:] == ("Snakefile",) or parts[:1] == ("rules",):
        return ProbelineError(
            f"{path} is in no record by itself: what the rules hand to a job is in its params. Ask "
            "`probeline audit stale` what an edit of it concerns."
        )
    if parts[:1] == ("config",) and Path(path).suffix in (".yaml", ".yml"):
        return ProbelineError(
            f"{path} is in no record by itself: each artifact has the params that it used of the config. Ask "
            "`probeline audit stale` which artifacts were made with others."
        )
    names = {d.name for record in lineage.records.values() for d in record.dependencies} | {
        file for record in lineage.records.values() for file in record.code
    }
    return ProbelineError(
        f"No record names the file {path}, or one of its content. {closest(path, names)} Name a game as "
        "game:<its folder in the corpus>, and the config of the run with --configfile."
    )
