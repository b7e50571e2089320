"""The page that the report and the view of a game share: one file, nothing from the network."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from urllib.parse import quote

from probeline.html_head import html_head
from probeline.visible import safe

PAGE = """\
{head}<body>
<header>
<h1><a href="#top">{title}</a></h1>
<fieldset id="themes"><legend>Colours</legend>\
<label><input type="radio" name="theme" id="theme-system" checked><span>system</span></label>\
<label><input type="radio" name="theme" id="theme-light"><span>light</span></label>\
<label><input type="radio" name="theme" id="theme-dark"><span>dark</span></label></fieldset>
</header>
<div id="top">
{navigation}<main>
{lead}{sections}</main>
</div>
<script>{script}</script>
</body>
</html>
"""


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        key: its address behind the `#`, of letters, digits and `-_.`.
        title: plain text.
        body: HTML in which everything from outside is escaped.
        parts: address → plain title of what is in it, for the table of contents.
    """

    key: str
    title: str
    body: str
    parts: Mapping[str, str] | None = None


def page(title: str, sections: Sequence[Section], lead: str = "", style: str = "", script: str = "") -> str:
    """A whole page. The same parts make the same bytes.

    Args:
        title: plain text.
        sections: in their order; with more than one, a table of contents is put before them.
        lead: HTML before the first section.
        style: CSS besides that of all pages.
        script: JavaScript besides that of all pages, run after it.
    """
    own = files("probeline.reports")
    whole_style = own.joinpath("page.css").read_text(encoding="utf-8") + style
    whole_script = own.joinpath("page.js").read_text(encoding="utf-8") + script
    return PAGE.format(
        head=html_head(title, whole_style, whole_script),
        title=safe(title),
        script=whole_script,
        navigation=_navigation(sections) if len(sections) > 1 else "",
        lead=f'<div class="lead">{lead}</div>\n' if lead else "",
        sections="".join(map(_section, sections)),
    )


def figure(picture: str, caption: str, data: Mapping[str, str]) -> str:
    """A picture with the sentence that says what to see in it, and links to what it was drawn from.

    Args:
        picture: HTML, for example of `pictures.svg`.
        caption: plain text.
        data: what a link says → path from the project's root.
    """
    links = ", ".join(link(path, name) for name, path in data.items())
    return (
        f"<figure>{picture}<figcaption>{safe(caption)}"
        f"{f' <small>Data: {links}</small>' if data else ''}</figcaption></figure>\n"
    )


def figures(*parts: str) -> str:
    """Figures side by side where the window is wide enough."""
    return f'<div class="figures">{"".join(parts)}</div>\n'


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = (), stacked: bool = False
) -> str:
    """A table; a click on a column's head sorts it.

    Args:
        head: of the columns, plain text.
        rows: HTML of the cells.
        numbers: the columns with numbers, which stand to the right.
        stacked: on a phone each row is a list, with the columns' names before its cells.
    """
    buttons = [f"<button type=button>{safe(name)}</button>" for name in head]
    names = _cells("th", buttons, numbers, ())
    lines = "".join(f"<tr>{_cells('td', row, numbers, head if stacked else ())}</tr>\n" for row in rows)
    style = f"sortable{' stacked' * stacked}"
    return (
        f'<div class="scroll"><table class="{style}"><thead><tr>{names}</tr></thead>\n'
        f"<tbody>{lines}</tbody></table></div>\n"
    )


def _cells(tag: str, contents: Sequence[str], numbers: Sequence[int], names: Sequence[str]) -> str:
    return "".join(
        f"<{tag}{' class=number' * (column in numbers)}"
        f"{_name(names[column]) if names else ''}>{content}</{tag}>"
        for column, content in enumerate(contents)
    )


def _name(column: str) -> str:
    return f' data-name="{safe(column)}"'


def facts(rows: Mapping[str, str], code: bool = False) -> str:
    """Names (plain, or code) beside values (HTML)."""
    names = {name: f"<code>{safe(name)}</code>" if code else safe(name) for name in rows}
    lines = "".join(f"<tr><th>{names[name]}</th><td>{value}</td></tr>\n" for name, value in rows.items())
    return f'<table class="facts">{lines}</table>\n'


def folded(title: str, body: str, opened: bool = False) -> str:
    """What a click opens: a plain title and the HTML below it."""
    return f"<details{' open' * opened}><summary>{safe(title)}</summary>\n{body}</details>\n"


def link(path: str, text: str = "") -> str:
    """A link to a file of the project, from a page that lies in one of its folders.

    Args:
        path: from the project's root.
        text: plain; else the path.
    """
    return f'<a href="../{quote(path)}">{safe(text or path)}</a>'


def anchor(name: str) -> str:
    """The address of a thing with this name: nothing that it is called gets out of the attribute."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)


def _navigation(sections: Sequence[Section]) -> str:
    entries = "".join(_entry(section.key, section.title, section.parts or {}) for section in sections)
    return (
        '<nav aria-label="Contents"><details open><summary>Contents</summary>\n'
        f"<ol>{entries}</ol></details></nav>\n"
    )


def _entry(key: str, title: str, parts: Mapping[str, str]) -> str:
    inner = "".join(_entry(part, name, {}) for part, name in parts.items())
    below = f"<ul>{inner}</ul>" if inner else ""
    return f'<li><a href="#{safe(key)}">{safe(title)}</a>{below}</li>\n'


def _section(section: Section) -> str:
    return f'<section id="{safe(section.key)}">\n<h2>{safe(section.title)}</h2>\n{section.body}</section>\n'
