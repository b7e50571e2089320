"""Scores as one page for a browser: no script, nothing from the network."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from probeline.html_head import html_head
from probeline.probes.score import Score
from probeline.probes.show import pieces
from probeline.shades import coloured, scale
from probeline.visible import safe

# So many letters of a text stand in the overview.
OVERVIEW_LETTERS = 80


def page(
    texts: Sequence[str],
    scores: Sequence[Score],
    threshold: float,
    probe: dict[str, Any],
    system_prompt: str = "",
    verdict: str = "",
) -> str:
    """A whole page with every text coloured by token.

    Args:
        texts: what was scored.
        scores: of each, with tokens.
        threshold: of the probe.
        probe: see `show.probe_facts`.
        system_prompt: the message before each text.
        verdict: what the probe's evaluation says in words.
    """
    style = files("probeline.probes").joinpath("page.css").read_text(encoding="utf-8")
    name = safe(probe["name"])
    layers = ", ".join(map(str, probe["layers"]))
    parts = [
        html_head(f"Scores of {probe['name']}", style, script=""),
        f"<body>\n<h1>Scores of {name}</h1>\n<p class=faint>{safe(probe['method'])} probe for "
        f"{safe(probe['concept'])} on layer {safe(layers)} of {safe(probe['model'])}. A score counts "
        "deviations from the training mean; a higher one means label 1, which begins at the threshold. The "
        "threshold need not lie where the probability is 50%.</p>\n",
        f"<p class=faint>On test games: {safe(verdict)}</p>\n" if verdict else "",
        f"<p class=faint>System message: {safe(system_prompt)}</p>\n" if system_prompt else "",
        f"<div class=legend>{scale(threshold)}</div>\n",
        _overview(texts, scores) if len(texts) > 1 else "",
        *(_article(number, score, threshold) for number, score in enumerate(scores, 1)),
        "</body>\n</html>\n",
    ]
    return "".join(parts)


def _overview(texts: Sequence[str], scores: Sequence[Score]) -> str:
    rows = []
    for number, (text, score) in enumerate(zip(texts, scores, strict=True), 1):
        short = text if len(text) <= OVERVIEW_LETTERS else text[: OVERVIEW_LETTERS - 1] + "…"
        rows.append(
            f'<tr><td class=number><a href="#text-{number}">{number}</a><td class=number>{score.score:+.2f}'
            f"<td class=number>{score.probability:.0%}<td class=number>{score.label}<td>{safe(short)}\n"
        )
    names = "<th class=number>Text<th class=number>Score<th class=number>Prob.<th class=number>Label<th>"
    return f"<div class=overview><table><tr>{names}\n{''.join(rows)}</table></div>\n"


def _article(number: int, score: Score, threshold: float) -> str:
    found = list(pieces(score))
    tokens = coloured(score.tokens or (), score.token_scores or (), threshold, "+.3f")
    rows = "".join(f"<tr><td class=number>{value:+.3f}<td>{safe(token)}\n" for token, value in found)
    side = "at or above" if score.label else "below"
    return (
        f"<article id=text-{number}><h2><span>text {number}</span><b>{score.score:+.3f}</b> "
        f"label {score.label}"
        f"<span>{side} the threshold {threshold:+.3f}</span><span>probability {score.probability:.0%}</span>"
        f"</h2>\n<div class=text dir=auto>{tokens}</div>\n"
        f"<details><summary>{len(found)} tokens and their scores</summary><table>"
        f"<tr><th class=number>Score<th>Token\n{rows}</table></details></article>\n"
    )
