"""The log of each job in the ledger: the last few hundred things that went wrong, gone with the job."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchmill.errors import ServiceUnavailable
from batchmill.jobs.job_log import LogCursor, LogEntry, LogEvent, LogLevel
from batchmill.jobs.shard import format_shard_id
from batchmill.jobs.stages import FIRST_STAGE
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchmill.jobs.shard import ShardRef
    from batchmill.ledger.formats.record import JobRecord
    from batchmill.ledger.jobs import JobLedger
    from batchmill.ledger.scripting.connection import Store

log = logging.getLogger(__name__)

MAX_MESSAGE_CHARS = 500
MAX_TRACEBACK_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class Kept:
    """What the ledger has of a job's log at one moment, and the job's record, as it was shortly before.

    now_ms: that moment; entries of this very millisecond may still be joined by others.
    """

    record: JobRecord
    entries: list[LogEntry]
    noted: int  # entries there ever were
    held: int  # of them, still kept
    now_ms: int


class JobLogLedger:
    """Writes and reads what happened to jobs."""

    def __init__(self, store: Store, jobs: JobLedger) -> None:
        self._store = store
        self._jobs = jobs
        self._keys = store.keys

    def note(
        self,
        job_id: str,
        level: LogLevel,
        event: LogEvent,
        message: str,
        *,
        ref: ShardRef | None = None,
        worker: str = "",
        traceback: str = "",
    ) -> None:
        """Keep an entry; of a long message the beginning, of a long traceback the end.

        Never raises `ServiceUnavailable`: what is noted has happened already, and must not fail for its note.
        """
        fields: dict[str, str | int] = {"level": level, "event": event, "message": _head(message)}
        if ref is not None:
            fields |= {"shard": _shard_name(ref), "attempt": ref.token}
        fields |= {name: text for name, text in (("worker", worker), ("traceback", _tail(traceback))) if text}
        entry = [calls.LogField(name, str(value)) for name, value in fields.items()]
        try:
            calls.note(self._store, job_id=job_id, entry=entry)
        except ServiceUnavailable as error:
            log.warning("the log of job %s misses an entry (%s): %s", job_id, message, error)

    def read(self, job_id: str) -> Kept:
        """All that is kept, with the job's record of about the same moment. Raises `NotFound` or `UnreadableRecord`."""
        record = self._jobs.read(job_id)
        with redis_errors(), self._store.redis.pipeline(transaction=True) as pipe:
            pipe.xrange(self._keys.job_log(job_id))
            pipe.hget(self._keys.job(job_id), "noted")
            pipe.time()
            entries, noted, (seconds, micros) = pipe.execute()
        return Kept(
            record=record,
            entries=list(_entries(entries)),
            noted=int(noted or 0),
            held=len(entries),
            now_ms=int(seconds) * 1000 + int(micros) // 1000,
        )


def _entries(found: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> Iterator[LogEntry]:
    for entry_id, values in found:
        try:
            yield _entry(entry_id.decode(), values)
        except (ValueError, TypeError) as error:
            log.error("entry %s of a job's log is left out, for it cannot be read: %.300s", entry_id, error)


def _entry(entry_id: str, values: dict[bytes, bytes]) -> LogEntry:
    text: dict[str, Any] = {name.decode(): value.decode() for name, value in values.items()}
    return LogEntry(id=entry_id, at=LogCursor.parse(entry_id)[0] / 1000, **text)


def _shard_name(ref: ShardRef) -> str:
    shard = format_shard_id(ref.shard_id)
    return f"{ref.stage}/{shard}" if ref.stage != FIRST_STAGE else shard


def _head(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= MAX_MESSAGE_CHARS else f"{line[: MAX_MESSAGE_CHARS - 2]} …"


def _tail(traceback: str) -> str:
    return traceback if len(traceback) <= MAX_TRACEBACK_CHARS else f"…{traceback[1 - MAX_TRACEBACK_CHARS :]}"
