"""Small hand-made games of Werewolf in the logged format, for the tests of their readers."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

RULE = "=" * 80
SYSTEM = "Answer with JSON."
PLAYERS = {"Ann": "werewolf", "Bob": "werewolf", "Cid": "villager", "Dot": "seer", "Eve": "villager"}


def answer(action: Any, reasoning: Any = "because") -> str:
    return json.dumps({"reasoning": reasoning, "action": action})


def prompt(turn: int, phase: str, options: list[str] | None = None, history: str = "", asks: str = "") -> str:
    lines = ["Game: Werewolf", f"Turn {turn}", history, f"Phase: {phase}", asks, "Task: act"]
    return "\n".join([*filter(None, lines), *([f"Options: {', '.join(options)}"] if options else [])])


def block(player: str, user: str, *responses: str, retries: int = 0, score: float | None = None) -> str:
    text = f"\n{RULE}\n[LLM Call for {player}] ({PLAYERS.get(player, 'villager')})\n{RULE}\n"
    text += f"\n--- SYSTEM PROMPT ---\n{SYSTEM}\n\n--- USER PROMPT ---\n{user}\n"
    text += "".join(f"\n[Retry {count + 1}/5]\n" for count in range(retries))
    text += "".join(f"\n--- LLM RESPONSE ---\n{response}\n" for response in responses)
    if score is not None:
        text += f"\n--- METADATA ---\n{json.dumps({'activations': {'aggregate_score': score}}, indent=2)}\n"
    return text


class PlayedGame:
    """Writes down a game as it is played: statistics and log agree as long as they are not told otherwise."""

    def __init__(self, game_id: int = 1) -> None:
        self.log = ""
        self.score = 0.0
        self.alive = list(PLAYERS)
        self.stats: dict[str, Any] = {
            "game_id": game_id,
            "backend_type": "test",
            "probe_enabled": True,
            "winner": "Village",
            "total_turns": 2,
            "players": [{"name": name, "role": role, "survived": True} for name, role in PLAYERS.items()],
            "history": [],
            "player_reasoning": {},
            "player_activations": {name: [] for name in PLAYERS},
        }

    def call(self, player: str, user: str, action: Any, raw: str | None = None) -> None:
        self.score += 1.0
        self.log += block(player, user, answer(action) if raw is None else raw, score=self.score)
        self.stats["player_activations"][player].append(
            {"action": action, "activations": {"aggregate_score": self.score, "cot_score": None}}
        )

    def event(self, turn: int, kind: str, **data: Any) -> None:
        self.stats["history"].append({"turn": turn, "phase": "night", "type": kind, "data": data})

    def night(self, turn: int, votes: dict[str, str], victim: str, check: str | None = None) -> None:
        village = [name for name in self.alive if PLAYERS[name] != "werewolf"]
        for wolf, target in votes.items():
            self.call(wolf, prompt(turn, "NIGHT", village), target)
        self.event(turn, "night_kill", victim=victim, werewolf_votes=votes)
        self.alive.remove(victim)
        if check:
            self.call("Dot", prompt(turn, "NIGHT", [name for name in self.alive if name != "Dot"]), check)

    def say(self, turn: int, player: str, text: str, raw: str | None = None, history: str = "") -> None:
        self.call(player, prompt(turn, "DAY DISCUSSION", history=history), text, raw)
        self.event(turn, "day_statement", player=player, statement=text, reasoning="because")

    def ask(self, turn: int, player: str, target: str, question: str) -> None:
        self.call(player, prompt(turn, "PLAYER CALLOUT"), {"target": target, "question": question})

    def reply(self, turn: int, player: str, caller: str, question: str, text: str) -> None:
        phase = f"DAY DISCUSSION (Called Upon by {caller})"
        self.call(player, prompt(turn, phase, asks=f'{caller} asks you: "{question}"'), text)
        self.event(turn, "day_statement", player=player, statement=text, called_by=caller, question=question)

    def vote(self, turn: int, votes: dict[str, str], victim: str) -> None:
        for voter, target in votes.items():
            options = [name for name in self.alive if name != voter]
            self.call(voter, prompt(turn, "DAY VOTE", options), target)
        self.event(
            turn, "day_elimination", victim=victim, role=PLAYERS[victim], votes=dict(Counter(votes.values()))
        )
        self.alive.remove(victim)

    def write(self, folder: Path, *, log: bool = True) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "game_stats.json").write_text(json.dumps(self.stats), encoding="utf-8")
        if log:
            (folder / "llm_log.txt").write_text(self.log, encoding="utf-8")
        return folder


def played_game(game_id: int = 1) -> PlayedGame:
    """Two turns with a seer check, a callout with its reply, an unanswered callout and a free-text vote."""
    game = PlayedGame(game_id)
    game.night(1, {"Ann": "Cid", "Bob": "Eve"}, "Eve", check="Ann")
    game.say(1, "Ann", "I slept well.")
    game.say(1, "Bob", "So did I.")
    game.ask(1, "Ann", "Cid", "And you?")
    game.reply(1, "Cid", "Ann", "And you?", "I slept well.")
    game.ask(1, "Bob", "Dot", "Who are you?")
    game.say(1, "Cid", "I suspect Bob.")
    game.say(1, "Dot", "So did I.")
    game.vote(1, {"Ann": "Bob", "Bob": "Ann", "Cid": "Cid votes for Bob", "Dot": "Bob"}, "Bob")
    game.night(2, {"Ann": "Cid"}, "Cid", check="Bob")
    game.say(2, "Ann", "I slept well.")
    game.say(2, "Dot", "Ann is a werewolf.")
    game.vote(2, {"Ann": "Dot", "Dot": "Ann"}, "Dot")
    return game
