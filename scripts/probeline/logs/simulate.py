"""Simulated logs of every format: unit i depends on the seed and on i alone."""

from collections.abc import Callable, Iterable
from pathlib import Path

Simulator = Callable[[int, Iterable[int], Path], None]


def simulate_logs(format_name: str, seed: int, indices: Iterable[int], output: Path) -> None:
    """Write some units of a simulated corpus, and a manifest that says so.

    Args:
        format_name: werewolf, mafia, forecast or support.
        seed: of the whole corpus.
        indices: numbers of the games, cases or dialogues.
        output: the folder to make, whole or not at all.
    """
    simulator_of(format_name)(seed, indices, output)


def simulator_of(format_name: str) -> Simulator:
    """The function that simulates a format."""
    if format_name == "mafia":
        from probeline.logs.simulate_mafia import simulate_mafia

        return simulate_mafia
    if format_name == "forecast":
        from probeline.logs.simulate_forecasts import simulate_forecasts

        return simulate_forecasts
    if format_name == "support":
        from probeline.logs.simulate_support import simulate_support

        return simulate_support
    if format_name == "werewolf":
        from probeline.logs.simulate_werewolf import simulate_games

        return simulate_games
    raise ValueError(f"no simulator writes the format {format_name}")
