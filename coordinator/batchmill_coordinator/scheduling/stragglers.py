"""Which shards are run a second time: those that hold up the end of a stage while workers are idle. Pure.

An attempt is a straggler once it has run for `factor` times as long as its rows are expected to take, by what the rows
of its stage took so far, and for the time on top that a model may take to load. So does one on a slow device if an idle
worker with a faster one would need less than half of the time that it still needs. The second attempt only takes a slot
that nothing else can use: all rows of the stage are planned, none of its shards waits, and its pool has free slots.

Stages are left out whose shards run one after the other or that limit how many run at once: there the others wait by
design. So is one of which nothing is done yet, since nothing can be expected of it, and one whose rows may be tried
once only: the second attempt could fail them for good while the first one is about to succeed.

This is the backup task of MapReduce (Dean and Ghemawat, 2004). Rejected: to take the shard from the slow attempt. It is
often nearly done, and the second one may be as slow if the rows are to blame; whichever is first should count. To rank
attempts by how long they still need is from LATE (Zaharia et al., 2008), which estimates it from their progress.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from batchmill.jobs.job import JobState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from batchmill.jobs.shard import ShardRef
    from batchmill.ledger.formats.record import JobStage
    from batchmill.ledger.workers.stragglers import LoneAttempt
    from batchmill_coordinator.fleet.pools import PoolView
    from batchmill_coordinator.fleet.worker_capacity import WorkerCapacity

MIN_GAIN = 2  # times as long as a second attempt takes: what the first one must still need on its slow device
MIN_GAIN_S = 0.5  # and that much on top, for the message and for reading the rows


@dataclass(frozen=True, slots=True)
class Lateness:
    """From when on an attempt counts as a straggler.

    factor: of the predicted time; 0: never. min_extra_s: after the predicted time, since that does not count what an
    attempt does beside computing (reading, storing).
    """

    factor: float
    min_extra_s: float

    def limit_s(self, predicted_s: float, load_s: float) -> float:
        """Return how long an attempt may run."""
        return max(self.factor * predicted_s, predicted_s + self.min_extra_s) + load_s


def may_have_stragglers(one: JobStage) -> bool:
    """Return whether a stage has nothing left to do but the shards that run."""
    spec, stage = one.spec, one.stage
    if one.job.state is not JobState.RUNNING or not (stage.planned and stage.rows_timed):
        return False
    if spec.in_turn or spec.keeps_state or spec.max_at_once is not None or spec.retry.max_attempts == 1:
        return False
    return stage.shards_queued == 0 and 0 < stage.shards_running == stage.shards_live


@dataclass(frozen=True, slots=True)
class DeviceTimes:
    """How long a stage takes on each device of a pool that is known.

    factors: by worker, a multiple of what rows took so far. idle: the workers with a free slot. model: of the stage.
    """

    factors: Mapping[str, float]
    idle: tuple[WorkerCapacity, ...] = ()
    model: str = ""

    @classmethod
    def of(cls, pool: PoolView, relative: Mapping[str, float], running: Mapping[str, int], model: str) -> DeviceTimes:
        """Derive it from the times of types of devices, relative to the fastest. running: attempts, by worker.

        Each device has done as many rows as its speed permits, so the fastest took `Σ (1 / t) / n` of their mean time.
        """
        known = [worker for worker in pool.members if worker.device_type in relative]
        fastest = sum(1 / relative[worker.device_type] for worker in known) / max(len(known), 1)
        factors = {worker.name: relative[worker.device_type] * fastest for worker in known}
        return cls(factors, tuple(worker for worker in known if running.get(worker.name, 0) < worker.slots), model)

    def is_sooner_elsewhere(self, worker: str, age_s: float, predicted_s: float) -> bool:
        """Return whether a second attempt on an idle device would be done long before the one of that worker.

        predicted_s: how long its rows take on average.
        """
        own = self.factors.get(worker)
        if own is None:
            return False
        again_s = min(
            (
                predicted_s * self.factors[one.name] + (0 if self.model in one.models else one.load_s)
                for one in self.idle
                if self.factors[one.name] < own
            ),
            default=math.inf,
        )
        return predicted_s * own - age_s > MIN_GAIN * again_s + MIN_GAIN_S


ALIKE = DeviceTimes({})


class Straggler(NamedTuple):
    """An attempt that is to be run a second time. is_slow: its device is; otherwise nobody knows why it is late."""

    ref: ShardRef
    age_s: float
    is_slow: bool


def stragglers_of(
    one: JobStage,
    running: Iterable[LoneAttempt],
    pool: PoolView,
    now_ms: int,
    lateness: Lateness,
    times: DeviceTimes = ALIKE,
) -> list[Straggler]:
    """Return the attempts of a stage that are stragglers, the one that has run for longest first.

    running: its attempts without another one beside them.
    """
    row_s = one.busy_us / 1e6 / one.stage.rows_timed
    load_s = max((worker.load_s for worker in pool.members), default=0.0)
    found = []
    for attempt in running:
        age_s, predicted_s = (now_ms - attempt.claimed_at_ms) / 1000, attempt.rows * row_s
        is_late = age_s > lateness.limit_s(predicted_s, load_s)
        if is_late or times.is_sooner_elsewhere(attempt.worker, age_s, predicted_s):
            found.append(Straggler(attempt.ref, age_s, is_slow=not is_late))
    return sorted(found, key=lambda straggler: straggler.age_s, reverse=True)
