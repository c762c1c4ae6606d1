"""How many workers a pool needs: enough to do what is left, and what arrives, in the pool's target time. Pure.

1. The workers that are there, and those that start, can do some work in the target time. If that is enough, only
   as many are wanted as the work needs.
2. Otherwise more are wanted, for what is missing: each of them works for the target time less its start. If the workers
   that are there are done before a new one has started, none is.
3. Jobs with deadlines may need more.
4. Work of tenants with a limit counts as far as the limit lets it run: each of their shards occupies one worker, so
   in the target time a limit of k shards lets k workers work. More than what the other work needs and all these limits
   together is never wanted, whatever a deadline or the time of a start asks for. A tenant that has used up its quota is
   limited to what it has in flight, on the workers that are there.
5. The maxima in machines and in money an hour come last.

The number goes up and down with the work; who starts and stops workers holds its largest value for as long as a start
takes (`batchmill.held_need`), since an idle worker may cost as much as a start. `benchmarks/scaling` compares this with
other policies. Times are seconds, and work is device time in seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batchmill.wording import count, duration

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_USEFUL_SHARE = 1 / 4
"""Of the target time: a worker is taken to work at least this long of it, however long its start takes."""
MAX_WORKERS = 100_000
"""No pool is said to need more; a deadline that has almost passed could ask for any number."""


@dataclass(frozen=True, slots=True)
class LimitedWork:
    """What is left of a tenant that may have up to `max_shards` in flight.

    work_s: in device time, as far as it is known. unknown_rows: rows of which it is not. open_sources: stages whose
    source has an unknown length.
    """

    max_shards: int
    work_s: float
    unknown_rows: int = 0
    open_sources: int = 0

    def __add__(self, other: LimitedWork) -> LimitedWork:
        return LimitedWork(
            self.max_shards + other.max_shards,
            self.work_s + other.work_s,
            self.unknown_rows + other.unknown_rows,
            self.open_sources + other.open_sources,
        )

    def scaled(self, factor: float) -> LimitedWork:
        """Return that many times as much, numbers rounded up."""
        return LimitedWork(
            math.ceil(self.max_shards * factor),
            self.work_s * factor,
            math.ceil(self.unknown_rows * factor),
            math.ceil(self.open_sources * factor),
        )


@dataclass(frozen=True, slots=True)
class PoolDemand:
    """What a pool has to do.

    work_s: what is left, as far as it is known. unknown_rows: rows left of which it is not.
    arriving: work that arrives in a second.
    is_active: whether anything is left or runs.
    open_sources: stages of which more may be left than is known, since their source has an unknown length.
    due: the work of each job with a deadline, by how long it is until that; negative: it has passed.
    limited: of the work, that of each tenant with a limit. free_due: of `due`, what has none.
    """

    work_s: float
    is_active: bool
    arriving: float = 0.0
    unknown_rows: int = 0
    open_sources: int = 0
    due: Sequence[tuple[float, float]] = ()
    limited: Sequence[LimitedWork] = ()
    free_due: Sequence[tuple[float, float]] = ()

    def held_s(self, target_s: float) -> float:
        """Return how much of the work no number of workers could do in that time, because of limits."""
        return sum(max(one.work_s - one.max_shards * target_s, 0.0) for one in self.limited)

    def free(self) -> PoolDemand:
        """Return what is left without the tenants that have limits."""
        work_s = max(self.work_s - sum(one.work_s for one in self.limited), 0.0)
        unknown_rows = max(self.unknown_rows - sum(one.unknown_rows for one in self.limited), 0)
        open_sources = max(self.open_sources - sum(one.open_sources for one in self.limited), 0)
        return replace(
            self,
            work_s=work_s,
            unknown_rows=unknown_rows,
            open_sources=open_sources,
            is_active=self.is_active and (work_s > 0 or unknown_rows > 0 or open_sources > 0),
            arriving=self.arriving * work_s / self.work_s if self.work_s > 0 else self.arriving,
            due=self.free_due,
            limited=(),
        )


@dataclass(frozen=True, slots=True)
class PoolSupply:
    """The workers of a pool.

    starting: for how long each of the workers that were wanted and are not there yet has been starting.
    start_s: how long a start takes, with the model. machine_workers: of one machine.
    price_per_hour: of a worker; 0: not known.
    leaving: more that are there, whose machines are about to end; they are counted in nothing else.
    """

    ready: int
    starting: Sequence[float] = ()
    start_s: float = 150.0
    machine_workers: int = 1
    price_per_hour: float = 0.0
    leaving: int = 0

    @property
    def total(self) -> int:
        """Those that are there and those that start."""
        return self.ready + len(self.starting)


@dataclass(frozen=True, slots=True)
class ScaleTarget:
    """What a pool should keep to. None: no such maximum. max_cost_per_hour: of all its workers."""

    target_s: float = 300.0
    max_machines: int | None = None
    max_cost_per_hour: float | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many workers are wanted, and why."""

    workers: int
    why: str


