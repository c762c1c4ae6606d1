"""The dispatcher: keeps a short window of shards per pool queued in Celery, fair between jobs, near their models."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from batchmill.job import JobState
from batchmill_coordinator.scheduling.fairness import Candidate, next_job
from batchmill_coordinator.scheduling.model_demand import ModelNames, demands_of
from batchmill_coordinator.scheduling.pace import ModelPaces
from batchmill_coordinator.scheduling.placement import Placement, Where, queue_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchmill.ledger import JobRecord, Ledger
    from batchmill.shard import ShardId
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.fleet.pools import PoolView
    from batchmill_coordinator.metering.counts import RoleMeter
    from batchmill_coordinator.scheduling.publisher import Publisher

log = logging.getLogger(__name__)


class Dispatcher:
    """Queues shards: the ledger gives the token, then the message goes out.

    A crash between the two leaves a queued shard without a message; the recoverer publishes it again. Queued shards
    of a paused job are taken back, so that the window is there for the others.
    """

    name = "dispatcher"
    wakes_on = frozenset({"planned", "committed", "finished", "failed", "lost", "worker", "paused", "resumed"})
    period_s = 0.5

    def __init__(self, ledger: Ledger, fleet: FleetView, publisher: Publisher, meter: RoleMeter) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._publisher = publisher
        self._meter = meter
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
        room = pool.capacity + pool.window - sum(_in_flight(record) for record in records)
        able = [record for record in records if _has_more(record) and record.spec.operator in pool.operators]
        if room <= 0 or not able:
            return
        waiting = {record.id: self._ledger.shards.to_queue(record.id, room, now_ms) for record in able}
        models = self._names.of(records)
        due = {record.id for record in able if waiting[record.id]}
        demands = demands_of(records, due, models, self._paces, now_ms / 1000)
        for record, shard, where in self._choose(able, waiting, models, Placement(pool.seats, demands), room, now_ms):
            ref = self._ledger.shards.queue(record, *shard, epoch)
            if ref is not None:
                self._publisher.publish(record.spec.operator, queue_for(where, name, models[record.id]), ref)
                self._meter.dispatched(record.spec)

    def _choose(
        self,
        records: list[JobRecord],
        waiting: dict[str, list[tuple[int, ShardId]]],
        models: dict[str, str],
        placement: Placement,
        room: int,
        now_ms: int,
    ) -> Iterable[tuple[JobRecord, tuple[int, ShardId], Where]]:
        now_s = now_ms / 1000
        by_id = {record.id: record for record in records}
        candidates = {record.id: _candidate(record) for record in records if waiting[record.id]}
        queued = dict.fromkeys((models[job_id] for job_id in candidates), 0)
        held = set()
        while room > 0 and candidates:
            chosen = next_job(list(candidates.values()), now_s)
            model = models[chosen.job_id]
            where = placement.place(model)
            if where is Where.HOLD:
                held.add(model)
                candidates = {job_id: other for job_id, other in candidates.items() if models[job_id] != model}
                continue
            yield by_id[chosen.job_id], waiting[chosen.job_id].pop(0), where
            room, queued[model] = room - 1, queued[model] + 1
            candidates[chosen.job_id] = _after_its_turn(chosen, now_s)
            if not waiting[chosen.job_id]:
                del candidates[chosen.job_id]
        for model, count in queued.items():
            self._paces.note(model, count, held=model in held, warm=placement.is_warm(model), now_s=now_s)


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
