"""The dispatcher: keeps a short window of shards per pool queued in Celery, fair between jobs, near their models.

1. A step reads the live jobs and, for each pool with workers, fills its window: slots plus `PoolView.window`, less what
   is queued or running.
2. Jobs take turns by priority, deadline and what they have in flight (`fairness.next_job`), one shard a turn.
3. `placement.ShardPlacement` says which queue the shard goes to, or defers it; then its model's other shards are
   deferred in this step too.
4. The ledger gives the shard its token, then the message is published. After a crash between the two the shard is
   queued without a message; the recoverer publishes it again.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from batchmill.job import JobState
from batchmill_coordinator.scheduling.fairness import Candidate, next_job
from batchmill_coordinator.scheduling.model_demand import ModelNames, demands_of
from batchmill_coordinator.scheduling.pace import ModelPaces
from batchmill_coordinator.scheduling.placement import ShardPlacement, Target, queue_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchmill.ledger import JobRecord, Ledger
    from batchmill.shard import ShardId
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.fleet.pools import PoolView
    from batchmill_coordinator.metering.counts import RoleMetrics
    from batchmill_coordinator.scheduling.message_publisher import MessagePublisher

log = logging.getLogger(__name__)


class Dispatcher:
    """Queues shards. Those of a paused job that are queued are unqueued, so that the window is free for other jobs."""

    name = "dispatcher"
    wakes_on = frozenset({"planned", "committed", "finished", "failed", "lost", "worker", "paused", "resumed"})
    period_s = 0.5

    def __init__(self, ledger: Ledger, fleet: FleetView, publisher: MessagePublisher, metrics: RoleMetrics) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._publisher = publisher
        self._metrics = metrics
        self._names = ModelNames(fleet)
        self._paces = ModelPaces()

    def step(self, epoch: int) -> None:
        """Fill every pool's window."""
        by_pool: dict[str, list[JobRecord]] = defaultdict(list)
        for record in self._ledger.jobs.live():
            if record.state is JobState.PAUSED and record.shards_queued > 0:
                self._ledger.jobs.unqueue_paused(record, epoch)
            by_pool[record.spec.pool].append(record)
        if not any(_has_more(record) for records in by_pool.values() for record in records):
            return
        now_ms = self._ledger.now_ms()
        pools = self._fleet.pools()
        for name in by_pool.keys() & pools.keys():
            self._fill(name, pools[name], by_pool[name], now_ms, epoch)

    def _fill(self, name: str, pool: PoolView, records: list[JobRecord], now_ms: int, epoch: int) -> None:
        free_slots = pool.capacity + pool.window - sum(_in_flight(record) for record in records)
        able = [record for record in records if _has_more(record) and record.spec.operator in pool.operators]
        if free_slots <= 0 or not able:
            return
        waiting = {record.id: self._ledger.shards.to_queue(record.id, free_slots, now_ms) for record in able}
        models = self._names.of(records)
        due = {record.id for record in able if waiting[record.id]}
        demands = demands_of(records, due, models, self._paces, now_ms / 1000)
        for record, shard, target in self._choose(
            able, waiting, models, ShardPlacement(pool.members, demands), free_slots, now_ms
        ):
            ref = self._ledger.shards.queue(record, *shard, epoch)
            if ref is not None:
                self._publisher.publish(record.spec.operator, queue_for(target, name, models[record.id]), ref)
                self._metrics.dispatched(record.spec)

    def _choose(
        self,
        records: list[JobRecord],
        waiting: dict[str, list[tuple[int, ShardId]]],
        models: dict[str, str],
        placement: ShardPlacement,
        free_slots: int,
        now_ms: int,
    ) -> Iterable[tuple[JobRecord, tuple[int, ShardId], Target]]:
        now_s = now_ms / 1000
        by_id = {record.id: record for record in records}
        candidates = {record.id: _candidate(record) for record in records if waiting[record.id]}
        queued = dict.fromkeys((models[job_id] for job_id in candidates), 0)
        deferred = set()
        while free_slots > 0 and candidates:
            chosen = next_job(list(candidates.values()), now_s)
            model = models[chosen.job_id]
            target = placement.place(model)
            if target is Target.DEFER:
                deferred.add(model)
                candidates = {job_id: other for job_id, other in candidates.items() if models[job_id] != model}
                continue
            yield by_id[chosen.job_id], waiting[chosen.job_id].pop(0), target
            free_slots, queued[model] = free_slots - 1, queued[model] + 1
            candidates[chosen.job_id] = _after_its_turn(chosen, now_s)
            if not waiting[chosen.job_id]:
                del candidates[chosen.job_id]
        for model, count in queued.items():
            self._paces.note(model, count, deferred=model in deferred, warm=placement.is_warm(model), now_s=now_s)


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
