"""The finisher: ends a job when its work is over, and closes its output.

1. A step reads from an index the jobs for which a final state is due (`due_state`). Nothing is due while a shard runs.
2. The output is closed first, so that a job that says `completed` has a complete output. Storage that fails is tried
   again after `RETRY_MS`, and others are ended meanwhile; what cannot be closed fails the job, and one that stops
   anyway ends without a manifest.
3. Then the ledger ends the job, in one script that checks again that nothing is at work.
4. A small job whose end leaves nothing to close or to delete is ended by its last commit. Its end is only counted here.
5. A job whose deadline has passed, by clocks that agree (`ClockGuard`), is stopped; a later step ends it, when its
   workers have released their shards.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from batchmill.errors import Overloaded, ServiceUnavailable
from batchmill.jobs.job import JobState
from batchmill_coordinator.roles.job_guard import JobGuard

if TYPE_CHECKING:
    from batchmill.ledger import JobRecord, Ledger
    from batchmill_coordinator.metering.counts import RoleMetrics
    from batchmill_coordinator.results.closing import OutputCloser
    from batchmill_coordinator.roles.clock_guard import ClockGuard

log = logging.getLogger(__name__)

MAX_STORAGE_FAILURES = 120  # in a row, `RETRY_MS` apart
RETRY_MS = 500
MAX_JOBS = 64  # that a step ends
MAX_REPORTS = 1_000  # of jobs that ended without it


class Finisher:
    """Ends jobs: first the manifest, then the ledger, so that a finished output is always complete."""

    name = "finisher"
    wakes_on = frozenset({"settled", "failed", "lost", "stopping"})
    period_s = 0.5

    def __init__(self, ledger: Ledger, outputs: OutputCloser, clocks: ClockGuard, metrics: RoleMetrics) -> None:
        self._ledger = ledger
        self._outputs = outputs
        self._clocks = clocks
        self._metrics = metrics
        self._guard = JobGuard(
            ledger, "its output could not be closed", max_storage_failures=MAX_STORAGE_FAILURES, fails_jobs=True
        )

    def step(self, epoch: int) -> None:
        """End every job that is over, and stop those whose deadline has passed."""
        ledger, now_ms = self._ledger, self._ledger.now_ms()
        for ended in ledger.jobs.take_unreported(MAX_REPORTS):
            log.info("job %s is completed: %d rows done, %d failed", ended.id, ended.rows_done, ended.rows_dead)
            self._metrics.finished(ended.operator, ended.pool, JobState.COMPLETED)
        due = ledger.index.to_finish(now_ms, MAX_JOBS, now_ms + RETRY_MS)
        ledger.index.defer_finish(due, now_ms + RETRY_MS)  # one that cannot be ended lets others have their turn
        overdue = ledger.index.overdue(now_ms, MAX_JOBS) if self._clocks.is_trusted() else []
        records, unreadable = ledger.jobs.readable_and_not(list(dict.fromkeys([*due, *overdue])))
        for record in records:
            if not self._guard.is_set_aside(record.id):
                with self._guard.over(record.id):
                    self._finish_or_stop(record, now_ms / 1000 if record.id in overdue else 0.0, epoch)
        for job in unreadable:
            if job.state.is_stopping:
                with self._guard.over(job.id):
                    ledger.jobs.finish_unreadable(job, epoch)

    def _finish_or_stop(self, record: JobRecord, now_s: float, epoch: int) -> None:
        state = due_state(record)
        if state is not None:
            self._finish(record, state, epoch)
        elif is_overdue(record, now_s):
            log.info("job %s has passed its deadline", record.id)
            self._ledger.jobs.stop(record.id, JobState.EXPIRING, None)

    def _finish(self, record: JobRecord, state: JobState, epoch: int) -> None:
        try:
            self._outputs.close(record, state, epoch)
        except Exception as error:  # whatever it is, it is this job's, and a job that stops ends anyway
            if isinstance(error, ServiceUnavailable) and not isinstance(error, Overloaded):
                raise
            if self._guard.may_retry(record.id, error):
                return
            self._guard.fail(record.id, error)
            if not record.state.is_stopping:
                return  # it ends at a later step, as failed
        if self._ledger.jobs.finish(record, state, epoch):
            log.info(
                "job %s is %s: %d rows done, %d failed", record.id, state, record.counted.rows_done, record.rows_dead
            )
            self._metrics.finished(record.spec.first.operator, record.spec.first.pool, state)
            self._outputs.delete_working_data(record, state)


def due_state(record: JobRecord) -> JobState | None:
    """Return the final state that is due to a job, or None while anything of it is at work. Pure."""
    if record.shards_running > 0:
        return None
    if record.state is JobState.CANCELLING:
        return JobState.CANCELLED
    if record.state is JobState.FAILING:
        return JobState.FAILED
    if record.state is JobState.EXPIRING:
        return JobState.EXPIRED
    if record.state in (JobState.RUNNING, JobState.PAUSED) and record.is_settled:
        return JobState.COMPLETED
    return None


def is_overdue(record: JobRecord, now_s: float) -> bool:
    """Return whether a job must be stopped because its deadline has passed. Pure."""
    deadline = record.spec.deadline_at
    return deadline is not None and now_s >= deadline and not (record.state.is_stopping or record.state.is_final)
