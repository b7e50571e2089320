"""A page that is one file: its own style, script and data, and nothing from the network."""

import base64
import hashlib
from typing import Any

import orjson

from probeline.visible import safe

# What is shown may be hostile. Even if something got past the escaping, the policy lets no script run but the
# one of this digest, loads nothing, and lets no text become HTML.
HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src '{script_digest}'; \
style-src '{style_digest}'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; \
trusted-types 'none'">
<title>{title} · Probeline</title>
<style>{style}</style>
</head>
"""


def html_head(title: str, style: str, script: str) -> str:
    """All before the body.

    Args:
        title: plain text.
        style: the page's whole CSS.
        script: the page's whole JavaScript, which is to stand in the body's one executable `<script>`.
    """
    return HEAD.format(
        title=safe(title),
        style=style,
        style_digest=_policy_digest(style),
        script_digest=_policy_digest(script),
    )


def json_in_html(value: Any) -> str:
    """JSON that ends no element and opens none."""
    text = orjson.dumps(value).decode()
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy_digest(text: str) -> str:
    """As a content security policy names the one style or script that it allows."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
