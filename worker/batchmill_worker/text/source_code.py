"""The structure of source code of any language: by its empty lines and its indentation.

Rejected: tree-sitter. It needs a package for each language, and the name of the language with each file; functions and
classes nearly always are behind an empty line, and indented less than what is in them.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")
_TAB = 4  # columns, next to code that is indented by spaces
_CLOSING = ("}", ")", "]", "end", "else", "elif", "except", "finally", "catch")
_LEADING = ("@", "#", "//", "/*", "*", "--", ";", '"""')
"""How lines begin that belong to the definition below them: decorators and comments."""


class _Line(NamedTuple):
    start: int
    indent: int
    text: str


def line_starts(document: str, start: int, end: int) -> Iterator[int]:
    """Yield where lines begin in `document[start:end]`, without the first."""
    for found in _LINE.finditer(document, start, end):
        if start < found.start() < end:
            yield found.start()


def definition_starts(document: str, start: int, end: int) -> list[int]:
    """Return where the outermost definitions begin in `document[start:end]`, without the first.

    They are lines behind an empty one; if there are none, lines with more indented ones below. Of both, those with the
    least indentation count.
    """
    lines = [_line(document, found) for found in _LINE.finditer(document, start, end) if found.start() < end]
    return _outermost(_behind_empty_lines(lines)) or _outermost(_above_indented_lines(lines))


def _line(document: str, found: re.Match[str]) -> _Line:
    text = document[found.start() : found.end()]
    content = text.lstrip()
    margin = text[: len(text) - len(content)]
    return _Line(found.start(), len(margin.expandtabs(_TAB)), content.rstrip())


def _outermost(lines: list[_Line]) -> list[int]:
    least = min((line.indent for line in lines), default=0)
    return [line.start for line in lines if line.indent == least]


def _behind_empty_lines(lines: list[_Line]) -> list[_Line]:
    return [
        line for before, line in pairwise(lines) if not before.text and line.text and not line.text.startswith(_CLOSING)
    ]


def _above_indented_lines(lines: list[_Line]) -> list[_Line]:
    """Return lines that begin a definition, each with the decorators and comments directly above it."""
    full = [line for line in lines if line.text]
    found = []
    for place in range(1, len(full) - 1):
        line = full[place]
        if full[place + 1].indent > line.indent and not line.text.startswith((*_CLOSING, *_LEADING)):
            first = place
            while first > 1 and full[first - 1].indent == line.indent and full[first - 1].text.startswith(_LEADING):
                first -= 1
            found.append(full[first])
    return found
