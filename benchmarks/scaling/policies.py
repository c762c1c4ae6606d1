"""Scaling policies: Batchmill's own functions, and what others scale by."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchmill.fleet import WorkerInfo
from batchmill.held_need import HeldNeed
from batchmill.jobs.cost import Parts, Spent, Totals
from batchmill.ledger.formats.work import PoolWork
from batchmill_coordinator.scheduling.scaling.decisions import PoolReading, decide
from batchmill_coordinator.scheduling.scaling.memory import StartTime
from batchmill_coordinator.scheduling.scaling.workers_wanted import (
    PoolDemand,
    PoolSupply,
    ScaleTarget,
    workers_wanted,
)

if TYPE_CHECKING:
    from batchmill_coordinator.scheduling.scaling.memory import ScaleMemory
    from benchmarks.scaling.simulation import Seen

MANY = 64


class DrainTime:
    """`workers_wanted` with the starts that the cluster knows of, and its number held for `hold` starts.

    pace: a factor on what work is predicted to take.
    """

    def __init__(self, target_s: float, start_s: float, *, hold: float = 1.0, pace: float = 1.0) -> None:
        self._target = ScaleTarget(target_s)
        self._start_s = start_s
        self._hold_s = hold * start_s
        self._pace = pace
        self._held = HeldNeed()

    def __call__(self, seen: Seen) -> float:
        """Decide."""
        work_s = seen.work_s * self._pace
        demand = PoolDemand(work_s, is_active=work_s > 0 or seen.running > 0, arriving=seen.arriving)
        supply = PoolSupply(seen.ready, seen.starting, self._start_s)
        return self._held.note(workers_wanted(demand, supply, self._target).workers, seen.now, self._hold_s)


class Scaler:
    """All that the leader does: starts and arrivals are what it remembers, and how long a start takes is measured."""

    def __init__(self, target_s: float, start_s: float, *, hold: bool = True) -> None:
        self._target = ScaleTarget(target_s)
        self._start = StartTime(assumed_s=start_s)
        self._holds = hold
        self._held = HeldNeed()
        self._memory: ScaleMemory | None = None
        self._workers = [
            WorkerInfo(
                name=f"gpu0@host-{n}", pool="gpu", device="cuda:0", operators=["echo"], shards_at_once=2, pid=n,
                started_at=0.0,
            )
            for n in range(MANY)
        ]  # fmt: skip

    def __call__(self, seen: Seen) -> float:
        """Decide."""
        work = PoolWork(rows=seen.waiting + seen.running, expected_us=int(seen.work_s * 1e6))
        spent = {("gpu", "echo"): Spent(Parts(useful=int(seen.spent_s * 1e6)), rows=1)}
        reading = PoolReading("gpu", work, self._workers[: seen.ready])
        scale, self._memory = decide(reading, Totals({}, spent, {}), self._memory, self._target, seen.now, self._start)
        held = self._held.note(scale.workers_wanted, seen.now, scale.start_s)
        return held if self._holds else scale.workers_wanted


@dataclass
class Fixed:
    """The same number at all times."""

    number: int

    def __call__(self, seen: Seen) -> float:  # noqa: ARG002  # as every policy
        """Decide."""
        return self.number


@dataclass
class PerTask:
    """A worker for each `per` tasks that are waiting (in a Celery list), in flight, or planned."""

    per: float
    what: str = "in flight"

    def __call__(self, seen: Seen) -> float:
        """Decide."""
        tasks = {"waiting": seen.waiting, "in flight": seen.waiting + seen.running, "planned": seen.visible}
        return tasks[self.what] / self.per


@dataclass
class IdleTimeout:
    """As KubeRay: up with the demand, at most doubling, or by 5; down by each worker that was idle for `idle_s`."""

    idle_s: float = 60.0
    picks_idle: bool = True

    def __call__(self, seen: Seen) -> float:
        """Decide."""
        have, demand = seen.ready + len(seen.starting), seen.waiting + seen.running
        if demand > have:
            return min(demand, have + max(have, 5))
        return have - sum(seen.now - since >= self.idle_s for since in seen.idle_since)


def directly(wanted: float, have: int, now: float) -> int:  # noqa: ARG001  # as everything that applies a number
    """Apply the number as it is."""
    return math.ceil(wanted - 1e-9)


@dataclass
class Kubernetes:
    """KEDA from 0 to 1 and back, Kubernetes' autoscaler from 1 up, with the defaults of both."""

    poll_s: float = 30.0
    cooldown_s: float = 300.0
    window_s: float = 300.0  # of the autoscaler, for scaling down
    tolerance: float = 0.1
    max_workers: int = 16
    _active_at: float = field(default=-math.inf, init=False)
    _recent: deque[tuple[float, int]] = field(default_factory=deque, init=False)

    def __call__(self, wanted: float, have: int, now: float) -> int:
        """Apply the number."""
        if wanted > 0:
            self._active_at = now
        if have == 0:
            return int(wanted > 0 and now % self.poll_s == 0)
        number = self._autoscaled(wanted, have, now)
        if wanted <= 0 and now - self._active_at > self.cooldown_s:
            return 0
        return max(number, 1)

    def _autoscaled(self, wanted: float, have: int, now: float) -> int:
        is_near = abs(wanted / have - 1) <= self.tolerance
        number = min(max(have if is_near else math.ceil(wanted - 1e-9), 1), self.max_workers)
        self._recent.append((now, number))
        while self._recent[0][0] < now - self.window_s:
            self._recent.popleft()
        if number > have:
            return min(number, max(have + 4, 2 * have))
        return min(max(recent for _, recent in self._recent), have) if number < have else have
