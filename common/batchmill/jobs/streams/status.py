"""The status of the stream of a job, for users."""

from __future__ import annotations

from batchmill.jobs.frozen import Frozen


class StreamStatus(Frozen):
    """How far a stream is read."""

    source: str
    """What is read, for people."""
    lag: int | None = None
    """Rows that are in the source and not planned, as measured about every second; None: not known."""
    watermark_at: float | None = None
    """Up to which event time rows are planned, seconds since the epoch; None before the first row."""
    partitions: int = 0
    """Partitions of which rows were planned."""
    rows_lost: int = 0
    """Rows that the source had deleted before they were planned."""
    away: str | None = None
    """Why the source cannot be asked at present."""
    rolls: int = 0
    """Rolls of the output that are written; see `output`."""
    rows_rolled: int = 0
    """Rows that are in them."""
    drained: bool = False
    """Whether the job ends after what is planned."""
