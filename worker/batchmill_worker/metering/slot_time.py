"""The metric of what the time of a device process went to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill_worker.metering import catalogue

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from batchmill_worker.runtime.device_time import DeviceTimeMeter


class SlotTimeMetrics:
    """Counts the time of one process. For one thread."""

    def __init__(self, registry: CollectorRegistry, pool: str, slot: str, meter: DeviceTimeMeter) -> None:
        self._meter = meter
        self._written = dict.fromkeys(meter.by_use_us(), 0)
        counter = catalogue.SLOT_SECONDS.counter(registry)
        self._counters = {use: counter.labels(slot, pool, use.value) for use in self._written}

    def write(self) -> None:
        """Count the time that has passed since the last call."""
        for use, spent_us in self._meter.by_use_us().items():
            self._counters[use].inc((spent_us - self._written[use]) / 1_000_000)
            self._written[use] = spent_us
