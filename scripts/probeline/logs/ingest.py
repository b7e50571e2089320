"""Werewolf logs in, checked tables and an account of everything read out.

`quality.json` counts, over the games of a shard or a corpus:

- files = games + duplicates + quarantined + retracted: each `game_stats.json` is read, left out as the copy
  of another, listed in `quarantine.jsonl` with the reason, or not looked at because config/retracted.yaml
  takes it out, whether it is still there or not. In quarantine too, but counted apart:
  folders_without_stats, game folders that hold none; logs_unreadable, whose games are kept (games =
  logs_read + logs_unreadable + logs_missing).
- aborted: games not played to their end. flagged: games whose log contradicts a tally, as a list.
- statements: statements and replies of all games; statements_with_log: of games whose log was read;
  prompts_recovered: those of them whose true prompt was found.
- tallies = tallies_matched + tallies_mismatched + tallies_without_votes, as `votes.check_tallies` says.
- day_votes, night_votes: events of that type; `_invalid`: those the game could not act on;
  `_free_text`: not exactly a name; `_for_dead`; `_for_self`; wolf_on_ally_…: a werewolf's vote that names
  another werewolf, exactly or in a sentence.
- activation_entries: entries of `player_activations`, among them activation_errors_dropped (the probe
  failed), activation_entries_without_score, and activation_actions_not_text (callouts).
- role_reveal_entries: entries of `role_reveal_activations`, among them those _without_score and
  _of_unknown_players; role_reveals_unreadable: games where that is no object.
- all other keys: repairs and exclusions, by reason.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from probeline.errors import ProbelineError
from probeline.files import (
    atomic_directory,
    read_json,
    write_json,
    write_json_lines,
    write_manifest,
)
from probeline.logs.listing import GAME_STATS, LLM_LOG, has_file
from probeline.logs.llm_log import Call, read_calls
from probeline.logs.reading import quarantined, read_bytes
from probeline.logs.tables import ROWS_PER_GROUP, merge_tables, table_writer
from probeline.logs.timeline import Act, attach_scores, in_order, statement_acts, with_turns
from probeline.logs.votes import (
    Moves,
    callouts,
    check_tallies,
    day_votes,
    day_votes_from_stats,
    night_acts,
    night_acts_from_stats,
)
from probeline.logs.werewolf import Game, read_game
from probeline.progress import progress
from probeline.schema import EVENTS, GAMES, make_table
from probeline.text import plain_text

_log = logging.getLogger(__name__)

EVENTS_FILE = "events.parquet"
GAMES_FILE = "games.parquet"
QUALITY_FILE = "quality.json"
QUARANTINE_FILE = "quarantine.jsonl"

_COUNTED = (
    "files",
    "games",
    "duplicates",
    "quarantined",
    "retracted",
    "folders_without_stats",
    "logs_read",
    "logs_unreadable",
    "logs_missing",
    "aborted",
    "statements",
    "replies",
    "callouts",
    "statements_with_log",
    "prompts_recovered",
    "day_votes",
    "day_votes_invalid",
    "day_votes_free_text",
    "day_votes_for_dead",
    "day_votes_for_self",
    "day_votes_by_wolves",
    "wolf_on_ally_day_votes",
    "night_votes",
    "night_votes_invalid",
    "night_votes_free_text",
    "night_votes_for_dead",
    "night_votes_for_self",
    "wolf_on_ally_night_votes",
    "seer_checks",
    "tallies",
    "tallies_matched",
    "tallies_mismatched",
    "tallies_without_votes",
    "calls",
    "calls_retried",
    "calls_without_response",
    "activation_entries",
    "activation_errors_dropped",
)
"""Counts that are always given, even when they are 0."""


def ingest_werewolf(
    games: list[str],
    root: Path,
    duplicates: Mapping[str, str],
    output: Path,
    retracted: Mapping[str, str] | None = None,
) -> None:
    """Read the games of one shard into tables.

    Args:
        games: keys of the shard's games: their folders relative to `root`.
        root: the folder of the corpus.
        duplicates: key of each game that is the copy of another → key of that other.
        output: the folder to make: events.parquet (`schema.EVENTS`), games.parquet (`schema.GAMES`),
            quality.json, quarantine.jsonl, manifest.json.
        retracted: key of each game of the shard that is taken out → the reason; none of them is in `games`.
    """
    counts: Counter[str] = Counter()
    for key, reason in (retracted or {}).items():
        counts.update(("files", "retracted"))
        _log.info("Left out, because it was retracted: %s (%s)", plain_text(key), plain_text(reason))
    quarantine: list[dict[str, Any]] = []
    flagged: list[str] = []
    with atomic_directory(output) as draft:
        game_rows = []
        with table_writer(draft / EVENTS_FILE, EVENTS) as events:
            pending: list[dict[str, Any]] = []
            for key in progress(sorted(games), "Reading games", total=len(games), unit="game"):
                if not has_file(root / key / GAME_STATS):
                    counts["folders_without_stats"] += 1
                    quarantine.append(
                        _quarantined(key, root / key / GAME_STATS, ProbelineError(f"no {GAME_STATS}"))
                    )
                    continue
                counts["files"] += 1
                if key in duplicates:
                    counts["duplicates"] += 1
                    continue
                read = _read_folder(root, key, counts, quarantine)
                if read is None:
                    continue
                row, acts = _game_events(key, *read, counts, flagged)
                game_rows.append(row)
                pending += acts
                if len(pending) >= ROWS_PER_GROUP:
                    events(make_table(pending, EVENTS))
                    pending = []
            events(make_table(pending, EVENTS))
        with table_writer(draft / GAMES_FILE, GAMES) as table:
            table(make_table(game_rows, GAMES))
        _write_account(draft, counts, flagged, quarantine)
        write_manifest(draft, "corpus-shard", _facts(counts))
    _report(counts)
    for line in quarantine:
        _log.warning("Quarantined %s/%s: %s", plain_text(line["path"]), line["file"], line["reason"])


def _read_folder(
    root: Path, key: str, counts: Counter[str], quarantine: list[dict[str, Any]]
) -> tuple[Game, list[Call] | None] | None:
    """The game in a folder with the calls of its log, or None where it went into quarantine."""
    stats, log = root / key / GAME_STATS, root / key / LLM_LOG
    try:
        game = read_game(read_bytes(stats))
    except (ProbelineError, OSError) as error:
        counts["quarantined"] += 1
        quarantine.append(_quarantined(key, stats, error))
        return None
    if not has_file(log):
        counts["logs_missing"] += 1
        return game, None
    try:
        calls = read_calls(read_bytes(log).decode("utf-8"), game.words)
    except (ProbelineError, OSError, UnicodeDecodeError) as error:
        counts["logs_unreadable"] += 1
        quarantine.append(_quarantined(key, log, error))
        return game, None
    counts["logs_read"] += 1
    return game, calls


def _quarantined(key: str, path: Path, error: Exception) -> dict[str, Any]:
    return {"path": key, "file": path.name, **quarantined(path, error)}


def _game_events(
    key: str, game: Game, calls: list[Call] | None, counts: Counter[str], flagged: list[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of a game and the rows of its events; adds to the counts."""
    own: Counter[str] = Counter(game.repairs)
    acts = _acts_from_stats(game, own) if calls is None else _acts_from_log(game, calls, own)
    own["games"] += 1
    own["aborted"] += game.aborted
    _count_acts(game, acts, own, with_log=calls is not None)
    counts.update(own)
    if own["tallies_mismatched"]:
        flagged.append(key)
    source = "none"
    if any(act.type == "day_vote" for act in acts):
        source = "stats" if calls is None else "log"
    row = {
        "game": key,
        "content": game.content,
        "experiment": key.rpartition("/")[0],
        "game_id": game.game_id,
        "winner": game.winner,
        "aborted": game.aborted,
        "turns": game.turns,
        "has_log": calls is not None,
        "players": [
            {
                "name": player.name,
                "role": player.role,
                "team": player.team,
                "survived": player.survived,
                "role_reveal_score": player.role_reveal_score,
            }
            for player in game.players.values()
        ],
        "backend": game.backend,
        "probe_enabled": game.probe_enabled,
        "tallies": own["tallies"],
        "tallies_matched": own["tallies_matched"],
        "votes_from": source,
    }
    return row, [_row(key, position, game, act) for position, act in enumerate(acts)]


