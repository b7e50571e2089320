"""Scores as shades: one scale for the terminal and for all pages."""

from collections.abc import Iterable, Iterator

from probeline.visible import SIGNED_BREAK, safe

# How far from the threshold a token's score begins the next shade, in deviations of the training scores: what
# every probe's scores are counted in, so that colours mean the same in all texts.
STEPS = (0.5, 1.0, 2.0, 3.0)


def shade(score: float, threshold: float) -> int:
    """How far a score lies from the threshold: 0 near it, to 4 above, to -4 below."""
    steps = sum(abs(score - threshold) >= step for step in STEPS)
    return steps if score >= threshold else -steps


def joined(tokens: Iterable[str], token_scores: Iterable[float]) -> Iterator[tuple[str, float]]:
    """Tokens with their scores; those that part a character are one, with their mean score."""
    text = ""
    scores: list[float] = []
    for token, token_score in zip(tokens, token_scores, strict=True):
        if token and scores:
            yield text, sum(scores) / len(scores)
            text, scores = "", []
        text += token
        scores.append(token_score)
    if scores:
        yield text, sum(scores) / len(scores)


def shade_class(score: float, threshold: float) -> str:
    """The class of a shade in a page: a1 to a4 above the threshold, b1 to b4 below, nothing near it."""
    step = shade(score, threshold)
    return "" if step == 0 else f"{'a' if step > 0 else 'b'}{abs(step)}"


def coloured(
    tokens: Iterable[str], token_scores: Iterable[float], threshold: float, form: str = "+.2f"
) -> str:
    """HTML of a text with every token in its shade, and its score in a title, in this form."""
    return "".join(_token(*piece, threshold, form) for piece in joined(tokens, token_scores))


def _token(token: str, score: float, threshold: float, form: str) -> str:
    name = shade_class(score, threshold)
    return f'<i{f" class={name}" if name else ""} title="{score:{form}}">{safe(token, SIGNED_BREAK)}</i>'


def scale(threshold: float) -> str:
    """HTML that says what the shades mean."""
    below = [f"<span class=b{step}>{threshold - STEPS[step - 1]:+.1f}</span>" for step in (4, 3, 2, 1)]
    above = [f"<span class=a{step}>{threshold + STEPS[step - 1]:+.1f}</span>" for step in (1, 2, 3, 4)]
    middle = f"<span class=middle>{threshold:+.2f}</span>"
    return (
        f"<div class=scale aria-hidden=true><div>{''.join([*below, middle, *above])}</div>"
        "<div class=ends><span>label 0</span><span>threshold</span><span>label 1</span></div></div>\n"
    )
