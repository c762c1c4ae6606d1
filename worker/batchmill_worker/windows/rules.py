"""What a window is: its kind, its length, and how long it waits for rows. Times are integers, in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from batchmill.jobs.stateful.window_params import MAX_WINDOWS_PER_ROW


class WindowKind(StrEnum):
    """How rows are put into windows."""

    TUMBLING = "tumbling"  # one after the other, of one length
    SLIDING = "sliding"  # of one length, one beginning every `every_ms`; a row is in several
    SESSION = "session"  # rows of a key that follow each other with gaps below `size`
    COUNT = "count"  # `size` rows of a key, in the order of their arrival


@dataclass(frozen=True, slots=True)
class WindowRule:
    """The windows of a stage. A window is `[start, end)`.

    Attributes:
        size: The length of a window in milliseconds; of sessions the gap; of count windows the number of rows.
        every_ms: Of sliding windows, from one beginning to the next.
        offset_ms: Of tumbling and sliding windows, the beginning of one of them.
        wait_ms: The watermark of a partition is its highest event time less this.
        late_ms: For how long behind its end a window takes rows, and then fires again.
        idle_ms: A partition without rows for this long does not hold the watermark back; if all are idle, it continues
            with the clock. None: neither.
        strict: Use the two rules of Bytewax that differ: a row before the watermark is late, though its window is
            open, and a gap of exactly `size` joins two sessions.
    """

    kind: WindowKind
    size: int
    every_ms: int = 0
    offset_ms: int = 0
    wait_ms: int = 0
    late_ms: int = 0
    idle_ms: int | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        if self.size < 1 or min(self.every_ms, self.wait_ms, self.late_ms) < 0:
            raise ValueError("expected a size of at least 1, and times of at least 0")
        if self.kind is WindowKind.SLIDING and not self.size / MAX_WINDOWS_PER_ROW <= self.every_ms <= self.size:
            raise ValueError(f"expected sliding windows that begin at least every {self.size} ms, and at most "
                             f"{MAX_WINDOWS_PER_ROW} of them for a row")  # fmt: skip

    def windows_of(self, at: int) -> list[tuple[int, int]]:
        """Return the tumbling or sliding windows of an event time, the earliest first."""
        every = self.every_ms if self.kind is WindowKind.SLIDING else self.size
        last = at - (at - self.offset_ms) % every
        starts = range(last, at - self.size, -every)
        return [(start, start + self.size) for start in reversed(starts)]

    def joins(self, start: int, end: int, other_start: int, other_end: int) -> bool:
        """Return whether two sessions are one."""
        if self.strict:
            return other_end >= start and end >= other_start
        return other_end > start and end > other_start

    def is_over(self, end: int, watermark: int) -> bool:
        """Return whether a window that ends there takes no rows any more."""
        return end + self.late_ms <= watermark
