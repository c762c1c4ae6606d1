"""The demo's corpus: Python's own language reference, which every CPython carries, cut into paragraphs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from batchmill.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MIN_WORDS = 6
"""What has fewer is a heading or a scrap."""

_BLANK_LINES = re.compile(r"\n\s*\n")
_WORD = re.compile(r"[^\W\d_]{2,}")
_UNDERLINE = re.compile(r"^\s*([*=\-~^\"])\1{3,}\s*$", re.MULTILINE)


def language_reference() -> dict[str, str]:
    """The chapters of the language reference by topic. Raises `MissingExtra` if this Python came without them."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise MissingExtra(
            "the demo reads Python's language reference from the standard module pydoc_data, which is not installed.",
            hint="Install the whole standard library (on Debian and Ubuntu: apt install libpython3-stdlib).",
        ) from error
    return dict(topics)


def paragraphs(topics: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows `{id, topic, paragraph, text}` of a corpus, the same each time.

    Topics come in alphabetical order; `paragraph` counts within a topic and `id` over all, from 0. Paragraphs are
    parted by blank lines; runs of white space become one space, and what has fewer than `MIN_WORDS` words is left out.
    """
    found = ((topic, number, text) for topic in sorted(topics) for number, text in enumerate(_cut(topics[topic])))
    return [
        {"id": row, "topic": topic, "paragraph": number, "text": text}
        for row, (topic, number, text) in enumerate(found)
    ]


def _cut(chapter: str) -> Iterator[str]:
    for piece in _BLANK_LINES.split(_UNDERLINE.sub("", chapter)):
        text = " ".join(piece.split())
        if len(_WORD.findall(text)) >= MIN_WORDS:
            yield text
