"""The one exception that users are meant to read."""

import difflib
from collections.abc import Iterable


class ProbelineError(Exception):
    """A fault that its reader can mend: says what is wrong, where, and what to do about it.

    Scripts and the command line print its text without a traceback; any other exception is a defect
    and keeps its traceback.
    """


def near_misses(wrong: str, allowed: Iterable[str]) -> str:
    """A sentence that names the entries of `allowed` closest to `wrong`, then all of them."""
    names = sorted(allowed)
    close = difflib.get_close_matches(wrong, names, n=3, cutoff=0.6)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}Allowed: {', '.join(names) if names else 'nothing yet'}."
