"""The scaler: decides how many workers each pool needs, and keeps that in the ledger for all who ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.ledger.formats.work import PoolWork
from batchmill_coordinator.scheduling.scaling.decisions import (
    MAX_POOLS,
    PoolReading,
    decide,
    due_by_pool,
    kept_memories,
    pools_to_scale,
)
from batchmill_coordinator.scheduling.scaling.view import read_memories

if TYPE_CHECKING:
    from batchmill.fleet import PoolScale, WorkerInfo
    from batchmill.ledger import Ledger
    from batchmill_coordinator.scheduling.scaling.targets import PoolTargets

MAX_DEADLINES = 200  # jobs with the nearest deadlines that are looked at


class Scaler:
    """Decides for all pools, as the leader. What it remembers is in the ledger."""

    name = "scaler"
    wakes_on: frozenset[str] = frozenset()  # a start takes far longer than a period, and submissions may be many
    period_s = 2.0

    def __init__(self, ledger: Ledger, targets: PoolTargets) -> None:
        self._ledger = ledger
        self._targets = targets

    def step(self, epoch: int) -> None:
        """Decide for each pool that has workers or work, in a constant number of round trips."""
        ledger = self._ledger
        now_ms = ledger.now_ms()
        work, totals = ledger.overview.work(), ledger.costs.totals()
        records = ledger.jobs.read_many(ledger.index.with_deadlines(MAX_DEADLINES))
        due = due_by_pool(records, totals, now_ms / 1000)
        workers: dict[str, list[WorkerInfo]] = {}
        for worker in ledger.fleet.workers(now_ms):
            workers.setdefault(worker.pool, []).append(worker)
        memories = read_memories(ledger)
        decisions: dict[str, PoolScale] = {}
        for pool in pools_to_scale(work.pools, workers):
            reading = PoolReading(pool, work.pools.get(pool, PoolWork()), workers.get(pool, []), due.get(pool, []))
            decisions[pool], memories[pool] = decide(
                reading, totals, memories.get(pool), self._targets.of(pool), now_ms / 1000, self._targets.start_of(pool)
            )
        kept = kept_memories(memories, MAX_POOLS)
        ledger.scale.keep(epoch, decisions, {pool: memory.model_dump_json() for pool, memory in kept.items()})
