"""The experiments that games belong to, and the shell patterns that name groups of them."""

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from probeline.errors import near_misses

NO_EXPERIMENT = "(no experiment)"


def experiment_of(game: str) -> str:
    """The experiment of a game: the folders between the corpus's root and its own."""
    return game.rpartition("/")[0] or NO_EXPERIMENT


def fitting(pattern: str, experiments: Iterable[str]) -> set[str]:
    """The experiments that a shell pattern fits."""
    return {experiment for experiment in experiments if fnmatchcase(experiment, pattern)}


def misfit(concept: str, pattern: str, experiments: Collection[str]) -> str:
    """What to say of a pattern that fits none."""
    return f"no experiment of {concept} fits {pattern!r}. {near_misses(pattern, experiments)}"
