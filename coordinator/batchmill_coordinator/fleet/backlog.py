"""How much work each pool has: the one count that the pools page, the metrics and scaling use.

1. The ledger's scripts keep the sums over the live jobs (`ledger.work`), so that reading them costs what there is of
   pools and operators, not of jobs. `pool_loads`, pure, puts them together with the heads of the pools' queues.
2. `PoolBacklog` reads both from the ledger and keeps the result for a moment, however many ask.
3. Metrics add what only they need (`metering.work`).

Only jobs that may run (pending or running) have work for a pool: a paused job waits for its user, and the shards of one
that is stopping are not run any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.caches import Fresh
from batchmill.fleet import PoolStatus
from batchmill.jobs.job import JobState
from batchmill.ledger.formats.work import PoolWork
from batchmill_coordinator.fleet.pools import EMPTY, PoolView

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from batchmill.clock import Clock
    from batchmill.fleet import PoolScale
    from batchmill.ledger import Ledger
    from batchmill.ledger.formats.work import Work
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


def pool_loads(work: Work, heads: Mapping[str, QueueHead], now_ms: int) -> dict[str, PoolLoad]:
    """The work of the pools named in `heads`, in that order. Pure.

    now_ms: the ledger's time, milliseconds since the epoch.
    """
    return {pool: _load(work.pools.get(pool, PoolWork()), head, now_ms) for pool, head in heads.items()}


def _load(work: PoolWork, head: QueueHead, now_ms: int) -> PoolLoad:
    queued_s = None if head.oldest_at_ms is None else max(now_ms - head.oldest_at_ms, 0) / 1000
    starved_s = 0.0 if head.starved_since_ms is None else (now_ms - head.starved_since_ms) / 1000
    return PoolLoad(
        jobs=work.jobs,
        shards=work.shards,
        shards_queued=head.length,
        shards_running=work.shards_running,
        shards_waiting=max(work.shards - work.shards_in_flight, 0),
        rows=work.rows,
        oldest_queued_s=queued_s,
        oldest_wait_s=max(queued_s or 0.0, starved_s),
    )


def read_heads(ledger: Ledger, work: Work, pools: Iterable[str]) -> dict[str, QueueHead]:
    """Read the queue heads of these pools and of those with work, by name in order. Raises `ServiceUnavailable`."""
    names = sorted({*pools, *work.pools})
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
        work, views = self._ledger.overview.work(), self._fleet.pools()
        loads = pool_loads(work, read_heads(self._ledger, work, views), self._ledger.now_ms())
        scales = self._ledger.scale.decisions()
        return [pool_status(name, load, views.get(name, EMPTY), scales.get(name)) for name, load in loads.items()]


def pool_status(name: str, load: PoolLoad, view: PoolView, scale: PoolScale | None = None) -> PoolStatus:
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
        scale=scale,
        mixed=view.mixed,
    )
