"""Cuts the results of a stage for one that keeps state: one shard at a time, each with the state of the one before it.

While no rows come, shards without rows let time pass: every `TICK_INTERVAL_MS`, until the stage has been without rows
for `ticks_for_ms`, after which nothing can be left to do. When the stage before has ended, the last shard says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, assert_never

from batchmill.jobs.stateful.step import StateStep
from batchmill.ledger.formats.encodings import StageCursor
from batchmill.sources.base import End, InputSplit, NextSplit, NotYet, Splitter

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.ledger.formats.record import StageRecord

TICK_INTERVAL_MS = 1000
"""Between two shards without rows."""


class StepCursor(NamedTuple):
    """Where the planning of such a stage continues."""

    results: StageCursor = StageCursor()
    is_ticking: bool = False  # whether shards without rows are needed
    before: str = ""  # the part whose state the last planned shard begins with
    rows_at_ms: int = 0  # when the last shard with rows was planned; 0: none was
    planned_at_ms: int = 0  # when the last shard was planned
    is_over: bool = False  # whether that was the last one

    def write(self) -> str:
        """The cursor as text."""
        numbers = (*self.results, int(self.is_ticking), self.rows_at_ms, self.planned_at_ms, int(self.is_over))
        return " ".join([*map(str, numbers), self.before]).rstrip()

    @classmethod
    def parse(cls, text: str) -> StepCursor:
        """The inverse of `write`; "" is the beginning."""
        if not text:
            return cls()
        shard, row, is_ticking, rows_at_ms, planned_at_ms, is_over, *before = text.split()
        at = StageCursor(int(shard), int(row))
        times = int(rows_at_ms), int(planned_at_ms)
        return cls(at, is_ticking == "1", "".join(before), *times, is_over == "1")


class StateSplitter(Splitter):
    """Gives the next shard once the one before it is settled. results: cuts the results of the stage before.

    last_part: names the part of the last planned shard; "" while it is not settled.
    ticks_for_ms: None: time does nothing.
    """

    def __init__(
        self,
        results: Splitter,
        own: StageRecord,
        cursor: str,
        last_part: Callable[[], str],
        now_ms: Callable[[], int],
        ticks_for_ms: int | None,
    ) -> None:
        self._results = results
        self._own = own
        self._cursor = StepCursor.parse(cursor)
        self._last_part = last_part
        self._now_ms = now_ms
        self._ticks_for_ms = ticks_for_ms
        self._is_given = False  # whether this splitter has made a shard, which is not settled then

    def next_split(self, max_rows: int, max_bytes: int) -> NextSplit:
        """See `Splitter.next_split`."""
        if self._cursor.is_over:
            return End()
        if self._own.shards_live > 0 or self._is_given:
            return NotYet()
        is_first = self._own.shards_planned == 0
        before = "" if is_first else self._last_part()
        if not is_first and not before:
            return NotYet()
        now_ms = self._now_ms()
        match self._results.next_split(max_rows, max_bytes):
            case InputSplit() as rows:
                at = self._cursor._replace(results=StageCursor.parse(rows.cursor), rows_at_ms=now_ms)
                return self._step(at, before, now_ms, rows)
            case NotYet(passed):
                at = self._cursor if passed is None else self._cursor._replace(results=StageCursor.parse(passed))
                if self._is_time_to_tick(now_ms):
                    return self._step(at, before, now_ms)
                return NotYet(at.write() if passed is not None else None)
            case End():
                return End() if is_first else self._step(self._cursor._replace(is_over=True), before, now_ms)
            case never:
                assert_never(never)

    def _is_time_to_tick(self, now_ms: int) -> bool:
        return self._cursor.is_ticking and now_ms - self._cursor.planned_at_ms >= TICK_INTERVAL_MS

    def _ticks_behind(self, at: StepCursor, now_ms: int) -> bool:
        """Return whether shards without rows are needed behind one that is planned now."""
        return self._ticks_for_ms is not None and not at.is_over and now_ms - at.rows_at_ms <= self._ticks_for_ms

    def _step(self, at: StepCursor, before: str, now_ms: int, rows: InputSplit | None = None) -> InputSplit:
        step = StateStep(before, self._cursor.before, now_ms, at.is_over)
        is_ticking = self._ticks_behind(at, now_ms)
        self._cursor = at._replace(is_ticking=is_ticking, before=before, planned_at_ms=now_ms)
        self._is_given = True
        slices, count, nbytes = (rows.slices, rows.rows, rows.bytes) if rows is not None else ((), 0, 0)
        return InputSplit((*slices, step.slice()), count + 1, nbytes, self._cursor.write())
