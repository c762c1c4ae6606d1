"""Where sentences begin, by their punctuation. Works for languages that end sentences with `.`, `!`, `?` or `。`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Each alternative begins where no run of its own kind can have begun before, so that the time is linear.
_END = re.compile(
    r"(?<![.!?…])[.!?…]+[\"'»)\]\u201d\u2019]*\s+"  # punctuation, closing quotes, spaces
    r"|[。\uff01\uff1f\uff61]+[」』\u201d\u2019\uff09]*\s*"  # of Chinese and Japanese, which have no spaces
    r"|\n[^\S\n]*\n\s*"  # an empty line
)
_LATIN = ".!?…"
_WORD_BEFORE = re.compile(r"[\w.]*\Z")
_LONGEST_ABBREVIATION = 12
_ABBREVIATIONS = frozenset(
    {"mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "fig", "figs", "eq", "nos", "vol", "pp", "ed", "eds"}
    | {"al", "approx", "dept", "e.g", "i.e", "cf", "ca", "bzw", "nr", "z.b", "d.h", "u.a", "usw", "bspw", "vgl", "abb"}
)


def sentence_starts(document: str, start: int, end: int) -> Iterator[int]:
    """Yield where sentences begin in `document[start:end]`, without the first."""
    for found in _END.finditer(document, start, end):
        place = found.end()
        if place < end and not _continues(document, found.start(), place):
            yield place


def _continues(document: str, mark: int, following: int) -> bool:
    """Whether the sentence continues behind the punctuation: in lower case, or as that is of an abbreviation."""
    if document[mark] not in _LATIN:
        return False
    if document[following].islower():
        return True
    if document[mark] != "." or document[mark + 1] in _LATIN:
        return False
    before = _WORD_BEFORE.search(document[max(0, mark - _LONGEST_ABBREVIATION) : mark])
    word = before.group() if before else ""
    is_initial = len(word) == 1 and word.isupper()  # J. Smith
    return is_initial or word.lower() in _ABBREVIATIONS
