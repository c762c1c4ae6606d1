"""The dispatcher: keeps a short window of shards per pool queued in Celery, fair between jobs, near their models.

1. A step asks the ledger what is due: of each pool whose window has room, some stages with shards to queue, and those
   that have shards in flight. The window is the pool's slots and `PoolView.window`, beyond the slots for short shards
   only (`lookahead`). However many jobs wait, it reads no more; and of those that wait for their first turn, each only
   once in a while (`_Untouched`).
2. Tenants and their jobs take turns by priority, deadline and what they have in flight (`fairness.next_job`), one shard
   a turn, as far as the weights, limits and quotas of tenants allow (`tenant_shares`, `tenant_quotas`).
   Of a job the latest stage goes first, and one whose results wait for the next stage makes no more than its buffer
   holds (`buffer_credit`).
3. `placement.ShardPlacement` says which queue the shard goes to, or defers it; then its model's other shards are
   deferred in this step too.
   A stage that is indexed as ready and has nothing to queue gets its entries anew: its retries were due by a clock that
   was ahead.
4. The ledger gives the shard its token, then the message is published. After a crash between the two the shard is
   queued without a message; the recoverer publishes it again.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from batchmill.caches import Lru
from batchmill.jobs.job import JobState
from batchmill.ledger.views.index import Window
from batchmill_coordinator.roles.job_guard import JobGuard, apart
from batchmill_coordinator.scheduling.buffer_credit import within_limits
from batchmill_coordinator.scheduling.fairness import IDLE, Candidate, TenantLoad, latest_stages, next_job
from batchmill_coordinator.scheduling.lookahead import Room
from batchmill_coordinator.scheduling.model_demand import ModelNames, demands_of
from batchmill_coordinator.scheduling.pace import ModelPaces
from batchmill_coordinator.scheduling.placement import ShardPlacement, Target, queue_for
from batchmill_coordinator.scheduling.tenant_shares import UNKNOWN_SHARD_S, TenantShares, VirtualTimes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from batchmill.jobs.shard import ShardId
    from batchmill.ledger import Ledger
    from batchmill.ledger.formats.record import JobStage, StageKey
    from batchmill.ledger.views.index import Due
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.fleet.pools import PoolView
    from batchmill_coordinator.metering.counts import RoleMetrics
    from batchmill_coordinator.scheduling.message_publisher import MessagePublisher
    from batchmill_coordinator.scheduling.tenant_quotas import TenantQuotas

log = logging.getLogger(__name__)

NO_SHARES = TenantShares()
MAX_POOLS = 1024  # whose tenants' virtual times are kept
MAX_CANDIDATES = 64  # stages of a pool that a step considers
MAX_SEEN = 1024
MAX_AGE_MS = 1000


class _Turns:
    """What each tenant has in a pool, counted on while a step queues shards."""

    def __init__(self, stages: Iterable[JobStage], now_s: float, shares: TenantShares, times: VirtualTimes) -> None:
        self.now_s = now_s
        self._shares = shares
        self._times = times
        self.load: dict[str, TenantLoad] = {}
        for one in stages:
            known, queued_ms = self.load.get(one.job.tenant, IDLE), one.stage.last_queued_at
            queued_s = max(filter(None, [known.last_queued_s, queued_ms and queued_ms / 1000]), default=None)
            in_flight, turn_at = known.in_flight + one.stage.shards_in_flight, times.start_of(one.job.tenant)
            self.load[one.job.tenant] = TenantLoad(in_flight, queued_s, turn_at)

    def has_place(self, tenant: str) -> bool:
        """Return whether the tenant may have one more shard in flight."""
        return self._shares.has_place(tenant, self.load[tenant].in_flight)

    def take(self, chosen: Candidate) -> None:
        """Count a shard that is queued now."""
        self._times.take(chosen.tenant, chosen.shard_s)
        turn_at = self._times.start_of(chosen.tenant)
        self.load[chosen.tenant] = self.load[chosen.tenant].after_its_turn(self.now_s, turn_at)


class _Untouched:
    """Stages of which nothing was ever queued, as they were read at most `MAX_AGE_MS` ago.

    A pool with many small jobs is looked at again for each shard that ends. Of a stage that waits for its first turn
    nothing changes meanwhile that the ledger does not check when a shard of it is queued.
    """

    def __init__(self) -> None:
        self._stages: Lru[StageKey, tuple[JobStage, int]] = Lru(MAX_SEEN)

    def get(self, key: StageKey, now_ms: int) -> JobStage | None:
        """The stage; None if it must be read."""
        found = self._stages.get(key)
        return found[0] if found is not None and 0 <= now_ms - found[1] < MAX_AGE_MS else None

    def keep(self, stages: Iterable[JobStage], now_ms: int) -> None:
        """Keep those that nothing was queued of."""
        for one in stages:
            if one.is_untouched:
                self._stages.put(one.key, (one, now_ms))

    def drop(self, key: StageKey) -> None:
        """Read it next time."""
        self._stages.pop(key)


class Dispatcher:
    """Queues shards. Those of a paused job that are queued are unqueued, so that the window is free for other jobs."""

    name = "dispatcher"
    wakes_on = frozenset(
        {"planned", "committed", "settled", "freed", "finished", "failed", "lost", "worker", "paused", "resumed"}
    )
    period_s = 0.5

    def __init__(
        self,
        ledger: Ledger,
        fleet: FleetView,
        publisher: MessagePublisher,
        metrics: RoleMetrics,
        shares: TenantShares = NO_SHARES,
        quotas: TenantQuotas | None = None,
    ) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._publisher = publisher
        self._metrics = metrics
        self._names = ModelNames(fleet)
        self._paces = ModelPaces()
        self._seen = _Untouched()
        self._shares = shares
        self._quotas = quotas
        self._times: Lru[str, VirtualTimes] = Lru(MAX_POOLS)
        self._guard = JobGuard(ledger, "its shards could not be queued")

    def step(self, epoch: int) -> None:
        """Fill every pool's window."""
        pools = self._fleet.pools()
        windows = {name: Window(pool.capacity + pool.window, pool.operators) for name, pool in pools.items()}
        due = self._ledger.index.due(windows, MAX_CANDIDATES)
        if due.unqueue:
            self._unqueue(due.unqueue, epoch)
            due = self._ledger.index.due(windows, MAX_CANDIDATES)
        used_up = self._quotas.used_up() if self._quotas else frozenset()
        known = self._read(due) if due.ready else {}
        for name, ready in due.ready.items():
            with apart(f"filling the window of pool {name}"):
                flying = due.in_flight.get(name, {})
                stages = [known[key] for key in dict.fromkeys([*flying, *ready]) if key in known]
                room = Room.beside(pools[name], sum(flying.values()))
                able = {one.key for one in stages if one.job.tenant not in used_up} & set(ready)
                self._fill(name, pools[name], stages, able, room, due.now_ms, epoch)

    def _unqueue(self, keys: Sequence[StageKey], epoch: int) -> None:
        for one in self._ledger.jobs.read_stages(keys):
            if not self._guard.is_set_aside(one.job.id):
                with self._guard.over(one.job.id):
                    self._ledger.jobs.unqueue_paused(one.job, one.stage, epoch)

    def _read(self, due: Due) -> dict[StageKey, JobStage]:
        """The stages that are ready, and those in flight beside them."""
        flying = list(chain.from_iterable(due.in_flight.get(pool, ()) for pool in due.ready))
        ready = set(chain.from_iterable(due.ready.values())) - set(flying)
        fresh = {key: one for key in ready if (one := self._seen.get(key, due.now_ms)) is not None}
        read = {one.key: one for one in self._ledger.jobs.read_stages([*flying, *sorted(ready - fresh.keys())])}
        self._seen.keep(read.values(), due.now_ms)
        return fresh | read

    def _fill(
        self,
        name: str,
        pool: PoolView,
        stages: list[JobStage],
        ready: set[StageKey],
        room: Room,
        now_ms: int,
        epoch: int,
    ) -> None:
        """Queue shards of those of the stages that are ready; the others are those in flight."""
        times = self._times.get_or_make(name, lambda: VirtualTimes(self._shares))
        turns = _Turns(stages, now_ms / 1000, self._shares, times)
        able = [
            one
            for one in stages
            if one.key in ready
            and self._is_able(one, pool)
            and room.has_place_for(one)
            and turns.has_place(one.job.tenant)
        ]
        if not able:
            return
        shards = self._ledger.shards
        waiting = shards.to_queue_of(able, room.shards, now_ms)
        self._ledger.index.rebuild({one.job.id for one in able if not waiting[one.key]})
        for one in able:
            waiting[one.key] = within_limits(one, waiting[one.key])
        models = self._names.of(stages)
        due = {one.key for one in able if waiting[one.key]}
        demands = demands_of(stages, due, models, self._paces, now_ms / 1000)
        for one, shard_id, target in self._choose(
            able, waiting, models, ShardPlacement(pool.members, demands), room, turns
        ):
            with self._guard.over(one.job.id):
                ref = shards.queue(one.job.id, one.stage, shard_id, epoch)
                self._seen.drop(one.key)
                if ref is not None:
                    queue = queue_for(target, name, models[one.key])
                    spec = one.job.spec
                    stage_name = spec.name_in_chain(one.stage.number)
                    self._publisher.publish(one.spec.operator, queue, ref, spec.name, stage_name)
                    self._metrics.dispatched(one.spec)

    def _is_able(self, one: JobStage, pool: PoolView) -> bool:
        return _has_more(one) and pool.can_run(one.stage) and not self._guard.is_set_aside(one.job.id)

    def _choose(
        self,
        stages: list[JobStage],
        waiting: dict[StageKey, list[ShardId]],
        models: dict[StageKey, str],
        placement: ShardPlacement,
        room: Room,
        turns: _Turns,
    ) -> Iterable[tuple[JobStage, ShardId, Target]]:
        now_s = turns.now_s
        by_key = {one.key: one for one in stages}
        candidates = {one.key: _candidate(one) for one in stages if waiting[one.key]}
        queued = dict.fromkeys((models[key] for key in candidates), 0)
        deferred = set()
        while candidates := {
            key: one
            for key, one in candidates.items()
            if room.has_place_for(by_key[key]) and turns.has_place(one.tenant)
        }:
            chosen = next_job(latest_stages(candidates.values()), now_s, turns.load)
            key = chosen.key
            model = models[key]
            target = placement.place(model)
            if target is Target.DEFER:
                deferred.add(model)
                candidates = {key: other for key, other in candidates.items() if models[key] != model}
                continue
            yield by_key[key], waiting[key].pop(0), target
            room, queued[model] = room.after_one(), queued[model] + 1
            turns.take(chosen)
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
        tenant=one.job.tenant,
        shard_s=one.busy_us / 1e6 / one.stage.shards_done if one.stage.shards_done else UNKNOWN_SHARD_S,
    )


def _after_its_turn(candidate: Candidate, now_s: float) -> Candidate:
    return replace(candidate, waiting_since_s=now_s, in_flight=candidate.in_flight + 1)
