"""What windows by event time must make of the rows of a stream, in the most obvious way: one row after the other.

The watermark of a single partition rises with its rows, in their order, and nothing here depends on a clock. So what
fires, how often, and which rows are late follow from the order of the rows alone, whatever shards they were in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Event(NamedTuple):
    """A row. Times are in milliseconds."""

    id: int
    key: int
    at: int


class Fired(NamedTuple):
    """A window that has fired, or that became part of another session."""

    key: int
    window_id: int
    revision: int
    merged_into: int | None
    ids: tuple[int, ...]  # of its rows, sorted


class Rule(NamedTuple):
    """Tumbling windows, or sessions. Times are in milliseconds."""

    size: int  # of a window; the gap that ends a session
    wait: int
    late: int
    is_session: bool = False


@dataclass(slots=True, eq=False)
class _Window:
    key: int
    id: int
    start: int
    end: int
    ids: list[int] = field(default_factory=list)
    firings: int = 0
    has_news: bool = True

    def fire(self) -> Fired:
        fired = Fired(self.key, self.id, self.firings, None, tuple(sorted(self.ids)))
        self.firings, self.has_news = self.firings + 1, False
        return fired


def windows_of(rule: Rule, events: Iterable[Event]) -> tuple[list[Fired], set[int]]:
    """Return what fires at these rows and at their end, and which rows are late."""
    fired: list[Fired] = []
    late: set[int] = set()
    left: list[_Window] = []  # in the order in which they were opened
    watermark = -math.inf
    for one in events:
        start = one.at if rule.is_session else one.at - one.at % rule.size
        end = start + rule.size
        joined = [window for window in left if window.key == one.key and window.end > start and window.start < end]
        if not joined and end + rule.late <= watermark:
            late.add(one.id)
        else:
            if not joined:
                joined = [_Window(one.key, start, start, end)]
                left += joined
            kept, *others = sorted(joined, key=lambda window: window.firings == 0)
            for other in others:
                if other.firings:
                    fired.append(Fired(other.key, other.id, other.firings, kept.id, ()))
                left.remove(other)
            kept.start, kept.end = min(start, *(old.start for old in joined)), max(end, *(old.end for old in joined))
            kept.ids += [one.id, *(number for other in others for number in other.ids)]
            kept.has_news = True
        watermark = max(watermark, one.at - rule.wait)
        fired += [window.fire() for window in left if window.has_news and window.end <= watermark]
        left = [window for window in left if window.end + rule.late > watermark]
    return fired + [window.fire() for window in left if window.has_news], late
