"""How much work each pool has: the one count that the pools page, the metrics and scaling use.

1. `pool_loads`, pure, sums the records of the live jobs by pool, with the heads of the pools' queues.
2. `PoolBacklog` reads both from the ledger and keeps the result for a moment, however many ask.
3. Metrics add what only they need, by operator and state (`metering.work`).

Only jobs that may run (pending or running) have work for a pool: a paused job waits for its user, and the shards of one
that is stopping are not run any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.caches import Fresh
from batchmill.fleet import PoolStatus
from batchmill.jobs.job import JobState
from batchmill.ledger.formats.record import stages_of_jobs
from batchmill_coordinator.fleet.pools import EMPTY, PoolView

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from batchmill.clock import Clock
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.record import JobStage
    from batchmill.ledger.views.overview import QueueHead
    from batchmill_coordinator.fleet.fleet_view import FleetView

BACKLOG_TTL_S = 0.5
MAY_RUN = (JobState.PENDING, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """The work of one pool: of its jobs that may run, except where a field says otherwise."""

    jobs: int  # that have not ended, paused ones included
    shards: int  # not settled
    shards_queued: int  # published, and claimed by nobody yet; of all jobs
    shards_running: int  # of all jobs
    shards_waiting: int  # planned, or to be tried again
    rows: int  # neither done nor failed, as far as their number is known
    oldest_queued_s: float | None  # for how long the first of the queued shards has waited
    oldest_wait_s: float  # the longer of that and of the wait of a job that no worker works on; 0 without any


def pool_loads(records: Iterable[JobRecord], heads: Mapping[str, QueueHead], now_ms: int) -> dict[str, PoolLoad]:
    """Sum the work of the pools named in `heads`, in that order; every stage's pool must be among them. Pure.

    now_ms: the ledger's time, milliseconds since the epoch.
    """
    by_pool: dict[str, list[JobStage]] = {pool: [] for pool in heads}
    for one in stages_of_jobs(records):
        by_pool[one.spec.pool].append(one)
    return {pool: _load(by_pool[pool], head, now_ms) for pool, head in heads.items()}


def _load(stages: Sequence[JobStage], head: QueueHead, now_ms: int) -> PoolLoad:
    runnable = [one for one in stages if one.job.state in MAY_RUN]
    shards = sum(one.stage.shards_live for one in runnable)
    in_flight = sum(one.stage.shards_in_flight for one in runnable)
    starved = [one for one in runnable if one.stage.rows_left and not one.stage.shards_running]
    queued_s = None if head.oldest_at_ms is None else max(now_ms - head.oldest_at_ms, 0) / 1000
    starved_s = [(now_ms - one.waiting_since_ms) / 1000 for one in starved]
    return PoolLoad(
        jobs=len({one.job.id for one in stages}),
        shards=shards,
        shards_queued=head.length,
        shards_running=sum(one.stage.shards_running for one in stages),
        shards_waiting=max(shards - in_flight, 0),
        rows=sum(one.stage.rows_left for one in runnable),
        oldest_queued_s=queued_s,
        oldest_wait_s=max([queued_s or 0.0, *starved_s]),
    )


def read_heads(ledger: Ledger, records: Iterable[JobRecord], pools: Iterable[str]) -> dict[str, QueueHead]:
    """Read the queue heads of these pools and of the jobs' pools, by name in order. Raises `ServiceUnavailable`."""
    names = sorted({*pools, *(stage.pool for record in records for stage in record.spec.stages)})
    return dict(zip(names, ledger.overview.queue_heads(names), strict=True)) if names else {}


class PoolBacklog:
    """The pools with their work, as it was at most `BACKLOG_TTL_S` ago. Thread-safe."""

    def __init__(self, ledger: Ledger, fleet: FleetView, clock: Clock) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._latest = Fresh(self._read, BACKLOG_TTL_S, clock)

    def pools(self) -> list[PoolStatus]:
        """Return the pools that have workers or jobs, by name. Raises `ServiceUnavailable`."""
        return self._latest.get()

    def _read(self) -> list[PoolStatus]:
        records, views = self._ledger.jobs.live(), self._fleet.pools()
        loads = pool_loads(records, read_heads(self._ledger, records, views), self._ledger.now_ms())
        return [pool_status(name, load, views.get(name, EMPTY)) for name, load in loads.items()]


def pool_status(name: str, load: PoolLoad, view: PoolView) -> PoolStatus:
    """Describe a pool for users. Pure."""
    return PoolStatus(
        name=name,
        workers=view.workers,
        capacity=view.capacity,
        jobs=load.jobs,
        shards_queued=load.shards_queued,
        shards_running=load.shards_running,
        shards_waiting=load.shards_waiting,
        rows_waiting=load.rows,
        oldest_queued_s=load.oldest_queued_s,
        mixed=view.mixed,
    )
