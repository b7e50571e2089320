"""Text of unknown origin for a person to read: what would be obeyed, or not be seen, is shown."""

import re
import unicodedata
from html import escape
from typing import Any

LINE_BREAK = "⏎"
SIGNED_BREAK = f"{LINE_BREAK}\n"
# They join letters and emoji, and choose the form of an emoji: text in many languages is not itself without.
SHAPERS = "\u200c\u200d\ufe0e\ufe0f"
# Those that Python would print of what Unicode lets a font leave out (Default_Ignorable_Code_Point), and the
# blanks that are no space: Braille's and that of musical notes.
UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0d\uffa0"
    "\U0001d159\U000e0100-\U000e01ef]"
)


def visible(text: str, line_break: str = LINE_BREAK) -> str:
    """`text` in which control characters, overrides of direction and all that is unseen can be seen.

    Args:
        text: of any origin.
        line_break: what stands for one.
    """
    return "".join(line_break if character == "\n" else _visible(character) for character in text)


def _visible(character: str) -> str:
    seen = character.isprintable() and not UNSEEN.match(character)
    if seen or character in SHAPERS or unicodedata.category(character) == "Zs":
        return character
    number = ord(character)
    if number < 0x20:
        return chr(0x2400 + number)  # the pictures of control characters
    return f"<U+{number:04X}>"


def safe(text: Any, line_break: str = LINE_BREAK) -> str:
    """Text that a browser shows and never obeys."""
    return escape(visible(str(text), line_break))
