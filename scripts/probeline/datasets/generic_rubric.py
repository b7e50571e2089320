"""What support dialogues are judged by where a row has no rubric: in trainings and evaluations alike."""

from collections.abc import Mapping
from typing import Any

GENERIC_RUBRIC = (
    "A good reply helps the customer with what they asked for, is accurate and in keeping with the "
    "conversation, asks for what is missing, and is concise."
)


def rubric_of(row: Mapping[str, Any]) -> str:
    """The rubric that a row's completions are judged by."""
    return str(row["rubric"] or GENERIC_RUBRIC)
