"""What a model answers to a forecasting prompt, read with tolerance, and trees of such answers.

Asked for is a JSON array `[{"event": …, "probability": …}]`. Taken are its objects wherever they begin: in a
code fence, after words, alone, one per line, or in an array that was cut off; what follows them is ignored.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from probeline.forecasting.prompts import OUTCOMES, forecast_prompt

MOST_CHARACTERS = 32_000
"""Of an answer, and below of one object: what is longer is no forecast, and is not searched for one."""
MOST_OF_OBJECT = 4000

Answer = Callable[[list[dict[str, str]]], str]
"""From a chat to what the model says."""

_OPENING = re.compile(r"\{\s*\"")
_BETWEEN = re.compile(r"[\s,]*\Z")
_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*\Z")
_decode = json.JSONDecoder().raw_decode


@dataclass(frozen=True, slots=True)
class Outcome:
    """What may happen.

    Attributes:
        event: in words, on one line.
        probability: 0 or more, as it was said; `normalised` makes those of an answer sum to 1.
    """

    event: str
    probability: float


class Outcomes(list[Outcome]):
    """The outcomes of an answer, in its order.

    Attributes:
        complete: False where the answer was cut off, or holds an outcome that could not be read: then what
            its probabilities lack to 1 is that of outcomes that are not here.
    """

    def __init__(self, outcomes: Iterable[Outcome] = (), complete: bool = True) -> None:
        super().__init__(outcomes)
        self.complete = complete


def parse_outcomes(text: str) -> Outcomes | None:
    """The outcomes in a model's answer, in its order; None where there are none.

    Read is the first run of objects with nothing but white space and commas between them. An object without a
    text under `event` or with a probability that is no number, not finite or negative is left out. Numbers
    may be texts, with or without `%`; where one without `%` is above 1, all of those are read as percent, and
    one above 100 is no probability. An event named twice is one outcome with the sum of both.
    """
    said, complete = _first_run(text[:MOST_CHARACTERS])
    percent = any(number > 1 for _, number, marked in said if not marked)
    merged: dict[str, Outcome] = {}
    for event, number, marked in said:
        share = number / 100 if marked or percent else number
        before = merged.get(event.casefold(), Outcome(event, 0.0))
        merged[event.casefold()] = Outcome(before.event, before.probability + share)
    outcomes = Outcomes(merged.values(), complete)
    return outcomes if sum(outcome.probability for outcome in outcomes) > 0 else None


def _first_run(text: str) -> tuple[list[tuple[str, float, bool]], bool]:
    """Event, number and whether it is marked as percent, of the first objects that follow each other.

    With them, whether they are all that there was to be read.
    """
    said: list[tuple[str, float, bool]] = []
    place, end, array, complete = 0, None, False, True
    while opening := _OPENING.search(text, place):
        start, place = opening.start(), opening.start() + 1
        try:
            entry, length = _decode(text[start : start + MOST_OF_OBJECT])
        except (ValueError, RecursionError):
            continue
        if end is not None and not _BETWEEN.match(text, end, start):
            break
        read = _read(entry)
        # What is no outcome itself may hold some.
        outcome = "event" in entry and "probability" in entry
        if outcome or end is not None:
            place = start + length
        if read is not None:
            array = array if said else text[:start].rstrip().endswith("[")
            said.append(read)
        elif outcome:
            complete = False
        if said:
            end = start + length
    after = text[end:].lstrip(" \t\r\n,")[:1]
    return said, complete and (after == "]" if array else after != "{")


def _read(entry: dict[str, Any]) -> tuple[str, float, bool] | None:
    """Event, number and whether it is marked as percent."""
    event, number, marked = entry.get("event"), entry.get("probability"), False
    if isinstance(number, str) and (written := _NUMBER.match(number[:40])):
        number, marked = float(written[1]), bool(written[2])
    if not isinstance(event, str) or isinstance(number, bool) or not isinstance(number, int | float):
        return None
    # Half of a surrogate pair cannot be written down.
    event = " ".join(event.encode("utf-8", "replace").decode().split())
    # A whole number of any size can be compared, not always be made a float.
    return (event, float(number), marked) if event and 0 <= number <= 100 else None


def normalised(outcomes: Sequence[Outcome]) -> Outcomes:
    """The outcomes with probabilities that sum to 1; those of an incomplete answer may sum to less.

    Raises:
        ValueError: they sum to 0 or to no finite number.
    """
    total = math.fsum(outcome.probability for outcome in outcomes)
    if outcomes and not 0 < total < math.inf:
        raise ValueError(f"probabilities that sum to {total} cannot be normalised")
    complete = not isinstance(outcomes, Outcomes) or outcomes.complete
    total = total if complete else max(total, 1.0)
    return Outcomes((Outcome(one.event, one.probability / total) for one in outcomes), complete)


@dataclass(slots=True)
class Node:
    """An event of a tree.

    Attributes:
        event: in words.
        probability: given what it follows.
        depth: 0 for the seed event.
        children: what may follow it; none at the greatest depth, and where the model was not asked.
        unparsed: the answer to what may follow it, where no outcomes could be read from that.
    """

    event: str
    probability: float
    depth: int
    children: list["Node"] = field(default_factory=list)
    unparsed: str | None = None


@dataclass(frozen=True, slots=True)
class Tree:
    """What may follow an event, and what may follow that.

    Attributes:
        root: the seed event.
        asked: prompts that the model was given.
        unparsed: those of them whose answer could not be read; their nodes hold it.
    """

    root: Node
    asked: int
    unparsed: int

    def lines(self) -> list[str]:
        """The tree to be shown, an event per line, with each answer that could not be read."""
        shown = list(_lines(self.root))
        if self.unparsed:
            shown.append(f"{self.unparsed} of {self.asked} answers could not be read; they stand above.")
        return shown


def _lines(node: Node) -> Iterator[str]:
    indent = "  " * node.depth
    yield f"{indent}{node.probability:4.0%}  {node.event}" if node.depth else node.event
    if node.unparsed is not None:
        yield f"{indent}  could not be read: {node.unparsed!r}"
    for child in node.children:
        yield from _lines(child)


def generate_tree(
    seed: str,
    context: str | None,
    max_depth: int,
    answer: Answer,
    *,
    date: str | None = None,
    domain: str | None = None,
    timeframe: float | None = None,
    outcomes: int = OUTCOMES,
) -> Tree:
    """Ask a model what may follow an event, then what may follow each of that, and so on.

    Args:
        seed: the seed event.
        context: what is told of it.
        max_depth: levels of outcomes, 1 or more.
        answer: the model.
        date: of the seed event.
        domain: of the seed event.
        timeframe: months that each level is about.
        outcomes: number of them that a prompt asks for; of an answer with more, the most probable ones are
            asked about in turn.

    Raises:
        ValueError: `max_depth` or `outcomes` is below 1, or the seed event is empty.
    """
    if max_depth < 1 or outcomes < 1 or not seed.strip():
        raise ValueError("a tree needs a seed event, one level and one outcome at least")
    root = Node(seed, 1.0, 0)
    asked = unparsed = 0
    level = [(root, [seed])]
    for depth in range(1, max_depth + 1):
        below = []
        for node, path in level:
            asked += 1
            text = answer(forecast_prompt(path, date, context, domain, timeframe, outcomes))
            found = parse_outcomes(text)
            if found is None:
                node.unparsed = text
                unparsed += 1
                continue
            node.children = [Node(one.event, one.probability, depth) for one in normalised(found)]
            likely = sorted(node.children, key=lambda child: -child.probability)[:outcomes]
            below += [(child, [*path, child.event]) for child in likely]
        level = below
    return Tree(root, asked, unparsed)
