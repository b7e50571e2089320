"""What a probe is to tell, as declared under `probes:` in the config, checked before anything runs."""

import re
from collections.abc import Mapping
from typing import Any

from probeline.datasets.expressions import Expression, compile_expression
from probeline.errors import ProbelineError, near_misses
from probeline.schema import EVENT_TYPES, EVENTS

CONTEXTS = {
    "none": "two lines and the actor's words, one sequence per event",
    "public": "an observer's transcript of the game, one sequence per game",
    "private": "what one player knows, one chat per player and game",
    "prompt": "the true prompt and response, one sequence per event",
}
MASKS = {
    "action": "the statement or the named player",
    "reasoning": "the actor's private reasoning",
    "generation": "reasoning and action, from the first character of the one to the last of the other",
    "prompt_last": "the last character before the actor begins",
}
REQUIRED = ("corpus", "events", "label", "context", "mask")
OPTIONAL = ("filter", "template", "role_masked")
DEFAULT_TEMPLATE = "werewolf"

COLUMN_TYPES = {name: kind for name, kind, _ in EVENTS}
TEAMS = ["werewolves", "mafia", "village"]
# Columns that hold nothing else, so that a mistyped value is found before anything runs.
CLOSED_COLUMNS = {
    "type": list(EVENT_TYPES),
    "actor_team": TEAMS,
    "target_team": TEAMS,
    "source": ["log", "stats"],
}
WITHOUT_ACTOR = ("night_kill", "day_elimination")
# A call that nobody answers was heard by nobody: the question stands in the transcript before its answer.
PUBLIC_ACTS = ("statement", "reply")
# What these show before the words names the actor's role.
ROLE_CONTEXTS = ("private", "prompt")
ROLE_COLUMNS = frozenset(
    ("actor_role", "actor_team", "target_role", "target_team", "same_team"),
)


def check_concept(name: str, concept: Mapping[str, Any]) -> None:
    """Refuse a declaration that could not work.

    Args:
        name: the concept's key in the config.
        concept: keys corpus, events, label, context, mask; optional filter, template and role_masked.

    Raises:
        ProbelineError: the first fault, with the key that holds it and what is close to what was written.
    """
    for key in concept:
        if key not in REQUIRED + OPTIONAL:
            raise ProbelineError(
                f"probes.{name}: unknown key {key!r}. {near_misses(key, REQUIRED + OPTIONAL)}"
            )
    for key in REQUIRED:
        if key not in concept:
            raise ProbelineError(f"probes.{name}: {key} is missing.")
    _check_choice(f"probes.{name}.context", concept["context"], CONTEXTS)
    _check_choice(f"probes.{name}.mask", concept["mask"], MASKS)
    _check_events(name, concept)
    if concept.get("role_masked") and concept["context"] not in ROLE_CONTEXTS:
        raise ProbelineError(
            f"probes.{name}.role_masked: context {concept['context']} does not name the role of who acts. "
            f"Leave the key out, or use context {' or '.join(ROLE_CONTEXTS)}."
        )
    template = concept.get("template", DEFAULT_TEMPLATE)
    if not isinstance(template, str) or not re.fullmatch(r"[a-z][a-z0-9_-]*", template):
        raise ProbelineError(
            f"probes.{name}.template: {template!r} is not the name of a file in config/templates (no .yaml)."
        )
    if concept["context"] == "public" and concept["mask"] in ("reasoning", "generation"):
        raise ProbelineError(
            f"probes.{name}.mask: {concept['mask']} is private, an observer does not see it. "
            "Use mask action or prompt_last, or context private, prompt or none."
        )
    filter_expression(name, concept)
    label_expression(name, concept)


def is_role_masked(concept: Mapping[str, Any]) -> bool:
    """Whether a probe for the concept is compared to one whose input does not tell the actor's role."""
    return concept["context"] in ROLE_CONTEXTS and bool(concept.get("role_masked", True))


def filter_expression(name: str, concept: Mapping[str, Any]) -> Expression | None:
    """The compiled `filter` of a concept, or None when it has none.

    Raises:
        ProbelineError: it is no expression that is true or false.
    """
    return _flag(f"probes.{name}.filter", concept["filter"]) if "filter" in concept else None


def label_expression(name: str, concept: Mapping[str, Any]) -> Expression:
    """The compiled `label` of a concept.

    Raises:
        ProbelineError: it is no expression that is true or false.
    """
    return _flag(f"probes.{name}.label", concept["label"])


def concept_notes(name: str, concept: Mapping[str, Any]) -> list[str]:
    """What a reader of the dataset has to know about it, one sentence each.

    Args:
        name: the concept's key in the config.
        concept: a declaration that `check_concept` accepts.
    """
    context, columns = concept["context"], label_expression(name, concept).columns
    notes = []
    if context == "none" and columns & ROLE_COLUMNS:
        notes.append(
            "With context none the input holds neither roles nor the game so far, so the label cannot be "
            "known from it: a probe can only use how the words sound."
        )
    if context in ROLE_CONTEXTS and columns & ROLE_COLUMNS:
        notes.append(
            f"With context {context} the input names the actor's role and the team mates it knows, which the "
            "label depends on: compare with text alone on the whole input and with a role-masked version."
        )
    if columns & {"text", "question", "reasoning"}:
        notes.append("The label is computed from words, so a text baseline can be perfect.")
    if context == "public" and (hidden := [kind for kind in concept["events"] if kind not in PUBLIC_ACTS]):
        notes.append(f"Not public, therefore excluded: {', '.join(hidden)}.")
    return notes


def _check_choice(where: str, value: Any, allowed: Mapping[str, str]) -> None:
    if value not in allowed:
        raise ProbelineError(f"{where}: unknown value {value!r}. {near_misses(str(value), allowed)}")


def _check_events(name: str, concept: Mapping[str, Any]) -> None:
    where, events = f"probes.{name}.events", concept["events"]
    if not isinstance(events, list) or not events:
        raise ProbelineError(f"{where}: at least one event type is needed. {near_misses('', EVENT_TYPES)}")
    acts = [kind for kind in EVENT_TYPES if kind not in WITHOUT_ACTOR]
    for kind in events:
        if kind in WITHOUT_ACTOR:
            raise ProbelineError(
                f"{where}: {kind} has no actor whose words could be read. {near_misses('', acts)}"
            )
        if kind not in acts:
            raise ProbelineError(f"{where}: unknown event type {kind!r}. {near_misses(str(kind), acts)}")
    if concept["context"] == "public" and not set(events) & set(PUBLIC_ACTS):
        raise ProbelineError(
            f"{where}: {', '.join(events)} cannot be seen in context public. "
            f"Add one of {', '.join(PUBLIC_ACTS)}, or use context private, prompt or none."
        )


def _flag(where: str, text: Any) -> Expression:
    if not isinstance(text, str):
        raise ProbelineError(f"{where}: {text!r} is not an expression; write it as text.")
    try:
        expression = compile_expression(text, COLUMN_TYPES)
    except ProbelineError as error:
        raise ProbelineError(f"{where}: {error}") from error
    for column, value in expression.compared:
        if value not in CLOSED_COLUMNS.get(column, [value]):
            raise ProbelineError(
                f"{where}: {column} is never {value!r}. {near_misses(value, CLOSED_COLUMNS[column])}"
            )
    if not expression.is_flag:
        raise ProbelineError(
            f"{where}: {text!r} is not true or false. "
            "Write a boolean column (same_team, valid) or a comparison."
        )
    return expression
