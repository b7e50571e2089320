"""A game as it was played, on one page: what was said coloured by token, and suspicion as it grew.

What a player could not know at the table (roles, what is done by night, private reasoning) is not in the
HTML of the page: it lies in its data, and its script shows it when it is asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from probeline.html_head import json_in_html
from probeline.probes.token_scores import SampleTokens
from probeline.reports import transcripts
from probeline.reports.estimates import layers_told
from probeline.reports.page import Section, facts, page
from probeline.reports.transcripts import timelines
from probeline.shades import coloured, joined, scale, shade_class
from probeline.visible import SIGNED_BREAK, safe, visible

Row = Mapping[str, Any]

PHASES = {
    **{"night_vote": "night", "seer_check": "night", "protection": "night", "night_kill": "night"},
    **{"statement": "day", "reply": "day", "callout": "day"},
    **{"day_vote": "vote", "day_elimination": "vote"},
}
SECRET = ("night_vote", "seer_check", "protection")
"""Acts that only some players know of, and that tell what the actor is."""
VERBS = {
    "callout": "asks",
    "reply": "answers",
    "day_vote": "votes against",
    "night_vote": "wants to kill",
    "seer_check": "looks at",
    "protection": "guards",
}
SPLITS = {
    "train": "The probe was trained on this game: that it is right here shows nothing.",
    "validation": "The probe's threshold was chosen on games with this one: scores here flatter it.",
    "test": "The probe never saw this game.",
}


@dataclass(frozen=True)
class Played:
    """All that a page shows of a game.

    Attributes:
        game: row of schema.GAMES.
        events: rows of schema.EVENTS without the prompts, in order.
        corpus: its name.
        split: of the game; what it means is in SPLITS.
        used: whether the probe was trained or tested on any act of the game.
        scored: event → what the probe makes of it.
        suspects: rows of schema.SUSPECTS of these acts.
        reveals: rows of schema.REVEALS.
        tells_roles: whether it tells roles which acts have a score, or private words are scored: then
            scores are hidden, too.
        mask: of the concept: with `action` what was scored is what was said.
    """

    game: Row
    events: Sequence[Row]
    corpus: str
    split: str
    used: bool
    scored: Mapping[int, SampleTokens]
    suspects: Sequence[dict[str, Any]]
    reveals: Sequence[Row] = field(default=())
    tells_roles: bool = False
    mask: str = "action"


def view_page(played: Played, probe: Mapping[str, Any]) -> str:
    """The whole page. The same game and probe make the same bytes.

    Args:
        played: the game.
        probe: name, concept, method, layers, model, threshold and verdict of the probe.
    """
    own = files("probeline.reports")
    threshold = probe["threshold"]
    body = (
        f"{_controls(played)}\n<div id=game data-tells={int(played.tells_roles)}>"
        f"<aside aria-label=Suspicion>{_suspicion(played)}</aside>\n"
        f"<div id=acts>{''.join(_lines(played, threshold))}</div></div>\n"
        f'<script type="application/json" id=played>{json_in_html(_data(played, threshold))}</script>\n'
    )
    return page(
        f"Game {played.game['game']}",
        [Section("play", "As it was played", body)],
        lead=_lead(played, probe),
        style=transcripts.style() + own.joinpath("view.css").read_text(encoding="utf-8"),
        script=transcripts.script() + own.joinpath("view.js").read_text(encoding="utf-8"),
    )


def _lead(played: Played, probe: Mapping[str, Any]) -> str:
    said = {
        "probe": f"{safe(probe['name'])}: {safe(probe['method'])} for {safe(probe['concept'])} on "
        f"{safe(layers_told(probe['layers']))} of {safe(probe['model'])}",
        "label 1": f"<code>{safe(probe['label'])}</code>" if probe.get("label") else "",
        "on test games": safe(probe["verdict"]),
        "corpus": f"{safe(played.corpus)}, {len(played.game['players'])} players, "
        f"{played.game['turns']} turns",
    }
    known = SPLITS[played.split]
    if not played.used:
        known = "None of its acts was used to train or test the probe."
    warning = "" if played.split == "test" or not played.used else " warning"
    split = f"<p class='split{warning}'><b>{safe(played.split)}</b> {safe(known)}</p>\n"
    if not played.scored:
        split += (
            "<p class='split warning'><b>no scores</b> The probe scores none of what was said here.</p>\n"
        )
    return split + facts({key: value for key, value in said.items() if value}) + scale(probe["threshold"])


def _controls(played: Played) -> str:
    players = "".join(
        f"<option value={number}>{safe(player['name'])}</option>"
        for number, player in enumerate(played.game["players"])
    )
    phases = "".join(
        f"<label><input type=checkbox name=phase value={phase} checked> {phase}</label>"
        for phase in ("night", "day", "vote")
    )
    return (
        "<div class=filter id=controls><label><input type=checkbox id=reveal role=switch> roles</label>"
        f"<label>player <select id=player><option value=''>all</option>{players}</select></label>{phases}"
        '<span><button type=button id=before title="the one before (k)">←</button> '
        '<button type=button id=after title="the next one (j)">→</button> statement</span></div>'
    )


def _suspicion(played: Played) -> str:
    if not played.scored:
        return ""
    hidden = (
        "<p class=faint id=veil>What this probe scores would tell roles, or thoughts: scores come with the "
        "switch “roles”.</p>"
        if played.tells_roles
        else ""
    )
    return (
        "<div id=strip></div><details open id=drawing><summary>running suspicion</summary>"
        f"<div id=chart></div>{hidden}<p class=faint>Mean score so far. Above the dashed threshold the probe "
        "says label 1. A click on a name leads to the player's next statement.</p></details>"
    )


def _lines(played: Played, threshold: float) -> list[str]:
    """What everybody at the table saw, under a heading for each part of each turn."""
    numbers = {player["name"]: number for number, player in enumerate(played.game["players"])}
    part, lines = None, []
    asked: tuple[Any, Any, Any] | None = None
    for event in played.events:
        phase = PHASES[event["type"]]
        if (event["turn"], phase) != part:
            part = event["turn"], phase
            name = {"night": "night", "day": "talk", "vote": "vote"}[phase]
            lines.append(f"<h3 data-part={event['turn']}-{phase}>Turn {event['turn']}, {name}</h3>\n")
        lines.append(_act(event, played, threshold, numbers, asked))
        if event["type"] == "callout":
            asked = event["actor"], event["target"], event["text"]
    return lines


def _act(
    event: Row,
    played: Played,
    threshold: float,
    numbers: Mapping[str, int],
    asked: tuple[Any, Any, Any] | None,
) -> str:
    """One act as HTML; of a secret one only its place."""
    phase, kind = PHASES[event["type"]], event["type"]
    who = [numbers[name] for name in (event["actor"], event["target"]) if name in numbers]
    place = f"id=e{event['event']} data-phase={phase} data-part={event['turn']}-{phase}"
    if kind in SECRET:
        return f"<article {place} hidden></article>\n"
    place += f" data-type={kind}"
    actor = numbers.get(event["actor"], "") if event["actor"] is not None else ""
    place += f' data-actor="{actor}" data-who="{" ".join(map(str, who))}"'
    return f"<article {place}>{_content(event, played, threshold, asked)}</article>\n"


def _content(event: Row, played: Played, threshold: float, asked: tuple[Any, Any, Any] | None) -> str:
    kind, target = event["type"], _name(event["target"])
    if kind == "night_kill":
        return f"<p class=fate>{target} was killed.</p>"
    if kind == "day_elimination":
        return f"<p class=fate>{target} was voted out<span class=outed></span>.</p>"
    question, known = "", (event["target"], event["actor"], event["question"])
    if kind == "reply" and event["question"] and asked != known:
        question = f"<p class=question>{target} asks: {safe(event['question'])}</p>"
    verb = f" <span class=verb>{VERBS[kind]}</span> {target}" if kind in VERBS else ""
    scored = None if played.tells_roles else played.scored.get(event["event"])
    score = ""
    if scored is not None:
        score = f"<span class='score {shade_class(scored.score, threshold)}'>{scored.score:+.2f}</span>"
    invalid = "" if event["valid"] else " <small>not accepted</small>"
    head = f"{question}<h4>{_name(event['actor'])}<span class=role></span>{verb}{score}{invalid}</h4>"
    if kind == "day_vote":
        return head  # the name is all that was said
    if scored is None or played.mask != "action":
        return f"{head}{_words(event['text'])}"
    tokens = coloured(scored.tokens, scored.token_scores, threshold)
    return f"{head}<div class='text tokens' dir=auto>{tokens}</div>"


def _name(name: str | None) -> str:
    return f"<b>{safe('nobody' if name is None else name)}</b>"


def _words(text: str | None) -> str:
    return f"<div class=text dir=auto>{safe(text or '(nothing)', SIGNED_BREAK)}</div>"


def _data(played: Played, threshold: float) -> dict[str, Any]:
    """What the script reads: all that is hidden at first, and what it draws."""
    told: dict[str, list[str]] = {}
    for reveal in played.reveals:
        told.setdefault(reveal["actor"], []).append(_plain(reveal["text"]))
    # Whether an act is called label 1, and its shade, is told by whole scores: those shown are rounded.
    wrong = [
        row["event"]
        for row in played.suspects
        if row["label"] is not None and (row["score"] >= threshold) != bool(row["label"])
    ]
    shades = {str(row["event"]): shade_class(row["running_score"], threshold) for row in played.suspects}
    return {
        "threshold": threshold,
        "players": [
            {
                "name": _plain(player["name"]),
                "role": _plain(player["role"]),
                "told": told.get(player["name"], []),
            }
            for player in played.game["players"]
        ],
        "suspects": timelines(played.suspects).get(played.game["game"], []),
        "actors": _actors(played),
        "wrong": wrong,
        "shades": shades,
        "winner": _plain(played.game["winner"]),
        "secrets": [
            {
                "event": event["event"],
                "actor": _plain(event["actor"]),
                "verb": VERBS[event["type"]],
                "target": _plain(event["target"]),
            }
            for event in played.events
            if event["type"] in SECRET
        ],
        "reasoning": {
            str(event["event"]): _plain(event["reasoning"]) for event in played.events if event["reasoning"]
        },
        "outed": {
            str(event["event"]): _plain(event["target_role"])
            for event in played.events
            if event["type"] == "day_elimination" and event["target_role"]
        },
        "words": {
            str(number): {
                "score": round(one.score, 2),
                "class": shade_class(one.score, threshold),
                "tokens": tokens,
                "said": played.mask == "action",
            }
            for number, one in played.scored.items()
            if (tokens := _tokens(one, threshold)) and _is_hidden(number, played)
        },
    }


def _is_hidden(number: int, played: Played) -> bool:
    kinds = {event["event"]: event["type"] for event in played.events}
    return played.tells_roles or kinds[number] in SECRET


def _tokens(one: SampleTokens, threshold: float) -> list[list[Any]]:
    return [
        [visible(text, SIGNED_BREAK), round(score, 2), shade_class(score, threshold)]
        for text, score in joined(one.tokens, one.token_scores)
    ]


def _actors(played: Played) -> list[int]:
    """For each suspect, the number of the player who acts."""
    numbers = {player["name"]: number for number, player in enumerate(played.game["players"])}
    actors = dict.fromkeys((row["actor"], row["target"]) for row in played.suspects)
    return [numbers.get(actor, -1) for actor, _ in actors]


def _plain(text: Any) -> str:
    """A text for the script, which writes it as text."""
    return visible("nobody" if text is None else str(text), SIGNED_BREAK)
