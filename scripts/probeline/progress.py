"""Progress of long work, readable on a terminal, in a log file and in CI."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(
    items: Iterable[Item], title: str, total: int | None = None, unit: str = "item"
) -> Iterator[Item]:
    """Iterate over `items`, showing count, rate and remaining time on stderr.

    A bar on a terminal is redrawn ten times a second; elsewhere a line is printed every 30 seconds,
    so that logs stay short. Work that ends sooner prints nothing there.
    """
    terminal = sys.stderr.isatty()
    yield from tqdm(
        items,
        desc=title,
        total=total,
        unit=unit,
        leave=False,
        mininterval=0.1 if terminal else 30,
        delay=0 if terminal else 30,
        dynamic_ncols=True,
    )
