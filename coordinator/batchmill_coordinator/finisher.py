"""The finisher: ends a job when its work is over, and closes its output."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from batchmill.errors import BatchmillError, ServiceUnavailable
from batchmill.job import JobError, JobState
from batchmill_coordinator.outputs import write_manifest

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.clock import Clock
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.sinks import Sink

log = logging.getLogger(__name__)


class Finisher:
    """Ends jobs: first the manifest, then the ledger, so that a finished output is always whole."""

    name = "finisher"
    wakes_on = frozenset({"settled", "failed", "lost", "stopping"})
    period_s = 0.5

    def __init__(self, ledger: Ledger, open_sink: Callable[[JobRecord], Sink], clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._open_sink = open_sink

    def step(self, epoch: int) -> None:
        """End every job that is over."""
        for record in self._ledger.jobs.live():
            state = due_state(record)
            if state is not None:
                self._finish(record, state, epoch)

    def _finish(self, record: JobRecord, state: JobState, epoch: int) -> None:
        try:
            if record.spec.output is not None:
                write_manifest(record, state, self._open_sink(record), self._ledger, self._clock.wall())
        except ServiceUnavailable:
            raise
        except BatchmillError as error:
            self._fail(record, error)
            if record.state is JobState.RUNNING:
                return
        if self._ledger.jobs.finish(record, state, epoch):
            log.info("job %s is %s: %d rows done, %d dead", record.id, state, record.rows_done, record.rows_dead)

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
    if record.state is JobState.RUNNING and record.planned and record.shards_live == 0:
        return JobState.COMPLETED
    return None
