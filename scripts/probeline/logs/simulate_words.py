"""The phrases of the simulated Werewolf games, and how a player's words are put together from them.

Roles leak into the words in two weak ways only: how often werewolves and villagers choose a kind of
statement (`MOVES`, `CLOSINGS`), and how they begin a sentence (`HEDGES`). Phrases are never tied to a role.
"""

from random import Random
from typing import NamedTuple


class Move(NamedTuple):
    """One kind of statement: what it needs to be sayable, how often each team chooses it, its phrases."""

    needs: str
    village: float
    werewolves: float
    phrases: tuple[str, ...]


class Tone(NamedTuple):
    """One way to end a statement: how often each team chooses it, its phrases."""

    village: float
    werewolves: float
    phrases: tuple[str, ...]


# Slots: {t} the suspect, {v} the last night's victim, {a} who accused the speaker or the suspect,
# {f} a player whom the speaker believes, {o} who was voted out last, {p} who pushed for that, {h} a hedge,
# {r} a reason. `needs` names the slots that must be known, one letter each.
MOVES = {
    "mourn": Move(
        "v",
        1.0,
        1.44,
        (
            "Losing {v} so soon is a blow, and {h} it was no accident that they were picked.",
            "Poor {v} never got the chance to tell us what they were thinking.",
            "{H} the choice of {v} tells us something about what the wolves are afraid of.",
            "Whoever went after {v} wanted a careful voice out of the way.",
            "It hurts to wake up without {v}, so let us make their loss count for something today.",
            "I keep asking myself who gains the most now that {v} is gone.",
            "{v} had no quarrel with anybody, which makes this kill hard to read.",
            "I still see {v} sitting here, and I owe it to them to look closely at everyone today.",
            "The wolves took {v} from us, and somebody at this table is only pretending to be sad about it.",
            "What happened to {v} frightens me, and {h} the next one could be any of us.",
            "Killing {v} looks like a cautious move by wolves who do not want to be traced.",
        ),
    ),
    "plan": Move(
        "",
        0.9,
        1.88,
        (
            "{H} each of us should name one player they trust and one they do not.",
            "Let us go around the table once, so that nobody can hide behind the others.",
            "Could we agree on two names before the vote and compare them properly?",
            "{H} we should write down who says what and hold people to it tomorrow.",
            "We need an order today, because a scattered vote only helps the wolves.",
            "A short and honest answer from everybody would help more than another round of guesses.",
            "I suggest that we start with the players who have said the least and work our way around.",
            "Let us collect every suspicion first and only then decide whose name goes on the ballot.",
            "{H} we should ask everyone the same question and compare the answers with care.",
            "It would help if each of you explained your suspicion in one plain sentence.",
        ),
    ),
    "calm": Move(
        "",
        0.55,
        3.31,
        (
            "{H} we are moving too fast, and a wrong vote today could cost us the game.",
            "Nobody has shown real proof yet, so pointing fingers feels premature to me.",
            "Arguing among ourselves is exactly what the wolves would like to see.",
            "I would rather stay patient than throw away a villager on a mere feeling.",
            "There may be a harmless explanation for most of what was said so far.",
            "Let us keep an open mind, because first impressions have fooled this village before.",
            "A loud accusation is not evidence, and {h} some of us are being carried away.",
            "Being quiet or being nervous is no crime, and we should not hang anyone for it.",
            "I would like to hear all sides before we ruin the day for somebody who did nothing.",
            "{H} the best thing we can do is take a breath and go through it step by step.",
        ),
    ),
    "ask": Move(
        "",
        1.0,
        0.81,
        (
            "Did anybody hear or see anything strange before the sun came up?",
            "Who here has changed their mind since we last spoke, and why?",
            "What would each of you do if the vote were held this very minute?",
            "Is there anyone whose story does not fit with what we know?",
            "Could everybody tell us where their suspicion lies and what it rests on?",
            "Has anyone noticed two players who never speak against each other?",
            "Who among us gains from the way the last night went, if you think it through?",
            "Would somebody who has not spoken much yet share what is on their mind?",
            "What did you all make of the way people reacted when the news came this morning?",
        ),
    ),
    "accuse": Move(
        "t",
        1.7,
        0.78,
        (
            "{H} {t} deserves a hard look, because {r}.",
            "My eyes are on {t} right now: {r}.",
            "I cannot shake the feeling that {t} is hiding something, since {r}.",
            "{t} worries me more than anyone else, mostly because {r}.",
            "If I had to name a wolf this minute I would say {t}, for {r}.",
            "Something about {t} does not add up for me, as {r}.",
            "I have been watching {t} for a while now, and what bothers me is that {r}.",
            "It is hard for me to look past {t} today, given that {r}.",
            "Call it a hunch if you like, but {t} sounds like a wolf to me: {r}.",
            "{H} {t} is playing a part here, because {r}.",
        ),
    ),
    "press": Move(
        "t",
        0.9,
        0.54,
        (
            "{t}, whom do you suspect, and what have they done to earn it?",
            "I would like {t} to explain where they stand before we go any further.",
            "{t}, you have told us very little so far, so please say plainly what you believe.",
            "Can {t} tell us why they never answered the point that was put to them?",
            "Before the vote I want one clear sentence from {t} about who is lying.",
            "{t}, you were quick to speak about others, so tell us now about yourself.",
            "I have one question for {t}: what would convince you that you are wrong?",
            "Perhaps {t} can help us understand why their view differs from everybody else's.",
        ),
    ),
    "join": Move(
        "ta",
        0.8,
        1.25,
        (
            "{a} has a point about {t}, and {h} we should follow it up.",
            "I was unsure at first, but what {a} said about {t} makes sense to me.",
            "I agree with {a}: {t} has a few questions to answer.",
            "{H} {a} may be right about {t}, because {r}.",
            "What {a} noticed about {t} fits with my own impression that {r}.",
            "I would back {a} on this one, since {t} has given us no good answer so far.",
            "{a} and I seem to have the same worry, namely that {t} is not being straight with us.",
        ),
    ),
    "defend": Move(
        "d",
        1.6,
        1.81,
        (
            "{d} is wrong about me, and {h} that accusation came a little too quickly.",
            "I understand why {d} looks my way, but I have nothing to hide.",
            "{d}, you named me without a single reason, so what is it that you saw?",
            "Being accused by {d} does not make me a wolf, it makes me curious about {d}.",
            "I have been open since the start, and {d} is twisting what I said.",
            "I did not expect {d} to turn on me, and {h} it says more about them than about me.",
            "Ask me whatever you want, {d}, and I will answer it here in front of everybody.",
            "If {d} gets me voted out today, please remember tomorrow who wanted it.",
            "{d} has picked an easy target in me, but the village will learn nothing from my death.",
        ),
    ),
    "shield": Move(
        "f",
        0.45,
        1.25,
        (
            "{H} {f} has been honest with us, and I would leave them alone for now.",
            "I do not see a wolf in {f}, who has tried to help from the beginning.",
            "Going after {f} would be a mistake, since nothing they said was out of place.",
            "{f} speaks like somebody who truly wants answers.",
            "I trust {f} a little more than the others, because their questions were fair ones.",
            "Please leave {f} out of this for today, there are better places to look.",
        ),
    ),
    "recap": Move(
        "op",
        1.2,
        0.3,
        (
            "{p} pushed hard against {o} yesterday, and {h} we should remember that.",
            "The vote on {o} did not come from nowhere: {p} started it.",
            "Look again at who wanted {o} gone, because {p} was among the first.",
            "After what we learned about {o}, I would like to hear from {p} again.",
            "Now that {o} is gone, {p} owes us a word about why they were so certain.",
            "The case that {p} built against {o} should be read once more with fresh eyes.",
        ),
    ),
    "claim": Move(
        "",
        0.5,
        0.72,
        (
            "I am a plain villager, and I have no more information than the rest of you.",
            "For what it is worth, I am on the side of the village and will vote that way.",
            "I have no special role, just a pair of ears and a bad feeling about last night.",
            "You can trust me on this: I want the wolves gone as much as anyone.",
            "I sleep at night like every other villager, and I wake up as clueless as you do.",
            "There is no secret behind my words, I am an ordinary villager who wants to live.",
        ),
    ),
    "decide": Move(
        "t",
        1.0,
        0.49,
        (
            "My vote goes to {t} today unless somebody gives me a better name.",
            "I am ready to vote for {t}, and I will gladly explain it: {r}.",
            "Let us settle on {t} and see what their role tells us about the others.",
            "If nothing changes I will put {t} on my ballot, because {r}.",
            "We have talked enough, and the name that I keep coming back to is {t}.",
            "I would rather be wrong about {t} than let another night pass without a decision.",
            "{t} gets my vote for one reason that nobody has answered yet: {r}.",
        ),
    ),
}

