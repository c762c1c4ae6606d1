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
from batchmill.ledger.record import stages_of_jobs
from batchmill_coordinator.roles.job_guard import JobGuard, apart
from batchmill_coordinator.scheduling.fairness import Candidate, next_job
from batchmill_coordinator.scheduling.model_demand import ModelNames, demands_of
from batchmill_coordinator.scheduling.pace import ModelPaces
from batchmill_coordinator.scheduling.placement import ShardPlacement, Target, queue_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchmill.ledger import Ledger
    from batchmill.ledger.record import JobStage, StageKey
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
        self._guard = JobGuard(ledger, "its shards could not be queued")

    def step(self, epoch: int) -> None:
        """Fill every pool's window."""
        by_pool: dict[str, list[JobStage]] = defaultdict(list)
        for one in stages_of_jobs(self._ledger.jobs.live()):
            if self._guard.is_set_aside(one.job.id):
                continue
            if one.job.state is JobState.PAUSED and one.stage.shards_queued > 0:
                with self._guard.over(one.job.id):
                    self._ledger.jobs.unqueue_paused(one.job, one.stage, epoch)
            by_pool[one.spec.pool].append(one)
        if not any(_has_more(one) for stages in by_pool.values() for one in stages):
            return
        now_ms = self._ledger.now_ms()
        pools = self._fleet.pools()
        for name in by_pool.keys() & pools.keys():
            with apart(f"filling the window of pool {name}"):
                self._fill(name, pools[name], by_pool[name], now_ms, epoch)

    def _fill(self, name: str, pool: PoolView, stages: list[JobStage], now_ms: int, epoch: int) -> None:
        free_slots = pool.capacity + pool.window - sum(one.stage.shards_in_flight for one in stages)
        able = [one for one in stages if _has_more(one) and pool.can_run(one.stage)]
        if free_slots <= 0 or not able:
            return
        shards = self._ledger.shards
        waiting: dict[StageKey, list[ShardId]] = {one.key: [] for one in able}
        for one in able:
            with self._guard.over(one.job.id):
                waiting[one.key] = shards.to_queue(one.job.id, one.stage.number, free_slots, now_ms)
        models = self._names.of(stages)
        due = {one.key for one in able if waiting[one.key]}
        demands = demands_of(stages, due, models, self._paces, now_ms / 1000)
        for one, shard_id, target in self._choose(
            able, waiting, models, ShardPlacement(pool.members, demands), free_slots, now_ms
        ):
            with self._guard.over(one.job.id):
                ref = shards.queue(one.job.id, one.stage, shard_id, epoch)
                if ref is not None:
                    self._publisher.publish(one.spec.operator, queue_for(target, name, models[one.key]), ref)
                    self._metrics.dispatched(one.spec)

    def _choose(
        self,
        stages: list[JobStage],
        waiting: dict[StageKey, list[ShardId]],
        models: dict[StageKey, str],
        placement: ShardPlacement,
        free_slots: int,
        now_ms: int,
    ) -> Iterable[tuple[JobStage, ShardId, Target]]:
        now_s = now_ms / 1000
        by_key = {one.key: one for one in stages}
        candidates = {one.key: _candidate(one) for one in stages if waiting[one.key]}
        queued = dict.fromkeys((models[key] for key in candidates), 0)
        deferred = set()
        while free_slots > 0 and candidates:
            chosen = next_job(list(candidates.values()), now_s)
            key = chosen.key
            model = models[key]
            target = placement.place(model)
            if target is Target.DEFER:
                deferred.add(model)
                candidates = {key: other for key, other in candidates.items() if models[key] != model}
                continue
            yield by_key[key], waiting[key].pop(0), target
            free_slots, queued[model] = free_slots - 1, queued[model] + 1
            candidates[key] = _after_its_turn(chosen, now_s)
            if not waiting[key]:
                del candidates[key]
        for model, count in queued.items():
            self._paces.note(model, count, deferred=model in deferred, warm=placement.is_warm(model), now_s=now_s)


def _has_more(one: JobStage) -> bool:
    return one.job.state is JobState.RUNNING and one.stage.shards_live > one.stage.shards_in_flight


def _candidate(one: JobStage) -> Candidate:
    return Candidate(
        job_id=one.job.id,
        stage=one.stage.number,
        priority=one.job.spec.priority,
        created_at_s=one.job.created_at / 1000,
        waiting_since_s=one.waiting_since_ms / 1000,
        in_flight=one.stage.shards_in_flight,
        deadline_at_s=one.job.spec.deadline_at,
    )


def _after_its_turn(candidate: Candidate, now_s: float) -> Candidate:
    return replace(candidate, waiting_since_s=now_s, in_flight=candidate.in_flight + 1)
