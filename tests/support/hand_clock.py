"""A clock for tests that do not wait."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class HandClock:
    """A clock that is set by hand, the same for both kinds of time."""

    now_s: float = 1000.0

    def wall(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s