REASONS = (
    "they keep agreeing with whoever spoke last",
    "they never said a word about the kill",
    "they have been far too quiet when it mattered",
    "their answers change every time somebody asks",
    "they were in a hurry to blame somebody else",
    "they talk a lot without ever naming anyone",
    "they seemed almost relieved this morning",
    "nobody else has tried so hard to look helpful",
    "they dodged the only direct question they got",
    "their tone turned as soon as they were mentioned",
    "they defended a player before anyone had attacked them",
    "what they told us does not match what I remember",
    "they laughed off a serious question about the night",
    "they only wake up when their own name is mentioned",
    "they repeat what others say and call it a theory",
    "they were certain of things that nobody could know",
)

# Said at the beginning of a sentence or inside it; village and werewolves differ in how often they say it.
HEDGES = {
    "I think": (1.4, 1.0),
    "I believe": (1.1, 0.9),
    "to be fair,": (0.5, 1.0),
    "honestly,": (0.6, 1.1),
    "it seems to me that": (0.9, 0.9),
    "I would say": (0.9, 0.8),
    "maybe": (0.6, 0.9),
    "I am fairly sure": (1.0, 0.6),
}

CLOSINGS = {
    "evidence": Tone(
        1.2,
        0.6,
        (
            "Show me where I am wrong and I will change my mind.",
            "I am going by what was said here and by nothing else.",
            "Please check what they told us in the first round.",
            "Facts first, feelings later.",
            "I have tried to stay with what anyone here can check.",
            "Compare it with what was said before and judge for yourselves.",
        ),
    ),
    "unity": Tone(
        0.85,
        1.69,
        (
            "We only win this if we stick together.",
            "Let us help each other instead of tearing the village apart.",
            "I am sure that we can work this out as a group.",
            "Together we will find them.",
            "If we trust each other a little more, the wolves have nowhere to go.",
            "I want all of us to come out of this alive.",
        ),
    ),
    "urgency": Tone(
        1.1,
        0.58,
        (
            "We cannot afford another quiet day.",
            "Every night that we waste costs us a friend.",
            "Let us not go to bed tonight without an answer.",
            "The clock is running against us.",
            "If we miss today, there may be no other chance.",
            "I want a decision before the sun goes down.",
        ),
    ),
    "invitation": Tone(
        1.0,
        1.0,
        (
            "What do the rest of you make of it?",
            "I would love to hear another view on this.",
            "Does anyone see it differently?",
            "Tell me if I have missed something.",
            "I am curious how the quieter players see this.",
            "Please speak up if your impression is another one.",
        ),
    ),
    "doubt": Tone(
        0.7,
        1.73,
        (
            "But I could easily be mistaken.",
            "I do not want to hurt an innocent player, though.",
            "Still, it is early and we know very little.",
            "Take it with a grain of salt.",
            "I may see it differently after the next round.",
            "There is a good chance that I am reading too much into it.",
        ),
    ),
}

