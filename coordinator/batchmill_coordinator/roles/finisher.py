"""The finisher: ends a job when its work is over, and closes its output."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from batchmill.errors import BatchmillError, ServiceUnavailable, StorageError
from batchmill.job import JobError, JobState
from batchmill.job_log import LogEvent, LogLevel
from batchmill.telemetry.log_context import about
from batchmill_coordinator.results.outputs import write_manifest

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.clock import Clock
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.sinks import Sink
    from batchmill.storage.blobs import BlobStore
    from batchmill_coordinator.metering.counts import RoleMeter
    from batchmill_coordinator.results.merger import Merger
    from batchmill_coordinator.results.resumption import Resumption

log = logging.getLogger(__name__)

MAX_TROUBLES = 120  # steps, about half a second apart, that the storage of an output may fail


class Finisher:
    """Ends jobs: first the manifest, then the ledger, so that a finished output is always whole."""

    name = "finisher"
    wakes_on = frozenset({"settled", "failed", "lost", "stopping"})
    period_s = 0.5

    def __init__(
        self,
        ledger: Ledger,
        open_sink: Callable[[JobRecord], Sink],
        merger: Merger,
        resumption: Resumption,
        blobs: BlobStore,
        clock: Clock,
        meter: RoleMeter,
    ) -> None:
        self._merger = merger
        self._resumption = resumption
        self._ledger = ledger
        self._blobs = blobs
        self._troubles: dict[str, int] = {}  # by job: how often its output could not be closed
        self._clock = clock
        self._open_sink = open_sink
        self._meter = meter

    def step(self, epoch: int) -> None:
        """End every job that is over, and stop those whose deadline has passed."""
        records = self._ledger.jobs.live()
        now_s = self._ledger.now_ms() / 1000 if any(record.spec.deadline_at for record in records) else 0.0
        for record in records:
            with about(job=record.id):
                self._look(record, now_s, epoch)

    def _look(self, record: JobRecord, now_s: float, epoch: int) -> None:
        state = due_state(record)
        if state is not None:
            self._finish(record, state, epoch)
        elif is_overdue(record, now_s):
            log.info("job %s has passed its deadline", record.id)
            self._ledger.jobs.stop(record.id, JobState.EXPIRING, None)

    def _finish(self, record: JobRecord, state: JobState, epoch: int) -> None:
        try:
            if record.replay_of is not None:
                self._merger.merge(record, epoch)
            elif record.spec.output is not None:
                left = None if state is JobState.COMPLETED else self._resumption.left_by(record)
                write_manifest(record, state, self._open_sink(record), self._ledger, self._clock.wall(), left)
        except ServiceUnavailable:
            raise
        except BatchmillError as error:
            if self._bears(record, error):
                return
        if self._ledger.jobs.finish(record, state, epoch):
            log.info("job %s is %s: %d rows done, %d dead", record.id, state, record.rows_done, record.rows_dead)
            self._meter.finished(record.spec, state)
            self._troubles.pop(record.id, None)
            self._blobs.delete_folder(f"jobs/{record.id}/kept")

    def _bears(self, record: JobRecord, error: BatchmillError) -> bool:
        """Whether to try again later: a disk or bucket that failed may come back, but is not waited for for ever."""
        troubles = self._troubles[record.id] = self._troubles.get(record.id, 0) + 1
        if isinstance(error, StorageError) and troubles < MAX_TROUBLES:
            log.warning("the output of job %s could not be closed and is tried again: %s", record.id, error)
            if troubles == 1:
                told = f"its output could not be closed, which is tried again: {error}"
                self._ledger.log.note(record.id, LogLevel.WARNING, LogEvent.STORAGE_RETRY, told)
            return True
        self._fail(record, error)
        return not record.state.is_stopping  # one that stops anyway ends without a manifest

    def _fail(self, record: JobRecord, error: BatchmillError) -> None:
        log.warning("the output of job %s cannot be closed: %s", record.id, error)
        failure = JobError(code=error.code, message=f"The output could not be closed: {error}", details=error.details)
        self._ledger.jobs.stop(record.id, JobState.FAILING, failure)


def due_state(record: JobRecord) -> JobState | None:
    """The final state that is due to a job, or None while something is at work. Pure."""
    if record.shards_running > 0:
        return None
    if record.state is JobState.CANCELLING:
        return JobState.CANCELLED
    if record.state is JobState.FAILING:
        return JobState.FAILED
    if record.state is JobState.EXPIRING:
        return JobState.EXPIRED
    if record.state in (JobState.RUNNING, JobState.PAUSED) and record.planned and record.shards_live == 0:
        return JobState.COMPLETED
    return None


def is_overdue(record: JobRecord, now_s: float) -> bool:
    """Whether a job is to be stopped because its deadline has passed. Pure."""
    deadline = record.spec.deadline_at
    return deadline is not None and now_s >= deadline and not (record.state.is_stopping or record.state.is_final)
