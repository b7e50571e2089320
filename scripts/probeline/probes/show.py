"""Scores for a person: text coloured by token at the terminal, and as JSON for a program.

Texts come from models and logs that may be hostile: what a terminal or a browser would obey instead of
showing it is made visible here.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probeline.probes.score import Score
from probeline.shades import STEPS, joined, shade
from probeline.visible import SIGNED_BREAK, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# ColorBrewer's blues (below) and oranges (above), which colour-blind people tell apart. Both letters and
# ground are set, so that they can be read on a dark terminal and on a light one.
BELOW = ("black on #d1e5f0", "black on #92c5de", "black on #4393c3", "white on #2166ac")
ABOVE = ("black on #fee0b6", "black on #fdb863", "black on #e08214", "white on #b35806")
WIDTH_OF_FILES = 240
"""Columns of what goes to a file or program."""


def pieces(score: Score) -> Iterator[tuple[str, float]]:
    """The text's tokens with their scores; those that part a character are one, with their mean score."""
    return joined(score.tokens or (), score.token_scores or ())


def summary(score: Score) -> str:
    """A score in one line."""
    return f"{score.score:+.3f}  probability {score.probability:.2f}  label {score.label}"


def probe_facts(name: str, facts: dict[str, Any]) -> dict[str, Any]:
    """What a reader of scores needs to know about the probe."""
    auroc = facts.get("headline", {}).get("auroc", {}).get("value")
    chosen = ("concept", "method", "layers", "model", "dtype", "threshold", "weights_sha256")
    return {"name": name, "test_auroc": auroc} | {key: facts.get(key) for key in chosen}


def as_json(texts: Sequence[str], scores: Sequence[Score], threshold: float, probe: dict[str, Any]) -> str:
    """One JSON array with an object for each text; in ASCII, whatever the texts hold."""
    rows = [
        {
            "text": text,
            "score": score.score,
            "probability": score.probability,
            "label": score.label,
            "threshold": threshold,
            "tokens": score.tokens,
            "token_scores": score.token_scores,
            "probe": probe,
        }
        for text, score in zip(texts, scores, strict=True)
    ]
    return json.dumps(rows, indent=1, allow_nan=False)


def styled(token: str, score: float, threshold: float) -> "Text":
    """A token in the colour of its score."""
    from rich.text import Text

    step = shade(score, threshold)
    style = "" if step == 0 else ABOVE[step - 1] if step > 0 else BELOW[-step - 1]
    text = Text()
    for number, line in enumerate(visible(token, SIGNED_BREAK).split("\n")):
        # A coloured line break would colour the rest of the terminal's line.
        text.append("\n" if number else "").append(line, style)
    return text


def legend(threshold: float) -> "Text":
    """The line that says what the colours mean."""
    from rich.text import Text

    text = Text("token scores  ")
    for step, style in zip(reversed(STEPS), reversed(BELOW), strict=True):
        text.append(f" ≤{threshold - step:+.1f} ", style)
    text.append(f" threshold {threshold:+.2f} ")
    for step, style in zip(STEPS, ABOVE, strict=True):
        text.append(f" ≥{threshold + step:+.1f} ", style)
    return text


def show(
    console: "Console", texts: Sequence[str], scores: Sequence[Score], threshold: float, tokens: bool
) -> None:
    """Print scores: coloured by token where the terminal has colours, else a line for each text.

    Args:
        console: where to.
        texts: what was scored.
        scores: of each; with tokens, where colours or `tokens` ask for them.
        threshold: of the probe.
        tokens: list every token with its score, too.
    """
    coloured = in_colour(console)
    for number, (text, score) in enumerate(zip(texts, scores, strict=True)):
        if coloured:
            if number:
                console.print()
            console.print(summary(score), style="bold", highlight=False, soft_wrap=True)
            for piece in pieces(score):
                console.print(styled(*piece, threshold), end="", soft_wrap=True)
            console.print()
        else:
            _plain(console, f"{summary(score)}  {visible(text)}")
        for token, token_score in pieces(score) if tokens else ():
            _plain(console, f"  {token_score:+8.3f}  {visible(token)}")
    if coloured:
        console.print("\n", legend(threshold), sep="", soft_wrap=True)


class Stream:
    """Prints tokens as they come."""

    def __init__(self, console: "Console", threshold: float) -> None:
        self._console, self._threshold = console, threshold
        self._scores: list[float] = []

    def add(self, text: str, score: float) -> None:
        """Print a token; one that ends within a character waits for the rest of it."""
        self._scores.append(score)
        if text:
            mean = sum(self._scores) / len(self._scores)
            self._scores.clear()
            if in_colour(self._console):
                self._console.print(styled(text, mean, self._threshold), end="", soft_wrap=True)
            else:
                _plain(self._console, visible(text, "\n"), end="")
            self._console.file.flush()

    def end(self, score: Score) -> None:
        """Print the score of all of it."""
        self._console.print("\n")
        _plain(self._console, summary(score))
        if in_colour(self._console):
            self._console.print(legend(self._threshold), soft_wrap=True)


def _plain(console: "Console", line: str, end: str = "\n") -> None:
    """Print text as it is: no markup in it, no number coloured."""
    console.print(line, end=end, markup=False, highlight=False, emoji=False, soft_wrap=True)


def in_colour(console: "Console") -> bool:
    """Whether text can be coloured there."""
    return console.is_terminal and not console.no_color and console.color_system is not None


def make_console(highlight: bool = True) -> "Console":
    """Standard output; a character that its encoding lacks is written as a number, never a crash."""
    import os
    import sys

    from rich.console import Console

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console(highlight=highlight)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # Names broken over lines could be neither searched for nor copied.
        console.width = WIDTH_OF_FILES
    return console


def write_page(path: Path, page: str) -> None:
    """Write a page, whole or not at all."""
    from probeline.files import write_bytes

    write_bytes(path, page.encode("utf-8", "backslashreplace"))
