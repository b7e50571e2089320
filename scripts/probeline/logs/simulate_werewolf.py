"""Seeded Werewolf games in the format of real ones: game_stats.json and llm_log.txt.

A small engine plays the game: roles are dealt, wolves kill by night, the village talks and votes by day.
Every act is written as the call to a language model that it would have been, so that prompts, responses,
scores, history and tallies of one game agree with each other. Wherever the real logs are irregular
(invalid votes, retries, calls without a response, odd reasoning), some of these games are, too.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import orjson

from probeline.files import atomic_directory, write_manifest
from probeline.logs.simulate_calls import Experiment, GameRecord, NoResponseError, Said
from probeline.logs.simulate_words import (
    HARD_ANSWERS,
    HARD_QUESTIONS,
    SEER_CLAIMS,
    SOFT_ANSWERS,
    SOFT_QUESTIONS,
    STOCK,
    close,
    compose,
    fill,
    pick,
)

EXPERIMENTS = (
    Experiment("simulated_baseline", open_night=True),
    Experiment("simulated_probe", probe=True, detector=True, callouts=True),
    Experiment("simulated_public_cot", public_reasoning=True, open_night=True),
    Experiment(
        "archive/simulated_short_scores", log=False, probe=True, short_scores=True, history_reasoning=False
    ),
    Experiment("simulated_probe_monitored", probe=True, detector=True, monitored=True, callouts=True),
    Experiment("archive/simulated_large", seer=True, history_reasoning=False, sizes=(8, 8, 9, 10, 12)),
    Experiment("simulated_probe_seer", probe=True, seer=True, callouts=True, open_night=True),
    Experiment("simulated_no_reasoning", probe=True, reasoning=False, callouts=True),
    Experiment("archive/simulated_no_log", log=False, callouts=True),
    Experiment("simulated_public_cot_monitored", public_reasoning=True, monitored=True, callouts=True),
)


@dataclass(frozen=True)
class SimulatedGame:
    """One game: its folder relative to the corpus root, its game_stats.json and its llm_log.txt."""

    key: str
    stats: dict[str, Any]
    log: str | None


def simulated_game_key(index: int) -> str:
    """The folder of game `index`, relative to the corpus root: `<experiment>/game<index>`."""
    return f"{EXPERIMENTS[index % len(EXPERIMENTS)].name}/game{index}"


def simulate_game(seed: int, index: int) -> SimulatedGame:
    """Play game `index`. The same seed and index give the same game, whatever else is simulated."""
    digest = hashlib.sha256(f"werewolf:{seed}:{index}".encode()).digest()
    game = _Game(Random(int.from_bytes(digest[:8], "big")), index)
    game.play()
    return SimulatedGame(simulated_game_key(index), game.stats(), game.log_text())


def simulate_games(seed: int, indices: Iterable[int], output: Path) -> None:
    """Write `<output>/<key>/game_stats.json`, `llm_log.txt` where the game has one, and a manifest.

    Args:
        seed: of the whole corpus.
        indices: numbers of the games.
        output: the corpus root; replaced as a whole.
    """
    from probeline.progress import progress

    chosen = sorted(set(indices))
    with atomic_directory(output) as draft:
        for index in progress(chosen, "Simulating Werewolf games", total=len(chosen), unit="game"):
            game = simulate_game(seed, index)
            folder = draft / game.key
            folder.mkdir(parents=True)
            (folder / "game_stats.json").write_bytes(orjson.dumps(game.stats, option=orjson.OPT_INDENT_2))
            if game.log is not None:
                (folder / "llm_log.txt").write_text(game.log, encoding="utf-8")
        facts = {"corpus": "werewolf", "seed": seed, "games": len(chosen), "indices": chosen}
        write_manifest(draft, "simulated-logs", facts)


class _Game(GameRecord):
    """The rules, and what the players make of the game."""

    def __init__(self, rng: Random, index: int):
        super().__init__(rng, index, EXPERIMENTS[index % len(EXPERIMENTS)])
        self.max_turns = 1 if rng.random() < 0.03 else 4
        self.accusations: list[tuple[str, str]] = []
        self.victim = ""
        self.eliminated = ""
        self.pusher = ""
        # How suspicious each player finds each other one; villagers sense a little of the truth.
        self.suspicion = {
            name: {other: rng.gauss(0.0, 1.0) + 0.85 * self.wolf(other) for other in self.names}
            for name in self.names
        }

    # The rules -----------------------------------------------------------------------------------------

    def play(self) -> None:
        """Play until a team has won, the turns are over, or the model fails to answer."""
        try:
            while not self.winner:
                self._night()
                if not self._decided():
                    self._day()
                if not self._decided():
                    if self.turn == self.max_turns:
                        self.winner = "Draw (max turns)"
                    else:
                        self.turn += 1
        except NoResponseError:
            self.winner = "Aborted"

    def _decided(self) -> bool:
        wolves = len(self.wolves())
        if wolves == 0:
            self.winner = "Village"
        elif 2 * wolves >= len(self.alive):
            self.winner = "Werewolves"
        return bool(self.winner)

    # Night ---------------------------------------------------------------------------------------------

    def _night(self) -> None:
        rng = self.rng
        confused = rng.random() < 0.02
        votes: dict[str, str] = {}
        accepted = []
        for wolf in self.wolves():
            allies = self.allies(wolf)
            prey = [name for name in self.alive if not self.wolf(name)]
            options = [name for name in self.alive if name in prey or name in allies]
            options = options if self.experiment.open_night else prey
            threat = {name: rng.gauss(0.0, 0.7) - self.suspicion[wolf][name] for name in prey}
            target = max(threat, key=threat.__getitem__)
            if allies and rng.random() < (0.12 if self.experiment.open_night else 0.02):
                target = rng.choice(allies)
            answer = self._invalid_name(wolf, target) if confused or rng.random() < 0.015 else target
            self.call(wolf, self.night_prompt(wolf, options), "night", answer, {"t": target})
            votes[wolf] = answer
            if answer in options:
                accepted.append(answer)
        for seer in [name for name in self.alive if self.roles[name] == "seer"]:
            unseen = [name for name in self.alive if name != seer and name not in self.visions]
            if unseen:
                target = max(unseen, key=self.suspicion[seer].__getitem__)
                self.call(seer, self.night_prompt(seer, unseen), "night", target, {"t": target})
                self.visions[target] = self.roles[target]
        # As in the real games: one of the most named, drawn; without any valid vote a random villager.
        tally = Counter(accepted)
        most = [name for name, count in tally.items() if count == max(tally.values())]
        self.victim = rng.choice(most or [name for name in self.alive if not self.wolf(name)])
        self.alive.remove(self.victim)
        data: dict[str, Any] = {"victim": self.victim}
        if accepted:
            data["werewolf_votes"] = votes
        self.event("night_kill", data)
        self.past += ["", f"--- Turn {self.turn} ---", f"Night: {self.victim} was killed."]

    def _invalid_name(self, voter: str, target: str) -> str:
        """Something that a model answers instead of an allowed name."""
        dead = [name for name in self.names if name not in self.alive]
        kinds = [voter, "nobody", f"{voter} votes for {target}", *dead[:1]]
        return self.rng.choice(kinds)

    # Day -----------------------------------------------------------------------------------------------

    def _day(self) -> None:
        self.said = []
        self.accusations = []
        large = len(self.names) > 7
        rounds = 1 if large or (self.turn > 1 and self.rng.random() < 0.4) else 2
        for _ in range(rounds):
            self._discuss()
            if self.experiment.callouts:
                self._call_on_each_other()
        self._vote()

    def _discuss(self) -> None:
        """Everybody speaks once; as in the real games, nobody sees this round's statements yet."""
        transcript = self.transcript()
        heard = list(self.said)
        accused = list(self.accusations)
        for player in list(self.alive):
            text, target = self._statement(player, heard, accused)
            prompt = self.day_prompt(player, transcript, "DAY DISCUSSION")
            self._speak(player, prompt, "statement", text, {"t": target})

    def _statement(self, player: str, heard: list[Said], accused: list[tuple[str, str]]) -> tuple[str, str]:
        """What `player` says in turn, and whom they have in mind."""
        rng = self.rng
        wolf = self.wolf(player)
        target = self._suspect(player)
        own = [said.text for said in heard if said.player == player]
        if own and rng.random() < 0.06:
            return own[-1], target
        if rng.random() < 0.03:
            return pick(rng, STOCK), target
        seen = [name for name, role in self.visions.items() if role == "werewolf" and name in self.alive]
        if self.roles[player] == "seer" and seen and rng.random() < 0.5:
            target = seen[0]
            self._accuse(player, target)
            return fill(rng, pick(rng, SEER_CLAIMS), {"t": target}, wolf), target
        if self.experiment.seer and wolf and rng.random() < 0.03:
            self._accuse(player, target)
            return fill(rng, pick(rng, SEER_CLAIMS), {"t": target}, wolf), target
        slots = self._slots(player, target, accused)
        kind, text = compose(rng, slots, wolf)
        if kind in ("accuse", "join", "decide", "press"):
            self._accuse(player, target)
        if kind == "defend":
            self._accuse(player, slots["d"])
        if rng.random() < 0.004:
            text = json.dumps({"statement": text})
        return text, target

    def _slots(self, player: str, target: str, accused: list[tuple[str, str]]) -> dict[str, str]:
        """The names that `player` can speak of, by slot letter (see `simulate_words`)."""
        slots = {"v": self.victim}
        # In the very first round there is hardly anything to suspect somebody for.
        if self.turn > 1 or self.said or self.rng.random() < 0.5:
            slots["t"] = target
        against_me = [a for a, t in accused if t == player and a in self.alive]
        against_target = [a for a, t in accused if t == target and a not in (player, target)]
        if against_me:
            slots["d"] = against_me[-1]
        if against_target and "t" in slots:
            slots["a"] = against_target[-1]
        friends = [name for name in self.alive if name not in (player, target)]
        if friends and self.said:
            slots["f"] = min(friends, key=lambda name: self._feeling(player, name))
        if self.eliminated and self.pusher in self.alive and self.pusher != player:
            slots |= {"o": self.eliminated, "p": self.pusher}
        return slots

    def _feeling(self, player: str, other: str) -> float:
        """How suspicious `player` makes out `other` to be: werewolves protect their own."""
        return self.suspicion[player][other] - 1.6 * (other in self.allies(player))

    def _suspect(self, player: str) -> str:
        others = [name for name in self.alive if name != player]
        return max(others, key=lambda name: self._feeling(player, name) + self.rng.gauss(0.0, 0.8))

    def _accuse(self, player: str, target: str) -> None:
        self.accusations.append((player, target))
        for listener in self.alive:
            if listener not in (player, target):
                self.suspicion[listener][target] += 0.35
        self.suspicion[target][player] += 0.5

    def _speak(
        self, player: str, prompt: str, kind: str, text: str, slots: dict[str, str], **asked: str
    ) -> None:
        """Log a statement or a reply and make it public."""
        thought, score = self.call(player, prompt, kind, text, slots)
        data: dict[str, Any] = {"player": player, "statement": text}
        if thought is not None and self.experiment.history_reasoning:
            data["reasoning"] = thought
        self.event("day_statement", data | asked)
        self.said.append(Said(player, text, thought, score))
        if score is not None:
            self.totals[player] += score
            if self.experiment.detector:
                for listener in self.alive:
                    self.suspicion[listener][player] += 0.01 * (score + 30.0)

    def _call_on_each_other(self) -> None:
        """Players may put a question to somebody, who answers at once."""
        transcript = self.transcript()
        called: list[str] = []
        for player in list(self.alive):
            options = [name for name in self.alive if name != player and name not in called]
            if not options or len(called) == 3:
                return
            prompt = self.day_prompt(player, transcript, "PLAYER CALLOUT", options)
            if self.rng.random() < 0.4:
                action = "PASS" if self.rng.random() < 0.5 else {"target": "PASS", "question": "PASS"}
                self.call(player, prompt, "pass", action, {})
                continue
            target, soft = self._whom_to_ask(player, options)
            question = fill(
                self.rng,
                pick(self.rng, SOFT_QUESTIONS if soft else HARD_QUESTIONS),
                {"v": self.victim},
                self.wolf(player),
            )
            self.call(player, prompt, "callout", {"target": target, "question": question}, {"t": target})
            called.append(target)
            self._answer(target, player, question, soft, transcript)

    def _whom_to_ask(self, player: str, options: list[str]) -> tuple[str, bool]:
        """A player, and whether the question is a friendly one: werewolves help their own to look good."""
        allies = [name for name in self.allies(player) if name in options]
        if allies and self.rng.random() < 0.6:
            return self.rng.choice(allies), self.rng.random() < 0.8
        target = max(options, key=lambda name: self.suspicion[player][name] + self.rng.gauss(0.0, 0.8))
        return target, self.rng.random() < 0.4

    def _answer(self, player: str, caller: str, question: str, soft: bool, transcript: str) -> None:
        others = [name for name in self.alive if name not in (player, caller)]
        target = max(others, key=lambda name: self._feeling(player, name))
        phrase = pick(self.rng, SOFT_ANSWERS if soft else HARD_ANSWERS)
        slots = {"a": caller, "t": target, "v": self.victim}
        text = fill(self.rng, phrase, slots, self.wolf(player))
        if self.rng.random() < 0.5:
            text = close(self.rng, text, self.wolf(player))
        prompt = self.day_prompt(player, transcript, "DAY DISCUSSION", asked_by=(caller, question))
        asked = {"called_by": caller}
        if self.rng.random() < 0.97:
            asked["question"] = question
        self._speak(player, prompt, "reply", text, {"t": caller}, **asked)

    def _vote(self) -> None:
        transcript = self.transcript()
        confused = self.rng.random() < 0.03
        ballots = []
        for player in list(self.alive):
            target = answer = self._ballot(player)
            if confused and self.rng.random() < 0.75:
                answer = "nobody"
            elif self.rng.random() < 0.02:
                answer = self._invalid_name(player, target)
            options = [name for name in self.alive if name != player]
            prompt = self.day_prompt(player, transcript, "DAY VOTE", options)
            self.call(player, prompt, "vote", answer, {"t": target})
            ballots.append(answer)
        tally = Counter(ballots)
        # Counter keeps the order of the ballots, and of equal counts the first one is the most common.
        chosen = tally.most_common(1)[0][0]
        self.past += self.spoken()
        self.said = []
        if chosen not in self.alive:
            self.past.append("Vote: nobody was eliminated.")
            return
        role = self.roles[chosen]
        self.alive.remove(chosen)
        self.event("day_elimination", {"victim": chosen, "role": role, "votes": dict(tally)})
        self.past.append(f"Vote: {chosen} eliminated (was {role}).")
        self.eliminated = chosen
        self.pusher = next((a for a, t in self.accusations if t == chosen), "")
        for accuser, target in self.accusations:
            if target == chosen:
                for listener in self.alive:
                    self.suspicion[listener][accuser] += -0.6 if role == "werewolf" else 0.6

    def _ballot(self, player: str) -> str:
        rng = self.rng
        others = [name for name in self.alive if name != player]
        allies = self.allies(player)
        for ally in allies:
            # The more an ally is talked about, the more it pays to be seen voting for them.
            heat = sum(target == ally for _, target in self.accusations)
            if rng.random() < min(0.7, 0.15 + 0.1 * heat):
                return ally
        return max(
            (name for name in others if name not in allies),
            key=lambda name: self.suspicion[player][name] + rng.gauss(0.0, 0.6),
        )
