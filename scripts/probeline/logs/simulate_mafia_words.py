"""The phrases of the simulated Mafia games.

Roles leak into the words in one weak way only: how often each team chooses a kind of opening (`OPENINGS`).
Phrases are never tied to a role. Slots: {t} the player in mind, {o} another one.
"""

from random import Random

OPENINGS: dict[str, tuple[float, float, tuple[str, ...]]] = {
    "accuse": (
        1.8,
        0.7,
        (
            "I suspect {t}, because their answers change with every question.",
            "The evidence points to {t} for me, thin as it still is.",
            "My reasoning leads to {t}: nobody else had so much to gain last night.",
            "If I analyze who spoke first and who waited, {t} stands out.",
            "{t} worries me more than {o} does, and I would like to hear why we should trust them.",
            "I deduce from the last vote that {t} is not who they claim to be.",
        ),
    ),
    "calm": (
        0.5,
        2.6,
        (
            "Let us not rush, there is no real evidence against {t} so far.",
            "I would rather look for a pattern than throw a name into the room.",
            "Nobody gains from a hasty vote today, and {t} deserves a fair hearing.",
            "We should slow down, since a wrong vote is all the other side needs to survive.",
            "I see no logic in blaming {t} for being quiet, {o} was quiet too.",
            "Somebody wants to mislead us, and a quarrel between {t} and {o} would serve them well.",
        ),
    ),
    "ask": (
        1.0,
        1.0,
        (
            "Could {t} tell us what they noticed before the night ended?",
            "What is the strategy behind your silence, {t}?",
            "I want to investigate one claim first: {t}, why did you change your mind?",
            "Who else saw that {t} and {o} agree on everything?",
            "The timing of what {t} said is odd, can you explain it?",
        ),
    ),
    "plan": (
        0.9,
        1.4,
        (
            "We need to coordinate before the vote, so that it does not scatter.",
            "If a doctor is among us, I hope they protect whoever speaks most openly.",
            "Let everyone reveal one name they trust and one they do not.",
            "I propose that we discuss {t} and {o} in turn and then vote together.",
            "An alliance of two careful players could save the rest of us today.",
        ),
    ),
}
"""Kind → how often the village and the mafia begin with it, and its phrases."""

SENTENCES = (
    "What I have is a pattern of small hints, not proof.",
    "In my reasoning the timing matters more than the words.",
    "I trust {o} a little more than the others, but not blindly.",
    "That would be a strange strategy for an honest player.",
    "Whoever was killed had asked the right questions, and that is evidence of a kind.",
    "We can deduce a lot from who is protected by whom in this talk.",
    "I would vote for {t} today unless something new comes up.",
    "If we investigate nobody today, we lose a whole day.",
    "A player who wants to deflect would do exactly that.",
    "I will reveal my own view at the end of this round.",
    "Please analyze my words in the same way, I have nothing to hide.",
    "There is an alliance between two of us, and I want to know which two.",
    "It may be an accident, of course.",
    "Let us hear the others first.",
    "My logic is simple: look at what each vote brought to whom.",
    "I could be wrong about {t}, and I would say so.",
)
SHORT = (
    "I agree with {o}.",
    "Nothing to add from me.",
    "I pass this round.",
    "Hard to say.",
    "{t}, please answer.",
)
PROSE_VOTES = (
    "I think we should vote for {t}, because nobody else fits.",
    "My vote goes to {t} after all that was said.",
    "It has to be {t}, I am nearly certain of it.",
    "Let me think about {t} and {o} a little longer before I decide.",
)


def speech(rng: Random, target: str, other: str, *, mafia: bool) -> str:
    """What a player says in a discussion, with two players in mind."""
    if rng.random() < 0.08:
        return rng.choice(SHORT).format(t=target, o=other)
    weights = [by_mafia if mafia else by_village for by_village, by_mafia, _ in OPENINGS.values()]
    phrases = rng.choices([said for _, _, said in OPENINGS.values()], weights)[0]
    sentences = [rng.choice(phrases), *rng.sample(SENTENCES, rng.choice((0, 1, 1, 2, 2, 3)))]
    return (" " if rng.random() < 0.9 else "\n\n").join(sentences).format(t=target, o=other)


def prose_vote(rng: Random, target: str, other: str) -> str:
    """Words where a number was asked for."""
    return rng.choice(PROSE_VOTES).format(t=target, o=other)
