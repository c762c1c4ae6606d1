"""How much waits in each pool: read from the ledger, and kept for a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.caches import Fresh
from batchmill.job import JobState, PoolStatus
from batchmill_coordinator.fleet.pools import EMPTY, PoolView

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from batchmill.clock import Clock
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.overview import QueueHead
    from batchmill_coordinator.fleet.fleet_view import FleetView

FRESH_S = 0.5


class PoolBacklog:
    """What waited at most half a second ago, however many ask. Thread-safe."""

    def __init__(self, ledger: Ledger, fleet: FleetView, clock: Clock) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._latest = Fresh(self._read, FRESH_S, clock)

    def pools(self) -> list[PoolStatus]:
        """The pools that have workers or jobs, by name. Raises `ServiceUnavailable`."""
        return self._latest.get()

    def _read(self) -> list[PoolStatus]:
        records, views = self._ledger.jobs.live(), self._fleet.pools()
        names = sorted(views.keys() | {record.spec.pool for record in records})
        heads = dict(zip(names, self._ledger.overview.queue_heads(names), strict=True)) if names else {}
        return backlog_of(records, views, heads, self._ledger.now_ms())


def backlog_of(
    records: Iterable[JobRecord], views: Mapping[str, PoolView], heads: Mapping[str, QueueHead], now_ms: int
) -> list[PoolStatus]:
    """The pools named in `heads`, in that order. Pure."""
    by_pool: dict[str, list[JobRecord]] = {name: [] for name in heads}
    for record in records:
        by_pool[record.spec.pool].append(record)
    return [_pool(name, by_pool[name], views.get(name, EMPTY), head, now_ms) for name, head in heads.items()]


def _pool(name: str, records: list[JobRecord], view: PoolView, head: QueueHead, now_ms: int) -> PoolStatus:
    moving = [record for record in records if record.state is not JobState.PAUSED]
    running = sum(record.shards_running for record in records)
    in_hand = sum(record.shards_queued + record.shards_running for record in moving)
    return PoolStatus(
        name=name,
        workers=view.workers,
        capacity=view.capacity,
        jobs=len(records),
        shards_queued=head.length,
        shards_running=running,
        shards_waiting=max(sum(record.shards_live for record in moving) - in_hand, 0),
        rows_waiting=sum(record.rows_left for record in moving),
        oldest_queued_s=None if head.oldest_at_ms is None else max(now_ms - head.oldest_at_ms, 0) / 1000,
    )
