"""What is kept of windows between two steps: open windows, and the clock of each partition."""

from __future__ import annotations

import bisect
import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchmill_worker.windows.aggregates import size_of

if TYPE_CHECKING:
    from batchmill_worker.windows.aggregates import Sum
    from batchmill_worker.windows.rules import WindowRule

Key = tuple[Any, ...]
"""The values of the columns that rows are grouped by."""


@dataclass(slots=True)
class OpenWindow:
    """A window that may still take rows."""

    key: Key
    start: int
    end: int
    number: int  # its place in the order in which windows were opened
    id: int  # of all its revisions, also if a session grows: unique for a key
    sums: list[Sum]
    rows: int = 0
    nbytes: int = 0  # of its key and of values that are kept, about
    firings: int = 0
    has_new_rows: bool = True  # since it fired last
    is_closed: bool = False  # entries of the queue may still name it
    looked_at: int = 0  # when the queue has it; its other entries there are void
    text: str = ""  # how it was stored, if it has not changed since


@dataclass(slots=True)
class PartitionClock:
    """How far the rows of a partition are."""

    highest: int  # event time
    seen_ms: int  # when its last row was planned


@dataclass(slots=True)
class WindowState:
    """The state of a stage with windows."""

    windows: dict[Key, list[OpenWindow]] = field(default_factory=dict)  # of a key, those that take rows, by start
    clocks: dict[str, PartitionClock] = field(default_factory=dict)
    watermark: int | None = None  # it never falls
    rows_seen: int = 0
    firings: int = 0
    opened: int = 0  # windows, ever
    open_windows: int = 0
    nbytes: int = 0  # of all windows, and of the names of partitions
    queue: list[tuple[int, int, OpenWindow]] = field(default_factory=list)  # a heap: when a window has to be looked at

    def open(self, window: OpenWindow) -> None:
        """Add a window."""
        bisect.insort(self.windows.setdefault(window.key, []), window, key=_start)
        self.opened += 1
        self.open_windows += 1
        self.nbytes += window.nbytes

    def close(self, window: OpenWindow) -> None:
        """Forget a window."""
        window.is_closed = True
        self.open_windows -= 1
        self.nbytes -= window.nbytes
        of_key = self.windows[window.key]
        del of_key[bisect.bisect_left(of_key, window.start, key=_start)]
        if not of_key:
            del self.windows[window.key]

    def beginning_at(self, key: Key, start: int) -> OpenWindow | None:
        """Return the window of a key that begins at a time."""
        of_key = self.windows.get(key, ())
        place = bisect.bisect_left(of_key, start, key=_start)
        return of_key[place] if place < len(of_key) and of_key[place].start == start else None

    def joined_by(self, rule: WindowRule, key: Key, start: int, end: int) -> list[OpenWindow]:
        """Return the sessions of a key that one from `start` to `end` is part of. Sessions do not overlap."""
        of_key = self.windows.get(key, ())
        last = first = bisect.bisect_left(of_key, start, key=_start)
        while first and rule.joins(start, end, of_key[first - 1].start, of_key[first - 1].end):
            first -= 1
        while last < len(of_key) and rule.joins(start, end, of_key[last].start, of_key[last].end):
            last += 1
        return list(of_key[first:last])

    def look_at(self, window: OpenWindow, at: int) -> None:
        """Look at a window when the watermark is there, and not before."""
        window.looked_at = at
        heapq.heappush(self.queue, (at, window.number, window))

    def see(self, rule: WindowRule, partition: str, at: int, now_ms: int) -> None:
        """Move the clock of a partition, and with it the watermark: a row of it has come."""
        clock = self.clocks.get(partition)
        if clock is None:
            self.add_clock(partition, PartitionClock(at, now_ms))
        elif at <= clock.highest and now_ms == clock.seen_ms:
            return  # a row before it has moved all there is to move
        else:
            clock.highest, clock.seen_ms = max(clock.highest, at), max(clock.seen_ms, now_ms)
        self.advance(rule, now_ms)

    def add_clock(self, partition: str, clock: PartitionClock) -> None:
        """Add the clock of a partition."""
        self.clocks[partition] = clock
        self.nbytes += size_of(partition)

    def close_all(self) -> None:
        """Forget all windows."""
        self.windows, self.queue, self.open_windows = {}, [], 0
        self.nbytes = sum(map(size_of, self.clocks))

    def advance(self, rule: WindowRule, now_ms: int) -> None:
        """Move the watermark to the minimum of the partitions that are not idle.

        If all are idle, it continues with the clock from where the last of them became idle.
        """
        if not self.clocks:
            return
        found = _watermark(rule, list(self.clocks.values()), now_ms) - rule.wait_ms
        self.watermark = found if self.watermark is None else max(self.watermark, found)


def _start(window: OpenWindow) -> int:
    return window.start


def _watermark(rule: WindowRule, clocks: list[PartitionClock], now_ms: int) -> int:
    idle_ms = rule.idle_ms
    if idle_ms is None:
        return min(one.highest for one in clocks)
    active = [one.highest for one in clocks if now_ms - one.seen_ms < idle_ms]
    if active:
        return min(active)
    last = max(one.seen_ms for one in clocks)
    return min(one.highest for one in clocks if one.seen_ms == last) + max(now_ms - last - idle_ms, 0)
