"""Whether somebody is using this process interactively: its other work then leaves room."""

from __future__ import annotations

import math

from batchmill.clock import Clock, SystemClock

RECENT_S = 60.0


class LaneTraffic:
    """The time of the last interactive request. Thread-safe."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._seen_at = -math.inf

    def mark(self) -> None:
        """Note a request."""
        self._seen_at = self._clock.monotonic()

    def is_recent(self) -> bool:
        """Whether there was a request in the last minute."""
        return self._clock.monotonic() - self._seen_at < RECENT_S
