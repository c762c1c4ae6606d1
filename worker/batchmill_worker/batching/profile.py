"""What a process has learned about an operator on a kind of device, as others start from it."""

from __future__ import annotations

from batchmill.job import Frozen


class Profile(Frozen):
    """Bounded: at most a hundred samples of each kind."""

    timings: tuple[tuple[float, float], ...] = ()  # units, seconds
    peaks: tuple[tuple[float, float], ...] = ()  # units, bytes
    ceiling: float | None = None  # units that batches stay under, after one did not fit
