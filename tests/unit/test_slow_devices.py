"""The end of a stage in a pool with slow devices, simulated with the rules of planner and straggler watch."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from batchmill_coordinator.fleet.device_paces import as_slowest
from batchmill_coordinator.fleet.pools import PoolView
from batchmill_coordinator.fleet.worker_capacity import WorkerCapacity
from batchmill_coordinator.scheduling.shard_size import StageProgress, next_rows
from batchmill_coordinator.scheduling.stragglers import ALIKE, DeviceTimes, Lateness

TARGET_S = 5.0
LATENESS = Lateness(3.0, 5.0)
LOOK_S = 1.0


@dataclass
class Attempt:
    shard: int
    rows: int
    began_s: float
    ends_s: float


@dataclass
class Stage:
    """A stage that workers with a slot each run. row_s: seconds a row of each. knows: whether devices are compared."""

    row_s: list[float]
    left: int
    knows: bool
    chance: random.Random
    now_s: float = 0.0
    looked: int = 0
    timed: int = 0
    busy_s: float = 0.0
    shards: int = 0
    running: dict[str, Attempt] = field(default_factory=dict)
    queued: list[tuple[str, Attempt]] = field(default_factory=list)  # second attempts, and who has the first
    twice: set[int] = field(default_factory=set)
    wasted_s: float = 0.0

    def __post_init__(self) -> None:
        self.seconds = {f"w{number}": one for number, one in enumerate(self.row_s)}
        self.relative = {str(one): one / min(self.row_s) for one in self.row_s}
        members = tuple(WorkerCapacity(name, 1, device_type=str(one)) for name, one in self.seconds.items())
        self.pool = PoolView(len(members), len(members), frozenset(), members=members)

    def run(self) -> float:
        """When it is done."""
        workers = as_slowest([str(one) for one in self.row_s], self.relative)
        while True:
            self.begin(workers)
            if not self.running:
                return self.now_s
            ends_s = min(attempt.ends_s for attempt in self.running.values())
            look_s = (self.looked + 1) * LOOK_S
            if ends_s <= look_s:
                self.end(ends_s)
            else:
                self.now_s, self.looked = look_s, self.looked + 1
                self.look()

    def begin(self, workers: float) -> None:
        idle = [name for name in self.seconds if name not in self.running]
        self.chance.shuffle(idle)
        for name in idle:
            second = next((one for one in self.queued if one[0] != name), None)
            if second is not None:
                self.queued.remove(second)
                shard, rows = second[1].shard, second[1].rows
            elif self.left:
                progress = StageProgress(self.timed, self.busy_s, self.shards, self.left, workers)
                shard, rows = self.left, min(next_rows(progress, TARGET_S), self.left)
                self.left -= rows
            else:
                continue
            self.running[name] = Attempt(shard, rows, self.now_s, self.now_s + rows * self.seconds[name])

    def end(self, ends_s: float) -> None:
        self.now_s = ends_s
        for name, attempt in [one for one in self.running.items() if one[1].ends_s <= ends_s]:
            if self.running.pop(name, None) is None:
                continue  # it lost its shard at this moment
            self.timed, self.shards = self.timed + attempt.rows, self.shards + 1
            self.busy_s += attempt.ends_s - attempt.began_s
            for other in [one for one, loser in self.running.items() if loser.shard == attempt.shard]:
                self.wasted_s += self.now_s - self.running.pop(other).began_s
            self.queued = [one for one in self.queued if one[1].shard != attempt.shard]

    def look(self) -> None:
        free = len(self.seconds) - len(self.running)
        if self.left or self.queued or not self.timed:
            return
        of_worker = dict.fromkeys(self.running, 1)
        times = DeviceTimes.of(self.pool, self.relative, of_worker, "") if self.knows else ALIKE
        for name, attempt in sorted(self.running.items(), key=lambda one: one[1].began_s):
            age_s, predicted_s = self.now_s - attempt.began_s, attempt.rows * self.busy_s / self.timed
            is_late = age_s > LATENESS.limit_s(predicted_s, 0.0)
            may_be = free > 0 and attempt.shard not in self.twice
            if may_be and (is_late or times.is_sooner_elsewhere(name, age_s, predicted_s)):
                self.twice.add(attempt.shard)
                self.queued.append((name, attempt))
                free -= 1


def past_ideal(row_s: list[float], rows: int, *, knows: bool) -> tuple[float, float]:
    """The share of time past the one in which all are busy to the end, and the wasted share of the workers' time."""
    ideal_s, runs = rows / sum(1 / one for one in row_s), 10
    late = wasted = 0.0
    for seed in range(runs):
        stage = Stage(row_s, rows, knows, random.Random(seed))
        took_s = stage.run()
        late += (took_s / ideal_s - 1) / runs
        wasted += stage.wasted_s / (took_s * len(row_s)) / runs
    return late, wasted


@pytest.mark.parametrize(
    "row_s", [[0.001, 0.02], [0.001] * 3 + [0.02], [0.001] * 8 + [0.01] * 2, [0.0005, 0.001, 0.01, 0.02]]
)
def test_a_job_ends_sooner_where_faster_devices_run_what_slow_ones_hold_up(row_s: list[float]) -> None:
    (before, _), (after, wasted) = past_ideal(row_s, 100_000, knows=False), past_ideal(row_s, 100_000, knows=True)
    assert after < 0.6 * before
    assert wasted < 0.05


@pytest.mark.parametrize("row_s", [[0.001] * 4, [0.001] * 2 + [0.0015] * 2])
def test_devices_that_are_nearly_alike_run_nothing_twice(row_s: list[float]) -> None:
    assert past_ideal(row_s, 100_000, knows=True) == past_ideal(row_s, 100_000, knows=False)
