"""`/metrics` of a supervisor: its own metrics and those of its device processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import ProcessCollector

from batchmill.telemetry.metrics import CONTENT_TYPE, exposition, new_registry
from batchmill_worker.metering.machine import DIED, PREEMPTED, RECYCLED, REFUSED, MachineMetrics, SlotEnds
from batchmill_worker.metering.slots import SlotMetricsCollector
from batchmill_worker.supervisor.status_server import Reply

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from batchmill.processes.children import ChildEnd, ChildState
    from batchmill_worker.devices.base import Inventory
    from batchmill_worker.devices.placement import Placement


class WorkerMetrics:
    """All metrics of a worker. `page` may be called in any thread.

    folder: where its device processes write theirs; in the folder that they share with the supervisor.
    """

    def __init__(self, pool: str, placements: Sequence[Placement], inventory: Inventory, shared: Path) -> None:
        self.folder = shared / "metrics"
        self.folder.mkdir()
        names = [placement.identity.name for placement in placements]
        devices = (device for placement in placements for device in placement.devices)
        self._slots = SlotMetricsCollector(self.folder)
        self._machine = MachineMetrics(pool, inventory, devices)
        self._registry = new_registry(self._slots, self._machine)
        self._ends = SlotEnds(self._registry, pool, names)
        ProcessCollector(registry=self._registry)

    def refresh(self, states: Iterable[ChildState]) -> None:
        """Measure the slots and their devices. To be called in the supervisor's main thread only."""
        self._machine.refresh(states)

    def ended(self, end: ChildEnd, *, refused: bool) -> None:
        """Count the end of a slot's process. refused: it could not start."""
        self._slots.archive(end.pid)
        self._ends.count(end.name, REFUSED if refused else RECYCLED if end.was_recycled else DIED)

    def preempted(self, names: Iterable[str]) -> None:
        """Count the slots whose machine ends, when it is announced: afterwards nobody asks for the number."""
        for name in names:
            self._ends.count(name, PREEMPTED)

    def page(self) -> Reply:
        """Return all metrics in Prometheus' text format."""
        return Reply(200, exposition(self._registry), CONTENT_TYPE)
