"""Cuts the results of a stage for one that keeps state: one round at a time, each with the states of the one before it.

A round has a shard for each group of keys, all with the same rows. They are planned in one step of the ledger, so the
number of a shard says its group, and the shards of all rounds before are settled when a round is planned.

While no rows come, shards without rows let time pass: every `TICK_INTERVAL_MS`, until the stage has been without rows
for `ticks_for_ms`, after which nothing can be left to do. When the stage before has ended, the last shard says so.

A ledger that is rolled back, to a stale replica for example, runs shards again, and these begin with earlier states. So
states stay for `KEPT_S`. Some shards say from which one on they are needed, and the worker deletes those before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, assert_never

from batchmill.jobs.stateful.step import StateStep
from batchmill.ledger.formats.encodings import StageCursor
from batchmill.sources.base import End, InputSplit, NextSplit, NotYet, Splitter
from batchmill_coordinator.results.freed_results import KEPT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchmill.ledger.formats.record import StageRecord

TICK_INTERVAL_MS = 1000
"""Between two shards without rows."""


class StepCursor(NamedTuple):
    """Where the planning of such a stage continues."""

    results: StageCursor = StageCursor()
    is_ticking: bool = False  # whether shards without rows are needed
    rows_at_ms: int = 0  # when the last shard with rows was planned; 0: none was
    planned_at_ms: int = 0  # when the last round was planned
    is_over: bool = False  # whether that was the last one
    mark: int = 0  # the first shard of a round; states that were obsolete for it go once it is old
    marked_at_ms: int = 0  # when it was planned

    def write(self) -> str:
        """The cursor as text."""
        return " ".join(str(int(number)) for number in (*self.results, *self[1:]))

    @classmethod
    def parse(cls, text: str) -> StepCursor:
        """The inverse of `write`; "" is the beginning."""
        if not text:
            return cls()
        shard, row, is_ticking, rows_at_ms, planned_at_ms, is_over, *mark = map(int, text.split())
        return cls(StageCursor(shard, row), bool(is_ticking), rows_at_ms, planned_at_ms, bool(is_over), *mark)


class StateSplitter(Splitter):
    """Gives the next round once the one before it is settled. results: cuts the results of the stage before.

    last_parts: names the parts of the last round; none while it is not settled. groups: shards of a round.
    ticks_for_ms: None: time does nothing.
    """

    def __init__(
        self,
        results: Splitter,
        own: StageRecord,
        cursor: str,
        last_parts: Callable[[], Sequence[str]],
        now_ms: Callable[[], int],
        ticks_for_ms: int | None,
        groups: int = 1,
    ) -> None:
        self._results = results
        self._own = own
        self._cursor = StepCursor.parse(cursor)
        self._last_parts = last_parts
        self._now_ms = now_ms
        self._ticks_for_ms = ticks_for_ms
        self._groups = groups
        self._is_given = False  # whether this splitter has made a round, which is not settled then

    def next_split(self, max_rows: int, max_bytes: int) -> NextSplit:
        """See `Splitter.next_split`."""
        if self._cursor.is_over:
            return End()
        if self._own.shards_live > 0 or self._is_given:
            return NotYet()
        is_first = self._own.shards_planned == 0
        before = [""] * self._groups if is_first else self._last_parts()
        if not before:
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

    def _marked(self, at: StepCursor, now_ms: int) -> tuple[StepCursor, int]:
        """Return from which shard on states are needed, 0 for no news, with the cursor that notes it."""
        age_ms = now_ms - at.marked_at_ms
        if 0 <= age_ms < KEPT_S * 1000:
            return at, 0
        obsolete = max(at.mark - self._groups, 0) if age_ms > 0 else 0  # below 0 the clock was set back
        return at._replace(mark=self._own.shards_planned, marked_at_ms=now_ms), obsolete

    def _step(self, at: StepCursor, before: Sequence[str], now_ms: int, rows: InputSplit | None = None) -> InputSplit:
        at, obsolete = self._marked(at, now_ms)
        steps = [
            StateStep(part, 0 if group else obsolete, now_ms, at.is_over, at.planned_at_ms, group, self._groups)
            for group, part in enumerate(before)
        ]
        is_ticking = self._ticks_behind(at, now_ms)
        self._cursor = at._replace(is_ticking=is_ticking, planned_at_ms=now_ms)
        self._is_given = True
        slices, count, nbytes = (rows.slices, rows.rows, rows.bytes) if rows is not None else ((), 0, 0)
        first, *others = ((*slices, step.slice()) for step in steps)
        return InputSplit(first, count + 1, nbytes, self._cursor.write(), tuple(others))
