"""What a job's log holds: what went wrong with it, what became of that, and when its state changed."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import BaseModel

from batchmill.job import Frozen

MAX_ENTRIES = 200
"""So many are kept of a job, the latest; those that its record tells by itself come besides."""


class LogLevel(StrEnum):
    """How bad it is, the least first."""

    INFO = "info"  # as it should be
    WARNING = "warning"  # somebody may have to look; the job goes on
    ERROR = "error"  # an attempt or a process ended for it, or the job

    @property
    def rank(self) -> int:
        """Its place among the levels, 0 for the least."""
        return list(LogLevel).index(self)


class LogEvent(StrEnum):
    """What happened."""

    ACCEPTED = "accepted"
    STARTED = "started"
    PAUSED = "paused"
    RESUMED = "resumed"
    STOPPING = "stopping"  # by a user, an error or the deadline
    ENDED = "ended"
    WAITING = "waiting"  # for something a user can mend
    GOING_ON = "going on"  # it is there
    PUT_BACK = "put back"  # a worker let go of a shard: another attempt follows
    FAILED = "failed"  # an attempt failed and no other follows: the job stops
    DEAD = "dead"  # rows were given up on
    LOST = "lost"  # an attempt lost its lease
    SPLIT = "split"  # a shard was lost so often that its halves take over
    DIED = "died"  # a worker process ended with shards in hand
    REPUBLISHED = "republished"  # a message had gone missing
    TROUBLE = "trouble"  # storage failed, and is tried again


class LogEntry(Frozen):
    """One thing that happened to a job."""

    id: str  # sorts by time together with the others'; the cursor to read on from
    at: float  # seconds since the epoch
    level: LogLevel
    event: LogEvent
    message: str
    worker: str = ""
    shard: str = ""  # "17.0"; of stages behind the first "1/17.0"
    attempt: int | None = None
    traceback: str = ""


class LogPage(BaseModel):
    """Entries in the order of time.

    next: the cursor for what comes later. dropped: how many older ones are not kept any more. is_final: whether the
    job has ended and nothing more is to come.
    """

    entries: list[LogEntry]
    next: str
    dropped: int
    is_final: bool


class Cursor(tuple[int, int]):
    """A place in the log: milliseconds, and a number among those of one millisecond."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """From an entry's id. Raises `ValueError`."""
        ms, _, number = text.partition("-")
        return cls((int(ms), int(number or 0)))

    def __str__(self) -> str:
        return f"{self[0]}-{self[1]}"
