"""The structure of Markdown: sections under headings, and the blocks in them. Read line by line, in linear time."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchmill_worker.text.sentences import sentence_starts
from batchmill_worker.text.source_code import line_starts

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")
_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*))?$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_FRONT_MATTER = "---"
_BY_LINES = ("|", "-", "*", "+", "`", "~", ">")
"""How blocks begin that are cut by lines: tables, lists, code, quotations."""


def sections(document: str) -> list[tuple[int, tuple[str, ...]]]:
    """Return where each section begins, and the headings that it is under, its own included.

    A section begins at a heading. What is before the first is one too; a heading without text below it belongs to the
    section that follows. The first section begins at 0.
    """
    path: list[tuple[int, str]] = []
    found: list[tuple[int, tuple[str, ...]]] = [(0, ())]
    has_text = False  # whether the section that is being read has more than headings
    for line in _lines(document):
        if line.level:
            path = [(level, title) for level, title in path if level < line.level]
            path.append((line.level, line.title))
            start = line.start if has_text else found.pop()[0]
            found.append((start, tuple(title for _, title in path)))
            has_text = False
        elif not line.is_heading and not line.is_blank:
            has_text = True
    return found


def block_starts(document: str, start: int, end: int) -> Iterator[int]:
    """Yield where blocks begin in a section: paragraphs, lists, tables; a fenced block is one, with its empty lines."""
    was_blank = False
    for line in _lines(document[start:end]):
        if line.start and not line.is_fenced and not line.is_blank and (was_blank or line.opens_fence):
            yield start + line.start
        was_blank = line.is_blank or line.closes_fence


def line_or_sentence_starts(document: str, start: int, end: int) -> Iterator[int]:
    """Yield where a block can be cut: at lines if it is a table, a list, or code; at sentences if it is a paragraph."""
    head = document[start : start + 80].lstrip()
    is_numbered = head[:1].isdigit() and head.lstrip("0123456789")[:1] in (".", ")")
    if head.startswith(_BY_LINES) or is_numbered:
        return line_starts(document, start, end)
    return sentence_starts(document, start, end)


@dataclass(slots=True)
class _Line:
    start: int
    text: str
    level: int = 0  # of the heading that begins here; 0: none does
    title: str = ""
    is_heading: bool = False  # the underline of one too
    is_fenced: bool = False  # within a fenced block, the last line too
    opens_fence: bool = False
    closes_fence: bool = False
    is_blank: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_blank = not self.text.strip() and not self.is_fenced


def _lines(document: str) -> Iterator[_Line]:
    """Yield the lines of a document, with the headings and fences that they are."""
    fence = ""
    in_front_matter = False
    before: _Line | None = None  # held back until it is known whether the next line makes it a heading
    for found in _LINE.finditer(document):
        text = found.group().rstrip("\r\n")
        if fence or in_front_matter:
            line = _Line(found.start(), text, is_fenced=True)
            stripped = text.strip()
            line.closes_fence = stripped == _FRONT_MATTER if in_front_matter else _closes(stripped, fence)
            if line.closes_fence:
                fence, in_front_matter = "", False
        else:
            line = _Line(found.start(), text)
            opening = _FENCE.match(text)
            in_front_matter = not found.start() and text.rstrip() == _FRONT_MATTER
            fence = opening.group(1) if opening else ""
            line.opens_fence = bool(fence) or in_front_matter
            _mark_heading(line, before)
        if before is not None:
            yield before
        before = line
    if before is not None:
        yield before


def _closes(text: str, fence: str) -> bool:
    return len(text) >= len(fence) and not text.strip(fence[0])


def _mark_heading(line: _Line, before: _Line | None) -> None:
    heading = _HEADING.match(line.text)
    if heading:
        line.level, line.is_heading = len(heading.group(1)), True
        line.title = re.sub(r"(?:^|[ \t])#+[ \t]*\Z", "", heading.group(2) or "").strip()
        return
    underline = _UNDERLINE.match(line.text)
    if underline and before is not None and _can_be_underlined(before):
        line.is_heading = before.is_heading = True
        before.level, before.title = 1 if underline.group(1)[0] == "=" else 2, before.text.strip()


def _can_be_underlined(line: _Line) -> bool:
    is_text = not (line.is_blank or line.is_heading or line.is_fenced or line.opens_fence)
    return is_text and not line.text.lstrip().startswith(_BY_LINES)
