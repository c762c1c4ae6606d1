"""Metrics that the supervisor measures itself: its slots, their devices, the machine."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

import psutil
from prometheus_client.registry import Collector

from batchmill_worker.metering import catalogue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from prometheus_client import CollectorRegistry, Metric

    from batchmill.processes.children import ChildState
    from batchmill_worker.devices.base import Device, DeviceUsage, Inventory

RECYCLED, REFUSED, DIED, PREEMPTED = "recycled", "refused", "died", "preempted"


class SlotUsage(NamedTuple):
    """The resources that a slot's process uses."""

    cpu_s: float
    resident_bytes: int


class _Measured(NamedTuple):
    """One measurement of everything."""

    running: int = 0
    down: int = 0
    slots: Mapping[str, SlotUsage] = {}
    devices: Mapping[Device, DeviceUsage] = {}


class SlotEnds:
    """Counts device processes that ended."""

    def __init__(self, registry: CollectorRegistry, pool: str, names: Sequence[str]) -> None:
        self._pool = pool
        self._ends = catalogue.SLOT_ENDS.counter(registry)
        for name in names:
            for cause in (RECYCLED, REFUSED, DIED, PREEMPTED):
                self._ends.labels(slot_label(name), pool, cause)

    def count(self, name: str, cause: str) -> None:
        """Count the end of a process, for this cause."""
        self._ends.labels(slot_label(name), self._pool, cause).inc()


class MachineMetrics(Collector):
    """Exports the last measurement. One thread alone may call `refresh`: the inventory is not thread-safe."""

    def __init__(self, pool: str, inventory: Inventory, devices: Iterable[Device]) -> None:
        self._pool = pool
        self._inventory = inventory
        self._devices = tuple(dict.fromkeys(devices))
        self._measured = _Measured()
        self._version = version("batchmill")

    def refresh(self, states: Iterable[ChildState]) -> None:
        """Measure the slots' processes and the devices."""
        pids = {state.name: state.pid for state in states}
        running = {name: pid for name, pid in pids.items() if pid is not None}
        usages = {name: _usage_of(pid) for name, pid in running.items()}
        self._measured = _Measured(
            len(running),
            len(pids) - len(running),
            {name: usage for name, usage in usages.items() if usage is not None},
            {device: self._inventory.usage(device) for device in self._devices},
        )

    def collect(self) -> Iterator[Metric]:
        """Yield the last measurement, and the machine's present load."""
        measured, pool = self._measured, self._pool
        states = {"running": measured.running, "down": measured.down}
        yield catalogue.WORKER_INFO.read([((pool, self._version), 1)])
        yield catalogue.SLOTS.read(((pool, state), count) for state, count in states.items())
        slots = {(slot_label(name), pool): usage for name, usage in measured.slots.items()}
        yield catalogue.SLOT_CPU.read((labels, usage.cpu_s) for labels, usage in slots.items())
        yield catalogue.SLOT_MEMORY.read((labels, usage.resident_bytes) for labels, usage in slots.items())
        yield from self._of_devices(measured.devices)
        memory = psutil.virtual_memory()
        yield catalogue.HOST_CPU_USE.read([((), psutil.cpu_percent() / 100)])
        yield catalogue.HOST_MEMORY_USED.read([((), memory.total - memory.available)])
        yield catalogue.HOST_MEMORY_SIZE.read([((), memory.total)])

    def _of_devices(self, devices: Mapping[Device, DeviceUsage]) -> Iterator[Metric]:
        labelled = {(device.name, device.model, self._pool): usage for device, usage in devices.items()}
        shares = {labels: usage.share for labels, usage in labelled.items()}
        used = {labels: usage.used_bytes for labels, usage in labelled.items()}
        sizes = {(device.name, device.model, self._pool): device.memory_bytes for device in devices}
        for metric, found in (
            (catalogue.DEVICE_USE, shares),
            (catalogue.DEVICE_USED, used),
            (catalogue.DEVICE_SIZE, sizes),
        ):
            yield metric.read((labels, value) for labels, value in found.items() if value is not None)


def slot_label(name: str) -> str:
    """Return a worker's name for metrics: without the host, which Prometheus adds, and the supervisor's process id."""
    return name.partition("@")[0]


def _usage_of(pid: int) -> SlotUsage | None:
    """Measure a process; None when it has just ended."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            return SlotUsage(times.user + times.system, process.memory_info().rss)
    except psutil.Error:
        return None
