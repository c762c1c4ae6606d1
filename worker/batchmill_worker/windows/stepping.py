"""The step function of windows: rows and a state go in, windows that fire and rows that are refused come out.

1. A row is put into its windows. It is late if none of them takes it any more (Flink); with `strict`, also if it is
   before the watermark (Bytewax).
2. Its partition's clock moves, and with it the watermark: a window whose end it has reached fires. So it does at rows
   that are refused, and at those of other groups of keys: all groups have the same watermark at each row.
3. A window that has fired and gets another row fires again at once, as a revision, until `late_ms` behind its end.
   Then it is forgotten.

What fires depends on the rows and the times at which they arrived, not on how they are divided into steps. So a step
that runs twice with one state gives the same, and state and results can be committed together.

A session that grows keeps its id. If a row joins several, the one that fired first remains, else the one that is older;
another one that has fired is withdrawn: its last revision says which window it is part of now.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from batchmill.jobs import dead_letters
from batchmill_worker.windows.aggregates import BadValue, size_of
from batchmill_worker.windows.rules import WindowKind
from batchmill_worker.windows.state import OpenWindow

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from batchmill_worker.windows.aggregates import Aggregate
    from batchmill_worker.windows.rules import WindowRule
    from batchmill_worker.windows.state import Key, WindowState


MAX_PARTITION_NAME = 1000
WINDOW_BYTES = 64
"""Of an open window, besides its key and the values that it keeps."""


class Refusal(StrEnum):
    """Why a row is in no window: the type of its dead letter."""

    LATE = "late"  # its windows are over
    TOO_MANY_WINDOWS = "too_many_windows"  # as many are open as may be
    WINDOW_FULL = "window_full"  # its window has as many rows as it may keep
    STATE_FULL = "window_state_full"  # all windows keep as many bytes as they may
    BAD_VALUE = dead_letters.BAD_VALUE  # an aggregate cannot take it


@dataclass(frozen=True, slots=True)
class Limits:
    """How much state a group of keys may have. What exceeds it is refused, row by row."""

    windows: int = 1_000_000
    rows_per_window: int = 100_000  # of windows that keep rows
    nbytes: int = 256 * 1024 * 1024  # of keys and of values that are kept, about
    partitions: int = 1000  # each row asks the clocks of all of them


@dataclass(frozen=True, slots=True)
class Arrival:
    """A row as it comes in."""

    key: Key
    at: int
    values: Mapping[str, Any]
    partition: str = ""


@dataclass(frozen=True, slots=True)
class Firing:
    """A window that fires. `[start, end)`; of count windows the times of their first and last row."""

    key: Key
    id: int
    start: int
    end: int
    revision: int  # 0: the first time
    rows: int
    results: tuple[Any, ...]  # of each aggregate
    merged_into: int | None = None  # the id of the session that this one is part of now: then it has no results


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that is in no window."""

    why: Refusal
    message: str


