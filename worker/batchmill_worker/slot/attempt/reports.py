"""Reports of attempts: to the metrics, and to the job's log where an attempt did not complete every row."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from batchmill.jobs.job import JobError
from batchmill.jobs.job_log import LogEvent, LogLevel
from batchmill.jobs.retry import Done, Failed, Lost, Partial, Revoked
from batchmill.wording import count
from batchmill_worker.runtime.attempt_result import AttemptStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from batchmill.jobs.retry import Outcome
    from batchmill.jobs.shard import ShardRef
    from batchmill.ledger.job_log import JobLogLedger
    from batchmill_worker.engine.shard_result import ShardResult
    from batchmill_worker.metering.attempts import AttemptMetrics, SlotMetrics
    from batchmill_worker.runtime.attempt_result import AttemptResult
    from batchmill_worker.slot.attempt.shard_progress import ShardProgress


class AttemptReports:
    """Reports the attempts of one worker. Thread-safe."""

    def __init__(self, metrics: SlotMetrics, log: JobLogLedger, worker: str) -> None:
        self.worker = worker
        self._metrics = metrics
        self._log = log

    def counting(self, ref: ShardRef) -> AbstractContextManager[AttemptMetrics]:
        """Count an attempt; as dropped, unless `ended` is called before the context ends."""
        return self._metrics.attempt(ref.attempt_key)

    def rows_failed(self, counted: AttemptMetrics, result: ShardResult) -> None:
        """Count the rows that failed in an attempt, whether they are tried again or not."""
        self._metrics.rows_failed(counted, (row.failure.error_type for row in result.dead))

    def ended(self, ref: ShardRef, counted: AttemptMetrics, outcome: Outcome, result: AttemptResult) -> None:
        """Report the end of an attempt that was not dropped, once it is in the ledger."""
        self._metrics.ended(counted, outcome, result)
        log_attempt_end(self._log, self.worker, ref, outcome, result)


def log_attempt_end(log: JobLogLedger, worker: str, ref: ShardRef, outcome: Outcome, result: AttemptResult) -> None:
    """Log how an attempt ended. A worker that only releases its shard makes no entry: nothing went wrong."""
    match outcome:
        case Done(_, error) | Partial(_, _, error):
            if error is None:
                return
            level = LogLevel.WARNING
            event = LogEvent.REQUEUED if result.status is AttemptStatus.REQUEUED else LogEvent.DEAD
        case Failed(error, is_storage=True):
            level, event = LogLevel.WARNING, LogEvent.STORAGE_RETRY
        case Failed(error):
            is_requeued = result.status is AttemptStatus.REQUEUED
            level = LogLevel.WARNING if is_requeued else LogLevel.ERROR
            event = LogEvent.REQUEUED if is_requeued else LogEvent.FAILED
        case Lost() | Revoked():
            return
        case never:
            assert_never(never)
    again = "; another attempt follows" if event in (LogEvent.REQUEUED, LogEvent.STORAGE_RETRY) else ""
    traceback = str(error.details.get("traceback", ""))
    log.note(ref.job_id, level, event, f"{error.message}{again}", ref=ref, worker=worker, traceback=traceback)


def failed_rows(progress: ShardProgress, result: ShardResult) -> JobError | None:
    """Summarize the rows that failed and are tried again: their number, and this attempt's first; None without any."""
    again = [row for row in result.dead if row.retryable]
    if not (progress.failed and again):
        return None
    failure = again[0].failure
    message = f"{count(len(progress.failed))} failed; the first: {failure.error_type}: {failure.message}"
    return JobError(code="rows_failed", message=message, details={"traceback": failure.traceback})


def dead_rows(progress: ShardProgress, name_of: Callable[[int], str] = str) -> JobError | None:
    """Summarize the rows that failed for good: their number, and the first one; None without any."""
    if not progress.dead:
        return None
    first = progress.letters[0]
    name, failed = name_of(first.index), count(len(progress.dead))
    message = f"{failed} failed; the first, row {name}: {first.error_type}: {first.message}"
    return JobError(code="rows_dead", message=message, details={"traceback": first.traceback})
