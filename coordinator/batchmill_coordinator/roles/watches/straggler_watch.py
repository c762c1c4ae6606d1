"""The straggler watch: runs shards a second time that hold up the end of a stage, in slots that are idle.

1. It looks for stages with nothing left but shards that run, in pools with several workers and free slots
   (`may_have_stragglers`).
2. Of those it reads since when their attempts run. One that is late, or that an idle device would finish much sooner
   (`stragglers_of`), becomes a straggler: its shard is queued again (`speculate.lua`) while it runs on. The ledger lets
   the first of the two commit, and the other one ends at its next batch.
3. The second attempt is one like any other: its lost message is published again by the recoverer, and it is retried. It
   is refused to the worker that has the straggler, each time for longer.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from batchmill.broker import queue_of
from batchmill.jobs.job_log import LogEvent, LogLevel
from batchmill.wording import duration
from batchmill_coordinator.fleet.device_paces import DevicePaces
from batchmill_coordinator.fleet.pools import EMPTY
from batchmill_coordinator.roles.job_guard import JobGuard, apart
from batchmill_coordinator.scheduling.model_demand import ModelNames
from batchmill_coordinator.scheduling.stragglers import DeviceTimes, may_have_stragglers, stragglers_of

if TYPE_CHECKING:
    from batchmill.ledger import Ledger
    from batchmill.ledger.formats.record import JobStage
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.fleet.pools import PoolView
    from batchmill_coordinator.metering.counts import RoleMetrics
    from batchmill_coordinator.scheduling.message_publisher import MessagePublisher
    from batchmill_coordinator.scheduling.stragglers import Lateness, Straggler
    from batchmill_coordinator.scheduling.tenant_quotas import TenantQuotas
    from batchmill_coordinator.scheduling.tenant_shares import TenantShares

log = logging.getLogger(__name__)


class StragglerWatch:
    """Queues shards a second time. With a factor of 0 it does nothing."""

    name = "straggler watch"
    wakes_on: frozenset[str] = frozenset()
    period_s = 1.0

    def __init__(
        self,
        ledger: Ledger,
        fleet: FleetView,
        publisher: MessagePublisher,
        metrics: RoleMetrics,
        shares: TenantShares,
        lateness: Lateness,
        quotas: TenantQuotas | None = None,
    ) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._publisher = publisher
        self._metrics = metrics
        self._shares = shares
        self._lateness = lateness
        self._paces = DevicePaces(ledger, fleet)
        self._names = ModelNames(fleet)
        self._quotas = quotas
        self._guard = JobGuard(ledger, "a straggler of it could not be run again")

    def step(self, epoch: int) -> None:
        """Look at every pool with free slots."""
        in_flight = self._ledger.index.in_flight() if self._lateness.factor else {}
        views = self._fleet.pools() if in_flight else {}
        self._guard.forget_all_but({job_id for keys in in_flight.values() for job_id, _ in keys})
        for name, keys in in_flight.items():
            view = views.get(name, EMPTY)
            # each stage has a shard in flight at least, and no worker is given what it runs itself
            if view.workers > 1 and len(keys) < view.capacity:
                with apart(f"looking for stragglers in pool {name}"):
                    self._look(name, view, self._ledger.jobs.read_stages(keys), epoch)

    def _look(self, name: str, view: PoolView, stages: list[JobStage], epoch: int) -> None:
        free = view.capacity - sum(one.stage.shards_in_flight + one.stage.stragglers for one in stages)
        used_up = self._quotas.used_up() if self._quotas else frozenset()
        ending = [
            one
            for one in stages
            if may_have_stragglers(one) and view.can_run(one.stage) and one.job.tenant not in used_up
        ]
        if free <= 0 or not ending:
            return
        running = self._ledger.stragglers.running({one.key for one in stages})
        models = self._names.of(ending)
        loads: dict[str, int] = {}
        for one in stages:
            loads[one.job.tenant] = loads.get(one.job.tenant, 0) + one.stage.shards_in_flight
        now_ms = self._ledger.now_ms()
        for one in ending:
            tenant, relative = one.job.tenant, self._paces.relative(one.spec, view)
            times = DeviceTimes.of(view, relative, running.of_worker, models[one.key])
            for straggler in stragglers_of(one, running.alone.get(one.key, ()), view, now_ms, self._lateness, times):
                if (
                    free <= 0
                    or self._guard.is_set_aside(one.job.id)
                    or not self._shares.has_place(tenant, loads[tenant])
                ):
                    break
                with self._guard.over(one.job.id):
                    self._run_again(one, straggler, name, epoch)
                free, loads[tenant] = free - 1, loads[tenant] + 1

    def _run_again(self, one: JobStage, straggler: Straggler, pool: str, epoch: int) -> None:
        ref, age_s, is_slow = straggler
        second = self._ledger.stragglers.speculate(ref, pool, epoch)
        if second is None:
            return
        why = "on a slow device while a faster one is idle" if is_slow else "far longer than expected"
        message = (
            f"it has run for {duration(age_s)}, {why}, and runs on another worker as well; the first to be done counts"
        )
        log.warning("attempt %s: %s", ref.attempt_key, message)
        self._ledger.log.note(ref.job_id, LogLevel.WARNING, LogEvent.STRAGGLED, message, ref=ref)
        stage_name = one.job.spec.name_in_chain(one.stage.number)
        self._publisher.publish(one.spec.operator, queue_of(pool), second, one.job.spec.name, stage_name)
        self._metrics.speculated(one.spec)
