"""What the games of a simulated corpus of files are known by, without their files.

Apart from the simulator, so that an edit of how contents are digested simulates nothing anew.
"""

import orjson

from probeline.logs.listing import game_content
from probeline.logs.simulate_mafia import simulate_mafia_game


def simulated_mafia_contents(seed: int, count: int) -> list[str]:
    """The digest of the content of each game, by index: what `retract` and the plan know it by."""
    return [game_content(orjson.dumps(simulate_mafia_game(seed, index))) for index in range(count)]
