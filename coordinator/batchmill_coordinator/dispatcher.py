"""The dispatcher: keeps a short window of shards per pool queued in Celery, fair between jobs."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from batchmill.job import JobState
from batchmill_coordinator.fairness import Candidate, next_job

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchmill.ledger import JobRecord, Ledger
    from batchmill.shard import ShardId
    from batchmill_coordinator.fleet_view import FleetView
    from batchmill_coordinator.pools import PoolView
    from batchmill_coordinator.publisher import Publisher

log = logging.getLogger(__name__)


class Dispatcher:
    """Queues shards: the ledger gives the token, then the message goes out.

    A crash between the two leaves a queued shard without a message; the recoverer publishes it again. Queued shards
    of a paused job are taken back, so that the window is there for the others.
    """

    name = "dispatcher"
    wakes_on = frozenset({"planned", "committed", "finished", "failed", "lost", "worker", "paused", "resumed"})
    period_s = 0.5

    def __init__(self, ledger: Ledger, fleet: FleetView, publisher: Publisher) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._publisher = publisher

    def step(self, epoch: int) -> None:
        """Fill every pool's window."""
        by_pool: dict[str, list[JobRecord]] = defaultdict(list)
        for record in self._ledger.jobs.live():
            if record.state is JobState.PAUSED and record.shards_queued > 0:
                self._ledger.jobs.recall(record, epoch)
            by_pool[record.spec.pool].append(record)
        if not any(_has_more(record) for records in by_pool.values() for record in records):
            return
        now_ms = self._ledger.now_ms()
        pools = self._fleet.pools()
        for name in by_pool.keys() & pools.keys():
            self._fill(name, pools[name], by_pool[name], now_ms, epoch)

    def _fill(self, name: str, pool: PoolView, records: list[JobRecord], now_ms: int, epoch: int) -> None:
        room = pool.capacity + pool.window - sum(_in_flight(record) for record in records)
        able = [record for record in records if _has_more(record) and record.spec.operator in pool.operators]
        if room <= 0 or not able:
            return
        for record, stage, shard_id in self._choose(able, room, now_ms):
            ref = self._ledger.shards.queue(record, stage, shard_id, epoch)
            if ref is not None:
                self._publisher.publish(record.spec.operator, name, ref)

    def _choose(self, records: list[JobRecord], room: int, now_ms: int) -> Iterable[tuple[JobRecord, int, ShardId]]:
        by_id = {record.id: record for record in records}
        waiting = {record.id: self._ledger.shards.to_queue(record.id, room, now_ms) for record in records}
        candidates = {record.id: _candidate(record) for record in records if waiting[record.id]}
        for _ in range(room):
            if not candidates:
                return
            chosen = next_job(list(candidates.values()), now_ms / 1000)
            stage, shard_id = waiting[chosen.job_id].pop(0)
            yield by_id[chosen.job_id], stage, shard_id
            candidates[chosen.job_id] = _after_its_turn(chosen, now_ms / 1000)
            if not waiting[chosen.job_id]:
                del candidates[chosen.job_id]


def _in_flight(record: JobRecord) -> int:
    return record.shards_queued + record.shards_running


def _has_more(record: JobRecord) -> bool:
    return record.state is JobState.RUNNING and record.shards_live > _in_flight(record)


def _candidate(record: JobRecord) -> Candidate:
    return Candidate(
        job_id=record.id,
        priority=record.spec.priority,
        created_at_s=record.created_at / 1000,
        waiting_since_s=(record.last_queued_at or record.created_at) / 1000,
        in_flight=_in_flight(record),
        deadline_at_s=record.spec.deadline_at,
    )


def _after_its_turn(candidate: Candidate, now_s: float) -> Candidate:
    return replace(candidate, waiting_since_s=now_s, in_flight=candidate.in_flight + 1)