def workers_wanted(demand: PoolDemand, supply: PoolSupply, target: ScaleTarget) -> Wanted:
    """Return how many workers a pool needs now."""
    wanted = _needed(replace(demand, work_s=demand.work_s - demand.held_s(target.target_s)), supply, target)
    if demand.limited:
        most = _needed(demand.free(), supply, target).workers + sum(one.max_shards for one in demand.limited)
        if wanted.workers > most:
            wanted = Wanted(most, _why_limited(wanted, most, demand.held_s(target.target_s)))
    return _capped(_with_replacements(wanted, supply), supply, target)


def _why_limited(wanted: Wanted, most: int, held_s: float) -> str:
    if most == 0:
        what = f"{duration(held_s)} of device time" if held_s else "all that is left"
        return f"quotas of tenants hold {what} until the next period"
    workers = count(wanted.workers, "worker")
    return f"{wanted.why}: {workers}, but limits and quotas of tenants let no more than {most} work"


def _needed(demand: PoolDemand, supply: PoolSupply, target: ScaleTarget) -> Wanted:
    return _for_deadlines(demand, supply, target, _for_work(demand, supply, target.target_s))


def _with_replacements(wanted: Wanted, supply: PoolSupply) -> Wanted:
    """Want those on top that are there and about to leave: who counts workers counts them as well."""
    if not wanted.workers or not supply.leaving:
        return wanted
    return Wanted(wanted.workers + supply.leaving, f"{wanted.why}, and {supply.leaving} more that soon leave")


def drain_s(demand: PoolDemand, ready: int) -> float | None:
    """Return how long the workers that are there need for what is left; None if nobody knows."""
    if not demand.is_active:
        return 0.0
    return demand.work_s / ready if ready and not demand.unknown_rows and not demand.open_sources else None


def _for_work(demand: PoolDemand, supply: PoolSupply, target_s: float) -> Wanted:
    if not demand.is_active:
        return Wanted(0, "nothing is left to do")
    have, start_s = supply.total, supply.start_s
    can_s = supply.ready * target_s + sum(max(target_s - max(start_s - age, 0.0), 0.0) for age in supply.starting)
    todo_s = demand.work_s + demand.arriving * target_s
    left = f"{duration(demand.work_s)} of device time left"
    if demand.arriving * target_s > 0.05 * todo_s:
        left += f", {demand.arriving:.1f} s arriving a second"
    if todo_s <= can_s:
        return _kept(max(math.ceil(todo_s / target_s), 1), left, demand, have, target_s)
    if have and demand.work_s / have <= start_s:
        return Wanted(have, f"{left}: done before another worker would have started ({duration(start_s)})")
    missing = math.ceil((todo_s - can_s) / max(target_s - start_s, target_s * MIN_USEFUL_SHARE))
    return Wanted(min(have + missing, MAX_WORKERS), f"{left}, to be done in {duration(target_s)}")


def _kept(need: int, left: str, demand: PoolDemand, have: int, target_s: float) -> Wanted:
    """What is known needs `need` workers; no worker is given up while more may be left than is known."""
    if demand.unknown_rows and demand.work_s <= 0:
        return Wanted(max(need, have), f"what {count(demand.unknown_rows, 'row')} will take is not known yet")
    if have > need and (demand.unknown_rows or demand.open_sources):
        more = "a source has an unknown length" if demand.open_sources else "what some rows will take is not known yet"
        return Wanted(have, f"{left}, and {more}")
    return Wanted(need, f"{left}, to be done in {duration(target_s)}")


def _for_deadlines(demand: PoolDemand, supply: PoolSupply, target: ScaleTarget, wanted: Wanted) -> Wanted:
    """Raise the number to what the deadlines need: for each one, for the work of all jobs that are due by then."""
    total_s, most = 0.0, wanted
    for left_s, work_s in sorted(demand.due):
        total_s += work_s
        if left_s <= 0 or total_s <= 0:  # it has passed: the job ends, done or not
            continue
        useful_s = left_s - supply.start_s
        if useful_s <= 0 and total_s <= supply.ready * left_s:
            continue
        need = math.ceil(total_s / max(useful_s, min(left_s, target.target_s) * MIN_USEFUL_SHARE))
        if need > most.workers:
            most = Wanted(min(need, MAX_WORKERS), f"{duration(total_s)} of device time is due in {duration(left_s)}")
    return most


def _capped(wanted: Wanted, supply: PoolSupply, target: ScaleTarget) -> Wanted:
    if target.max_machines is not None:
        most = target.max_machines * supply.machine_workers
        if wanted.workers > most:
            machines = count(target.max_machines, "machine")
            wanted = Wanted(most, f"{wanted.why}: {wanted.workers} workers, but at most {machines}")
    if target.max_cost_per_hour is not None and supply.price_per_hour > 0:
        most = math.floor(target.max_cost_per_hour / supply.price_per_hour + 1e-9)
        if wanted.workers > most:
            money = f"{target.max_cost_per_hour:g} an hour"
            wanted = Wanted(most, f"{wanted.why}: {wanted.workers} workers, but {money} pays for {most}")
    return wanted
