"""What every system is asked: texts to write, and texts to say the likelihood of."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from probeline.datasets.mafia_scenarios import Scenario
from probeline.evaluation.estimates import Quantity
from probeline.evaluation.held_out import Chat, Item
from probeline.models.generate import Generator

LONGEST = 600
"""Characters of a text in a report."""

Loss = tuple[float, int]
"""Summed -ln p of a text's tokens, and their number."""


@dataclass
class Questions:
    """What is asked, by name, and of which items.

    Attributes:
        given: name → prompts with the answers whose likelihood is wanted.
        open: name → prompts to be answered.
        items: name → the held-out rows behind either, in the same order.
        scenarios: moments of our own behind the prompts `scenarios`, which no dataset holds.
        held_out: name → rows of the test split that there are.
        left_out: reason → rows that could not be asked.
        not_measured: why what could have been measured is not, in words.
    """

    given: dict[str, list[tuple[Chat, str]]] = field(default_factory=dict)
    open: dict[str, list[Chat]] = field(default_factory=dict)
    items: dict[str, list[Item]] = field(default_factory=dict)
    scenarios: list[Scenario] = field(default_factory=list)
    held_out: dict[str, int] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    not_measured: list[str] = field(default_factory=list)

    def used(self) -> list[Item]:
        """All items that are asked about."""
        return [item for items in self.items.values() for item in items]

    def counts(self) -> dict[str, Any]:
        """What was asked of what is there, and what was left out."""
        return {
            "held_out": self.held_out,
            "asked": {name: len(items) for name, items in self.items.items()},
            "left_out": dict(sorted(self.left_out.items())),
            "not_measured": self.not_measured,
        }


@dataclass(frozen=True)
class Answers:
    """What one system has answered; names and order are those of the questions."""

    losses: dict[str, list[Loss]]
    texts: dict[str, list[str]]


@dataclass
class Measured:
    """What a kind of evaluation has found.

    Attributes:
        quantities: compared between systems.
        samples: a row for each prompt that was answered, with all answers.
        facts: what else belongs into metrics.json, by key.
        report: paragraphs of the report.
    """

    quantities: list[Quantity]
    samples: list[dict[str, Any]]
    facts: dict[str, Any] = field(default_factory=dict)
    report: list[str] = field(default_factory=list)


def counted(counts: Mapping[str, int]) -> str:
    """Counts in words, such as `6 acts, 2 more than 20 tokens`."""
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()) or "nothing"


def ask(generator: Generator, questions: Questions, settings: Mapping[str, Any]) -> Answers:
    """Ask one system everything, with the same seed as every other.

    Args:
        generator: the system.
        questions: to be asked.
        settings: seed, completion_tokens and temperature.
    """
    losses = {
        name: generator.completion_losses([chat for chat, _ in pairs], [text for _, text in pairs])
        for name, pairs in questions.given.items()
    }
    texts = {
        name: generator.generate(
            chats,
            seed=settings["seed"],
            max_new_tokens=settings["completion_tokens"],
            temperature=settings["temperature"],
        )
        for name, chats in questions.open.items()
    }
    return Answers(losses, texts)


def loss_quantity(
    name: str, title: str, items: Sequence[Item], losses: Mapping[str, Sequence[Loss]]
) -> Quantity:
    """Mean -ln p of a token of held-out answers, in nats.

    Args:
        name: of the quantity.
        title: of the quantity.
        items: behind the answers.
        losses: system → of each item.
    """
    return Quantity(name, title, "lower", [item.group for item in items], losses)


def sample_rows(
    items: Sequence[Item], reference: str, texts: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """A row for each prompt: its id, group, prompt, reference and the text of each system.

    Args:
        items: that were answered.
        reference: key of the rows that holds what really came; empty for none.
        texts: system → answers.
    """
    return [
        {
            "id": item.id,
            "group": item.group,
            "prompt": item.prompt,
            "reference": item.row[reference] if reference else None,
            "answers": {name: {"text": answers[place]} for name, answers in texts.items()},
        }
        for place, item in enumerate(items)
    ]


def quoted(text: str) -> str:
    """A text of others for a report, whose form it must not become a part of; cut where it is long."""
    shown = text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text) - LONGEST} characters more)"
    fence = _fence(shown, 3)
    return f"{fence}text\n{shown}\n{fence}"


def as_code(text: str) -> str:
    """A short text of others for a report: code on one line, in which nothing means anything to Markdown."""
    shown = " ".join(text[:LONGEST].split())
    fence = _fence(shown, 1)
    return f"{fence} {shown} {fence}"


def _fence(text: str, least: int) -> str:
    """More backticks than stand together in a text."""
    return "`" * max(least, max(map(len, re.findall("`+", text)), default=0) + 1)
