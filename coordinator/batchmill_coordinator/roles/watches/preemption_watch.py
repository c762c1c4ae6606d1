"""The preemption watch: attempts of low priority make room for jobs of far higher priority.

1. Once a second it looks at the pools whose slots are all taken, reading no more stages than the dispatcher does.
2. If some of those that wait have a far higher priority than some that run, attempts are chosen
   (`scheduling.preemption`) and asked to end (`preempt.lua`). Their workers hear of it as they renew their leases, end
   after their current batch, save what is done and release the shard.
3. That wakes the dispatcher, which queues by priority as always.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from batchmill.jobs.job import JobState
from batchmill.jobs.job_log import LogEvent, LogLevel
from batchmill.ledger.views.index import Window
from batchmill_coordinator.roles.job_guard import JobGuard, apart
from batchmill_coordinator.scheduling.buffer_credit import within_limits
from batchmill_coordinator.scheduling.preemption import MAX_PREEMPTIONS, Victim, Waiting, to_preempt, victims_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchmill.ledger import Ledger
    from batchmill.ledger.formats.record import JobStage, StageKey
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.fleet.pools import PoolView
    from batchmill_coordinator.metering.counts import RoleMetrics
    from batchmill_coordinator.scheduling.tenant_quotas import TenantQuotas
    from batchmill_coordinator.scheduling.tenant_shares import TenantShares

log = logging.getLogger(__name__)

MAX_CANDIDATES = 16  # stages of a pool that wait and are considered, those whose turn is first


class PreemptionWatch:
    """Asks attempts to end. by: how much higher a priority has to be; 0: it does nothing."""

    name = "preemption watch"
    wakes_on: frozenset[str] = frozenset()
    period_s = 1.0

    def __init__(
        self,
        ledger: Ledger,
        fleet: FleetView,
        metrics: RoleMetrics,
        shares: TenantShares,
        by: int,
        quotas: TenantQuotas | None = None,
    ) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._metrics = metrics
        self._shares = shares
        self._by = by
        self._quotas = quotas
        self._guard = JobGuard(ledger, "it could not make room for another job")

    def step(self, epoch: int) -> None:
        """Look at every pool that is full."""
        in_flight = self._ledger.index.in_flight() if self._by else {}
        views = self._fleet.pools() if in_flight else {}
        self._guard.forget_all_but({job_id for keys in in_flight.values() for job_id, _ in keys})
        windows = {
            name: Window(view.capacity + view.window + MAX_CANDIDATES, view.operators)
            for name, view in views.items()
            if name in in_flight and view.capacity
        }
        if not windows:
            return
        due = self._ledger.index.due(windows, MAX_CANDIDATES)
        for name, flying in due.in_flight.items():
            ready = due.ready.get(name, [])
            keys = list(dict.fromkeys([*flying, *ready]))
            if len(keys) > 1 and sum(flying.values()) >= views[name].capacity:
                with apart(f"looking for what makes room in pool {name}"):
                    self._look(views[name], self._ledger.jobs.read_stages(keys), set(ready), due.now_ms, epoch)

    def _look(self, view: PoolView, stages: list[JobStage], ready: set[StageKey], now_ms: int, epoch: int) -> None:
        running = [one for one in stages if one.stage.shards_running]
        lowest = min((one.job.spec.priority for one in running), default=0)
        mixed = view.mixed
        used_up = self._quotas.used_up() if self._quotas else frozenset()
        urgent = [
            one
            for one in stages
            if one.job.state is JobState.RUNNING
            and one.job.spec.priority - lowest >= self._by
            and view.can_run(one.stage)
            and one.spec.operator not in mixed  # the slot that becomes free may be of a worker with another revision
            and one.job.tenant not in used_up
        ]
        waiting = list(self._waiting(urgent, ready, stages, view, now_ms)) if urgent else []
        if not waiting:
            return
        attempts = self._ledger.stragglers.running({one.key for one in running}).alone
        victims = [one for stage in running for one in victims_of(stage, attempts.get(stage.key, ()), now_ms)]
        coming = sum(one.is_preempted for found in attempts.values() for one in found)
        coming += max(0, view.capacity - sum(one.stage.shards_running for one in running))
        for victim, urgent_one in to_preempt(waiting, victims, coming, self._by):
            with self._guard.over(victim.ref.job_id):
                self._preempt(victim, urgent_one, epoch)

    def _waiting(
        self, urgent: list[JobStage], ready: set[StageKey], stages: Iterable[JobStage], view: PoolView, now_ms: int
    ) -> Iterable[Waiting]:
        """Of each stage, how many shards are queued, or may be as its limits and those of its tenant allow."""
        loads: dict[str, int] = {}
        for one in stages:
            loads[one.job.tenant] = loads.get(one.job.tenant, 0) + one.stage.shards_in_flight
        able = [one for one in urgent if one.key in ready]
        found = self._ledger.shards.to_queue_of(able, view.capacity, now_ms) if able else {}
        for one in sorted(urgent, key=lambda one: -one.job.spec.priority):
            shards = one.stage.shards_queued
            for _ in within_limits(one, found.get(one.key, [])):
                if self._shares.has_place(one.job.tenant, loads[one.job.tenant]):
                    shards, loads[one.job.tenant] = shards + 1, loads[one.job.tenant] + 1
            if shards:
                yield Waiting(one, shards)

    def _preempt(self, victim: Victim, urgent: Waiting, epoch: int) -> None:
        if not self._ledger.stragglers.preempt(victim.ref, epoch, MAX_PREEMPTIONS):
            return
        # Of the other job, which may be another tenant's, only the priority is named.
        whom = f"a job of priority {urgent.priority}"
        message = f"it makes room for {whom}, after its current batch; what is done of it is kept"
        log.info("attempt %s: %s", victim.ref.attempt_key, message)
        self._ledger.log.note(victim.ref.job_id, LogLevel.INFO, LogEvent.PREEMPTED, message, ref=victim.ref)
        self._metrics.preempted(victim.stage.spec)
