"""Device time: gives each microsecond of a process to one attempt, so that the parts add up to the time that passed.

1. While attempts hold the device, the time is theirs, divided by their weights. Batches take turns, so one attempt
   holds it and gets all of it; an engine that runs rows of several shards at once has a holder for each of them.
2. Else, while a model is set up, it is the time of the attempt that asked for it.
3. Else it is divided evenly among the attempts at work: they keep the device waiting.
4. Else it is unused, and no job is charged for it.

Time is attributed whenever something changes, and whenever somebody asks, in microseconds. What a division leaves
over, less than a microsecond a holder, goes to the first, so that no time is lost.

Rejected: a stopwatch for each attempt. Concurrent attempts would be charged for the same second several times, and the
time between batches would be charged to nobody, so that the bill would not match what the process cost.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock
from typing import TYPE_CHECKING

from batchmill.clock import Clock, SystemClock
from batchmill.jobs.cost import Parts

if TYPE_CHECKING:
    from collections.abc import Iterator


class TimeUse(StrEnum):
    """What the time of a process went to."""

    BATCH = "batch"  # shards of jobs
    INTERACTIVE = "interactive"
    UNUSED = "unused"


class DeviceTimeMeter:
    """Measures one process, in whatever threads its attempts run.

    working: the attempts at work, in the order in which they began. holders: the uses of the device under way.
    loading: the attempt for which a model is set up. lock: guards these and the usage of every attempt; whoever changes
    one of them holds it and calls `advance` first.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self.lock = Lock()
        self._attributed_until_us = self._now_us()
        self._by_use_us = dict.fromkeys(TimeUse, 0)
        self.working: list[AttemptUsage] = []
        self.holders: list[DeviceHold] = []
        self.loading: AttemptUsage | None = None

    def open(self, use: TimeUse = TimeUse.BATCH) -> AttemptUsage:
        """Begin an attempt: it is at work from now until it is closed."""
        usage = AttemptUsage(self, use)
        with self.lock:
            self.advance()
            self.working.append(usage)
        return usage

    @property
    def unused_us(self) -> int:
        """The time during which no attempt was at work."""
        with self.lock:
            self.advance()
            return self._by_use_us[TimeUse.UNUSED]

    def by_use_us(self) -> dict[TimeUse, int]:
        """Return what all time since the start of the process went to; the sum is the time that has passed."""
        with self.lock:
            self.advance()
            return dict(self._by_use_us)

    def advance(self) -> None:
        """Attribute all time up to now. Call it with the lock held, before any change."""
        now_us = self._now_us()
        elapsed_us, self._attributed_until_us = now_us - self._attributed_until_us, now_us
        if len(self.holders) == 1:  # as for every batch: no division to pay for
            self._give_to(self.holders[0], elapsed_us)
        else:
            self._attribute(elapsed_us)

    def _now_us(self) -> int:
        return int(self._clock.monotonic() * 1_000_000)

    def _attribute(self, elapsed_us: int) -> None:
        if self.holders:
            for hold, share_us in zip(
                self.holders, divide(elapsed_us, [one.weight for one in self.holders]), strict=True
            ):
                self._give_to(hold, share_us)
        elif self.loading is not None:
            self.loading.load_us += elapsed_us
            self._by_use_us[self.loading.use] += elapsed_us
        elif self.working:
            for usage, share_us in zip(self.working, divide(elapsed_us, [1] * len(self.working)), strict=True):
                usage.idle_us += share_us
                self._by_use_us[usage.use] += share_us
        else:
            self._by_use_us[TimeUse.UNUSED] += elapsed_us

    def _give_to(self, hold: DeviceHold, share_us: int) -> None:
        hold.took_us += share_us
        self._by_use_us[hold.usage.use] += share_us


@dataclass(frozen=True, slots=True)
class Measured:
    """What an attempt has used up to a moment, and the units of its batches, without padding."""

    units: float
    used: Parts

    def __sub__(self, other: Measured) -> Measured:
        return Measured(self.units - other.units, self.used - other.used)

    def __add__(self, other: Measured) -> Measured:
        return Measured(self.units + other.units, self.used + other.used)


