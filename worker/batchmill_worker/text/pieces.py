"""Cuts documents into overlapping pieces, counted in tokens.

A document is a list of *units*: runs of characters that are never cut. A unit begins where a token begins. It has
more than one token if these share a character, as the bytes of an emoji do, or if what a reader sees as one
character consists of several (a letter and its accents, a family of emoji). Spaces belong to the unit before them,
those at the beginning of the document to the first one; so the units cover the document.

A piece is as many units as fit into its size, at least one. The next one begins as many tokens before its end as the
overlap says, or a little more where a unit is in the way.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

Span: TypeAlias = tuple[int, int]
"""A part of a document, in characters: `document[start:end]`."""


def cut(length: int, tokens: Sequence[Span], size: int, overlap: int, characters: Container[int]) -> list[Span]:
    """Cut a document of `length` characters into pieces.

    tokens: where they begin and end in the document.
    size: the most tokens of a piece. A single unit that has more is a piece of its own.
    overlap: how many tokens a piece shares with the one before it, fewer than `size`.
    characters: the positions where a character, as a reader sees it, begins.

    There is always one piece, for the empty document an empty one. Where each unit is one token, all pieces but the
    last have exactly `size` tokens, and all but the first share exactly `overlap` with the one before.
    """
    return cut_part((0, length), tokens, size, overlap, characters)


def cut_part(part: Span, tokens: Sequence[Span], size: int, overlap: int, characters: Container[int]) -> list[Span]:
    """Cut a part of a document, as `cut` does all of it. tokens: those that begin in the part."""
    return pack(*_units(part, tokens, characters), size, overlap, exceeds=True)


def pack(bounds: Sequence[int], counts: Sequence[int], size: int, overlap: int, *, exceeds: bool) -> list[Span]:
    """Pack units into pieces of at most `size` tokens, or of one unit.

    bounds: where each unit begins, and where the last one ends.
    counts: how many tokens are before each of these places; ascending.
    exceeds: where no unit begins `overlap` tokens before the end of a piece, whether the next one shares a little more
        with it, or less.
    """
    pieces = []
    first = 0
    while True:
        last = max(bisect_right(counts, counts[first] + size) - 1, first + 1)
        pieces.append((bounds[first], bounds[last]))
        if last == len(bounds) - 1:
            return pieces
        shared = counts[last] - overlap
        first = max(bisect_right(counts, shared) - 1 if exceeds else bisect_left(counts, shared), first + 1)
        while first < last and counts[last + 1] > counts[first] + size:
            first += 1  # with this much overlap the next piece would end where this one does


def _units(part: Span, tokens: Sequence[Span], characters: Container[int]) -> tuple[list[int], list[int]]:
    """Where each unit begins, in characters, and how many tokens are before it; the end of the part comes last."""
    bounds, counts = [part[0]], [0]
    reached = tokens[0][1] if tokens else 0
    for number, (start, end) in enumerate(tokens[1:], 1):
        if start >= reached and start > bounds[-1] and start in characters:
            bounds.append(start)
            counts.append(number)
        reached = max(reached, end)
    return [*bounds, part[1]], [*counts, len(tokens)]
