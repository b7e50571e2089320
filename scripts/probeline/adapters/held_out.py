"""What a model makes of validation examples, before and after, with intervals over games."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from probeline.groups import FEWEST_GROUPS

Row = Mapping[str, Any]
OneRow = TypeVar("OneRow", bound=Row)
RESAMPLES = 1000
GAMES_FOR_INTERVAL = 2
"""Fewest games: drawn again and again, one game gives itself."""
AT_ONCE = 8
"""Sequences in one pass; part of a result's identity."""


def completion_losses(model: Any, examples: Sequence[tuple[list[int], list[int]]], pad: int) -> list[float]:
    """Summed negative log-probability of each completion's tokens.

    Args:
        model: of a trainer of TRL, which has given it its head that scores labels alone.
        examples: tokens of a whole chat, and for each its label: the token itself, or -100 outside of the
            completion.
        pad: token to fill up with.
    """
    import torch

    # Those of like length go together; each loss is put back to where its example stood.
    order = sorted(range(len(examples)), key=lambda place: (len(examples[place][0]), place))
    losses = [0.0] * len(examples)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for first in range(0, len(order), AT_ONCE):
            places = order[first : first + AT_ONCE]
            longest = len(examples[places[-1]][0])
            tokens = torch.full((len(places), longest), pad)
            labels = torch.full((len(places), longest), -100)
            mask = torch.zeros((len(places), longest), dtype=torch.long)
            for row, place in enumerate(places):
                ids, wanted = examples[place]
                tokens[row, : len(ids)] = torch.tensor(ids)
                labels[row, : len(ids)] = torch.tensor(wanted)
                mask[row, : len(ids)] = 1
            device = model.get_input_embeddings().weight.device
            scored = model(
                input_ids=tokens.to(device),
                attention_mask=mask.to(device),
                labels=labels.to(device),
                use_cache=False,
                fused_lm_head=True,
            )
            for place, value in zip(places, scored.log_probs.sum(dim=1).tolist(), strict=True):
                losses[place] = -value
    model.train(was_training)
    return losses


def compared(
    before: Sequence[Row], after: Sequence[Row], figure: Callable[[Sequence[Row]], float | None], seed: int
) -> dict[str, Any]:
    """A figure before and after, and its difference, each with a 95 % interval from a bootstrap over games.

    One game has no interval.

    Args:
        before: rows with `game`, and the keys that the figure reads.
        after: rows of the same games.
        figure: of rows, in a unit of its own: `mean_of` that of its column, `per_token` nats; None where they
            have none.
        seed: of the bootstrap.

    Returns:
        `before`, `after` and `difference` (after less before), each with `value`, `low` and `high` in the
        figure's unit, None where there is no finite one; `games`; `examples`, rows afterwards.
    """
    games = sorted({row["game"] for row in before} | {row["game"] for row in after})
    parts = [_by_game(before), _by_game(after)]
    random = np.random.default_rng(seed)
    draws: list[tuple[float, float]] = []
    for _ in range(RESAMPLES if len(games) >= GAMES_FOR_INTERVAL else 0):
        chosen = [games[place] for place in random.integers(0, len(games), len(games))]
        values = [figure([row for game in chosen for row in part.get(game, ())]) for part in parts]
        if values[0] is not None and values[1] is not None:
            draws.append((values[0], values[1]))
    first, last = figure(before), figure(after)
    difference = None if first is None or last is None else last - first
    return {
        "before": _with_interval(first, [one for one, _ in draws]),
        "after": _with_interval(last, [other for _, other in draws]),
        "difference": _with_interval(difference, [other - one for one, other in draws]),
        "games": len(games),
        "examples": len(after),
    }


def mean_of(key: str) -> Callable[[Sequence[Row]], float | None]:
    """The mean of a column over the rows that have it."""

    def mean(rows: Sequence[Row]) -> float | None:
        values = [row[key] for row in rows if row[key] is not None]
        return float(sum(values) / len(values)) if values else None

    return mean


def per_token(rows: Sequence[Row]) -> float | None:
    """Loss per token over all rows together, in nats, from their `loss` and `tokens`."""
    tokens = sum(row["tokens"] for row in rows)
    return float(sum(row["loss"] for row in rows) / tokens) if tokens else None


def in_both(before: Sequence[OneRow], after: Sequence[OneRow], key: str) -> tuple[list[OneRow], list[OneRow]]:
    """The examples that have a column both times, so that what differs is the model.

    Args:
        before: rows.
        after: of the same examples, in the same order.
        key: the column.
    """
    pairs = [
        (one, other)
        for one, other in zip(before, after, strict=True)
        if one[key] is not None and other[key] is not None
    ]
    return [one for one, _ in pairs], [other for _, other in pairs]


def verdict(found: Mapping[str, Any], wanted: int) -> str:
    """`better` or `worse` where the interval of a difference leaves out zero, else `undecided`.

    Args:
        found: of `compared`; fewer than five games decide nothing.
        wanted: 1 where larger is better, -1 where smaller is.
    """
    low, high = found["difference"]["low"], found["difference"]["high"]
    if low is None or found["games"] < FEWEST_GROUPS or (low <= 0 <= high):
        return "undecided"
    return "better" if (low > 0) == (wanted > 0) else "worse"


def _by_game(rows: Sequence[Row]) -> dict[str, list[Row]]:
    parts: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        parts[row["game"]].append(row)
    return parts


def _with_interval(value: float | None, draws: Sequence[float]) -> dict[str, float | None]:
    # Of a model that has diverged, nothing is a number; such a figure decides nothing.
    if value is None or not math.isfinite(value):
        return {"value": None, "low": None, "high": None}
    finite = [draw for draw in draws if math.isfinite(draw)]
    if not finite:
        return {"value": value, "low": None, "high": None}
    low, high = np.percentile(finite, [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high)}
