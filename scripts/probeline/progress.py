"""Progress of long work: lines in the job's log and on the terminal, where several jobs run side by side."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 10
LINE = "{desc}: {n_fmt} of {total_fmt} ({percentage:.0f} %), {rate_fmt}{postfix}, {remaining} left"

log = logging.getLogger(__name__)


def progress(
    items: Iterable[Item],
    title: str,
    total: int | None = None,
    unit: str = "item",
    note: Callable[[], str] | None = None,
    pace: Callable[[], float] | None = None,
) -> Iterator[Item]:
    """Iterate over `items`, logging count, rate and remaining time now and then.

    Work that takes only seconds logs nothing.

    Args:
        items: what is iterated over.
        title: what is being done.
        total: how many items there are.
        unit: what an item is, in the singular.
        note: gives what else each line says.
        pace: gives the items per second that the remaining time is reckoned from, 0 as long as nothing is
            known; by default as they have come so far.
    """
    bar = _Bar(
        items,
        desc=title,
        total=total,
        unit=unit,
        leave=False,
        file=_LogLines(),
        mininterval=SECONDS_BETWEEN_LINES,
        maxinterval=SECONDS_BETWEEN_LINES,
        delay=SECONDS_BETWEEN_LINES,
        ascii=True,
        ncols=100,
        bar_format=LINE,
    )
    bar.pace = pace
    for item in bar:
        yield item
        if note is not None:
            bar.set_postfix_str(note(), refresh=False)


class _Bar(tqdm):
    """A bar whose pace can be told to it."""

    pace: Callable[[], float] | None = None

    @property
    def format_dict(self) -> dict[str, Any]:
        facts = dict(super().format_dict)
        return facts if self.pace is None else facts | {"rate": self.pace()}


class _LogLines:
    """A stream that makes a log line of each bar: bars of parallel jobs would overwrite each other."""

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            log.info("%s", line)

    def flush(self) -> None:
        pass
