"""Whether a job runs the code that the run was planned with: people edit while a run goes on."""

import sys
import time
from collections.abc import Mapping
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

from probeline.errors import ProbelineError
from probeline.lineage.code import PACKAGE, RESOURCES, code_digest
from probeline.lineage.hashing import STAT_CACHE
from probeline.stat_cache import StatCache

CACHE_PURPOSE = "code 1"
ROOT = Path(__file__).parents[3]
"""The folder that holds scripts/."""


class _Moments(MetaPathFinder):
    """Notes when each module of the package is loaded; finds none itself."""

    def __init__(self) -> None:
        self.loaded: dict[str, int] = {}

    def find_spec(self, fullname: str, *_: Any) -> None:
        if fullname.split(".")[0] == PACKAGE:
            self.loaded.setdefault(fullname, time.time_ns())


class RunningCode:
    """The code of a job, from its start on.

    Args:
        planned: source file → digest of its code when the run was planned.
    """

    def __init__(self, planned: Mapping[str, str]) -> None:
        self._planned = planned
        self._moments = _Moments()
        self._started = time.time_ns()
        sys.meta_path.insert(0, self._moments)

    def check(self) -> None:
        """See that what has been loaded so far is the code that the run was planned with.

        An edit after a module was loaded changes nothing in this job, and the next run sees it.

        Raises:
            ProbelineError: a source was edited before it was loaded.
        """
        sources = [ROOT / name for name in self._planned]
        cache = StatCache(STAT_CACHE)
        try:
            found = cache.values(CACHE_PURPOSE, sources, code_digest)
        finally:
            cache.close()
        for source, digest in zip(sources, found, strict=True):
            name = source.relative_to(ROOT).as_posix()
            if digest != self._planned[name] and self._runs_other(source):
                raise ProbelineError(
                    f"{name} was edited after this run had begun. Run the same command again: it starts "
                    "with the new code."
                )

    def _runs_other(self, source: Path) -> bool:
        """Whether an edited source was, or would be, loaded as it is now."""
        module = ".".join(source.relative_to(ROOT).with_suffix("").parts[1:]).removesuffix(".__init__")
        if not source.exists():
            return module not in sys.modules
        if source.suffix in RESOURCES:
            return True  # read after its module was loaded: nobody notes when
        # The script, and what was loaded before this object was made, were there at its start.
        return source.stat().st_mtime_ns < self._moments.loaded.get(module, self._started)
