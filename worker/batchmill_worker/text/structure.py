"""Cuts documents along their structure: at the ends of sentences, of sections of Markdown, of functions in code.

A kind of document has *levels*, from coarse to fine. Each finds the places where a part of a document can be cut.
Neighbouring parts that fit are packed together; a part that has too many tokens is cut by the next level, apart from
its neighbours, and by tokens when there is no level left.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from batchmill_worker.text.markdown import block_starts, line_or_sentence_starts, sections
from batchmill_worker.text.pieces import cut_part, pack
from batchmill_worker.text.sentences import sentence_starts
from batchmill_worker.text.source_code import definition_starts, line_starts

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence

    from batchmill_worker.text.pieces import Span

Level: TypeAlias = "Callable[[str, int, int], Iterable[int]]"
"""Finds where `document[start:end]` can be cut: positions in the document, ascending, between start and end."""

_MAX_NESTING = 8
"""How deep functions in classes in classes are looked for; what is deeper is cut by lines."""

LEVELS: dict[str, tuple[Level, ...]] = {
    "sentence": (sentence_starts,),
    "markdown": (block_starts, line_or_sentence_starts),
    "code": (*[definition_starts] * _MAX_NESTING, line_starts),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """The most tokens of a piece, and the most that it shares with the one before it."""

    size: int
    overlap: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a document, in characters. headings: those that it is under, the outermost first; of Markdown only."""

    start: int
    end: int
    headings: tuple[str, ...] = ()


def cut_along(
    by: str, document: str, tokens: Sequence[Span], limits: Limits, characters: Container[int]
) -> list[Piece]:
    """Cut a document along its structure. by: a key of `LEVELS`; the others are as for `pieces.cut`.

    The pieces cover the document. A piece shares complete parts of at most `overlap` tokens with the one before it, and
    none across a heading or at the ends of a part that was cut apart from its neighbours.
    """
    cutter = _Cutter(document, tokens, limits, characters)
    parts = sections(document) if by == "markdown" else [(0, ())]
    ends = [*(start for start, _ in parts[1:]), len(document)]
    return [
        Piece(*span, headings)
        for (start, headings), end in zip(parts, ends, strict=True)
        for span in cutter.cut((start, end), LEVELS[by])
    ]


class _Cutter:
    def __init__(self, document: str, tokens: Sequence[Span], limits: Limits, characters: Container[int]) -> None:
        self._document = document
        self._tokens = tokens
        self._starts = [start for start, _ in tokens]
        self._limits = limits
        self._characters = characters

    def cut(self, part: Span, levels: Sequence[Level]) -> list[Span]:
        size, overlap = self._limits.size, self._limits.overlap
        if self._count(*part) <= size:
            return [part]
        if not levels:
            first, last = (bisect_left(self._starts, place) for place in part)
            return cut_part(part, self._tokens[first:last], size, overlap, self._characters)
        pieces: list[Span] = []
        fitting = [part[0]]  # the bounds of parts that fit, not packed yet
        for start, end in pairwise(self._bounds(part, levels[0])):
            if self._count(start, end) <= size:
                fitting.append(end)
                continue
            pieces += self._packed(fitting)
            pieces += self.cut((start, end), levels[1:])
            fitting = [end]
        return pieces + self._packed(fitting)

    def _bounds(self, part: Span, level: Level) -> list[int]:
        """Where the parts of a part begin, and its end. Each has a token at least, and begins with a character."""
        bounds = [part[0]]
        for place in level(self._document, *part):
            if place in self._characters and self._count(bounds[-1], place) and self._count(place, part[1]):
                bounds.append(place)
        return [*bounds, part[1]]

    def _packed(self, bounds: Sequence[int]) -> list[Span]:
        if len(bounds) == 1:
            return []
        counts = [bisect_left(self._starts, bound) for bound in bounds]
        return pack(bounds, counts, self._limits.size, self._limits.overlap, exceeds=False)

    def _count(self, start: int, end: int) -> int:
        """How many tokens begin between two places."""
        return bisect_left(self._starts, end) - bisect_left(self._starts, start)
