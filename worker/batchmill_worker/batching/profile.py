"""What a process has learned about an operator on a type of device, for other processes to start from."""

from __future__ import annotations

from batchmill.jobs.frozen import Frozen


class Profile(Frozen):
    """Bounded: at most a hundred samples of each kind."""

    timings: tuple[tuple[float, float], ...] = ()  # units, seconds
    peaks: tuple[tuple[float, float], ...] = ()  # units, bytes
    ceiling: float | None = None  # units that batches stay under, after one did not fit
