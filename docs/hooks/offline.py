"""Refuse a page that loads anything from another host: the documentation must work without a network."""

from __future__ import annotations

import re

from mkdocs.exceptions import PluginError

_LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(https?:)?//[^>]*>"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preconnect|icon|preload))[^>]*\bhref=["']?(https?:)?//[^>]*>""",
)


def on_post_page(output: str, **_: object) -> str:
    """Look through a page as it is written."""
    if found := _LOADED.search(output):
        raise PluginError(f"a page loads something from another host: {found[0]}. Take a copy, or do without.")
    return output
