"""Time, injected wherever it matters: wall-clock time is stored, monotonic time is subtracted."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where a component reads the time."""

    def wall(self) -> float:
        """Seconds since the epoch: to store and to show."""

    def monotonic(self) -> float:
        """Seconds since some moment: to subtract."""


class SystemClock:
    """The machine's own clocks."""

    def wall(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()
