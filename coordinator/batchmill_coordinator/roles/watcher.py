"""The watcher: writes into a job's log that it is blocked, and that it is unblocked: until a user acts, or a new period
of a quota begins.

A step asks of `MAX_JOBS` live jobs why they are blocked (`why_blocked`, `TenantQuotas`), and the next step of those
after them. A reason is logged once it has lasted for `MIN_BLOCKED_S`, and its end only if the reason was logged. Each
round through all jobs also counts those whose record cannot be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.jobs.job import JobState
from batchmill.jobs.job_log import LogEvent, LogLevel
from batchmill.jobs.stages import FIRST_STAGE
from batchmill_coordinator.fleet.pools import why_no_worker
from batchmill_coordinator.roles.job_guard import JobGuard
from batchmill_coordinator.status.status import why_paused

if TYPE_CHECKING:
    from batchmill.clock import Clock
    from batchmill.ledger import JobRecord, Ledger
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.fleet.pools import PoolView
    from batchmill_coordinator.metering.counts import RoleMetrics
    from batchmill_coordinator.scheduling.tenant_quotas import TenantQuotas

MIN_BLOCKED_S = 5.0
"""A job that is blocked for less than this is not worth an entry: a worker may just be starting."""


MAX_JOBS = 200
"""About as many live jobs are checked in a step: of 10,000 each one about once a minute."""


@dataclass(slots=True)
class _Block:
    reason: str
    since_s: float
    is_logged: bool = False


class Watcher:
    """Logs blocked jobs, as the leader; a new leader may log a reason once more."""

    name = "watcher"
    wakes_on: frozenset[str] = frozenset()
    period_s = 1.0

    def __init__(
        self,
        ledger: Ledger,
        fleet: FleetView,
        clock: Clock,
        currency: str,
        metrics: RoleMetrics,
        quotas: TenantQuotas | None = None,
    ) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._clock = clock
        self._currency = currency
        self._metrics = metrics
        self._quotas = quotas
        self._blocks: dict[str, _Block] = {}
        self._guard = JobGuard(ledger, "what blocks it could not be found out", clock=clock)
        self._cursor = 0  # of the round through all live jobs
        self._round: set[str] = set()  # those that were seen in it
        self._unreadable: set[str] = set()  # of them

    def step(self, epoch: int) -> None:  # noqa: ARG002  # a log entry changes nothing that a leader must guard
        """Check some of the live jobs."""
        self._cursor, ids = self._ledger.index.live_jobs(self._cursor, MAX_JOBS)
        self._round.update(ids)
        records, unreadable = self._ledger.jobs.readable_and_not(ids)
        self._unreadable.update(job.id for job in unreadable)
        pools = self._fleet.pools() if records else {}
        for record in records:
            if not self._guard.is_set_aside(record.id):
                with self._guard.over(record.id):
                    self._check(record, why_blocked(record, pools, self._currency) or self._why_held(record))
        if self._cursor == 0:
            for job_id in self._blocks.keys() - self._round:
                del self._blocks[job_id]
            self._guard.forget_all_but(self._round)
            self._metrics.unreadable = len(self._unreadable)
            self._round.clear()
            self._unreadable.clear()

    def _check(self, record: JobRecord, reason: str | None) -> None:
        now_s, block = self._clock.monotonic(), self._blocks.get(record.id)
        if reason is None:
            if block is not None:
                self._end(record, block)
        elif block is None or block.reason != reason:
            self._blocks[record.id] = _Block(reason, now_s)
        elif not block.is_logged and now_s - block.since_s >= MIN_BLOCKED_S:
            block.is_logged = True
            self._ledger.log.note(record.id, LogLevel.WARNING, LogEvent.BLOCKED, reason)

    def _why_held(self, record: JobRecord) -> str | None:
        return self._quotas.log_entry(record) if self._quotas else None

    def _end(self, record: JobRecord, block: _Block) -> None:
        del self._blocks[record.id]
        if block.is_logged and _is_moving(record):
            self._ledger.log.note(record.id, LogLevel.INFO, LogEvent.UNBLOCKED, "what it waited for is there")


def runs_nothing(record: JobRecord) -> bool:
    """Return whether nothing of a job runs although something should."""
    return _is_moving(record) and record.shards_running == 0


def why_blocked(record: JobRecord, pools: dict[str, PoolView], currency: str) -> str | None:
    """Say why a job cannot proceed until a user acts, and what to do; None if it can. currency: of its cost."""
    if runs_nothing(record):
        # a later stage without workers stops the ones before it, once its buffer is full
        waiting = [
            stage
            for stage in record.stages
            if not stage.is_settled and (stage.number == FIRST_STAGE or stage.shards_live)
        ]
        reasons = (why_no_worker(record.id, stage, pools) for stage in waiting)
        return next(filter(None, reasons), None) or why_stalled(record)
    return why_stalled(record) or why_paused(record, currency)


def why_stalled(record: JobRecord) -> str | None:
    """Say which storage a job waits for; None if it waits for none."""
    return f"it waits for storage: {record.stalled}" if record.stalled and _is_moving(record) else None


def _is_moving(record: JobRecord) -> bool:
    return record.state in (JobState.PENDING, JobState.RUNNING)
