"""The meter of a process: gives each instant of its time to one place, so that the parts add up to what was measured.

While a batch is on the device, the time is that of the attempt whose batch it is. Else, while a model is set up, it is
that of the attempt that asked for it. Else it is shared evenly by the attempts at work, which keep the device waiting.
Else it is nobody's, and charged to no job.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from batchmill.clock import Clock, SystemClock
from batchmill.cost import Parts

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True, eq=False)
class Tally:
    """What one attempt has used, in whole microseconds."""

    useful_us: int = 0
    padding_us: int = 0
    retried_us: int = 0
    load_us: int = 0
    idle_us: int = 0
    on_device_us: int = 0  # of the batch that is there now

    def parts(self) -> Parts:
        """What is settled."""
        return Parts(self.useful_us, self.padding_us, self.retried_us, self.load_us, self.idle_us)


class Meter:
    """Measures one process, whatever threads its attempts run in.

    working: the attempts at work. inferring, loading: whose batch is on the device, and for whom a model is set up.
    All of it, and the tallies, are read and changed inside `looking`.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = Lock()
        self._looked_at_us = self._now_us()
        self.working: list[Tally] = []
        self.inferring: Tally | None = None
        self.loading: Tally | None = None
        self.unused_us = 0  # when no attempt was at work

    def open(self) -> Account:
        """An attempt begins."""
        account = Account(self)
        with self.looking():
            self.working.append(account.tally)
        return account

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Alone at the meter, with the time up to now given to whom it belongs."""
        with self._lock:
            now_us = self._now_us()
            elapsed_us, self._looked_at_us = now_us - self._looked_at_us, now_us
            self._give(elapsed_us)
            yield

    def _now_us(self) -> int:
        return int(self._clock.monotonic() * 1_000_000)

    def _give(self, elapsed_us: int) -> None:
        if self.inferring is not None:
            self.inferring.on_device_us += elapsed_us
        elif self.loading is not None:
            self.loading.load_us += elapsed_us
        elif self.working:
            share_us, rest_us = divmod(elapsed_us, len(self.working))
            for tally in self.working:
                tally.idle_us += share_us
            self.working[0].idle_us += rest_us
        else:
            self.unused_us += elapsed_us


class Account:
    """What one attempt has used. For the thread that runs it; `used_us` for any."""

    def __init__(self, meter: Meter) -> None:
        self.tally = Tally()
        self._meter = meter
        self._batches: dict[int, tuple[object, int, int]] = {}  # each with its useful time and its padding's

    @contextmanager
    def inferring(self, batch: object, units: float, true_units: float) -> Iterator[None]:
        """`batch` is on the device inside. units, true_units: what it costs there, padding included and without.

        What raises was in vain; of another batch, `in_vain` may tell later. One at a time in a process.
        """
        meter, returned = self._meter, False
        with meter.looking():
            meter.inferring = self.tally
        try:
            yield
            returned = True
        finally:
            with meter.looking():
                meter.inferring = None
                took_us, self.tally.on_device_us = self.tally.on_device_us, 0
                if returned:
                    self._divide(batch, took_us, true_units / units if units > 0 else 1.0)
                else:
                    self.tally.retried_us += took_us

    def _divide(self, batch: object, took_us: int, useful_share: float) -> None:
        useful_us = round(took_us * min(useful_share, 1.0))
        self.tally.useful_us += useful_us
        self.tally.padding_us += took_us - useful_us
        self._batches[id(batch)] = batch, useful_us, took_us - useful_us  # with the batch: its id is its own that long

    @contextmanager
    def loading(self) -> Iterator[None]:
        """A model is set up inside. One at a time in a process."""
        with self._meter.looking():
            self._meter.loading = self.tally
        try:
            yield
        finally:
            with self._meter.looking():
                self._meter.loading = None

    def in_vain(self, batch: object) -> None:
        """The results of a batch are not kept; one that never came to the device is fine."""
        _, useful_us, padding_us = self._batches.pop(id(batch), (batch, 0, 0))
        with self._meter.looking():
            self.tally.useful_us -= useful_us
            self.tally.padding_us -= padding_us
            self.tally.retried_us += useful_us + padding_us

    @property
    def used_us(self) -> int:
        """All that it has used so far."""
        with self._meter.looking():
            return self.tally.parts().total + self.tally.on_device_us

    def close(self) -> Parts:
        """What it has used in all; from now on it uses no more. Closing twice is closing once."""
        with self._meter.looking():
            if self.tally in self._meter.working:
                self._meter.working.remove(self.tally)
            return self.tally.parts()
