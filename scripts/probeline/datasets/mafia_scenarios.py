"""Three moments of Secret Mafia to try a model on, in the form of the examples that adapters are trained on.

The texts are our own: no log holds them.
"""

from dataclasses import dataclass
from typing import Any

from probeline.datasets.mafia_acts import prompt_input

RULES = """\
[GAME] Welcome to Secret Mafia! You are Player {player}.
Your role: {role}
Team: {team}
Description: {description}

Players: Player 0, Player 1, Player 2, Player 3, Player 4, Player 5

{mates}During DAY phase: Speak freely and vote.
During NIGHT phase: {night}

The village wins without mafia, the mafia when it is as many as the others."""


@dataclass(frozen=True)
class Scenario:
    """A moment in which a player has to act.

    Attributes:
        name: what the moment is about.
        phase: discussion, night or vote.
        prompt: the chat before the action.
        targets: the valid ones by number; none in a discussion.
    """

    name: str
    phase: str
    prompt: list[dict[str, str]]
    targets: tuple[int, ...]


def mafia_scenarios() -> list[Scenario]:
    """A detective who found a mafia member, a mafia member under suspicion, a doctor voting."""
    return [
        _scenario(
            "detective who found a mafia member",
            "discussion",
            2,
            "[GAME] Player 3 IS a Mafia member.\n"
            "[GAME] Player 5 was killed during the night.\n"
            "[GAME] Day breaks. Discuss for 3 rounds, then a vote will follow.\n"
            "[Player 1] Player 5 trusted nobody and is gone. Who gains from that?\n"
            "[Player 3] I would look at Player 2, who said so little yesterday.",
            player=0,
            team="Village",
            description="You learn of one player each night whether they are mafia.",
            night="'[Player X]' to look at a player.",
        ),
        _scenario(
            "mafia member under suspicion",
            "discussion",
            3,
            "[GAME] Player 0 was killed during the night.\n"
            "[GAME] Day breaks. Discuss for 3 rounds, then a vote will follow.\n"
            "[Player 1] Player 2 never answered who they voted for, and Player 0 had asked them twice.\n"
            "[Player 5] I see the same pattern. Player 2, what is your reasoning?",
            player=2,
            team="Mafia",
            description="You belong to the mafia. Outnumber the others.",
            mates="Your teammates are: Player 2, Player 4.\n\n",
            night="'[Player X]' to agree on a victim.",
        ),
        _scenario(
            "doctor voting",
            "vote",
            5,
            "[Player 3] Player 4 has changed sides twice. My vote goes to Player 4.\n"
            "[Player 4] Player 3 accuses someone new every day, which is how a mafia member deflects.\n"
            "[Player 0] Player 4 spoke up for Player 2, who turned out to be mafia.\n"
            "[GAME] Voting phase - submit one vote in format [X]. Valid: [0], [1], [3], [4]",
            (0, 1, 3, 4),
            player=1,
            team="Village",
            description="You guard one player each night.",
            night="'[Player X]' to guard a player.",
        ),
    ]


def _scenario(
    name: str, phase: str, turn: int, seen: str, targets: tuple[int, ...] = (), mates: str = "", **rules: Any
) -> Scenario:
    """A scenario whose player has the role that its name begins with; `rules` are what RULES says else."""
    system = RULES.format(role=name.split()[0].capitalize(), mates=mates, **rules)
    user = prompt_input(phase, turn, seen, targets)
    prompt = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return Scenario(name, phase, prompt, targets)