def _acts_from_log(game: Game, calls: list[Call], counts: Counter[str]) -> list[Act]:
    known = [call for call in calls if call.player in game.players]
    counts["calls_of_unknown_players"] += len(calls) - len(known)
    counts["calls"] += len(known)
    counts["calls_retried"] += sum(call.retries > 0 for call in known)
    counts["calls_without_response"] += sum(not call.responses for call in known)
    with_turns(known)
    talk = statement_acts(game, known)
    nights = night_acts(game, known, counts)
    questions = callouts(game, known, counts)
    votes = day_votes(game, known, counts)
    check_tallies(game, votes, counts)
    attach_scores(game, known, [*talk, *nights, *questions, *votes], counts)
    return in_order(game, nights, talk, questions, votes)


def _acts_from_stats(game: Game, counts: Counter[str]) -> list[Act]:
    talk = statement_acts(game, [])
    moves = {player: Moves(game, player, talk) for player in game.players}
    nights = night_acts_from_stats(game, counts)
    for act in nights:
        act.activation = moves[act.actor or ""].nights.get(act.turn)
    questions = [act for player in game.players for act in moves[player].callout_acts(game)]
    votes = day_votes_from_stats(game, moves, counts)
    check_tallies(game, votes, counts)
    return in_order(game, nights, talk, questions, votes)


def _count_acts(game: Game, acts: list[Act], counts: Counter[str], *, with_log: bool) -> None:
    for act in acts:
        if act.type in ("statement", "reply"):
            counts["statements"] += 1
            counts["replies"] += act.type == "reply"
            counts["statements_with_log"] += with_log
            counts["prompts_recovered"] += act.evidence is not None
        elif act.type in ("callout", "seer_check"):
            counts[f"{act.type}s"] += 1
        elif act.type in ("day_vote", "night_vote"):
            _count_vote(game, act, counts)


