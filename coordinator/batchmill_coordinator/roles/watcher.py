"""The watcher: notes in a job's log what it waits for, when that is something a user can mend, and when it is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.job import JobState
from batchmill.job_log import LogEvent, LogLevel
from batchmill_coordinator.fleet.pools import why_waiting
from batchmill_coordinator.status.status import why_paused

if TYPE_CHECKING:
    from batchmill.clock import Clock
    from batchmill.ledger import JobRecord, Ledger
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.fleet.pools import PoolView

PATIENCE_S = 5.0
"""A job that waits for less than this is not worth an entry: a worker may just be starting."""


@dataclass(slots=True)
class _Wait:
    reason: str
    since_s: float
    is_noted: bool = False


class Watcher:
    """Looks now and then; a new leader may note a wait once more."""

    name = "watcher"
    wakes_on: frozenset[str] = frozenset()
    period_s = 1.0

    def __init__(self, ledger: Ledger, fleet: FleetView, clock: Clock, currency: str) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._clock = clock
        self._currency = currency
        self._waits: dict[str, _Wait] = {}

    def step(self, epoch: int) -> None:  # noqa: ARG002  # a note changes nothing that a leader must guard
        """Look at every live job."""
        records = self._ledger.jobs.live()
        pools = self._fleet.pools() if records else {}
        for job_id in self._waits.keys() - {record.id for record in records}:
            del self._waits[job_id]
        for record in records:
            self._look(record, what_it_waits_for(record, pools, self._currency))

    def _look(self, record: JobRecord, reason: str | None) -> None:
        now_s, wait = self._clock.monotonic(), self._waits.get(record.id)
        if reason is None:
            if wait is not None:
                self._end(record, wait)
        elif wait is None or wait.reason != reason:
            self._waits[record.id] = _Wait(reason, now_s)
        elif not wait.is_noted and now_s - wait.since_s >= PATIENCE_S:
            wait.is_noted = True
            self._ledger.log.note(record.id, LogLevel.WARNING, LogEvent.BLOCKED, reason)

    def _end(self, record: JobRecord, wait: _Wait) -> None:
        del self._waits[record.id]
        if wait.is_noted and _is_moving(record):
            self._ledger.log.note(record.id, LogLevel.INFO, LogEvent.UNBLOCKED, "what it waited for is there")


def waits(record: JobRecord) -> bool:
    """Whether nothing of a job is at work although something should be."""
    return _is_moving(record) and record.shards_running == 0


def what_it_waits_for(record: JobRecord, pools: dict[str, PoolView], currency: str) -> str | None:
    """What would let a job go on, when it is something that a user can mend. currency: what its cost is in."""
    if waits(record):
        return why_waiting(record.spec.pool, record.spec.operator, pools)
    return why_paused(record, currency)


def _is_moving(record: JobRecord) -> bool:
    return record.state in (JobState.PENDING, JobState.RUNNING)
