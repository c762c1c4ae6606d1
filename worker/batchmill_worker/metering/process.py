"""The metrics of one device process, set up together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from batchmill.telemetry.metrics import LedgerMeter, new_registry
from batchmill_worker.metering.attempts import SlotMetrics
from batchmill_worker.metering.machine import slot_label
from batchmill_worker.metering.models import CountedModelMetrics
from batchmill_worker.metering.slot_time import SlotTimeMetrics
from batchmill_worker.metering.slots import VARIABLE, reserve
from batchmill_worker.runtime.trace import FileRecorder, Recorders

if TYPE_CHECKING:
    from batchmill.ledger import Ledger
    from batchmill_worker.runtime.device_time import DeviceTimeMeter
    from batchmill_worker.runtime.trace import Recorder


class ProcessCounts(NamedTuple):
    """The metrics of attempts, of models, and of the time of the process."""

    attempts: SlotMetrics
    models: CountedModelMetrics
    time: SlotTimeMetrics

    def recorder(self, trace_file: str, worker: str) -> Recorder:
        """Return the recorder for the phases of attempts: the metrics, and a trace file if one is named."""
        if not trace_file:
            return self.attempts
        return Recorders(self.attempts, FileRecorder(Path(trace_file), worker))


def begin_counting(pool: str, worker: str, ledger: Ledger, meter: DeviceTimeMeter) -> ProcessCounts:
    """Begin to count for this process, its calls of the ledger included. Raises `StorageError` if the disk is full."""
    if VARIABLE in os.environ:  # without a supervisor nobody reads the files
        reserve(Path(os.environ[VARIABLE]), os.getpid())
    registry = new_registry()
    ledger.observe_calls(LedgerMeter(registry))
    slot = slot_label(worker)
    return ProcessCounts(
        SlotMetrics(registry, pool, slot),
        CountedModelMetrics(registry, pool),
        SlotTimeMetrics(registry, pool, slot, meter),
    )
