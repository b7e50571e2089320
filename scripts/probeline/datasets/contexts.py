"""The chats that a model reads: what it sees before an actor's words, and where those words stand.

Offsets are kept while a chat is written; nothing is ever found again by searching for it.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from string import Template
from typing import Any

from probeline.datasets.concepts import PUBLIC_ACTS
from probeline.datasets.role_mask import PRIVATE_ACTS, UNKNOWN_ROLE, Hide, prompt_without_team, role_hider
from probeline.errors import ProbelineError, near_misses

# section → key → the placeholders that its wording may use
_ACT = {"actor", "target"}
WORDING: dict[str, dict[str, set[str]]] = {
    "transcript": {
        "turn": {"turn"},
        "night_kill": {"target"},
        "statement": {"actor", "words"},
        "question": {"actor", "target", "words"},
        "day_elimination": {"target", "target_role"},
    },
    "none": {
        "system": {"actor"},
        "statement": _ACT,
        "reply": _ACT,
        "callout": _ACT,
        "day_vote": _ACT,
        "night_vote": _ACT,
        "seer_check": _ACT,
        "protection": _ACT,
    },
    "public": {"system": {"players", "setup"}},
    "private": {
        "system": {"actor", "role", "players", "setup", "allies"},
        "allies": {"allies"},
        "statement": _ACT,
        "reply": _ACT,
        "callout": {"target"},
        "day_vote": set(),
        "night_vote": set(),
        "seer_check": set(),
        "protection": set(),
        "seer_result": {"target", "target_role"},
    },
}
NO_TARGET = "someone"
PACKS = ("werewolves", "mafia")
"""The teams whose members know one another."""
TELLING = ("role", "allies")
"""The placeholders of private.system that tell the player's role."""
_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?])(?=\s)|(?=\n)")