class Windows:
    """The windows of a stage, with their state. One thread at a time."""

    def __init__(
        self, rule: WindowRule, aggregates: Sequence[Aggregate], state: WindowState, limits: Limits | None = None
    ) -> None:
        self._rule = rule
        self._aggregates = tuple(aggregates)
        self._limits = limits or Limits()
        self._keeps_rows = any(one.keeps_rows for one in self._aggregates)
        self._again: list[OpenWindow] = []  # windows that had fired, and that the current row is in
        self._has_passed = False  # whether other rows have moved the watermark since windows were looked at
        self.state = state

    def add(self, row: Arrival, now_ms: int) -> tuple[list[Firing], Refused | None]:
        """Add a row; return what fires, and why the row is refused, if it is."""
        state = self.state
        firings = self._due() if self._has_passed else []
        self._has_passed = False
        refused = self._refusal(row) or self._place(row, firings)
        state.rows_seen += 1
        if self._rule.kind is not WindowKind.COUNT:
            self._move(row.partition, row.at, now_ms)
            firings += self._due()
        state.firings += len(firings)
        return firings, refused

    def pass_by(self, rows: int, moves: Iterable[tuple[str, int]], now_ms: int) -> None:
        """Let rows pass that are in none of these windows. moves: partitions and times that move clocks.

        What fires at them does so with the next row, or at the end of the step.
        """
        self.state.rows_seen += rows
        if rows and self._rule.kind is not WindowKind.COUNT:
            self._has_passed = True
            for partition, at in moves:
                self._move(partition, at, now_ms)

    def tick(self, now_ms: int) -> list[Firing]:
        """Return what fires because time has passed."""
        self.state.advance(self._rule, now_ms)
        firings = self._due() if self._rule.kind is not WindowKind.COUNT else []
        self.state.firings += len(firings)
        return firings

    def flush(self) -> list[Firing]:
        """Return what fires because no rows will come any more: every window with rows that have not fired."""
        state = self.state
        left = [window for of_key in state.windows.values() for window in of_key]
        left.sort(key=lambda window: (window.end, window.number))
        firings = [self._fire(window) for window in left if window.has_new_rows]
        state.close_all()
        state.firings += len(firings)
        return firings

    def _refusal(self, row: Arrival) -> Refused | None:
        watermark = self.state.watermark
        if self._rule.strict and watermark is not None and row.at < watermark:
            return Refused(Refusal.LATE, f"its time {row.at} is before the watermark {watermark}")
        refused = self._clock_refusal(row.partition)
        if refused is not None:
            return refused
        try:
            for one in self._aggregates:
                one.check(row.values)
        except BadValue as error:
            return Refused(Refusal.BAD_VALUE, str(error))
        return None

    def _clock_refusal(self, partition: str) -> Refused | None:
        clocks = self.state.clocks
        if partition in clocks:
            return None
        if len(clocks) >= self._limits.partitions:
            return Refused(Refusal.STATE_FULL, f"there are {len(clocks):,} partitions already")
        if len(partition) > MAX_PARTITION_NAME:
            return Refused(Refusal.BAD_VALUE, f"expected a partition of up to {MAX_PARTITION_NAME:,} characters")
        return None

    def _move(self, partition: str, at: int, now_ms: int) -> None:
        if self._clock_refusal(partition) is None:
            self.state.see(self._rule, partition, at, now_ms)

    def _place(self, row: Arrival, firings: list[Firing]) -> Refused | None:
        match self._rule.kind:
            case WindowKind.COUNT:
                return self._place_by_count(row, firings)
            case WindowKind.SESSION:
                return self._place_in_session(row, firings)
            case WindowKind.TUMBLING | WindowKind.SLIDING:
                return self._place_by_time(row)

    def _place_by_time(self, row: Arrival) -> Refused | None:
        watermark = self.state.watermark
        taking = [
            (start, end)
            for start, end in self._rule.windows_of(row.at)
            if watermark is None or not self._rule.is_over(end, watermark)
        ]
        if not taking:
            return Refused(Refusal.LATE, f"its time is {row.at}, and the watermark {watermark}: its windows are over")
        found = [self.state.beginning_at(row.key, start) for start, _ in taking]
        refused = self._no_room(row, [one for one in found if one is not None], sum(one is None for one in found))
        if refused is not None:
            return refused
        for (start, end), window in zip(taking, found, strict=True):
            self._put(row, window or self._opened(row.key, start, end, start))
        return None

    def _place_in_session(self, row: Arrival, firings: list[Firing]) -> Refused | None:
        rule, watermark = self._rule, self.state.watermark
        start, end = row.at, row.at + rule.size
        joined = self.state.joined_by(rule, row.key, start, end)
        if not joined and watermark is not None and rule.is_over(end, watermark):
            return Refused(Refusal.LATE, f"its time is {row.at}, and the watermark {watermark}: its session is over")
        refused = self._no_room(row, joined, int(not joined))
        if refused is not None:
            return refused
        if not joined:
            self._put(row, self._opened(row.key, start, end, start))
            return None
        kept, *others = sorted(joined, key=lambda one: (one.firings == 0, one.number))
        for one in others:
            self._merge(kept, one, firings)
        # only now: the state finds windows by where they begin
        kept.start, kept.end = min(start, *(one.start for one in joined)), max(end, *(one.end for one in joined))
        self._put(row, kept)
        return None

    def _place_by_count(self, row: Arrival, firings: list[Firing]) -> Refused | None:
        found = self.state.windows.get(row.key, [])
        refused = self._no_room(row, found, int(not found))
        if refused is not None:
            return refused
        number = self.state.rows_seen
        window = found[0] if found else self._opened(row.key, row.at, row.at, number)
        window.start, window.end = min(window.start, row.at), max(window.end, row.at)
        self._put(row, window)
        if window.rows == self._rule.size:
            firings.append(self._fire(window))
            self.state.close(window)
        return None

    def _no_room(self, row: Arrival, windows: Sequence[OpenWindow], new: int) -> Refused | None:
        limits = self._limits
        if self.state.open_windows + new > limits.windows:
            return Refused(Refusal.TOO_MANY_WINDOWS, f"{self.state.open_windows:,} windows are open")
        if self._keeps_rows and any(one.rows >= limits.rows_per_window for one in windows):
            return Refused(Refusal.WINDOW_FULL, f"its window has {limits.rows_per_window:,} rows")
        more = sum(one.most_bytes(row.values) for one in self._aggregates) * (len(windows) + new)
        more += (WINDOW_BYTES + size_of(row.key)) * new
        if self.state.nbytes + more > limits.nbytes:
            return Refused(Refusal.STATE_FULL, f"the open windows keep {self.state.nbytes:,} bytes of keys and values")
        return None

    def _opened(self, key: Key, start: int, end: int, id_: int) -> OpenWindow:
        nbytes = WINDOW_BYTES + size_of(key)
        sums = [one.start() for one in self._aggregates]
        window = OpenWindow(key, start, end, self.state.opened, id_, sums, nbytes=nbytes)
        self.state.open(window)
        if self._rule.kind is not WindowKind.COUNT:
            self.state.look_at(window, end)
        return window

    def _put(self, row: Arrival, window: OpenWindow) -> None:
        for one, total in zip(self._aggregates, window.sums, strict=True):
            more = one.add(total, row.values, row.at, self.state.rows_seen)
            window.nbytes += more
            self.state.nbytes += more
        window.rows += 1
        window.has_new_rows = True
        window.text = ""
        if window.firings:
            self._again.append(window)

    def _merge(self, kept: OpenWindow, other: OpenWindow, firings: list[Firing]) -> None:
        """Make one session of two."""
        more = other.nbytes - WINDOW_BYTES - size_of(other.key)
        for one, total, sums in zip(self._aggregates, kept.sums, other.sums, strict=True):
            more -= one.merge(total, sums)
        if other.firings:
            gone = (other.key, other.id, other.start, other.end, other.firings, 0, ())
            firings.append(Firing(*gone, merged_into=kept.id))
        kept.rows += other.rows
        kept.nbytes += more
        self.state.nbytes += more
        self.state.close(other)

    def _due(self) -> list[Firing]:
        """Fire the windows whose end the watermark has reached, and forget those that are over."""
        state, watermark = self.state, self.state.watermark
        again, self._again = self._again, []
        if watermark is None:
            return []
        firings = []
        for window in again:
            if window.end <= watermark:
                firings.append(self._fire(window))
            elif window.looked_at != window.end:  # a session that has grown
                state.look_at(window, window.end)
        while state.queue and state.queue[0][0] <= watermark:
            at, _, window = heapq.heappop(state.queue)
            if window.is_closed or at != window.looked_at:
                continue
            due = window.end if window.has_new_rows else window.end + self._rule.late_ms
            if at < due:
                state.look_at(window, due)
                continue
            if window.has_new_rows:
                firings.append(self._fire(window))
            if self._rule.is_over(window.end, watermark):
                state.close(window)
            else:
                state.look_at(window, window.end + self._rule.late_ms)
        return firings

    def _fire(self, window: OpenWindow) -> Firing:
        results = tuple(one.result(total) for one, total in zip(self._aggregates, window.sums, strict=True))
        fired = (window.key, window.id, window.start, window.end, window.firings, window.rows, results)
        window.firings += 1
        window.has_new_rows = False
        window.text = ""
        return Firing(*fired)
