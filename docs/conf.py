"""The documentation as a site: `make docs` builds it into docs/_build/html, without a network."""

import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
GENERATED = re.compile(r"^<!-- generated: (.+) -->$", re.MULTILINE)

project = "Probeline"
author = "The Probeline authors"
copyright = author
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "Probeline"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
# Sources are in the repository; copies of them beside the pages would only be searched by nobody.
html_copy_source = False
html_show_sphinx = False
myst_heading_anchors = 3
# Blocks without a language are commands and what they print.
highlight_language = "text"
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def setup(app: Any) -> None:
    """Let pages ask for what is read from the code: `<!-- generated: config keys -->`."""
    sys.path[:0] = [str(DOCS), str(DOCS.parent / "scripts")]
    from generated import PARTS

    def fill(app: Any, page: str, source: list[str]) -> None:
        source[0] = GENERATED.sub(lambda asked: PARTS[asked[1]](), source[0])

    app.connect("source-read", fill)