Event = Mapping[str, Any]
Wording = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` (code points, end exclusive) of the content of one message."""

    message: int
    start: int
    end: int


@dataclass(frozen=True)
class View:
    """One sequence: a chat, and the masked span of every chosen event in it.

    Attributes:
        name: what follows the game in the sequence's id.
        messages: role and content; user and assistant alternate after the system message.
        spans: number of the event → its masked span.
        player: who sees it, where it is one player's view of the whole game.
        reveals: the sentences that tell this player its role, and who its allies are.
    """

    name: str
    messages: list[dict[str, str]]
    spans: dict[int, Span]
    player: str | None = None
    reveals: tuple[Span, ...] = ()


def check_wording(template: Any) -> None:
    """Refuse a template whose wording could not be filled.

    Args:
        template: the content of a file in `config/templates`.

    Raises:
        ProbelineError: a section or key is missing or unknown, or a placeholder is; names the key.
    """
    if not isinstance(template, dict):
        raise ProbelineError(f"Template: sections are needed ({', '.join(WORDING)}), found {template!r}.")
    _check_keys("", template, {**WORDING, "plural": set()})
    if not isinstance(template["plural"], dict):
        raise ProbelineError("Template, plural: roles and their plurals are needed, or {} for none.")
    for role, plural in template["plural"].items():
        _check_line(f"plural.{role}", plural, ())
    for section, keys in WORDING.items():
        if not isinstance(template[section], dict):
            raise ProbelineError(f"Template, {section}: keys with wording are needed: {', '.join(keys)}.")
        _check_keys(f"{section}.", template[section], keys)
        for key, allowed in keys.items():
            _check_line(f"{section}.{key}", template[section][key], allowed)


def _check_keys(where: str, found: Mapping[str, Any], wanted: Collection[str]) -> None:
    for key in found:
        if key not in wanted:
            raise ProbelineError(f"Template: unknown key {where}{key}. {near_misses(str(key), wanted)}")
    for key in wanted:
        if key not in found:
            raise ProbelineError(f"Template: {where}{key} is missing.")


def _check_line(key: str, text: Any, allowed: Collection[str]) -> None:
    if not isinstance(text, str) or not text.strip():
        raise ProbelineError(f"Template, {key}: a text is needed, found {text!r}.")
    if not Template(text).is_valid():
        raise ProbelineError(f"Template, {key}: a $ stands before no name; write $$ for a dollar sign.")
    names = Template(text).get_identifiers()
    for name in names:
        if name not in allowed:
            raise ProbelineError(
                f"Template, {key}: unknown placeholder ${name}. {near_misses(name, allowed)}"
            )
    if "words" in allowed and "words" not in names:
        raise ProbelineError(f"Template, {key}: the placeholder $words is missing.")


def exclusion(event: Event, context: str, mask: str) -> str | None:
    """Why an event has no span in a context under a mask; None when it has one."""
    if context == "prompt":
        return _exclusion_from_prompt(event, mask)
    if context == "public" and event["type"] not in PUBLIC_ACTS:
        return "not public"
    if not _words(event):
        return "no words"
    if mask in ("reasoning", "generation") and not (event["reasoning"] or "").strip():
        return "no reasoning"
    return None


def _exclusion_from_prompt(event: Event, mask: str) -> str | None:
    if not (event["user_prompt"] or "").strip() or not (event["response"] or "").strip():
        return "prompt not recovered"
    if mask in ("action", "generation"):
        if event["action_start"] is None:
            return "no span of the action"
        if not event["response"][event["action_start"] : event["action_end"]].strip():
            return "no words"
    if mask in ("reasoning", "generation"):
        if event["reasoning_start"] is None:
            return "no span of the reasoning"
        if not event["response"][event["reasoning_start"] : event["reasoning_end"]].strip():
            return "no reasoning"
    return None


def views_of(
    context: str,
    mask: str,
    game: Mapping[str, Any],
    events: list[Event],
    chosen: Collection[int],
    template: Wording,
    *,
    role_masked: bool = False,
) -> list[View]:
    """The sequences of one game, which depend on that game alone.

    Args:
        context: one of CONTEXTS.
        mask: one of MASKS.
        game: the game's row of the table of games.
        events: all its events, in order.
        chosen: numbers of the events that are samples; none of them has an `exclusion`.
        template: wording that `check_wording` accepts.
        role_masked: take out what tells the actor's role, see `role_mask`; the masked words stay as they are.

    Returns:
        Views in the order of their first sample; every chosen event has a span in exactly one.
    """
    makers: dict[str, Callable[..., Iterator[View]]] = {
        "none": _bare_views,
        "public": _public_views,
        "private": _private_views,
        "prompt": _prompt_views,
    }
    hide = None
    if role_masked:
        hide = role_hider((player["role"] for player in game["players"]), template["plural"])
    return list(makers[context](mask, game, events, set(chosen), template, hide)) if chosen else []


class _Chat:
    """A chat under construction that knows the offset of every piece.

    Args:
        system: the system message, none if empty.
        hide: takes the names of roles out of every text but the assistant's.
    """

    def __init__(self, system: str, hide: Hide | None = None) -> None:
        self.messages: list[dict[str, str]] = []
        self._hide = hide
        if system.strip():
            self.add("system", system)

    def add(self, role: str, text: str) -> Span:
        """Append a text, on a new line of the last message when that has the same role."""
        # Chat templates trim messages, which would shift the offsets of untrimmed ones.
        text = text.strip()
        if self._hide is not None and role != "assistant":
            text = self._hide(text)
        if not self.messages or self.messages[-1]["role"] != role:
            self.messages.append({"role": role, "content": ""})
        content = self.messages[-1]["content"]
        start = len(content) + 1 if content else 0
        self.messages[-1]["content"] = f"{content}\n{text}" if content else text
        return Span(len(self.messages) - 1, start, start + len(text))

    def before(self, span: Span) -> Span:
        """The last character before `span` that is no space, in its message or an earlier one."""
        head, message = self.messages[span.message]["content"][: span.start].rstrip(), span.message
        while not head and message > 0:
            message -= 1
            head = self.messages[message]["content"].rstrip()
        return Span(message, len(head) - 1, len(head))

    def speak(self, event: Event, mask: str) -> Span:
        """Append an act as the assistant's turn; the masked span.

        The reasoning goes before the words only under a mask that reads it.
        """
        words, reasoning = _words(event), (event["reasoning"] or "").strip()
        lead = f"{reasoning}\n" if reasoning and mask in ("reasoning", "generation") else ""
        turn = self.add("assistant", lead + words)
        if mask == "reasoning":
            return Span(turn.message, turn.start, turn.start + len(reasoning))
        return self.before(turn) if mask == "prompt_last" else turn


def _bare_views(
    mask: str,
    game: Mapping[str, Any],
    events: list[Event],
    chosen: set[int],
    template: Wording,
    hide: Hide | None,
) -> Iterator[View]:
    wording = template["none"]
    for event in events:
        if event["event"] in chosen:
            names = {"actor": event["actor"], "target": event["target"] or NO_TARGET}
            chat = _Chat(_fill(wording["system"], names), hide)
            chat.add("user", _fill(wording[event["type"]], names))
            span = chat.speak(event, mask)
            yield View(f"none-{event['event']}", chat.messages, {event["event"]: span})


def _prompt_views(
    mask: str,
    game: Mapping[str, Any],
    events: list[Event],
    chosen: set[int],
    template: Wording,
    hide: Hide | None,
) -> Iterator[View]:
    for event in events:
        if event["event"] in chosen:
            prompt = event["user_prompt"]
            if hide is not None:
                prompt = prompt_without_team(prompt)
                event = _without_reasoning(event, mask, hide)
            chat = _Chat(event["system_prompt"] or "", hide)
            chat.add("user", prompt)
            response = chat.add("assistant", event["response"])
            span = chat.before(response) if mask == "prompt_last" else _logged_span(event, mask, response)
            yield View(f"prompt-{event['event']}", chat.messages, {event["event"]: span})


def _without_reasoning(event: Event, mask: str, hide: Hide) -> Event:
    """The event with a response whose action no reasoning precedes, unless the mask reads that."""
    if mask != "action":
        return event
    response, start, end = event["response"], event["action_start"], event["action_end"]
    head = response[:start]
    if event["reasoning_start"] is not None and event["reasoning_end"] <= start:
        head = response[: event["reasoning_start"]] + response[event["reasoning_end"] : start]
    head = hide(head)
    moved = {"action_start": len(head), "action_end": len(head) + end - start}
    return {**event, **moved, "response": head + response[start:]}


def _logged_span(event: Event, mask: str, response: Span) -> Span:
    bounds = {
        "action": [(event["action_start"], event["action_end"])],
        "reasoning": [(event["reasoning_start"], event["reasoning_end"])],
    }
    parts = bounds["action"] + bounds["reasoning"] if mask == "generation" else bounds[mask]
    trimmed = len(event["response"]) - len(event["response"].lstrip())
    start, end = min(first for first, _ in parts) - trimmed, max(last for _, last in parts) - trimmed
    return Span(response.message, max(start, 0), min(end, response.end))


def _public_views(
    mask: str,
    game: Mapping[str, Any],
    events: list[Event],
    chosen: set[int],
    template: Wording,
    hide: Hide | None,
) -> Iterator[View]:
    chat = _Chat(_fill(template["public"]["system"], _table(game, template)))
    spans = {}
    for event, before, (line, offset) in _narrate(_until(events, chosen), template):
        for text in before:
            chat.add("user", text)
        whole = chat.add("user", line)
        if event["event"] in chosen:
            start = whole.start + offset
            words = Span(whole.message, start, start + len(_words(event)))
            spans[event["event"]] = chat.before(words) if mask == "prompt_last" else words
    yield View("public", chat.messages, spans)


def _private_views(
    mask: str,
    game: Mapping[str, Any],
    events: list[Event],
    chosen: set[int],
    template: Wording,
    hide: Hide | None,
) -> Iterator[View]:
    actors = dict.fromkeys(event["actor"] for event in events if event["event"] in chosen)
    for actor in actors:
        own = {event["event"] for event in events if event["actor"] == actor} & chosen
        system, reveals = _private_system(actor, game, template, tell=hide is None)
        chat = _Chat(system, hide)
        spans = {}
        seen = _until(events, own)
        if hide is not None:
            seen = [event for event in seen if event["type"] not in PRIVATE_ACTS or event["event"] in own]
        for event, before, (line, _) in _narrate(seen, template, actor):
            for text in [*before, line]:
                chat.add("user", text)
            if event["actor"] == actor:
                span = chat.speak(event, mask)
                if event["event"] in own:
                    spans[event["event"]] = span
                found = event["type"] == "seer_check" and event["valid"] and event["target_role"]
                if found and hide is None:
                    chat.add("user", _fill(template["private"]["seer_result"], _names(event)))
        yield View(f"private-{actor}", chat.messages, spans, actor, reveals)


def _until(events: list[Event], chosen: set[int]) -> list[Event]:
    return [event for event in events if event["event"] <= max(chosen)]


def _narrate(
    events: list[Event], template: Wording, player: str | None = None
) -> Iterator[tuple[Event, list[str], tuple[str, int]]]:
    """What happens, as all can see it or, for `player`, as that player can.

    Yields:
        The event; the lines that lead to it (a new turn, the question that is answered); and its own
        line with the offset of its words. The line of the player's own act is the request to act.
    """
    wording = template["transcript"]
    turn, asked = None, None
    for event in events:
        own = player is not None and event["actor"] == player
        if not _is_shown(event, own):
            continue
        before = []
        if event["turn"] != turn:
            turn = event["turn"]
            before.append(_fill(wording["turn"], {"turn": str(turn)}))
        question = (event["question"] or "").strip()
        if event["type"] == "callout":
            asked = event["target"]
        elif event["type"] == "reply" and event["target"] and question:
            if (event["target"], event["actor"]) == (player, asked):
                asked = None  # the player asked this in a turn of their own
            else:
                names = {"actor": event["target"], "target": event["actor"], "words": question}
                before.append(_fill(wording["question"], names))
        yield event, before, _line(event, own, template)


def _is_shown(event: Event, own: bool) -> bool:
    if event["type"] in ("night_kill", "day_elimination"):
        return event["target"] is not None
    return bool(_words(event)) and (own or event["type"] in PUBLIC_ACTS)


def _line(event: Event, own: bool, template: Wording) -> tuple[str, int]:
    if own:
        return _fill(template["private"][event["type"]], _names(event)), 0
    # A reply reads like a statement; the question stands before it.
    key = "statement" if event["type"] == "reply" else event["type"]
    return _fill_around(template["transcript"][key], _names(event), _words(event))


def _private_system(
    actor: str, game: Mapping[str, Any], template: Wording, *, tell: bool
) -> tuple[str, tuple[Span, ...]]:
    """A player's system message, and the sentences of it that tell the role, if it is to be told."""
    wording = template["private"]
    me = next((player for player in game["players"] if player["name"] == actor), None)
    allies = ""
    if tell and me is not None and me["team"] in PACKS:
        pack = [player for player in game["players"] if player["team"] == me["team"] and player is not me]
        if pack:
            allies = _fill(wording["allies"], {"allies": _listed(pack)})
    role = me["role"] if me is not None else UNKNOWN_ROLE
    names = {**_table(game, template), "actor": actor, "role": role, "allies": allies}
    text, places = _fill_finding(wording["system"], names, TELLING if tell and me is not None else ())
    return text, tuple(Span(0, start, end) for start, end in places)


def _table(game: Mapping[str, Any], template: Wording) -> dict[str, str]:
    """Who plays and how many of each role, in an order that does not give the roles away."""
    roles = [player["role"] for player in game["players"]]
    counts = {role: roles.count(role) for role in sorted(set(roles), reverse=True)}
    plural = template["plural"]
    setup = [f"{count} {role if count == 1 else plural.get(role, role)}" for role, count in counts.items()]
    return {"players": _listed(game["players"]), "setup": ", ".join(setup)}


def _listed(players: list[Mapping[str, Any]]) -> str:
    return ", ".join(sorted((player["name"] for player in players), key=lambda name: (len(name), name)))


def _names(event: Event) -> dict[str, str]:
    # An elimination can be logged without a role.
    return {
        "actor": event["actor"] or "",
        "target": event["target"] or NO_TARGET,
        "target_role": event["target_role"] or UNKNOWN_ROLE,
    }


def _words(event: Event) -> str:
    return (event["text"] or "").strip()


def _fill(text: str, names: Mapping[str, str]) -> str:
    return Template(text).substitute(names).strip()


def _fill_finding(
    text: str, names: Mapping[str, str], wanted: Collection[str]
) -> tuple[str, list[tuple[int, int]]]:
    """A filled text, and the bounds of the sentences in it that a wanted placeholder fills with something.

    Where a sentence ends is read off the wording, so that no name or role in it can end one.
    """
    filled, places = "", []
    for sentence in _BETWEEN_SENTENCES.split(text):
        words = Template(sentence).substitute(names)
        if any(names[name] for name in Template(sentence).get_identifiers() if name in wanted):
            start = len(filled) + len(words) - len(words.lstrip())
            places.append((start, len(filled) + len(words.rstrip())))
        filled += words
    trimmed = len(filled) - len(filled.lstrip())
    return filled.strip(), [(start - trimmed, end - trimmed) for start, end in places]


def _fill_around(text: str, names: Mapping[str, str], words: str) -> tuple[str, int]:
    """A filled line, and the offset of `words` in it."""
    for match in Template.pattern.finditer(text):
        if "words" in (match["named"], match["braced"]):
            head = Template(text[: match.start()]).substitute(names).lstrip()
            tail = Template(text[match.end() :]).substitute(names, words=words).rstrip()
            return head + words + tail, len(head)
    return _fill(text, names), 0
