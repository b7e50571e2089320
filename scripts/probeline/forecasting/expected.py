"""The perplexities that a reference system expects of its stages, from the table of its costs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from probeline.errors import ProbelineError

Span = tuple[float, float]
"""From, to; twice the same where there is one value."""


def perplexities_of(table: Mapping[str, Any]) -> dict[str, Span]:
    """Stage → perplexity; empty where the table has none.

    Raises:
        ProbelineError: they are no positive numbers; the text names the key.
    """
    given = table.get("perplexities", {})
    if not isinstance(given, Mapping):
        raise ProbelineError("perplexities: expected a mapping, `stage: perplexity`.")
    found = {}
    for stage, value in given.items():
        ends = value if isinstance(value, list) else [value, value]
        if len(ends) != 2 or not all(type(end) in (int, float) and end >= 1 for end in ends):
            raise ProbelineError(
                f"perplexities.{stage} is {value!r}; expected a number, 1 or more, or two: [from, to]."
            )
        found[str(stage)] = (float(ends[0]), float(ends[1]))
    return found


def read_perplexities(path: Path) -> dict[str, Span]:
    """Stage → perplexity, of a file such as config/costs/forecasts.yaml.

    Raises:
        ProbelineError: there is no such file, it is no YAML, or no table.
    """
    try:
        table = yaml.safe_load(path.read_text())
        if not isinstance(table, Mapping):
            raise ProbelineError("expected a mapping.")
        return perplexities_of(table)
    except FileNotFoundError as error:
        raise ProbelineError(f"{path} does not exist. It comes with the repository: restore it.") from error
    except (yaml.YAMLError, UnicodeDecodeError, ProbelineError) as error:
        raise ProbelineError(f"{path} cannot be used: {error}") from error