# The last two refer to an elimination.
OPENINGS = (
    "After listening to all of you,",
    "Before we go to the vote,",
    "Now that {v} is dead,",
    "Since somebody has to say it,",
    "If we are serious about this,",
    "With one more grave in the village,",
    "As far as I can tell,",
    "Looking around this circle,",
    "Let me put it simply:",
    "Now that we know what {o} was,",
    "Thinking back to the vote on {o},",
)

STOCK = (
    "I have nothing to add at the moment, but I am listening closely.",
    "Let us hear from the others first.",
    "I agree with most of what has been said so far.",
    "Good morning everyone, let us find the wolves.",
    "I stand by what I said before.",
)

SEER_CLAIMS = (
    "I have to tell you now: I am the seer, I looked at {t}, and {t} is a werewolf.",
    "I am the seer. My vision last night showed me {t}, and what I saw was a wolf.",
)

HARD_QUESTIONS = (
    "You have barely said anything about {v}; what are you keeping from us?",
    "Why should the village believe you rather than the players you doubt?",
    "Which of us do you trust the least, and what is your evidence?",
    "What did you mean by your last remark, and why did you change the subject?",
    "Where does your suspicion come from, if not from wanting to save yourself?",
    "Your name keeps coming up, so how do you explain that to the village?",
    "What were you trying to achieve when you spoke up this morning?",
    "If you are a villager, why have you not helped us to find {v}'s killer?",
)

