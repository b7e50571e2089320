"""Text of unknown origin, made fit for a terminal."""


def plain_text(text: str) -> str:
    """`text` with a `?` for each character that does not print: a terminal may obey those."""
    return "".join(character if character.isprintable() else "?" for character in text)