def _count_vote(game: Game, vote: Act, counts: Counter[str]) -> None:
    kind = f"{vote.type}s"
    roles = [game.players[name].role for name in (vote.actor, vote.target) if name is not None]
    counts[kind] += 1
    counts[f"{kind}_invalid"] += not vote.valid
    counts[f"{kind}_free_text"] += vote.text not in game.players
    counts[f"{kind}_for_dead"] += vote.text in game.players and vote.text not in game.living(
        vote.turn, by_day=vote.type == "day_vote"
    )
    counts[f"{kind}_for_self"] += vote.actor == vote.target
    counts[f"{kind}_by_wolves"] += roles[0] == "werewolf"
    on_ally = roles == ["werewolf", "werewolf"] and vote.actor != vote.target
    counts[f"wolf_on_ally_{kind}"] += on_ally
    counts[f"wolf_on_ally_{kind}_invalid"] += on_ally and not vote.valid


def _row(key: str, position: int, game: Game, act: Act) -> dict[str, Any]:
    actor = game.players.get(act.actor or "")
    target = game.players.get(act.target or "")
    evidence = act.evidence
    answer = evidence.answer if evidence else None
    scores = (act.activation.scores if act.activation else None) or {}
    return {
        "game": key,
        "event": position,
        "turn": act.turn,
        "type": act.type,
        "actor": act.actor,
        "actor_role": actor.role if actor else None,
        "actor_team": actor.team if actor else None,
        "target": act.target,
        "target_role": target.role if target else None,
        "target_team": target.team if target else None,
        "same_team": actor.team == target.team if actor and target else None,
        "text": act.text,
        "question": act.question,
        "reasoning": act.reasoning,
        "valid": act.valid,
        "source": "log" if evidence else "stats",
        "system_prompt": evidence.call.system if evidence else None,
        "user_prompt": evidence.call.user if evidence else None,
        "response": evidence.response if evidence else None,
        "action_start": answer.start if answer else None,
        "action_end": answer.end if answer else None,
        "reasoning_start": answer.reasoning_start if answer else None,
        "reasoning_end": answer.reasoning_end if answer else None,
        **{column: scores.get(column) for column in _SCORE_COLUMNS},
    }


_SCORE_COLUMNS = [name for name, _, _ in EVENTS if name.startswith("logged_")]


def collect_corpus(shards: list[Path], output: Path) -> None:
    """Merge the shards of a corpus; the result does not depend on how many there are.

    The files are written into `output`, which may hold the shards too; `manifest.json` is removed first and
    written last, so that its presence says that the others belong together.

    Args:
        shards: folders made by `ingest_werewolf`.
        output: the folder of the corpus.
    """
    (output / "manifest.json").unlink(missing_ok=True)
    for name, columns in ((EVENTS_FILE, EVENTS), (GAMES_FILE, GAMES)):
        merge_tables(shards, output, name, columns)
    counts: Counter[str] = Counter()
    flagged: list[str] = []
    quarantine: list[dict[str, Any]] = []
    for shard in shards:
        quality = read_json(shard / QUALITY_FILE)
        flagged += quality.pop("flagged")
        counts.update(quality)
        quarantine += _read_lines(shard / QUARANTINE_FILE)
    _write_account(output, counts, flagged, quarantine)
    written = [EVENTS_FILE, GAMES_FILE, QUALITY_FILE, QUARANTINE_FILE]
    write_manifest(output, "corpus", _facts(counts), written)
    _report(counts)
    if quarantine:
        _log.warning("%d in quarantine: see %s", len(quarantine), output / QUARANTINE_FILE)


def _facts(counts: Counter[str]) -> dict[str, int]:
    return {"games": counts["games"], "files_read": counts["files"] - counts["retracted"]}


def _write_account(
    folder: Path, counts: Counter[str], flagged: list[str], quarantine: list[dict[str, Any]]
) -> None:
    quality = dict.fromkeys(_COUNTED, 0) | {name: count for name, count in counts.items() if count}
    write_json(folder / QUALITY_FILE, {**quality, "flagged": sorted(flagged)})
    write_json_lines(
        folder / QUARANTINE_FILE, sorted(quarantine, key=lambda line: (line["path"], line["file"]))
    )


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def _report(counts: Counter[str]) -> None:
    _log.info(
        "%d games, %d copies, %d quarantined, %d retracted; %d statements, %d of %d prompts recovered; "
        "%d vote tallies matched, %d contradicted, %d without known voters",
        *(
            counts[name]
            for name in (
                "games",
                "duplicates",
                "quarantined",
                "retracted",
                "statements",
                "prompts_recovered",
                "statements_with_log",
                "tallies_matched",
                "tallies_mismatched",
                "tallies_without_votes",
            )
        ),
    )