SOFT_QUESTIONS = (
    "How do you think we can best protect each other tonight?",
    "Is there anything that you would like the others to understand about you?",
    "What is your view of the discussion so far?",
    "Would you like to share your thoughts about what happened to {v}?",
    "Who do you feel has been helpful up to now?",
    "What should we pay attention to before we go to the vote?",
    "You have stayed calm so far; how do you read the mood around the table?",
    "Could you tell us a little about how you form your opinion of the others?",
)

HARD_ANSWERS = (
    "I am not keeping anything back, {a}; I simply had nothing solid to say until now.",
    "Fair question, {a}: I judge people by what they say, and so far {t} has said the least.",
    "{a}, I answered that already, and {h} the pressure on me is a distraction.",
    "My doubts about {t} come from how they spoke, {a}, not from any wish to save myself.",
    "You may not like it, {a}, but I would still look at {t} first.",
    "I have explained myself, {a}, and {h} it is now for {t} to do the same.",
    "{a}, the death of {v} shook me, and I needed some time before I could speak about it.",
    "If my name comes up, {a}, it is because somebody like {t} wants it to.",
)

SOFT_ANSWERS = (
    "Thank you for asking, {a}; {h} we should share what we know and watch how {t} reacts.",
    "I appreciate that, {a}, and I want everybody to know that I am here to help.",
    "The talk has been useful, {a}, although {h} we could hear more from {t}.",
    "What happened to {v} still troubles me, {a}, and I wish I had a clear answer.",
    "I feel better when we listen to each other, {a}, so let us go on like this.",
    "Good of you to ask, {a}: what strikes me is how little {t} has told us about {v}.",
    "I do not have much, {a}, but {h} the way {t} talks is worth a second look.",
    "My advice, {a}, is to vote with a clear head and to keep an eye on {t}.",
)

