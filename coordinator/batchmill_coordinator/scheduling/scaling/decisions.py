"""A pool's decision, from the ledger's sums, the fleet, and what was remembered. Pure."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from batchmill.fleet import PoolScale
from batchmill.jobs.cost import Spent, Totals
from batchmill.jobs.stages import FIRST_STAGE
from batchmill.ledger.formats.work import PoolWork
from batchmill_coordinator.scheduling.scaling.memory import (
    ScaleMemory,
    StartTime,
    noted_need,
    noted_work,
    noted_workers,
)
from batchmill_coordinator.scheduling.scaling.usage import noted_usage
from batchmill_coordinator.scheduling.scaling.workers_wanted import (
    LimitedWork,
    PoolDemand,
    PoolSupply,
    drain_s,
    workers_wanted,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from batchmill.fleet import WorkerInfo
    from batchmill.ledger import JobRecord
    from batchmill_coordinator.scheduling.scaling.usage import DayUsage
    from batchmill_coordinator.scheduling.scaling.workers_wanted import ScaleTarget

US = 1_000_000
NO_WORK = LimitedWork(0, 0.0)
MEASURED = StartTime()
MAX_POOLS = 200
"""At most that many pools are scaled; users name pools, so there may be any number."""


@dataclass(frozen=True, slots=True)
class PoolReading:
    """What was read of a pool: its work, its workers, and its jobs with deadlines as in `PoolDemand.due`.

    limited, free_due: as in `PoolDemand`.
    """

    pool: str
    work: PoolWork
    workers: Sequence[WorkerInfo]
    due: Sequence[tuple[float, float]] = ()
    limited: Sequence[LimitedWork] = ()
    free_due: Sequence[tuple[float, float]] = ()


def decide(
    reading: PoolReading,
    totals: Totals,
    before: ScaleMemory | None,
    target: ScaleTarget,
    now_s: float,
    start: StartTime = MEASURED,
) -> tuple[PoolScale, ScaleMemory]:
    """Decide how many workers a pool needs; return that, and the memory for the next decision.

    totals: what operators cost so far. start: what is known in advance of how long a start takes.
    """
    demand, spent_s = _demand(reading, totals)
    memory = noted_work(before, spent_s, demand.work_s, now_s).model_copy(update={"start": start})
    staying = sum(worker.leaves_at is None for worker in reading.workers)
    memory = _with_workers(noted_workers(memory, staying, now_s), reading.workers)
    demand = replace(demand, arriving=memory.arriving)
    supply = PoolSupply(
        ready=staying,
        leaving=len(reading.workers) - staying,
        starting=memory.ages(now_s),
        start_s=memory.usual_start_s,
        machine_workers=memory.machine_workers,
        price_per_hour=memory.price_per_hour,
    )
    wanted = workers_wanted(demand, supply, target)
    left_s = drain_s(demand, supply.ready)
    scale = PoolScale(
        pool=reading.pool,
        workers_wanted=wanted.workers,
        workers=len(reading.workers),
        starting=len(supply.starting),
        machine_workers=supply.machine_workers,
        machines_wanted=math.ceil(wanted.workers / supply.machine_workers),
        held_s=round(demand.held_s(target.target_s), 3),
        drain_s=None if left_s is None else round(left_s, 3),
        start_s=round(supply.start_s, 3),
        target_s=target.target_s,
        why=wanted.why,
    )
    memory = noted_need(memory, max(wanted.workers - supply.leaving, 0), now_s)
    return scale, memory.model_copy(
        update={"spent_s": spent_s, "days": _days(before, memory, spent_s, now_s, len(reading.workers))}
    )


def _days(
    before: ScaleMemory | None, memory: ScaleMemory, spent_s: float, now_s: float, present: int
) -> tuple[DayUsage, ...]:
    """Add the time since the decision before to the sums of the day."""
    if before is None:
        return ()
    return noted_usage(
        before.days,
        now_s,
        now_s - before.at_s,
        present=present,
        wanted=memory.needs[0][1],
        busy_s=spent_s - before.spent_s,
        price=memory.price_per_hour,
    )


def pools_to_scale(work: Mapping[str, PoolWork], with_workers: Collection[str], limit: int = MAX_POOLS) -> list[str]:
    """Choose at most `limit` pools: those with workers first, then those with the most to do, whatever their names."""
    others = sorted(work.keys() - set(with_workers), key=lambda pool: (*_amount(work[pool]), pool))
    return [*sorted(with_workers), *others][:limit]


def has_work(work: PoolWork) -> bool:
    """Return whether a pool has anything to do, or may soon."""
    return work.rows > 0 or work.shards > 0 or work.shards_running > 0 or work.open_sources > 0


def _amount(work: PoolWork) -> tuple[bool, int, int, int]:
    """Order pools by this: what may run and is largest comes first."""
    return (not has_work(work), -work.expected_us, -work.rows, -work.shards)


def idle_scale(pool: str, target: ScaleTarget) -> PoolScale:
    """Return the decision for a pool that has neither workers nor work."""
    nothing = PoolReading(pool, PoolWork(), ())
    return decide(nothing, Totals({}, {}, {}), None, target, now_s=0.0)[0]


def left_by_pool(record: JobRecord, totals: Totals) -> dict[str, LimitedWork]:
    """Return by pool what a job has left, as if no more may be in flight than is."""
    left: dict[str, LimitedWork] = {}
    for number, stage in enumerate(record.stages):
        pool = stage.spec.pool
        pace = row_s(stage.cost) or row_s(totals.operators.get((pool, stage.spec.operator), Spent()))
        rows = stage.rows_left + (0 if stage.planned else stage.lag or 0)
        is_open = number == FIRST_STAGE and not stage.planned and stage.rows_total is None and stage.lag is None
        work = LimitedWork(stage.shards_in_flight, rows * (pace or 0.0), 0 if pace else rows, int(is_open))
        left[pool] = left.get(pool, NO_WORK) + work
    return left


def due_by_pool(records: Iterable[JobRecord], totals: Totals, now_s: float) -> dict[str, list[tuple[float, float]]]:
    """Return by pool how long it is until each deadline, and the device time that its job has left, seconds."""
    due: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        if record.spec.deadline_at is None or record.paused_at is not None:
            continue
        for pool, work in left_by_pool(record, totals).items():
            due.setdefault(pool, []).append((record.spec.deadline_at - now_s, work.work_s))
    return due


def limited_by_pool(
    jobs: Mapping[str, tuple[int, Sequence[JobRecord]]],
    totals: Totals,
    max_shards: Mapping[str, int],
    used_up: Collection[str],
    present: Mapping[str, int],
) -> dict[str, list[LimitedWork]]:
    """Return by pool what is left of the tenants with limits, and of those that have used up their quotas.

    jobs: by tenant, how many of its jobs live, and the records of some of them. If they are not all, the others are
    taken to be like these. Of a tenant in `used_up` only what is in flight may still run, for which no more workers are
    worth a start than are `present` in the pool.
    """
    limited: dict[str, list[LimitedWork]] = {}
    for tenant, (number, records) in jobs.items():
        left: dict[str, LimitedWork] = {}
        found = (left_by_pool(record, totals) for record in records if record.state.takes_shards)
        for pool, work in chain.from_iterable(one.items() for one in found):
            left[pool] = left.get(pool, NO_WORK) + work
        for pool, work in left.items():
            of_all = work.scaled(number / len(records))
            flying = min(of_all.max_shards, max(present.get(pool, 0), 1))
            most = flying if tenant in used_up else max_shards[tenant]
            limited.setdefault(pool, []).append(replace(of_all, max_shards=most))
    return limited


def row_s(spent: Spent) -> float | None:
    """Return what a row took of device time, loads of models left out, seconds; None without rows."""
    return (spent.us.total - spent.us.load) / US / spent.rows if spent.rows else None


def _demand(reading: PoolReading, totals: Totals) -> tuple[PoolDemand, float]:
    """Return what a pool has to do, without what arrives; and the device time it has spent so far, seconds."""
    work = reading.work
    own = {operator: spent for (pool, operator), spent in totals.operators.items() if pool == reading.pool}
    work_s, unknown = work.expected_us / US, 0
    for operator, rows in work.unpaced.items():
        pace = row_s(own.get(operator, Spent()))
        if pace is None:
            unknown += rows
        else:
            work_s += rows * pace
    spent_s = sum(spent.us.total - spent.us.load for spent in own.values()) / US
    held = [one for one in reading.limited if not one.max_shards]  # nothing of it runs, so it teaches nothing either
    demand = PoolDemand(
        work_s=work_s,
        is_active=work.rows > 0 or work.shards > 0 or work.shards_running > 0,
        unknown_rows=max(unknown - sum(one.unknown_rows for one in held), 0),
        open_sources=max(work.open_sources - sum(one.open_sources for one in held), 0),
        due=reading.due,
        limited=reading.limited,
        free_due=reading.free_due,
    )
    return demand, spent_s


def _with_workers(memory: ScaleMemory, workers: Sequence[WorkerInfo]) -> ScaleMemory:
    """Remember what the workers are like, for when none is there."""
    if not workers:
        return memory
    machines = Counter(_supervisor(worker.name) for worker in workers)
    prices = [worker.price_per_hour for worker in workers]
    return memory.model_copy(
        update={
            "machine_workers": max(machines.values()),
            "price_per_hour": sum(prices) / len(prices),
            "load_s": max((worker.load_s for worker in workers), default=0.0) or memory.load_s,
        }
    )


def _supervisor(worker: str) -> str:
    """Name the supervisor of a worker: what follows its device in its name, `gpu0@host-pid`."""
    return worker.partition("@")[2]


def kept_memories(memories: Mapping[str, ScaleMemory], limit: int) -> dict[str, ScaleMemory]:
    """Keep the memories of at most `limit` pools, those that were noted last."""
    latest = sorted(memories.items(), key=lambda item: item[1].at_s, reverse=True)
    return dict(latest[:limit])
