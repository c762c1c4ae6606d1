"""The dispatcher: keeps a short window of shards per pool queued in Celery, fair between jobs, near their models.

1. A step reads from the indexes, for each pool with workers, some stages with shards to queue and those that have
   shards in flight. However many jobs wait, it reads no more. It fills the pool's window: slots plus
   `PoolView.window`, less what is queued or running.
2. Tenants and their jobs take turns by priority, deadline and what they have in flight (`fairness.next_job`), one shard
   a turn. Of a job the latest stage goes first, and one whose results wait for the next stage makes no more than its
   buffer holds (`buffer_credit`).
3. `placement.ShardPlacement` says which queue the shard goes to, or defers it; then its model's other shards are
   deferred in this step too.
4. The ledger gives the shard its token, then the message is published. After a crash between the two the shard is
   queued without a message; the recoverer publishes it again.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from batchmill.jobs.job import JobState
from batchmill_coordinator.roles.job_guard import JobGuard, apart
from batchmill_coordinator.scheduling.buffer_credit import within_buffer
from batchmill_coordinator.scheduling.fairness import IDLE, Candidate, TenantLoad, latest_stages, next_job
from batchmill_coordinator.scheduling.model_demand import ModelNames, demands_of
from batchmill_coordinator.scheduling.pace import ModelPaces
from batchmill_coordinator.scheduling.placement import ShardPlacement, Target, queue_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchmill.jobs.shard import ShardId
    from batchmill.ledger import Ledger
    from batchmill.ledger.formats.record import JobStage, StageKey
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.fleet.pools import PoolView
    from batchmill_coordinator.metering.counts import RoleMetrics
    from batchmill_coordinator.scheduling.message_publisher import MessagePublisher

log = logging.getLogger(__name__)

MAX_CANDIDATES = 64  # stages of a pool that a step considers


class _Turns:
    """What each tenant has in a pool, counted on while a step queues shards."""

    def __init__(self, stages: Iterable[JobStage], now_s: float) -> None:
        self.now_s = now_s
        self.load: dict[str, TenantLoad] = {}
        for one in stages:
            known, queued_ms = self.load.get(one.job.tenant, IDLE), one.stage.last_queued_at
            queued_s = max(filter(None, [known.last_queued_s, queued_ms and queued_ms / 1000]), default=None)
            self.load[one.job.tenant] = TenantLoad(known.in_flight + one.stage.shards_in_flight, queued_s)

    def take(self, chosen: Candidate) -> None:
        """Count a shard that is queued now."""
        self.load[chosen.tenant] = self.load[chosen.tenant].after_its_turn(self.now_s)


class Dispatcher:
    """Queues shards. Those of a paused job that are queued are unqueued, so that the window is free for other jobs."""

    name = "dispatcher"
    wakes_on = frozenset(
        {"planned", "committed", "settled", "freed", "finished", "failed", "lost", "worker", "paused", "resumed"}
    )
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
        ledger, now_ms = self._ledger, self._ledger.now_ms()
        for one in ledger.jobs.read_stages(ledger.index.to_unqueue(MAX_CANDIDATES)):
            if not self._guard.is_set_aside(one.job.id):
                with self._guard.over(one.job.id):
                    ledger.jobs.unqueue_paused(one.job, one.stage, epoch)
        ledger.index.admit_retries(now_ms, MAX_CANDIDATES)
        pools = self._fleet.pools()
        in_flight = self._in_flight(pools)
        free = {name: pool.capacity + pool.window - _shards_in_flight(in_flight[name]) for name, pool in pools.items()}
        open_pools = {name: pools[name].operators for name, slots in free.items() if slots > 0}
        if not open_pools:
            return
        ready = ledger.index.ready(open_pools, MAX_CANDIDATES, free)
        for name, stages in _by_pool(ledger.jobs.read_stages(chain.from_iterable(ready.values()))).items():
            with apart(f"filling the window of pool {name}"):
                flying = {one.key: one for one in in_flight[name]}
                known = [*flying.values(), *(one for one in stages if one.key not in flying)]
                self._fill(name, pools[name], known, {one.key for one in stages}, now_ms, epoch)

    def _in_flight(self, pools: Iterable[str]) -> dict[str, list[JobStage]]:
        keys = self._ledger.index.in_flight()
        return {name: [] for name in pools} | _by_pool(
            self._ledger.jobs.read_stages(chain.from_iterable(keys.values()))
        )

    def _fill(
        self, name: str, pool: PoolView, stages: list[JobStage], ready: set[StageKey], now_ms: int, epoch: int
    ) -> None:
        """Queue shards of those of the stages that are ready; the others are those in flight."""
        free_slots = pool.capacity + pool.window - _shards_in_flight(stages)
        able = [one for one in stages if one.key in ready and self._is_able(one, pool)]
        if free_slots <= 0 or not able:
            return
        shards = self._ledger.shards
        waiting = shards.to_queue_of([one.key for one in able], free_slots, now_ms)
        for one in able:
            waiting[one.key] = within_buffer(one, waiting[one.key])
        models = self._names.of(stages)
        due = {one.key for one in able if waiting[one.key]}
        demands = demands_of(stages, due, models, self._paces, now_ms / 1000)
        turns = _Turns(stages, now_ms / 1000)
        for one, shard_id, target in self._choose(
            able, waiting, models, ShardPlacement(pool.members, demands), free_slots, turns
        ):
            with self._guard.over(one.job.id):
                ref = shards.queue(one.job.id, one.stage, shard_id, epoch)
                if ref is not None:
                    queue = queue_for(target, name, models[one.key])
                    self._publisher.publish(one.spec.operator, queue, ref, one.job.spec.name)
                    self._metrics.dispatched(one.spec)

    def _is_able(self, one: JobStage, pool: PoolView) -> bool:
        return _has_more(one) and pool.can_run(one.stage) and not self._guard.is_set_aside(one.job.id)

    def _choose(
        self,
        stages: list[JobStage],
        waiting: dict[StageKey, list[ShardId]],
        models: dict[StageKey, str],
        placement: ShardPlacement,
        free_slots: int,
        turns: _Turns,
    ) -> Iterable[tuple[JobStage, ShardId, Target]]:
        now_s = turns.now_s
        by_key = {one.key: one for one in stages}
        candidates = {one.key: _candidate(one) for one in stages if waiting[one.key]}
        queued = dict.fromkeys((models[key] for key in candidates), 0)
        deferred = set()
        while free_slots > 0 and candidates:
            chosen = next_job(latest_stages(candidates.values()), now_s, turns.load)
            key = chosen.key
            model = models[key]
            target = placement.place(model)
            if target is Target.DEFER:
                deferred.add(model)
                candidates = {key: other for key, other in candidates.items() if models[key] != model}
                continue
            yield by_key[key], waiting[key].pop(0), target
            free_slots, queued[model] = free_slots - 1, queued[model] + 1
            turns.take(chosen)
            candidates[key] = _after_its_turn(chosen, now_s)
            if not waiting[key]:
                del candidates[key]
        for model, count in queued.items():
            self._paces.note(model, count, deferred=model in deferred, warm=placement.is_warm(model), now_s=now_s)


def _by_pool(stages: Iterable[JobStage]) -> dict[str, list[JobStage]]:
    pools: dict[str, list[JobStage]] = defaultdict(list)
    for one in stages:
        pools[one.spec.pool].append(one)
    return pools


def _shards_in_flight(stages: Iterable[JobStage]) -> int:
    return sum(one.stage.shards_in_flight for one in stages)


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
        tenant=one.job.tenant,
    )


def _after_its_turn(candidate: Candidate, now_s: float) -> Candidate:
    return replace(candidate, waiting_since_s=now_s, in_flight=candidate.in_flight + 1)
