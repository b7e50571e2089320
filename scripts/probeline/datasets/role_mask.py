"""Taking out of a chat what tells its actor's role, to see what a probe is worth without it.

Replaced by a neutral word: every role's name, wherever the model reads it before the actor's own words.
Left out: what only some roles are told or asked. What a game shows to some roles only in other ways (a
setting that gives one team the scores of a lie detector, for one) stays; the text baseline on the masked
input says how much of the role is left in it.
"""

import re
from collections.abc import Callable, Iterable, Mapping

Hide = Callable[[str], str]

NEUTRAL, NEUTRAL_PLURAL = "player", "players"
UNKNOWN_ROLE = "unknown"
PRIVATE_ACTS = ("night_vote", "seer_check", "protection")
"""Acts that only some roles are asked for: to be asked tells the role."""

# Lines of a true prompt that only werewolves or the seer get.
_TOLD = re.compile(
    r"(?:^[^\S\n]*(?:[-*•][^\S\n]*)?|(?<=[.!?)])[^\S\n]+)"  # at the beginning of a line or of a sentence
    r"(?:your (?:fellow|team-?mate|all(?:y|ies))|fellow \w+:|(?:\w+ )?team(?:-?mates?)?[^\S\n]*:|you saw:)"
    r"[^\n]*(?:\n(?:[^\S\n]*[-*•]|[^\S\n]{2,})[^\n]*)*(?:\n|\Z)",  # with the items of a list below it
    re.IGNORECASE | re.MULTILINE,
)
# The player's earlier private thoughts, and the section after them.
_THOUGHTS = re.compile(r"^Your previous thoughts this game:", re.MULTILINE)
_NEXT_SECTION = "\nPhase:"


def role_hider(roles: Iterable[str], plural: Mapping[str, str]) -> Hide:
    """A function that puts a neutral word for every role's name in a text, in any case, also for plurals.

    Whole words only. An article before a singular becomes `a`, since "the seer" stands where others are "a
    villager".

    Args:
        roles: roles of the game.
        plural: role → its plural; its roles are hidden, too. Others are taken to end in s.
    """
    names = sorted({*roles, *plural} - {"", NEUTRAL, UNKNOWN_ROLE})
    many = {plural.get(name, f"{name}s").lower() for name in names}
    words = sorted({*(name.lower() for name in names), *many}, key=lambda word: (-len(word), word))
    if not words:
        return lambda text: text
    either = "|".join(map(re.escape, words))
    pattern = re.compile(rf"(?:(?<!\w)(an?|the)\s+)?(?<![^\W_])({either})(?![^\W_])", re.IGNORECASE)

    def neutral(match: re.Match[str]) -> str:
        article, word = match.groups()
        if word.lower() in many:
            return f"{article} {NEUTRAL_PLURAL}" if article else NEUTRAL_PLURAL
        return f"a {NEUTRAL}" if article else NEUTRAL

    return lambda text: pattern.sub(neutral, text)


def prompt_without_team(prompt: str) -> str:
    """A true prompt without fellow werewolves, the seer's findings and the player's earlier thoughts."""
    if header := _THOUGHTS.search(prompt):
        # A thought may hold empty lines; only where no section follows does one end them.
        end = prompt.rfind(_NEXT_SECTION, header.end())  # a thought may hold such a line, too
        end = prompt.find("\n\n", header.end()) if end < 0 else end
        prompt = prompt[: header.start()] + (prompt[end:] if end >= 0 else "")
    # How many empty lines are left would tell whether something stood there.
    return re.sub(r"\n{3,}", "\n\n", _TOLD.sub(_line_end, prompt))


def _line_end(match: re.Match[str]) -> str:
    """What stays of a line that was told: where it followed another sentence, the end of that line."""
    begins_line = match.start() == 0 or match.string[match.start() - 1] == "\n"
    return "" if begins_line else "\n"
