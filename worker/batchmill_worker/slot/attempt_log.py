"""What the job's log is told of an attempt that did not bring every row; of one that did, nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from batchmill.job import JobError
from batchmill.job_log import LogEvent, LogLevel
from batchmill.retry import Done, Failed, Lost, Partial, Revoked
from batchmill_worker.runtime.attempt_end import Ending, EndingKind

if TYPE_CHECKING:
    from batchmill.ledger.job_log import JobLogLedger
    from batchmill.retry import Outcome
    from batchmill.shard import ShardRef
    from batchmill_worker.engine.shard_result import ShardResult
    from batchmill_worker.slot.shard_progress import ShardProgress


def note_ending(log: JobLogLedger, worker: str, ref: ShardRef, outcome: Outcome, ending: Ending) -> None:
    """Note how an attempt ended, once the ledger has been told. A worker that just lets go is not worth an entry."""
    match outcome:
        case Done(_, error) | Partial(_, _, error):
            if error is None:
                return
            level = LogLevel.WARNING
            event = LogEvent.REQUEUED if ending.kind is EndingKind.PUT_BACK else LogEvent.DEAD
        case Failed(error):
            is_put_back = ending.kind is EndingKind.PUT_BACK
            level = LogLevel.WARNING if is_put_back else LogLevel.ERROR
            event = LogEvent.REQUEUED if is_put_back else LogEvent.FAILED
        case Lost() | Revoked():
            return
        case never:
            assert_never(never)
    again = "; another attempt follows" if event is LogEvent.REQUEUED else ""
    traceback = str(error.details.get("traceback", ""))
    log.note(ref.job_id, level, event, f"{error.message}{again}", ref=ref, worker=worker, traceback=traceback)


def failed_rows(progress: ShardProgress, result: ShardResult) -> JobError | None:
    """Of rows that failed and are to be tried again: how many, and how the first of this attempt did."""
    again = [row for row in result.dead if row.retryable]
    if not (progress.failed and again):
        return None
    failure = again[0].failure
    message = f"{_rows(len(progress.failed))} failed; the first: {failure.error_type}: {failure.message}"
    return JobError(code="rows_failed", message=message, details={"traceback": failure.traceback})


def dead_rows(progress: ShardProgress) -> JobError | None:
    """Of rows that were given up on: how many, and how the first one ended."""
    if not progress.dead:
        return None
    first = progress.letters[0]
    message = (
        f"{_rows(len(progress.dead))} given up on; the first, row {first.index}: {first.error_type}: {first.message}"
    )
    return JobError(code="rows_dead", message=message, details={"traceback": first.traceback})


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"
