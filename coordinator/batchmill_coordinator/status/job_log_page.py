"""A job's log for a user: the entries that were kept, and those that follow from its record. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.jobs.job import JobState
from batchmill.jobs.job_log import LogCursor, LogEntry, LogEvent, LogLevel, LogPage
from batchmill.jobs.stages import FIRST_STAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill.jobs.job import StageSpec
    from batchmill.ledger import JobRecord
    from batchmill.ledger.job_log import Kept

_PLACES = {
    LogEvent.ACCEPTED: 0,
    LogEvent.STARTED: 1_000_001,
    LogEvent.STOPPING: 1_000_002,
    LogEvent.ENDED: 1_000_003,
}
"""Numbers within a millisecond, which several of them may share: kept entries have those between, from 0 on."""


def page_of(kept: Kept, after: LogCursor, level: LogLevel, limit: int) -> LogPage:
    """Return at most `limit` entries behind a cursor, from a level on, in the order of time.

    What happened in this very millisecond is left for the next page: more of it may come.
    """
    noted = (_with_stage(entry, kept.record) for entry in kept.entries)
    entries = sorted([*noted, *life_of(kept.record)], key=lambda entry: LogCursor.parse(entry.id))
    behind = [entry for entry in entries if after < LogCursor.parse(entry.id) < (kept.now_ms, 0)]
    shown = [entry for entry in behind if entry.level.rank >= level.rank][:limit]
    last = shown[-1] if len(shown) == limit else behind[-1] if behind else None
    following = after if last is None else LogCursor.parse(last.id)
    is_read = all(LogCursor.parse(entry.id) <= following for entry in entries)
    return LogPage(
        entries=shown,
        next=str(following),
        dropped=kept.noted - kept.held,
        is_final=kept.record.state.is_final and is_read,
    )


def _with_stage(entry: LogEntry, record: JobRecord) -> LogEntry:
    """Name the stage of an entry about a shard."""
    if not entry.shard:
        return entry
    number, slash, _ = entry.shard.partition("/")
    name = record.spec.name_in_chain(int(number) if slash else FIRST_STAGE)
    return entry.model_copy(update={"stage": name}) if name else entry


def life_of(record: JobRecord) -> Iterator[LogEntry]:
    """Yield the changes of a job's state that its record keeps: these are never dropped."""
    yield _entry(record.created_at, LogLevel.INFO, LogEvent.ACCEPTED, _accepted(record))
    if record.started_at is not None:
        yield _entry(record.started_at, LogLevel.INFO, LogEvent.STARTED, "its first shards are planned")
    if record.stopping_at is not None:
        yield _stopping(record, record.stopping_at)
    if record.finished_at is not None:
        level = LogLevel.ERROR if record.state is JobState.FAILED else LogLevel.INFO
        message = f"{record.state}: {record.counted.rows_done:,} rows done, {record.rows_dead:,} failed"
        yield _entry(record.finished_at, level, LogEvent.ENDED, message)


def _accepted(record: JobRecord) -> str:
    message = ", then ".join(f"{_called(stage)} in pool {stage.pool}" for stage in record.spec.stages)
    if record.replay_of is not None:
        return f"{message}, runs failed rows of {record.replay_of} again"
    return message if record.resumed_from is None else f"{message}, resumes the output of {record.resumed_from}"


def _called(stage: StageSpec) -> str:
    return stage.operator if stage.title == stage.operator else f"{stage.title} ({stage.operator})"


def _stopping(record: JobRecord, at_ms: int) -> LogEntry:
    match record.state:
        case JobState.CANCELLING | JobState.CANCELLED:
            return _entry(
                at_ms, LogLevel.INFO, LogEvent.STOPPING, "a user stops it; its workers stop after the current batch"
            )
        case JobState.EXPIRING | JobState.EXPIRED:
            return _entry(
                at_ms,
                LogLevel.WARNING,
                LogEvent.STOPPING,
                "its deadline has passed; its workers stop after the current batch",
            )
    error = record.error
    message = f"{error.code}: {error.message}" if error else "no reason was given"
    traceback = str(error.details.get("traceback", "")) if error else ""
    return _entry(at_ms, LogLevel.ERROR, LogEvent.STOPPING, message, traceback)


def _entry(at_ms: int, level: LogLevel, event: LogEvent, message: str, traceback: str = "") -> LogEntry:
    return LogEntry(
        id=str(LogCursor((at_ms, _PLACES[event]))),
        at=at_ms / 1000,
        level=level,
        event=event,
        message=message,
        traceback=traceback,
    )
