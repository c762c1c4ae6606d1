"""The batch size of one operator on one device: a decision in units of cost, made for every batch.

1. The first batches of a process are not timed, since caches are cold. The next ones are as small as possible.
2. Sizes grow at most twofold beyond the largest that has run, until the cost model knows how large is large enough:
   the smallest size whose fixed cost is at most the target share of its time.
3. Latency, memory and the job's maximum are limits that no size exceeds.
4. With more than ten timings, sizes are spread by ±15 % around their centre so that the model keeps seeing different
   ones. The centre is chosen so that every size still meets the target: above it for the overhead, below it for limits.
5. A size falls at most by half at a time, unless a limit demands more: a model that is wrong once costs little.
6. What a trial has found is applied to the size: `Targets.scale`, see `trials.py`. The limits hold all the same.
7. Every `PROBE_INTERVAL_BATCHES`th batch is a quarter as large, or a sixteenth, so that the model keeps seeing what
   small batches cost: without them a fixed cost that was estimated too high would never be corrected.

Source: Apache Beam's `BatchElements`, with memory added. Rejected: doubling while throughput rises and halving when it
falls. It needs several batches of each size to separate noise from effect, and forgets everything when a job starts.
Also rejected: a size in rows. Rows of one job differ in cost by a factor of a hundred, so that no number of rows fits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock
from typing import TYPE_CHECKING

from batchmill_worker.batching.cost_model import CostModel, Samples, Timing, fit
from batchmill_worker.batching.memory import MemoryCeiling, MemoryPeak, units_within
from batchmill_worker.batching.profile import Profile

if TYPE_CHECKING:
    from random import Random

    from batchmill.jobs.job import BatchPolicy

MIN_UNITS = 1.0
GROWTH = 2.0
SPREAD = 0.15
SAMPLES_TO_SPREAD = 10
PROBE_INTERVAL_BATCHES = 12
PROBE_SHARES = (1 / 4, 1 / 16)
WARM_UP_BATCHES = 3
HAND_OVER_S = 0.002
"""Time between two batches on the device: a fixed cost that the timing of a batch does not include."""
MAX_BATCH_S = 5.0
"""The longest batch if the job sets no latency: shards stop and take turns between batches only."""


class Reason(StrEnum):
    """The cause of a batch size."""

    STARTING = "starting"  # too little is known: as small as possible
    GROWING = "growing"  # at most twofold beyond the largest that has run
    OVERHEAD = "overhead"  # large enough for the target overhead
    PROBING = "probing"  # smaller than needed, to measure what small batches cost
    LATENCY = "latency"  # a larger one would take too long
    MEMORY = "memory"  # a larger one would not fit
    MAX_UNITS = "max_units"  # the job allows no larger one
    FIXED = "fixed"  # the job or the operator sets the number of rows


@dataclass(frozen=True, slots=True)
class Targets:
    """The targets of a batch size; None: no target."""

    overhead: float | None = None  # share of a batch's time
    latency_s: float | None = None  # fixed cost included
    work_s: float | None = None  # fixed cost left out
    max_units: float | None = None
    hand_over_s: float = 0.0  # fixed cost of a batch besides what its timing includes
    scale: float = 1.0  # times the size that meets the targets; limits are limits

    @classmethod
    def of(cls, policy: BatchPolicy) -> Targets:
        """Return the targets of a job."""
        latency_s = policy.target_latency_s or MAX_BATCH_S
        return cls(policy.target_overhead, latency_s, None, policy.max_units, HAND_OVER_S)


@dataclass(frozen=True, slots=True)
class Choice:
    """A batch size and its cause."""

    units: float
    reason: Reason


@dataclass(frozen=True, slots=True)
class Experience:
    """Everything that a choice depends on."""

    model: CostModel | None
    samples: int
    largest: float  # the largest size timed; 0 without any
    last: float  # the previous choice; 0 at first
    memory_units: float  # the most that fits; infinite if unknown
    probe: float | None = None  # the share of the size to run instead, to learn from; None: run the size itself


def choose(experience: Experience, targets: Targets, u: float) -> Choice:
    """Choose the size of the next batch; `u` in [0, 1) is its place in its spread. Pure."""
    goal = _goal(experience, targets, u)
    limits = _limits(experience, targets)
    tightest = min(limits, key=lambda limit: limit.units, default=Choice(math.inf, Reason.OVERHEAD))
    if experience.probe and _spreads(experience) and targets.overhead is not None:
        return Choice(max(experience.probe * min(goal.units, tightest.units), MIN_UNITS), Reason.PROBING)
    if goal.units <= tightest.units:
        return _scaled(goal, experience, tightest, targets.scale)
    narrowed = tightest.units * (1 - 2 * SPREAD / (1 + SPREAD) * u) if _spreads(experience) else tightest.units
    return _scaled(Choice(max(narrowed, MIN_UNITS), tightest.reason), experience, tightest, targets.scale)


def _scaled(choice: Choice, experience: Experience, tightest: Choice, scale: float) -> Choice:
    if scale == 1 or choice.reason in (Reason.STARTING, Reason.GROWING):
        return choice
    most = max(choice.units, min(tightest.units, GROWTH * experience.largest))
    return Choice(max(min(choice.units * scale, most), MIN_UNITS), choice.reason)


def _goal(experience: Experience, targets: Targets, u: float) -> Choice:
    if experience.samples == 0:
        return Choice(MIN_UNITS, Reason.STARTING)
    growing = Choice(max(GROWTH * experience.largest, MIN_UNITS), Reason.GROWING)
    if experience.model is None or targets.overhead is None:
        return growing
    enough = experience.model.units_within_overhead(targets.overhead, targets.hand_over_s)
    if _spreads(experience):
        enough = max(enough * (1 + 2 * SPREAD / (1 - SPREAD) * u), experience.last / GROWTH / targets.scale)
    elif experience.samples <= SAMPLES_TO_SPREAD:
        enough = max(enough, experience.largest)  # too few samples to justify a smaller size
    if enough > growing.units:
        return growing
    return Choice(max(enough, MIN_UNITS), Reason.OVERHEAD)


def _limits(experience: Experience, targets: Targets) -> list[Choice]:
    limits = [Choice(experience.memory_units, Reason.MEMORY)]
    if targets.max_units is not None:
        limits.append(Choice(targets.max_units, Reason.MAX_UNITS))
    if experience.model is not None and targets.latency_s is not None:
        limits.append(Choice(experience.model.units_within(targets.latency_s), Reason.LATENCY))
    if experience.model is not None and targets.work_s is not None:
        limits.append(Choice(experience.model.units_of_work(targets.work_s), Reason.LATENCY))
    return limits


def _spreads(experience: Experience) -> bool:
    return experience.samples > SAMPLES_TO_SPREAD


class Controller:
    """Chooses sizes and learns from what they cost. Safe for use by several threads.

    rng: the only source of chance; it places sizes in their spread.
    profile: what other processes have learned.
    """

    def __init__(self, rng: Random, profile: Profile | None = None) -> None:
        profile = profile or Profile()
        self._rng = rng
        self._lock = Lock()
        self._timings = Samples(Timing(units, seconds) for units, seconds in profile.timings)
        self._peaks = Samples(MemoryPeak(units, nbytes) for units, nbytes in profile.peaks)
        self._ceiling = MemoryCeiling(profile.ceiling or math.inf)
        self._limit_bytes = math.inf
        self._model: CostModel | None = None
        self._is_fitted = False
        self._warm_up_left = WARM_UP_BATCHES
        self._choice = Choice(0.0, Reason.STARTING)
        self._chosen = 0
        self._rows = 0
        self.is_changed = False

    def choose(self, targets: Targets, *, is_trial: bool = False) -> Choice:
        """Choose the size of the next batch. is_trial: it is one of a trial: no probe, and not remembered."""
        with self._lock:
            if not is_trial:
                self._chosen += 1
            choice = choose(self._experience(None if is_trial else self._probe()), targets, self._rng.random())
            if choice.reason is not Reason.PROBING and not is_trial:
                self._choice = choice
            return choice

    def largest_settled(self, targets: Targets) -> float | None:
        """Return the largest size that `choose` may choose now for a trial; None while sizes have not settled."""
        with self._lock:
            experience = self._experience(None)
            ends = [choose(experience, targets, u) for u in (0.0, 1.0)]
            is_settled = _spreads(experience) and not any(one.reason is Reason.GROWING for one in ends)
            return max(one.units for one in ends) if is_settled else None

    def _experience(self, probe: float | None) -> Experience:
        return Experience(
            self._fitted(),
            len(self._timings),
            self._timings.largest,
            self._choice.units,
            self._memory_units(),
            probe,
        )

    def max_useful_padding(self, targets: Targets) -> float:
        """Return the units of padding that cost as much as one more batch; infinite while too little is known."""
        with self._lock:
            model = self._fitted() if len(self._timings) > SAMPLES_TO_SPREAD else None
            return math.inf if model is None else model.fixed_units(targets.hand_over_s)

    def _probe(self) -> float | None:
        round_, rest = divmod(self._chosen, PROBE_INTERVAL_BATCHES)
        return PROBE_SHARES[round_ % len(PROBE_SHARES)] if rest == 0 else None

    def use_fixed_size(self) -> None:
        """Note that the next batch has a fixed number of rows."""
        with self._lock:
            self._choice = Choice(self._choice.units, Reason.FIXED)

    def ran(
        self,
        units: float,
        seconds: float,
        *,
        rows: int = 1,
        peak_bytes: float | None = None,
        limit_bytes: float = math.inf,
    ) -> None:
        """Learn from a batch that ran.

        peak_bytes: the most that the process had allocated on the device meanwhile; None: unknown.
        limit_bytes: the most that it could have allocated.
        """
        with self._lock:
            self._ceiling = self._ceiling.after_success()
            self._rows = rows
            if peak_bytes is not None:
                self._peaks.add(MemoryPeak(units, peak_bytes))
                self._limit_bytes = limit_bytes
            if self._warm_up_left:
                self._warm_up_left -= 1
                return
            self._timings.add(Timing(units, seconds))
            self._is_fitted = False
            self.is_changed = True

    def record_oom(self, units: float) -> None:
        """Learn from a batch for which memory ran out."""
        with self._lock:
            self._ceiling = self._ceiling.after_failure(units)
            self.is_changed = True

    def latest(self) -> tuple[Choice, int]:
        """Return the previous choice, and the number of rows of the last batch that ran."""
        with self._lock:
            return self._choice, self._rows

    def profile(self) -> Profile:
        """Export what is known so far, for other processes to start from, and reset `is_changed`."""
        with self._lock:
            self.is_changed = False
            return Profile(
                timings=tuple((timing.units, timing.seconds) for timing in self._timings),
                peaks=tuple((peak.units, peak.nbytes) for peak in self._peaks),
                ceiling=None if math.isinf(self._ceiling.units) else self._ceiling.units,
            )

    def _fitted(self) -> CostModel | None:
        if not self._is_fitted:
            self._model, self._is_fitted = fit(list(self._timings)), True
        return self._model

    def _memory_units(self) -> float:
        learned = math.inf
        if math.isfinite(self._limit_bytes):
            learned = units_within(list(self._peaks), self._limit_bytes)
        return min(self._ceiling.units, learned)
