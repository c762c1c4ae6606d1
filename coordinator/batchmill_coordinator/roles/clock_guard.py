"""Whether the clocks can be trusted with what cannot be undone: deleting by age, ending jobs at their deadline.

Ages and deadlines are judged by Redis' clock. Before anything is deleted for its age, that clock is compared

1. with the coordinator's own: two machines do not go wrong in the same way;
2. with how far it was a moment ago, by the coordinator's monotonic clock: it shows a jump of both, as on one machine;
3. with the last reading that a leader trusted and left in the ledger: it shows a jump while no coordinator ran, or one
   that the leader before was waiting for; a long stop looks the same.

After a jump the leader waits for `HOLD_S`, and as long as the clocks differ: time for somebody to correct them.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill_coordinator.status.notices import Notice

if TYPE_CHECKING:
    from batchmill.clock import Clock
    from batchmill.ledger import Ledger
    from batchmill_coordinator.status.notices import Notices

MAX_SKEW_S = 60.0
MAX_JUMP_S = 30.0  # between two readings: more than any correction that a clock service makes in steps
MAX_GAP_S = 3600.0  # between the last leader's reading and the first one of this process
HOLD_S = 600.0
READING_TTL_S = 1.0


@dataclass(frozen=True, slots=True)
class Reading:
    """The clocks at one moment, in seconds."""

    redis_s: float
    wall_s: float
    monotonic_s: float


def clock_skew(now: Reading) -> str | None:
    """Return how the clocks of Redis and the coordinator differ, if that is too much. Pure."""
    skew_s = now.redis_s - now.wall_s
    if abs(skew_s) <= MAX_SKEW_S:
        return None
    return f"the clock of Redis is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} the coordinator's"


def clock_jump(before: Reading, now: Reading) -> str | None:
    """Return how the clock of Redis has jumped between two readings of one process, if it has. Pure."""
    jump_s = (now.redis_s - before.redis_s) - (now.monotonic_s - before.monotonic_s)
    if abs(jump_s) <= MAX_JUMP_S:
        return None
    return f"the clock of Redis has jumped {abs(jump_s):.0f} s {'ahead' if jump_s > 0 else 'back'}"


def clock_gap(last_s: float, now: Reading) -> str | None:
    """Return how far the clock of Redis is from the last reading in the ledger, if that is too far. Pure."""
    gap_s = now.redis_s - last_s
    if -MAX_JUMP_S <= gap_s <= MAX_GAP_S:
        return None
    if gap_s > 0:
        return f"no coordinator has led for {gap_s:.0f} s, or the clock of Redis has jumped ahead"
    return f"the clock of Redis is {-gap_s:.0f} s behind its last reading"


class ClockGuard:
    """Compares the clocks for all roles. Thread-safe."""

    def __init__(self, ledger: Ledger, clock: Clock, notices: Notices) -> None:
        self._ledger = ledger
        self._clock = clock
        self._notices = notices
        self._lock = threading.Lock()
        self._last: Reading | None = None
        self._held_until_s = float("-inf")  # monotonic

    def is_trusted(self) -> bool:
        """Whether something may be deleted, or ended, by time now. Raises `ServiceUnavailable`."""
        with self._lock:
            last, now_s = self._last, self._clock.monotonic()
            if last is None or now_s - last.monotonic_s >= READING_TTL_S:
                self._read(last)
            is_held = self._clock.monotonic() < self._held_until_s
            return not is_held and self._last is not None and clock_skew(self._last) is None

    def _read(self, last: Reading | None) -> None:
        redis_ms, left_ms = self._ledger.retention.read_clock()
        now = Reading(redis_ms / 1000, self._clock.wall(), self._clock.monotonic())
        if last is not None:
            jump = clock_jump(last, now)
        else:
            jump = None if left_ms is None else clock_gap(left_ms / 1000, now)
        self._last = now
        if jump is not None:
            self._held_until_s = now.monotonic_s + HOLD_S
        problem = jump or clock_skew(now)
        if problem is not None:
            self._notices.report(
                Notice.CLOCK,
                f"{problem}: nothing is deleted for its age and no deadline ends a job until the clocks agree, and "
                f"for {HOLD_S / 60:.0f} minutes after a jump. Check the clocks of both machines (NTP).",
            )
        elif now.monotonic_s >= self._held_until_s:
            self._ledger.retention.note_clock(redis_ms)
            self._notices.clear(Notice.CLOCK)
