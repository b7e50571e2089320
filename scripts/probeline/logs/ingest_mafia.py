"""Mafia logs in, checked tables and an account of everything read out.

`quality.json` counts, over the files of a shard or a corpus:

- files = games + duplicates + quarantined + retracted: each file is read, left out as the copy of another by
  content, listed in `quarantine.jsonl` with the reason, or not used because config/retracted.yaml says so;
  all copies of a retracted one count as one.
- outcomes: games by true outcome for the player; they add up to games. roles: games by the player's role.
- pairs: observations with the action of their turn, = kept + all of dropped; phases: the same by phase.
- dropped: pairs that are kept from training, each by its first reason (`mafia.FAULTS`); action_faults: how
  often each reason applies, together with others or not.
- observations = pairs + observations_without_action.
- all other keys: repairs, by reason.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from probeline.errors import ProbelineError
from probeline.files import atomic_directory, read_json, write_json, write_manifest
from probeline.logs.formats import unit_key
from probeline.logs.listing import MAX_SMALL_FILE_BYTES, file_content
from probeline.logs.mafia import FAULTS, OUTCOMES, PHASES, ROLES, UNKNOWN, MafiaGame, read_mafia
from probeline.logs.mafia_events import action_rows, event_rows
from probeline.logs.reading import quarantined, read_bytes
from probeline.logs.tables import merge_tables, row_writer
from probeline.logs.units import QUALITY_FILE, QUARANTINE_FILE, place_of, read_quarantine, write_quarantine
from probeline.progress import progress
from probeline.schema import ACTIONS, EVENTS, GAMES
from probeline.text import plain_text

_log = logging.getLogger(__name__)

TABLES = {"events.parquet": EVENTS, "games.parquet": GAMES, "actions.parquet": ACTIONS}

_COUNTED = {
    **dict.fromkeys(("files", "games", "duplicates", "quarantined", "retracted", "pairs", "kept"), ()),
    "phases": PHASES,
    "outcomes": OUTCOMES,
    "roles": (*ROLES, UNKNOWN),
    "dropped": tuple(FAULTS),
    "action_faults": tuple(FAULTS),
    **dict.fromkeys(("observations", "observations_without_action", "actions_without_observation"), ()),
}
"""Counts that are always given, even when they are 0; those with parts, by part."""


def ingest_mafia(files: list[Path], root: Path, output: Path, retracted: Mapping[str, str]) -> None:
    """Read the files of one shard into tables; neither their names nor their order change these.

    Args:
        files: of the shard; copies of one content are all here.
        root: the folder of the corpus, which the quarantine names files below.
        output: the folder to make: events.parquet (`schema.EVENTS`), games.parquet (`schema.GAMES`),
            actions.parquet (`schema.ACTIONS`), quality.json, quarantine.jsonl, manifest.json.
        retracted: key of each game of the shard that is taken out → the reason, whether its file is still
            there or not.
    """
    counts: Counter[str] = Counter()
    for key, reason in retracted.items():
        counts.update(("files", "retracted"))
        _log.info("Left out, because it was retracted: %s (%s)", key, plain_text(reason))
    quarantine: list[dict[str, Any]] = []
    with atomic_directory(output) as draft:
        with (
            row_writer(draft / "events.parquet", EVENTS) as events,
            row_writer(draft / "games.parquet", GAMES) as games,
            row_writer(draft / "actions.parquet", ACTIONS) as actions,
        ):
            for game in _games(files, root, retracted, counts, quarantine):
                key = unit_key(game.content)
                acts = action_rows(key, game)
                _count(game, acts, counts)
                events(event_rows(key, game))
                games([_game_row(key, game)])
                actions(acts)
        _write_account(draft, counts, quarantine)
        write_manifest(draft, "corpus-shard", _facts(counts))
    _report(counts)
    for line in quarantine:
        _log.warning("Quarantined %s: %s", plain_text(line["path"]), line["reason"])


def _games(
    files: list[Path],
    root: Path,
    retracted: Mapping[str, str],
    counts: Counter[str],
    quarantine: list[dict[str, Any]],
) -> Iterator[MafiaGame]:
    """Each game once, in the order of the keys; one at a time is in memory."""
    read = ""
    for content, path in progress(_by_content(files), "Reading Mafia logs", len(files), "file"):
        if content is not None and unit_key(content) in retracted:
            continue
        counts["files"] += 1
        if content is not None and content == read:
            counts["duplicates"] += 1
            continue
        try:
            game = read_mafia(read_bytes(path, MAX_SMALL_FILE_BYTES))
        except (ProbelineError, OSError) as error:
            counts["quarantined"] += 1
            quarantine.append({**place_of(path, root), **quarantined(path, error)})
            continue
        if game.content != content:
            raise ProbelineError(f"{path} changed while it was read. Run the same command again.")
        read = content
        yield game


def _by_content(files: list[Path]) -> list[tuple[str | None, Path]]:
    """The files with the digest of their content, in its order; None for one that cannot be read."""
    contents: list[tuple[str | None, Path]] = []
    for path in files:
        try:
            contents.append((file_content(path, MAX_SMALL_FILE_BYTES), path))
        except OSError:
            contents.append((None, path))
    return sorted(contents, key=lambda item: (item[0] or "", item[1]))


def _count(game: MafiaGame, acts: list[dict[str, Any]], counts: Counter[str]) -> None:
    counts.update(game.repairs)
    counts.update(("games", f"outcomes.{game.outcome}", f"roles.{game.role}"))
    for act in acts:
        counts.update(("pairs", f"phases.{act['phase']}"))
        counts["kept" if act["dropped"] is None else f"dropped.{act['dropped']}"] += 1
    counts.update(f"action_faults.{fault}" for pair in game.pairs for fault in pair.faults)


def _game_row(key: str, game: MafiaGame) -> dict[str, Any]:
    return {
        "game": key,
        "content": game.content,
        "experiment": "",
        "game_id": None,
        "winner": game.winner,
        "aborted": game.outcome in ("timeout", "error"),
        "turns": game.turns,
        "has_log": False,
        "players": [
            {
                "name": f"Player {number}",
                "role": seat.role,
                "team": seat.team,
                "survived": seat.survived,
                "role_reveal_score": None,
            }
            for number, seat in game.seats.items()
        ],
        "backend": "",
        "probe_enabled": False,
        "tallies": 0,
        "tallies_matched": 0,
        "votes_from": "none",
    }


def collect_mafia(shards: list[Path], output: Path) -> None:
    """Merge the shards of a corpus; the result does not depend on how many there are.

    The files are written into `output`, which may hold the shards too; `manifest.json` is removed first and
    written last, so that its presence says that the others belong together.

    Args:
        shards: folders made by `ingest_mafia`.
        output: the folder of the corpus.
    """
    (output / "manifest.json").unlink(missing_ok=True)
    for name, columns in TABLES.items():
        merge_tables(shards, output, name, columns)
    counts: Counter[str] = Counter()
    quarantine: list[dict[str, Any]] = []
    for shard in shards:
        counts.update(_flat(read_json(shard / QUALITY_FILE)))
        quarantine += read_quarantine(shard)
    _write_account(output, counts, quarantine)
    write_manifest(output, "corpus", _facts(counts), [*TABLES, QUALITY_FILE, QUARANTINE_FILE])
    _report(counts)
    if not counts["games"] and counts["files"] > counts["retracted"]:
        _log.warning("Not one of %d files is a Mafia log. Is this the right root?", counts["files"])
    if quarantine:
        _log.warning("%d in quarantine: see %s", len(quarantine), output / QUARANTINE_FILE)


def _facts(counts: Counter[str]) -> dict[str, int]:
    return {"games": counts["games"], "files_read": counts["files"] - counts["retracted"]}


def _write_account(folder: Path, counts: Counter[str], quarantine: list[dict[str, Any]]) -> None:
    quality: dict[str, Any] = {
        name: dict.fromkeys(parts, 0) if parts else 0 for name, parts in _COUNTED.items()
    }
    for name, count in sorted(counts.items()):
        whole, _, part = name.partition(".")
        if part and count:
            quality[whole][part] = count
        elif not part and (count or name in quality):
            quality[name] = count
    write_json(folder / QUALITY_FILE, quality)
    write_quarantine(folder, quarantine)


def _flat(quality: Mapping[str, Any]) -> dict[str, int]:
    """The counts as one level, parts as `whole.part`."""
    flat: dict[str, int] = {}
    for name, value in quality.items():
        flat |= (
            {f"{name}.{part}": count for part, count in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
    return flat


def _report(counts: Counter[str]) -> None:
    _log.info(
        "%d games of %d files, %d copies, %d quarantined, %d retracted; %d observations with their action, "
        "of which %d can be trained on",
        *(
            counts[name]
            for name in ("games", "files", "duplicates", "quarantined", "retracted", "pairs", "kept")
        ),
    )
