"""Scores as one page for a browser: no script, nothing from the network."""

from collections.abc import Sequence
from typing import Any

from probeline.probes.score import Score
from probeline.probes.show import pieces
from probeline.shades import STEPS, shade
from probeline.visible import SIGNED_BREAK, safe

# The policy holds even if something hostile got past the escaping: no script, no image, no address is loaded.
HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{
  --page: #f6f7f9; --card: #fff; --ink: #1c2330; --faint: #5b6472; --line: #d9dee6;
  --b1: #d9e9f3; --b2: #a6cfe5; --b3: #5ba3cf; --b4: #1f5f9f;
  --a1: #fde6c4; --a2: #fbc67c; --a3: #e8912d; --a4: #a34c00;
  --strong: #fff;
}}
@media (prefers-color-scheme: dark) {{
  :root {{
    --page: #12161c; --card: #1a2029; --ink: #e4e8ee; --faint: #9aa5b4; --line: #323b48;
    --b1: #1d3346; --b2: #1f4a6d; --b3: #2a6595; --b4: #8cc6f0;
    --a1: #40301a; --a2: #64430f; --a3: #8c5206; --a4: #ffb95c;
    --strong: #10141a;
  }}
}}
* {{ box-sizing: border-box }}
body {{
  margin: 0 auto; padding: 1.25rem 1rem 4rem; max-width: 54rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif;
}}
h1 {{ font-size: 1.4rem; margin: 0 0 .25rem; overflow-wrap: anywhere }}
p {{ margin: .25rem 0; overflow-wrap: anywhere }}
a {{ color: inherit }}
.faint {{ color: var(--faint); font-size: .9rem }}
.legend {{
  position: sticky; top: 0; z-index: 1; margin: 1rem -1rem; padding: .5rem 1rem; background: var(--page);
  border-bottom: 1px solid var(--line);
}}
.scale {{ display: flex; font-size: .8rem; text-align: center; font-variant-numeric: tabular-nums }}
.scale span {{ flex: 1; padding: .15rem 0; white-space: nowrap }}
.scale .middle {{ flex: 1.6 }}
.ends {{ display: flex; justify-content: space-between; font-size: .8rem; color: var(--faint) }}
article {{
  margin: 1rem 0; padding: .9rem 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .5rem; contain: paint; scroll-margin-top: 4.5rem;
}}
h2 {{ font-size: 1rem; margin: 0; display: flex; flex-wrap: wrap; gap: .1rem 1rem; align-items: baseline }}
h2 b {{ font-variant-numeric: tabular-nums; font-size: 1.15rem }}
h2 span {{ font-weight: normal; color: var(--faint); font-size: .9rem }}
.text {{
  margin: .6rem 0; font-size: 1.05rem; line-height: 1.9; white-space: pre-wrap; overflow-wrap: anywhere;
  unicode-bidi: isolate;
}}
.text i {{ font-style: normal; padding: .12em 0; border-radius: .15em }}
.text i:hover {{ outline: 2px solid var(--ink) }}
.b1 {{ background: var(--b1) }} .b2 {{ background: var(--b2) }} .b3 {{ background: var(--b3) }}
.b4 {{ background: var(--b4); color: var(--strong) }}
.a1 {{ background: var(--a1) }} .a2 {{ background: var(--a2) }} .a3 {{ background: var(--a3) }}
.a4 {{ background: var(--a4); color: var(--strong) }}
@media (hover: none) {{
  /* A tap shows what a mouse would find in the title. */
  .text i:hover::after {{
    content: attr(title); position: fixed; left: 1rem; bottom: 1rem; z-index: 2; padding: .3rem .7rem;
    background: var(--ink); color: var(--page); border-radius: .4rem;
  }}
  article {{ contain: none; overflow: clip }}
}}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }}
th, td {{ padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top }}
td.number, th.number {{ text-align: right }}
td {{ border-top: 1px solid var(--line); overflow-wrap: anywhere }}
td:last-child {{ white-space: pre-wrap; unicode-bidi: isolate }}
@media (max-width: 34rem) {{
  .overview table {{ table-layout: fixed; width: 100% }}
  .overview th {{ width: 4.2rem }} .overview th:first-child {{ width: 2.6rem }}
  .overview th:last-child {{ width: auto }}
  .overview td:last-child {{ white-space: nowrap; overflow: hidden; text-overflow: ellipsis }}
}}
details {{ font-size: .9rem }}
summary {{ cursor: pointer; color: var(--faint) }}
@media print {{ .legend {{ position: static }} i, .scale span {{ print-color-adjust: exact }} }}
</style>
</head>
<body>
"""
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
    name = safe(probe["name"])
    layers = ", ".join(map(str, probe["layers"]))
    parts = [
        HEAD.format(title=f"Scores of {name}"),
        f"<h1>Scores of {name}</h1>\n<p class=faint>{safe(probe['method'])} probe for "
        f"{safe(probe['concept'])} on layer {safe(layers)} of {safe(probe['model'])}. A score counts "
        "deviations from the training mean; a higher one means label 1, which begins at the threshold. The "
        "threshold need not lie where the probability is 50%.</p>\n",
        f"<p class=faint>On test games: {safe(verdict)}</p>\n" if verdict else "",
        f"<p class=faint>System message: {safe(system_prompt)}</p>\n" if system_prompt else "",
        _legend(threshold),
        _overview(texts, scores) if len(texts) > 1 else "",
        *(_article(number, score, threshold) for number, score in enumerate(scores, 1)),
        "</body>\n</html>\n",
    ]
    return "".join(parts)


def _legend(threshold: float) -> str:
    below = [f"<span class=b{step}>{threshold - STEPS[step - 1]:+.1f}</span>" for step in (4, 3, 2, 1)]
    above = [f"<span class=a{step}>{threshold + STEPS[step - 1]:+.1f}</span>" for step in (1, 2, 3, 4)]
    middle = f"<span class=middle>{threshold:+.2f}</span>"
    return (
        f'<div class=legend><div class=scale aria-hidden="true">{"".join([*below, middle, *above])}</div>\n'
        "<div class=ends><span>label 0</span><span>threshold</span><span>label 1</span></div></div>\n"
    )


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
    tokens = "".join(_token(token, token_score, threshold) for token, token_score in found)
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


def _token(token: str, score: float, threshold: float) -> str:
    step = shade(score, threshold)
    name = "" if step == 0 else f" class={'a' if step > 0 else 'b'}{abs(step)}"
    return f'<i{name} title="{score:+.3f}">{safe(token, SIGNED_BREAK)}</i>'
