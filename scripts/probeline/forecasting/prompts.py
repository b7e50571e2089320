"""The chat that asks a model for a forecast, in training and in use."""

from collections.abc import Sequence

OUTCOMES = 4
"""Outcomes that a prompt without candidates asks for."""

SYSTEM = (
    "You forecast what events lead to. Given an event and what has followed so far, name outcomes that may "
    "come next and say how probable each of them is. Answer with a JSON array of objects with the keys "
    '"event" and "probability" and nothing else; the probabilities sum to 1.'
)


def forecast_prompt(
    path: Sequence[str],
    date: str | None,
    context: str | None,
    domain: str | None,
    timeframe: float | None,
    outcomes: int,
) -> list[dict[str, str]]:
    """The chat that asks what follows the last event of a path.

    Args:
        path: the seed event, then what followed, in order.
        date: date of the seed event.
        context: what is told of it.
        domain: its domain.
        timeframe: months that are asked about.
        outcomes: number of outcomes that are asked for.
    """
    lines = [f"Seed event: {path[0]}"]
    lines += [f"Date: {date}"] if date else []
    lines += [f"Domain: {domain}"] if domain else []
    lines += [f"Context: {context}"] if context else []
    lines += ["Path so far:", *(f"{number}. {event}" for number, event in enumerate(path))]
    lines += [f"Current event: {path[-1]}", f"Depth: {len(path)}"]
    lines += [f"Timeframe: {timeframe:g} month{'' if timeframe == 1 else 's'}"] if timeframe else []
    lines += ["", f"What may follow the current event? Name {outcomes} outcomes with their probabilities."]
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "\n".join(lines)}]
