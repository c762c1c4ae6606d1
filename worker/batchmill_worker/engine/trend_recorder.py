"""Notes what jobs take of each operator on this device, for histories of all workers in the ledger."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
from dataclasses import dataclass
from importlib.metadata import version
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from batchmill.errors import ServiceUnavailable
from batchmill.ledger.workers.trends import TrendName
from batchmill_worker.engine.controllers import device_type

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill.jobs.job import StageSpec
    from batchmill.operators.contract import BackendInfo, OperatorDefinition
    from batchmill_worker.runtime.device_time import Measured

log = logging.getLogger(__name__)

MAX_WAITING = 256


class TrendStore(Protocol):
    """Keeps histories that workers share."""

    def add(
        self, name: TrendName, job: str, *, units: float, useful_us: int, padding_us: int, idle_us: int,
        facts: Mapping[str, str],
    ) -> None:  # fmt: skip
        """Add to what a job took."""


@dataclass(slots=True)
class _Waiting:
    """What is not shared yet of a job. facts: as of the latest attempt."""

    measured: Measured
    facts: dict[str, str]


class TrendRecorder:
    """Sums up attempts by operator, parameters and job, and shares the sums with each heartbeat. Thread-safe.

    device: as `setup` receives it, `"cpu"` or `"cuda:0"`.
    """

    def __init__(self, store: TrendStore, device: str) -> None:
        self._store = store
        self._device = device
        self._lock = Lock()
        self._waiting: dict[tuple[TrendName, str], _Waiting] = {}
        self._own = {"batchmill": version("batchmill"), "host": socket.gethostname(), "cores": str(os.cpu_count())}

    def add(
        self,
        definition: OperatorDefinition,
        stage: StageSpec,
        job: str,
        measured: Measured,
        backend: BackendInfo | None = None,
    ) -> None:
        """Add what an attempt took. backend: what computes, if the operator reports it."""
        if measured.units <= 0 or measured.used.useful + measured.used.padding <= 0:
            return
        digest = hashlib.sha256(definition.canonical(stage.params).encode()).hexdigest()[:12]
        name = TrendName(definition.name, digest, device_type(self._device))
        facts = {**self._own, "operator": definition.revision}
        if backend is not None:
            facts["backend"] = f"{backend.name} {backend.precision}"
        with self._lock:
            known = self._waiting.get((name, job))
            if known is None and len(self._waiting) < MAX_WAITING:
                self._waiting[name, job] = _Waiting(measured, facts)
            elif known is not None:
                known.measured, known.facts = known.measured + measured, facts

    def save(self) -> None:
        """Share what was added since the last time. A failure is only logged: these sums are dropped."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        try:
            for (name, job), one in waiting.items():
                self._store.add(
                    name,
                    job,
                    units=one.measured.units,
                    useful_us=one.measured.used.useful,
                    padding_us=one.measured.used.padding,
                    idle_us=one.measured.used.idle,
                    facts=one.facts,
                )
        except ServiceUnavailable as error:
            log.warning("what jobs took of operators is not shared: %s", error)
