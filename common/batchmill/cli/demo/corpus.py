"""The demo's corpus: Python's own language reference, which is part of every CPython, split into paragraphs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from batchmill.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MIN_WORDS = 6
"""Shorter texts are headings or fragments."""

_BLANK_LINES = re.compile(r"\n\s*\n")
_WORD = re.compile(r"[^\W\d_]{2,}")
_UNDERLINE = re.compile(r"^\s*([*=\-~^\"])\1{3,}\s*$", re.MULTILINE)


def language_reference() -> dict[str, str]:
    """Return the chapters of the language reference by topic. Raises `MissingExtra` if this Python lacks them."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise MissingExtra(
            "the demo reads Python's language reference from the standard module pydoc_data, which is not installed.",
            hint="Install the complete standard library (on Debian and Ubuntu: apt install libpython3-stdlib).",
        ) from error
    return dict(topics)


def paragraphs(topics: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the rows `{id, topic, paragraph, text}` of a corpus, the same each time.

    Topics are in alphabetical order; `paragraph` counts within a topic and `id` over all topics, from 0. Blank lines
    separate paragraphs; runs of white space become one space, and paragraphs under `MIN_WORDS` words are left out.
    """
    found = (
        (topic, number, text) for topic in sorted(topics) for number, text in enumerate(_paragraphs(topics[topic]))
    )
    return [
        {"id": row, "topic": topic, "paragraph": number, "text": text}
        for row, (topic, number, text) in enumerate(found)
    ]


def _paragraphs(chapter: str) -> Iterator[str]:
    for paragraph in _BLANK_LINES.split(_UNDERLINE.sub("", chapter)):
        text = " ".join(paragraph.split())
        if len(_WORD.findall(text)) >= MIN_WORDS:
            yield text
