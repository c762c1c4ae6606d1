"""Windows of a text that a model reads at once, so that each span of the text is in one of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

Span = tuple[int, int]
"""A begin and an end: of characters, or of tokens."""


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens that are read at once. spans: by their number, the tokens of each, counted from the window's first one."""

    tokens: Span
    spans: dict[int, Span]


def tokens_of(spans: Sequence[Span], offsets: Sequence[Span]) -> list[Span]:
    """Return which tokens have a character in each span. offsets: the characters of each token, in order."""
    begins, ends = [begin for begin, _ in offsets], [end for _, end in offsets]
    return [(bisect_right(ends, begin), bisect_left(begins, end)) for begin, end in spans]


def windows_of(spans: Sequence[Span], tokens: int, size: int) -> list[Window]:
    """Return windows of at most `size` of a text's tokens. spans: of tokens, none empty.

    A text that fits is one window. Else a window has the spans that fit, from the first that no other one has, and its
    free space is divided between what is before and after them. A span that does not fit is cut at its end.
    """
    if tokens <= size:
        return [Window((0, tokens), dict(enumerate(spans)))] if spans else []
    windows: list[Window] = []
    order = sorted(range(len(spans)), key=lambda number: spans[number])
    start = 0
    while start < len(order):
        first, last = spans[order[start]][0], 0
        stop = start
        while stop < len(order) and (stop == start or spans[order[stop]][1] - first <= size):
            last = max(last, min(spans[order[stop]][1], first + size))
            stop += 1
        begin = max(0, min(first - (size - (last - first)) // 2, tokens - size))
        own = {number: (spans[number][0] - begin, min(spans[number][1] - begin, size)) for number in order[start:stop]}
        windows.append(Window((begin, begin + size), own))
        start = stop
    return windows
