"""What one device process counts, all of it begun together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from batchmill.telemetry.metrics import LedgerMeter, new_registry
from batchmill_worker.metering.attempts import SlotMeter
from batchmill_worker.metering.machine import slot_label
from batchmill_worker.metering.models import CountedModels
from batchmill_worker.metering.slots import VARIABLE, reserve
from batchmill_worker.runtime.trace import FileRecorder, Recorders

if TYPE_CHECKING:
    from batchmill.ledger import Ledger
    from batchmill_worker.runtime.trace import Recorder


class ProcessCounts(NamedTuple):
    """What is told of attempts and of models."""

    attempts: SlotMeter
    models: CountedModels

    def recorder(self, trace_file: str, worker: str) -> Recorder:
        """What takes down the engine's marks: for the counts, and for a trace if a file is named."""
        if not trace_file:
            return self.attempts
        return Recorders(self.attempts, FileRecorder(Path(trace_file), worker))


def begin_counting(pool: str, worker: str, ledger: Ledger) -> ProcessCounts:
    """Begin to count for this process, calls of its ledger too. Raises `StorageError` where there is no room for it."""
    if VARIABLE in os.environ:  # without a supervisor nobody reads it
        reserve(Path(os.environ[VARIABLE]), os.getpid())
    registry = new_registry()
    ledger.observe_calls(LedgerMeter(registry))
    return ProcessCounts(SlotMeter(registry, pool, slot_label(worker)), CountedModels(registry, pool))