class DeviceHold:
    """One use of the device by an attempt, for as long as `AttemptUsage.inferring` lasts."""

    __slots__ = ("_meter", "took_us", "usage", "weight")

    def __init__(self, meter: DeviceTimeMeter, usage: AttemptUsage, weight: int) -> None:
        self._meter = meter
        self.usage = usage
        self.weight = _checked(weight)
        self.took_us = 0  # its share of the time so far

    def reweigh(self, weight: int) -> None:
        """Change its share from now on: tokens in flight, say, when a row has entered or left. At least 1."""
        with self._meter.lock:
            self._meter.advance()
            self.weight = _checked(weight)


class AttemptUsage:
    """What one attempt has used, in microseconds. For the thread that runs it; `used_us` for any.

    The parts change only under the meter's lock.
    """

    def __init__(self, meter: DeviceTimeMeter, use: TimeUse = TimeUse.BATCH) -> None:
        self._meter = meter
        self.use = use
        self._useful_us = 0
        self._padding_us = 0
        self._retried_us = 0
        self._units = 0.0
        self.load_us = 0
        self.idle_us = 0
        self._batches: dict[int, tuple[object, int, int]] = {}  # each with its useful time and its padding's

    @contextmanager
    def inferring(self, batch: object, units: float, true_units: float, *, weight: int = 1) -> Iterator[DeviceHold]:
        """Hold the device for `batch` while the context lasts.

        units, true_units: what the batch costs there, with padding and without; its time is divided alike.
        weight: its share where several attempts hold the device, at least 1.

        Time in a context that raises is wasted; that of another batch may be marked so later, by `mark_wasted`.
        """
        meter, hold, has_returned = self._meter, DeviceHold(self._meter, self, weight), False
        with meter.lock:
            meter.advance()
            meter.holders.append(hold)
        try:
            yield hold
            has_returned = True
        finally:
            with meter.lock:
                meter.advance()
                meter.holders.remove(hold)
                if has_returned:
                    self._units += true_units
                    self._divide(batch, hold.took_us, true_units / units if units > 0 else 1.0)
                else:
                    self._retried_us += hold.took_us

    def _divide(self, batch: object, took_us: int, useful_share: float) -> None:
        useful_us = round(took_us * min(useful_share, 1.0))
        self._useful_us += useful_us
        self._padding_us += took_us - useful_us
        self._batches[id(batch)] = (
            batch,
            useful_us,
            took_us - useful_us,
        )  # the batch too: while it is here, its id is unique

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Charge the time to loading a model, while the context lasts. One at a time in a process."""
        with self._meter.lock:
            self._meter.advance()
            self._meter.loading = self
        try:
            yield
        finally:
            with self._meter.lock:
                self._meter.advance()
                self._meter.loading = None

    def mark_wasted(self, batch: object) -> None:
        """Count the time of a batch as wasted: its results are discarded. No effect if it never held the device."""
        _, useful_us, padding_us = self._batches.pop(id(batch), (batch, 0, 0))
        with self._meter.lock:
            self._meter.advance()
            self._useful_us -= useful_us
            self._padding_us -= padding_us
            self._retried_us += useful_us + padding_us

    @property
    def used_us(self) -> int:
        """All time used so far, that of batches on the device included."""
        with self._meter.lock:
            self._meter.advance()
            return self._parts().total + sum(hold.took_us for hold in self._meter.holders if hold.usage is self)

    def so_far(self) -> Parts:
        """Return what it has used until now. Call it outside `inferring`."""
        with self._meter.lock:
            self._meter.advance()
            return self._parts()

    def measured(self) -> Measured:
        """Return what it has used until now, and the units of its batches. Call it outside `inferring`."""
        return Measured(self._units, self.so_far())

    def close(self) -> Parts:
        """End the attempt and return all that it has used. Call it outside `inferring`; a second call has no effect."""
        with self._meter.lock:
            self._meter.advance()
            if self in self._meter.working:
                self._meter.working.remove(self)
            return self._parts()

    def _parts(self) -> Parts:
        return Parts(self._useful_us, self._padding_us, self._retried_us, self.load_us, self.idle_us)


def divide(amount: int, weights: list[int]) -> list[int]:
    """Divide an integer amount by integer weights, into parts that add up to it exactly. Pure.

    Parts are rounded down, and the first one gets the rest. Weights are integers for this reason: with floats the parts
    could add up to more than there is.
    """
    if len(weights) == 1:
        return [amount]
    total = sum(weights)
    parts = [amount * weight // total for weight in weights]
    parts[0] += amount - sum(parts)
    return parts


def _checked(weight: int) -> int:
    if weight < 1:
        raise ValueError(f"expected a weight of at least 1, got {weight}")
    return weight
