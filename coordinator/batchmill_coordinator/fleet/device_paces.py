"""How fast types of devices run an operator, compared, by what workers have learned of its batches."""

from __future__ import annotations

import re
from bisect import bisect_left
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from pydantic import ConfigDict, ValidationError

from batchmill.caches import Fresh, Lru
from batchmill.clock import SystemClock
from batchmill.jobs.frozen import Frozen
from batchmill.operators.model_key import profile_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.clock import Clock
    from batchmill.jobs.job import StageSpec
    from batchmill.ledger import Ledger
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.fleet.pools import PoolView

MAX_STAGES = 200  # whose comparison is kept
MAX_AGE_S = 10.0


class BatchProfile(Frozen):
    """What workers have learned about batches on a type of device, as far as coordinators need it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    timings: tuple[tuple[float, float], ...] = ()  # units, seconds
    peaks: tuple[tuple[float, float], ...] = ()  # units, bytes


def relative_times(timings: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, float]:
    """Return how long the same batches take on each type of device, as a multiple of the fastest; the fastest first.

    timings: by type, (units, seconds) of batches. Compared are seconds a unit, of batches that are large there: in
    small ones the fixed cost counts.
    """
    paces = {}
    for device, batches in timings.items():
        large = sorted(batches)[len(batches) // 2 :]
        units = sum(units for units, _ in large)
        if units > 0:
            paces[device] = sum(seconds for _, seconds in large) / units
    fastest = min(paces.values(), default=0.0)
    return {device: pace / fastest for device, pace in sorted(paces.items(), key=lambda item: item[1]) if fastest > 0}


def announced_type(name: str) -> str:
    """Return what workers announce as the type of a device, from what they keep profiles of it under.

    That has the number of usable cores ("cpux16"), and the backend that computes ("NVIDIA L4:openvino fp32").
    """
    device = name.partition(":")[0]
    return "cpu" if re.fullmatch(r"cpux\d+", device) else device


def as_slowest(types: Sequence[str], relative: Mapping[str, float]) -> float:
    """Return how many workers like the slowest one do as much as these.

    types: of the device of each. relative: times by type; one that has none is taken for as slow as the slowest that
    has, since it is worse to give it too much.
    """
    if not relative or not types:
        return len(types)
    unknown = max(relative.values())
    times = [relative.get(one, unknown) for one in types]
    return max(times) * sum(1 / time for time in times)


class DevicePaces:
    """Compares types of devices, by stage. Thread-safe.

    For a pool, what was read is kept for `MAX_AGE_S`: the names of all profiles, and the comparisons of some stages. So
    a stage without a profile costs nothing, and one whose comparison was dropped reads a profile a type of device.
    """

    def __init__(self, ledger: Ledger, fleet: FleetView, clock: Clock | None = None) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._clock = clock or SystemClock()
        self._names = Fresh(ledger.profiles.names, MAX_AGE_S, self._clock)
        self._relative: Lru[str, Fresh[dict[str, float]]] = Lru(MAX_STAGES)

    def profiles(self, stage: StageSpec) -> dict[str, BatchProfile]:
        """Return what is known of an operator with its parameters, by type of device."""
        operator = self._fleet.operator(stage.operator)
        if operator is None:
            return {}
        return self._read(profile_name(operator, stage.params), self._ledger.profiles.names())

    def workers(self, stage: StageSpec, pool: PoolView) -> float:
        """Return how many workers like the slowest of a pool do as much of a stage as the pool."""
        types = [worker.device_type for worker in pool.members]
        return as_slowest(types, self.relative(stage, pool)) if len(set(types)) > 1 else pool.workers

    def relative(self, stage: StageSpec, pool: PoolView) -> dict[str, float]:
        """Return how long a stage takes on the types of a pool's devices, as `relative_times` does.

        Types without a profile are left out. Of a pool with one type nothing is read.
        """
        operator = self._fleet.operator(stage.operator)
        if operator is None or len({worker.device_type for worker in pool.members}) < 2:
            return {}
        begin = profile_name(operator, stage.params)
        return self._relative.get_or_make(
            begin, lambda: Fresh(lambda: self._compared(begin), MAX_AGE_S, self._clock)
        ).get()

    def _compared(self, begin: str) -> dict[str, float]:
        timings: dict[str, list[tuple[float, float]]] = {}
        for name, one in self._read(begin, self._names.get()).items():
            timings.setdefault(announced_type(name), []).extend(one.timings)
        return relative_times(timings)

    def _read(self, begin: str, names: Sequence[str]) -> dict[str, BatchProfile]:
        """names: of all profiles, sorted."""
        first, found = bisect_left(names, begin), {}
        wanted = list(takewhile(lambda name: name.startswith(begin), islice(names, first, None)))
        for name, text in self._ledger.profiles.read_many(wanted).items():
            try:
                found[name.removeprefix(begin)] = BatchProfile.model_validate_json(text)
            except ValidationError:
                continue  # of another version
        return found
