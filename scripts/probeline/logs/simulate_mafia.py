"""Seeded logs of Secret Mafia in the format of real ones: each the game as one of its players saw it.

Six players: two mafia members, a doctor, a detective, two villagers. As in the real logs, half of the files
end before the first turn, some time out, agents send `[0]` where their model has not answered, or prose where
a number is asked for, some recorded outcomes are wrong, and error logs hold paths of the machine.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import orjson

from probeline.files import atomic_directory, write_manifest
from probeline.logs.simulate_mafia_words import prose_vote, speech

PLAYERS = 6
DEAL = ("mafia", "mafia", "doctor", "detective", "villager", "villager")
ROUNDS = 3
MOST_DAYS = 5
START = datetime(2000, 1, 1)
"""Of game 0; each later one begins a minute after the one before. No clock is read."""
DESCRIPTIONS = {
    "mafia": "You belong to the mafia. Outnumber the others.",
    "doctor": "You guard one player each night.",
    "detective": "You learn of one player each night whether they are mafia.",
    "villager": "You have no power but your voice and your vote.",
}
NIGHT_RULES = {
    "mafia": "During NIGHT phase: '[Player X]' to agree on a victim.",
    "doctor": "During NIGHT phase: '[Player X]' to guard a player.",
    "detective": "During NIGHT phase: '[Player X]' to look at a player.",
    "villager": "At night you sleep.",
}
NIGHT_CALLS = {
    "doctor": "Night phase - choose one player to protect: {targets}",
    "detective": "Night phase - choose one player to investigate: {targets}",
    "mafia": "Night has fallen. Mafia, agree on a victim.\nValid targets: {targets}",
}
INVALID = (
    "[GAME] Player {player} attempted an invalid move. Reason: Vote not in valid format or invalid target. "
    "Please resubmit a valid move."
)
NO_TURN, BROKEN_OFF, TIMED_OUT, PLAYED = "no turn", "broken off", "timed out", "played"
ENDS = {NO_TURN: 203, BROKEN_OFF: 39, TIMED_OUT: 35, PLAYED: 162}
"""How the real files end, of 439."""
HABITS = {"move": 0.51, "fallback": 0.24, "number": 0.08, "prose": 0.1, "outside": 0.07}
"""What an agent sends where a number is asked for; in a discussion only the second and third are mistakes."""


class GameOverError(Exception):
    """The log ends here."""


def simulate_mafia_game(seed: int, index: int) -> dict[str, Any]:
    """The log of game `index`. The same seed and index give the same, whatever else is simulated."""
    digest = hashlib.sha256(f"mafia:{seed}:{index}".encode()).digest()
    game = _Game(Random(int.from_bytes(digest[:8], "big")), index)
    game.play()
    return game.log()


def simulate_mafia(seed: int, indices: Iterable[int], output: Path) -> None:
    """Write `<output>/mafia/game_<time>_<role>_<outcome>.json` for each game, and a manifest.

    Args:
        seed: of the whole corpus.
        indices: numbers of the games.
        output: the folder to make, whole or not at all.
    """
    from probeline.progress import progress

    chosen = sorted(set(indices))
    with atomic_directory(output) as draft:
        folder = draft / "mafia"
        folder.mkdir()
        for index in progress(chosen, "Simulating Mafia games", total=len(chosen), unit="game"):
            log = simulate_mafia_game(seed, index)
            time = datetime.fromisoformat(log["timestamp"]).strftime("%Y%m%d_%H%M%S")
            name = f"game_{time}_{log['role']}_{log['outcome']}.json"
            (folder / name).write_bytes(orjson.dumps(log, option=orjson.OPT_INDENT_2))
        facts = {"corpus": "mafia", "seed": seed, "games": len(chosen), "indices": chosen}
        write_manifest(draft, "simulated-logs", facts)


class _Game:
    """The rules, what one player sees of them, and how that player's agent behaves."""

    def __init__(self, rng: Random, index: int):
        self.rng = rng
        self.index = index
        self.roles = list(DEAL)
        rng.shuffle(self.roles)
        self.me = rng.randrange(PLAYERS)
        self.alive = list(range(PLAYERS))
        self.text = ""
        self.observations: list[dict[str, Any]] = []
        self.actions: list[dict[str, Any]] = []
        self.reason = ""
        self.end = rng.choices(list(ENDS), list(ENDS.values()))[0]
        self.most_turns = rng.randint(1, 4) if self.end in (BROKEN_OFF, TIMED_OUT) else 1000
        # How reliable an agent is differs from agent to agent.
        self.care = rng.choice((0.2, 0.6, 0.9))

    # The rules -----------------------------------------------------------------------------------------

    def play(self) -> None:
        """Play until a team has won, time is up, or the connection breaks."""
        if self.end == NO_TURN:
            return
        try:
            self._introduce()
            for _ in range(MOST_DAYS):
                self._night()
                self._check_end()
                self._day()
                self._check_end()
            self.end, self.reason = TIMED_OUT, "timeout"
        except GameOverError:
            if self.end == TIMED_OUT:
                self.reason = "timeout"

    def _introduce(self) -> None:
        role = self.roles[self.me]
        team = "Mafia" if role == "mafia" else "Village"
        lines = [
            f"[GAME] Welcome to Secret Mafia! You are Player {self.me}.",
            f"Your role: {role.capitalize()}",
            f"Team: {team}",
            f"Description: {DESCRIPTIONS[role]}",
            "",
            "Players: " + ", ".join(f"Player {number}" for number in range(PLAYERS)),
            "",
        ]
        if role == "mafia":
            mates = ", ".join(f"Player {number}" for number in range(PLAYERS) if self.roles[number] == role)
            lines += [f"Your teammates are: {mates}.", ""]
        lines += ["During DAY phase: Speak freely and vote.", NIGHT_RULES[role], ""]
        lines.append("The village wins without mafia, the mafia when it is as many as the others.")
        self._say("\n".join(lines) + "\n")

    def _night(self) -> None:
        role = self.roles[self.me]
        prey = [number for number in self.alive if self.roles[number] != "mafia"]
        others = [number for number in self.alive if number != self.me]
        victim = self.rng.choice(prey)
        guarded: int | None = None
        if role in NIGHT_CALLS and self.me in self.alive:
            targets = prey if role == "mafia" else others
            self._say(f"[GAME] {NIGHT_CALLS[role].format(targets=_listed(targets))}")
            chosen = self._move(targets, echo=role == "mafia")
            if role == "mafia" and chosen is not None:
                victim = chosen
            if role == "doctor":
                guarded = chosen
            if role == "detective" and chosen is not None:
                no = "" if self.roles[chosen] == "mafia" else " NOT"
                self._say(f"[GAME] Player {chosen} IS{no} a Mafia member.")
        if role != "doctor" and self._living("doctor") and self.rng.random() < 0.2:
            guarded = victim
        if victim not in self.alive:
            # The player, who was thrown out for invalid moves meanwhile.
            victim = self.rng.choice([number for number in prey if number in self.alive])
        if guarded == victim:
            self._say("[GAME] No one was killed tonight.")
        else:
            self.alive.remove(victim)
            self._say(f"[GAME] Player {victim} was killed during the night.")

    def _day(self) -> None:
        self._say("[GAME] Day breaks. Discuss for 3 rounds, then a vote will follow.")
        for _ in range(ROUNDS):
            for player in list(self.alive):
                self._speak(player)
        valid = list(self.alive)
        self._say(f"[GAME] Voting phase - submit one vote in format [X]. Valid: {_listed(valid)}")
        votes = []
        for player in list(self.alive):
            if player == self.me:
                vote = self._move(valid, echo=True)
            else:
                vote = self._suspect(player)
                self._say(f"[Player {player}] [{vote}]")
            votes += [] if vote is None else [vote]
        if votes:
            out = Counter(votes).most_common(1)[0][0]
            if out in self.alive:
                self.alive.remove(out)
                self._say(f"[GAME] Player {out} was eliminated by vote.")

    def _check_end(self) -> None:
        mafia = sum(self.roles[number] == "mafia" for number in self.alive)
        if mafia == 0:
            self.reason = "All Mafia were eliminated. Village wins!"
        elif 2 * mafia >= len(self.alive):
            self.reason = "Mafia reached parity with villagers. Mafia wins!"
        if self.reason:
            raise GameOverError

    def _living(self, role: str) -> bool:
        return any(self.roles[number] == role for number in self.alive)

    # What the player sees and does -----------------------------------------------------------------------

    def _say(self, line: str) -> None:
        if self.me in self.alive or not self.actions:
            self.text += f"\n{line}"

    def _speak(self, player: int) -> None:
        mafia = self.roles[player] == "mafia"
        target = self._suspect(player)
        other = self.rng.choice([number for number in range(PLAYERS) if number not in (player, target)])
        words = speech(self.rng, f"Player {target}", f"Player {other}", mafia=mafia)
        if player != self.me:
            self._say(f"[Player {player}] {words}")
            return
        habit = self._habit()
        if habit == "fallback":
            words = "[0]"
        elif habit == "number":
            words = f"[{target}]"
        self._act(words)
        self._say(f"[Player {player}] {words if words.startswith('[') else f'[{words}]'}")

    def _suspect(self, player: int) -> int:
        """Whom a player has in mind: the mafia spares its own, the others see a little of the truth."""
        mafia = self.roles[player] == "mafia"
        others = [number for number in self.alive if number != player] or list(range(PLAYERS))
        weights = [(0.1 if mafia else 3.0) if self.roles[number] == "mafia" else 1.0 for number in others]
        return self.rng.choices(others, weights)[0]

    def _move(self, targets: list[int], *, echo: bool) -> int | None:
        """The player's number, or None where nothing valid came after one more try."""
        for _ in range(2):
            target = self.rng.choice(targets)
            if self.me in targets and len(targets) > 1:
                target = self._suspect(self.me)
            outside = [number for number in range(PLAYERS + 1) if number not in targets]
            action = {
                "move": self.rng.choice((f"[{target}]", f"[{target}]", str(target))),
                "fallback": "[0]",
                "number": f"[Player {target}]",
                "prose": prose_vote(self.rng, f"Player {target}", f"Player {self.rng.choice(targets)}"),
                "outside": f"[{self.rng.choice(outside)}]",
            }[self._habit()]
            self._act(action)
            if echo:
                self._say(f"[Player {self.me}] {action}")
            number = action.strip("[]").removeprefix("Player ")
            if number.isdigit() and int(number) in targets:
                return int(number)
            self._say(INVALID.format(player=self.me))
        self._say(f"[GAME] Player {self.me} has been eliminated by making an invalid move..")
        self.alive.remove(self.me)
        return None

    def _habit(self) -> str:
        if self.rng.random() < self.care:
            return "move"
        return self.rng.choices(list(HABITS), list(HABITS.values()))[0]

    def _act(self, action: str) -> None:
        """One turn: what the player has seen by now, and what the agent sends."""
        if len(self.actions) == self.most_turns:
            raise GameOverError
        turn = len(self.observations)
        time = (self._time() + timedelta(seconds=10 * turn)).isoformat()
        self.observations.append(
            {
                "turn": turn,
                "timestamp": time,
                "player_id": self.me,
                "content": self.text,
                "length": len(self.text),
            }
        )
        seconds = round(self.rng.uniform(0.01, 9.0), 3)
        act = {"turn": turn, "timestamp": time, "action": action, "processing_time": seconds}
        self.actions.append(act)

    # The log ---------------------------------------------------------------------------------------------

    def _time(self) -> datetime:
        return START + timedelta(minutes=self.index)

    def log(self) -> dict[str, Any]:
        """What the agent's machine would have written."""
        rng = self.rng
        role = self.roles[self.me]
        outcome, info = "error", None
        if self.reason:
            mafia_won = "Mafia wins" in self.reason
            won = self.reason != "timeout" and mafia_won == (role == "mafia")
            told = {"turn_count": len(self.actions), "invalid_move": self.me not in self.alive}
            info = {str(self.me): {**told, "reason": self.reason}}
            if self.reason != "timeout":
                info[str(self.me)]["outcome"] = "win" if won else "loss"
            # A few wins are recorded as losses.
            outcome = "win" if won and rng.random() < 0.97 else "loss"
        known = self.end != NO_TURN or rng.random() < 0.15
        spelled = f"Role.{role.upper()}" if self.index % 2 else role
        if self.actions and rng.random() < 0.01:
            self.actions.pop()
        log = {
            "game_id": f"simulated_{self.index}",
            "timestamp": self._time().isoformat(),
            "game_number": 1,
            "observations": self.observations,
            "actions": self.actions,
            "turn_details": [
                {"turn": act["turn"], "player_id": self.me, "action_length": len(act["action"])}
                for act in self.actions
            ],
            "agent_memory": {},
            "performance_metrics": {},
            "error_log": [self._error()] if outcome == "error" else [],
            "outcome": outcome,
            "reward": round(rng.uniform(-1.0, 1.0), 3) if info else 0.0,
            "raw_rewards": {},
            "total_turns": len(self.observations),
            "game_duration": round(sum(act["processing_time"] for act in self.actions), 3),
            "role": spelled if known else None,
            "player_id": self.me if known else -1,
        }
        return log | ({"game_info": info} if info else {})

    def _error(self) -> dict[str, Any]:
        # A path of nobody's, in parts, so that no machine's path stands in our sources.
        path = "/".join(("", "home", "nobody", "agents", "play.py"))
        line = self.rng.randint(9, 200)
        return {
            "error": "No valid observation: the server went away.",
            "timestamp": self._time().isoformat(),
            "traceback": f'Traceback (most recent call last):\n  File "{path}", line {line}',
            "turn": len(self.actions),
        }


def _listed(numbers: list[int]) -> str:
    return ", ".join(f"[{number}]" for number in numbers)