# Private thoughts, by kind of call and team; {m} the fellow werewolves, {t} the target of the act.
THOUGHTS = {
    ("night", "werewolves"): (
        "{t} could organise the village, so removing them early is the safer choice.",
        "We need a victim who does not lead back to us; {t} has spoken to nobody in particular.",
        "Taking {t} keeps the village guessing and leaves an easy scapegoat alive.",
        "No strong read yet, {t} is as good a target as any.",
    ),
    ("night", "village"): (
        "As the seer I want to know what {t} really is before the day begins.",
        "Looking at {t} tonight gives me the most useful answer.",
    ),
    ("statement", "werewolves"): (
        "As a werewolf I should sound worried and leave the suspicion on {t}.",
        "I must look like a villager while {m} stays out of the talk.",
        "A calm voice draws no attention, so I will keep it general for now.",
        "If the village fights over {t}, nobody looks at me.",
        "I need to seem useful without giving anybody a reason to question me.",
    ),
    ("statement", "village"): (
        "As a villager I only have their words to go by, and {t} stands out to me.",
        "I want people to talk, because a wolf will slip sooner or later.",
        "Nothing is certain yet; I will say what I see and watch who reacts to it.",
        "{t} makes me uneasy, but I need more than a feeling.",
        "The village has to agree on someone, so I should be clear about my view.",
    ),
    ("callout", "werewolves"): (
        "Asking {t} makes me look active and costs me nothing.",
        "A question to {t} steers the talk the way that suits us.",
    ),
    ("callout", "village"): (
        "I want to see how {t} answers when put on the spot.",
        "{t} has left too much open, a direct question should help.",
    ),
    ("pass", "werewolves"): ("Better to keep my head down and call on nobody.",),
    ("pass", "village"): ("I have heard enough for now and need no further answer.",),
    ("reply", "werewolves"): (
        "I have to answer {t} without any sign of fear and look like a villager.",
        "A friendly answer to {t} keeps the attention away from {m}.",
    ),
    ("reply", "village"): (
        "{t} asked me directly, so I should answer as openly as I can.",
        "As a villager I have nothing to hide from {t}.",
    ),
    ("vote", "werewolves"): (
        "Voting for {t} fits the mood of the village and protects me.",
        "{t} is the name that costs us the least today.",
        "The votes will gather on {t}, and I should not stand apart.",
    ),
    ("vote", "village"): (
        "{t} is the player I trust the least after this discussion.",
        "What {t} said did not convince me, so my vote goes there.",
        "I am not certain, but {t} has the weakest story.",
    ),
}


def pick(rng: Random, phrases: tuple[str, ...]) -> str:
    """One of the phrases, all equally likely."""
    return phrases[int(rng.random() * len(phrases))]


def hedge(rng: Random, werewolf: bool) -> str:
    """A way to begin a sentence."""
    return rng.choices(list(HEDGES), [weights[werewolf] for weights in HEDGES.values()])[0]


def fill(rng: Random, phrase: str, slots: dict[str, str], werewolf: bool) -> str:
    """Put names, a reason and a hedge into a phrase and begin it with a capital letter."""
    opening = hedge(rng, werewolf)
    words = phrase.format(**slots, h=opening, H=opening[0].upper() + opening[1:], r=pick(rng, REASONS))
    return words[0].upper() + words[1:]


def compose(rng: Random, slots: dict[str, str], werewolf: bool) -> tuple[str, str]:
    """A public statement of one or two sentences.

    Args:
        rng: the game's source of randomness.
        slots: the known names by slot letter; a move is possible only where all that it needs are known.
        werewolf: which column of weights applies.

    Returns:
        The kind of statement (a key of MOVES) and its text.
    """
    moves = {kind: move for kind, move in MOVES.items() if slots.keys() >= set(move.needs)}
    kind = rng.choices(list(moves), [_weight(move, werewolf) for move in moves.values()])[0]
    text = fill(rng, pick(rng, MOVES[kind].phrases), slots, werewolf)
    if rng.random() < 0.4:
        opening = pick(rng, OPENINGS[:-2] if "o" not in slots else OPENINGS).format(**slots)
        text = f"{opening} {_continued(text)}"
    return kind, close(rng, text, werewolf)


def close(rng: Random, text: str, werewolf: bool) -> str:
    """Mostly, the text with a second sentence that sets its tone."""
    if rng.random() > 0.85:
        return text
    tones = list(CLOSINGS.values())
    tone = rng.choices(tones, [_weight(tone, werewolf) for tone in tones])[0]
    return f"{text} {pick(rng, tone.phrases)}"


def _weight(choice: Move | Tone, werewolf: bool) -> float:
    return choice.werewolves if werewolf else choice.village


def _continued(sentence: str) -> str:
    """The sentence as it goes on after a comma."""
    keeps_capital = sentence.startswith(("I ", "Player"))
    return sentence if keeps_capital else sentence[0].lower() + sentence[1:]
