"""What a probe made of whole games: its worst errors in words, and how suspicion grew."""

from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from probeline.files import MANIFEST, open_parquet, read_json
from probeline.html_head import json_in_html
from probeline.reports.estimates import many
from probeline.reports.page import figure
from probeline.shades import coloured, scale
from probeline.visible import safe, visible

Row = dict[str, Any]

DIGITS = 2
"""Of a score in a timeline."""
MOST_GAMES = 200
"""Test games with timelines, the first by name; that some are left out is said."""
LETTERS_BEFORE = 300
"""Of each line before an error."""
CHOICES = ("day_vote", "night_vote", "seer_check", "protection")
"""Acts whose words are a name."""
ERRORS = {
    "false alarm": "called label 1, and is not",
    "miss": "label 1, and not called so",
}


def style() -> str:
    """CSS of these sections, besides that of all pages."""
    return files("probeline.reports").joinpath("transcripts.css").read_text(encoding="utf-8")


def script() -> str:
    """JavaScript of these sections, besides that of all pages."""
    return files("probeline.reports").joinpath("transcripts.js").read_text(encoding="utf-8")


def errors_section(transcripts: Path, most: int) -> str:
    """HTML of a probe's worst false alarms and misses, coloured by token.

    Args:
        transcripts: made by the rule score_tokens.
        most: how many, of both kinds together; those of games that are not in tokens are left out.
    """
    facts = read_json(transcripts / MANIFEST)
    errors = sorted(
        (row for row in _rows(transcripts / "transcripts.parquet") if row["place"] is not None),
        key=lambda row: row["place"],
    )[:most]
    counted = (
        f"{many(facts['false_alarms'], 'false alarm')} and {facts['misses']:,} "
        f"miss{'' if facts['misses'] == 1 else 'es'} among {many(facts['tested'], 'tested act')}"
    )
    if not errors:
        none = "; report.errors shows none of them" if facts["false_alarms"] + facts["misses"] else ""
        return f"<p>{safe(counted)}{none}.</p>\n"
    words = _tokens_of(transcripts, {row["sample"] for row in errors})
    shown = "".join(_error(row, words[row["sample"]], facts["threshold"]) for row in errors)
    choices = any(row["type"] in CHOICES for row in errors)
    caption = (
        f"The worst errors in {many(len(facts['games']), 'test game')}, false alarms and misses in turn, of "
        f"{counted}. Look for what the coloured words have in "
        "common: a probe that fires at a topic or a phrase, not at the speaker, shows it here."
        f"{' Of a vote, the name is all that the probe reads.' if choices else ''}"
    )
    table = (transcripts / "transcripts.parquet").as_posix()
    picture = f"{scale(facts['threshold'])}<div class=errors>{shown}</div>"
    data = {"tokens": (transcripts / "tokens.parquet").as_posix(), "statements": table}
    return f'<div class="wide">{figure(picture, caption, data)}</div>\n'


def _error(row: Row, tokens: Sequence[Row], threshold: float) -> str:
    """One error with what was said before it."""
    before = "".join(
        f"<p{' class=own' if line['role'] == 'assistant' else ''}>{safe(_short(line['content']))}</p>"
        for line in row["before"]
    )
    text = coloured((one["text"] for one in tokens), (one["score"] for one in tokens), threshold)
    target = f" → {safe(row['target'])}" if row["target"] else ""
    kind = " class=miss" if row["error"] == "miss" else ""
    return (
        f"<article{kind}><h4><b>{safe(row['error'])}</b> {safe(ERRORS[row['error']])}</h4>\n"
        f"<p class=faint>{safe(row['actor'])}{target}, {safe(row['actor_role'])} · label {row['label']} · "
        f"score <b>{row['score']:+.2f}</b>, threshold {threshold:+.2f} · {safe(row['type'])} in turn "
        f"{row['turn']} of {safe(row['game'])}</p>\n"
        f"<div class=before>{before}</div>\n"
        f'<div class="text tokens" dir=auto>{text}</div></article>\n'
    )


def _short(line: str) -> str:
    return line if len(line) <= LETTERS_BEFORE else f"{line[: LETTERS_BEFORE - 1]}…"


def _tokens_of(transcripts: Path, samples: set[str]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {sample: [] for sample in samples}
    for row in _rows(transcripts / "tokens.parquet"):
        if row["sample"] in samples:
            found[row["sample"]].append(row)
    return found


def timelines_section(probe: Path) -> str:
    """HTML of the running suspicion of each player in the test games, one game at a time.

    Args:
        probe: made by `train_probe`.
    """
    facts = read_json(probe / MANIFEST)
    rows = [row for row in _rows(probe / "suspects.parquet") if row["split"] == "test"]
    names = sorted({row["game"] for row in rows})
    if not names:
        return "<p>No test game has a score.</p>\n"
    games = timelines(rows)
    kept = names[:MOST_GAMES]
    data = {"threshold": facts["threshold"], "games": [[_shown(name), games[name]] for name in kept]}
    left_out = ""
    if len(names) > MOST_GAMES:
        left_out = f" Of {len(names):,} test games the first {MOST_GAMES} are here."
    pairs = any(row["target"] is not None for row in rows)
    who = "player's acts towards one other" if pairs else "player's acts"
    caption = (
        f"Each line is the mean score of one {who} up to then. Where the probe tells the sides apart, lines "
        "part on both sides of the dashed threshold while the game goes on; lines that cross late were late "
        f"to tell.{left_out}"
    )
    options = "".join(f"<option value={number}>{safe(name)}</option>" for number, name in enumerate(kept))
    picture = (
        "<div class=timelines><div class=filter>"
        f"<label>Game <select>{options}</select></label>"
        "<label><input type=checkbox> roles</label></div>\n"
        "<div class=chart></div>\n"
        "<noscript><p>Drawn by JavaScript, which this page carries itself.</p></noscript>\n"
        f"<script type=application/json>{json_in_html(data)}</script></div>\n"
    )
    links = {"suspects": (probe / "suspects.parquet").as_posix()}
    return f'<div class="wide">{figure(picture, caption, links)}</div>\n'


def timelines(rows: Iterable[Row]) -> dict[str, list[list[Any]]]:
    """Game → its suspects, each a name, role, label and acts: [event, turn, score, running score].

    Args:
        rows: of schema.SUSPECTS, the acts of a suspect in order.
    """
    games: dict[str, dict[tuple[str, str | None], list[Any]]] = {}
    for row in rows:
        key = row["actor"], row["target"]
        name = row["actor"] if row["target"] is None else f"{row['actor']} → {row['target']}"
        suspects = games.setdefault(row["game"], {})
        suspect = suspects.setdefault(key, [_shown(name), _shown(row["role"]), row["label"], []])
        running = round(row["running_score"], DIGITS)
        suspect[3].append([row["event"], row["turn"], round(row["score"], DIGITS), running])
    return {game: list(suspects.values()) for game, suspects in games.items()}


def _shown(text: str) -> str:
    """A text for a script, which writes it as text: nothing hides or turns the letters around it."""
    return text if text.isascii() and text.isprintable() else visible(text)


def _rows(path: Path) -> list[Row]:
    rows: list[Row] = open_parquet(path).read().to_pylist()
    return rows
