"""The scaler: decides how many workers each pool needs, and keeps that in the ledger for all who ask."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from batchmill.ledger.formats.work import PoolWork
from batchmill_coordinator.scheduling.scaling.decisions import (
    MAX_POOLS,
    PoolReading,
    decide,
    due_by_pool,
    kept_memories,
    limited_by_pool,
    pools_to_scale,
)
from batchmill_coordinator.scheduling.scaling.view import read_memories

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.fleet import PoolScale, WorkerInfo
    from batchmill.jobs.cost import Totals
    from batchmill.ledger import Ledger
    from batchmill_coordinator.scheduling.scaling.targets import PoolTargets
    from batchmill_coordinator.scheduling.scaling.workers_wanted import LimitedWork
    from batchmill_coordinator.scheduling.tenant_quotas import TenantQuotas
    from batchmill_coordinator.scheduling.tenant_shares import TenantShares

MAX_DEADLINES = 200  # jobs with the nearest deadlines that are looked at
MAX_JOBS = 400  # of all tenants with a limit, the newest of each, that are looked at
MAX_TENANTS = 50  # with a limit and live jobs whose work is looked at; that of others counts as if they had none


class Scaler:
    """Decides for all pools, as the leader. What it remembers is in the ledger."""

    name = "scaler"
    wakes_on: frozenset[str] = frozenset()  # a start takes far longer than a period, and submissions may be many
    period_s = 2.0

    def __init__(
        self, ledger: Ledger, targets: PoolTargets, shares: TenantShares, quotas: TenantQuotas | None = None
    ) -> None:
        self._ledger = ledger
        self._targets = targets
        self._shares = shares
        self._quotas = quotas

    def step(self, epoch: int) -> None:
        """Decide for each pool that has workers or work, in a bounded number of round trips."""
        ledger = self._ledger
        now_ms = ledger.now_ms()
        work, totals = ledger.overview.work(), ledger.costs.totals()
        records = ledger.jobs.read_many(ledger.index.with_deadlines(MAX_DEADLINES))
        due = due_by_pool(records, totals, now_ms / 1000)
        used_up = self._quotas.used_up() if self._quotas else frozenset()
        free = [one for one in records if one.tenant not in self._shares.most and one.tenant not in used_up]
        free_due = due_by_pool(free, totals, now_ms / 1000)
        workers: dict[str, list[WorkerInfo]] = {}
        for worker in ledger.fleet.workers(now_ms):
            workers.setdefault(worker.pool, []).append(worker)
        limited = self._limited(totals, used_up, workers)
        memories = read_memories(ledger)
        decisions: dict[str, PoolScale] = {}
        for pool in pools_to_scale(work.pools, workers):
            reading = PoolReading(
                *(pool, work.pools.get(pool, PoolWork()), workers.get(pool, []), due.get(pool, [])),
                limited=limited.get(pool, []),
                free_due=free_due.get(pool, []),
            )
            decisions[pool], memories[pool] = decide(
                reading, totals, memories.get(pool), self._targets.of(pool), now_ms / 1000, self._targets.start_of(pool)
            )
        kept = kept_memories(memories, MAX_POOLS)
        ledger.scale.keep(epoch, decisions, {pool: memory.model_dump_json() for pool, memory in kept.items()})

    def _limited(
        self, totals: Totals, used_up: frozenset[str], workers: Mapping[str, Sequence[WorkerInfo]]
    ) -> dict[str, list[LimitedWork]]:
        """Read what is left of the tenants whose shards in flight are limited, or that have used up their quotas."""
        ledger = self._ledger
        named = [*sorted(used_up), *sorted(self._shares.most.keys() - used_up)]
        numbers = {tenant: number for tenant, number in ledger.tenants.count_live(named).items() if number}
        tenants = list(numbers)[:MAX_TENANTS]
        live = {tenant: ledger.tenants.live_ids(tenant, MAX_JOBS // len(tenants)) for tenant in tenants}
        records = {record.id: record for record in ledger.jobs.read_many(list(chain.from_iterable(live.values())))}
        jobs = {}
        for tenant, job_ids in live.items():
            found = [records[job_id] for job_id in job_ids if job_id in records]
            if found:
                jobs[tenant] = max(numbers[tenant], len(found)), found
        present = {pool: len(found) for pool, found in workers.items()}
        return limited_by_pool(jobs, totals, self._shares.most, used_up, present)
