"""The log of a job: failures, what followed them, and changes of state."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Self

from pydantic import BaseModel

from batchmill.jobs.frozen import Frozen

MAX_ENTRIES = 200
"""The newest entries that the ledger keeps of a job; entries made from its record (accepted, ended, …) are extra."""


class LogLevel(StrEnum):
    """The severity of an entry, lowest first."""

    INFO = "info"  # normal operation
    WARNING = "warning"  # may need attention; the job continues
    ERROR = "error"  # an attempt, a process or the job ended

    @property
    def rank(self) -> int:
        """The position in the order of severity, 0 for the lowest."""
        return list(LogLevel).index(self)


class LogEvent(StrEnum):
    """The kind of an entry. The names of version 0.1 can still be read."""

    ACCEPTED = "accepted"
    STARTED = "started"
    PAUSED = "paused"
    RESUMED = "resumed"
    DRAINED = "drained"  # a job over a stream ends after what is planned
    STOPPING = "stopping"  # by a user, an error or the deadline
    ENDED = "ended"
    BLOCKED = "blocked"  # the job cannot proceed until a user acts
    UNBLOCKED = "unblocked"  # it can proceed again
    REQUEUED = "requeued"  # an attempt ended, another follows
    FAILED = "failed"  # an attempt failed and no other follows: the job stops
    DEAD = "dead"  # rows failed for good
    LOST = "lost"  # an attempt lost its lease
    STRAGGLED = "straggled"  # an attempt takes far too long, and its shard is run by another worker as well
    PREEMPTED = "preempted"  # an attempt makes room for a job of far higher priority
    SPLIT = "split"  # a shard was lost repeatedly and was split into halves
    DIED = "died"  # a worker process ended while it held shards
    REDELIVERED = "redelivered"  # a message was published again
    STORAGE_RETRY = "storage_retry"  # storage failed, and is retried
    WEBHOOK = "webhook"  # a message was not delivered

    @classmethod
    def _missing_(cls, value: object) -> LogEvent | None:
        return _FORMER_EVENTS.get(str(value))


_FORMER_EVENTS = {
    "waiting": LogEvent.BLOCKED,
    "going on": LogEvent.UNBLOCKED,
    "put back": LogEvent.REQUEUED,
    "republished": LogEvent.REDELIVERED,
    "trouble": LogEvent.STORAGE_RETRY,
}
"""Entries that version 0.1.0 wrote, and services of that version, have these names. For one version."""


class LogEntry(Frozen):
    """One entry of a job's log."""

    id: str  # sorts by time among all entries; also the cursor to continue after
    at: float  # seconds since the epoch
    level: LogLevel
    event: LogEvent
    message: str
    worker: str = ""
    shard: str = ""  # "17.0"; of later stages "1/17.0"
    stage: str = ""  # the name of its stage, if the job has several
    attempt: int | None = None
    traceback: str = ""

    def __str__(self) -> str:
        at = datetime.fromtimestamp(self.at, UTC).astimezone().isoformat(" ", "milliseconds")
        parts = (f"shard {self.shard}" if self.shard else "", f"attempt {self.attempt}" if self.attempt else "")
        where = ", ".join(part for part in (self.worker, self.stage, *parts) if part)
        return f"{at} {self.level} {self.event}{f' [{where}]' if where else ''}: {self.message}"


class LogPage(BaseModel):
    """Entries in order of time.

    next: the cursor for later entries. dropped: the number of older entries that were discarded. is_final: whether
    the job has ended, so that no entry follows.
    """

    entries: list[LogEntry]
    next: str
    dropped: int
    is_final: bool


class LogCursor(tuple[int, int]):
    """A position in the log: milliseconds, and a number within one millisecond."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the id of an entry. Raises `ValueError`."""
        ms, _, number = text.partition("-")
        return cls((int(ms), int(number or 0)))

    def __str__(self) -> str:
        return f"{self[0]}-{self[1]}"
